"""Layers that hold several independent networks as one stack.

A stack of S networks keeps every weight as [S, in, out], so that one batched matrix product serves all.
Activations are [S, B, features]. S = 1 means one network shared by all agents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: Numbers in a vector register.
LANES = 16
#: Rows a network from which on LayerNorms with a weight each are taken one by one: that is one pass over memory instead
#: of several, and their gradients' sums come with it.
ROWS = 1000


class StackedLinear(nn.Module):
    """S affine maps, orthogonal weights with the given gain, zero bias. x [S, B, in] -> [S, B, out]."""

    def __init__(self, stack: int, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(stack, outputs))
        for weight in self.weight.data:
            nn.init.orthogonal_(weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """S affine maps: x [S, B, in], weight [S, in, out], bias [S, out] -> [S, B, out]."""
    size = bias.shape[1]
    if size % LANES and size < 4 * LANES:  # a matrix product that narrow is several times as fast when padded
        room = (0, LANES - size % LANES)
        return affine(x, F.pad(weight, room), F.pad(bias, room))[..., :size]
    if weight.shape[0] == 1:
        return torch.addmm(bias.squeeze(0), x.squeeze(0), weight.squeeze(0)).unsqueeze(0)
    return torch.baddbmm(bias.unsqueeze(1), x, weight)


class StackedLayerNorm(nn.Module):
    """S layer normalisations over the last dimension. x [S, B, size] -> [S, B, size].

    sizes: how many leading elements each network really has. The rest of x must be zero; it takes no part in the
    moments and comes out as zero, so that a padded network computes what it would without padding."""

    def __init__(self, stack: int, size: int, sizes: tuple[int, ...] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, size))
        self.bias = nn.Parameter(torch.zeros(stack, size))
        self.exists: Tensor | None
        self.register_buffer("exists", existing(stack, size, sizes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.exists is not None:
            return self.standardise(x) * self.weight.unsqueeze(1) + self.bias.unsqueeze(1) * self.exists
        if self.weight.shape[0] == 1:
            return F.layer_norm(x, x.shape[-1:], self.weight.squeeze(0), self.bias.squeeze(0))
        if x.shape[1] < ROWS:
            return torch.addcmul(self.bias.unsqueeze(1), self.standardise(x), self.weight.unsqueeze(1))
        own = zip(x.unbind(), self.weight.unbind(), self.bias.unbind(), strict=True)
        return torch.stack([F.layer_norm(part, part.shape[-1:], weight, bias) for part, weight, bias in own])

    def standardise(self, x: Tensor) -> Tensor:
        """x with mean 0 and variance 1, before weight and bias."""
        if self.exists is None:
            return F.layer_norm(x, x.shape[-1:])
        count = self.exists.sum(-1, keepdim=True)
        centred = (x - x.sum(-1, keepdim=True) / count) * self.exists
        variance = centred.square().sum(-1, keepdim=True) / count
        return centred * torch.rsqrt(variance + 1e-5)

    def then(self, linear: StackedLinear, x: Tensor) -> Tensor:
        """linear(self(x)), x [S, B, size] -> [S, B, out], with weight and bias of the norm drawn into those of the linear map.

        The same function, but where x needs no gradient nothing is propagated through the linear map for the
        sake of the norm's own parameters: theirs come from the product of small matrices."""
        if not torch.is_grad_enabled():
            return linear(self(x))
        bias = self.bias if self.exists is None else self.bias * self.exists.squeeze(1)
        shift = torch.bmm(bias.unsqueeze(1), linear.weight).squeeze(1)
        return affine(self.standardise(x), self.weight.unsqueeze(-1) * linear.weight, linear.bias + shift)


def existing(stack: int, size: int, sizes: tuple[int, ...] | None) -> Tensor | None:
    """[S, 1, size], 1 where a padded element exists; None where nothing is padded."""
    if sizes is None or set(sizes) == {size}:
        return None
    assert len(sizes) == stack
    return (torch.arange(size).expand(stack, size) < torch.tensor(sizes).unsqueeze(1)).float().unsqueeze(1)


class StackedRunningNorm(nn.Module):
    """S normalisers by the mean and standard deviation of everything seen so far. x [S, B, size] -> the same.

    Results are clamped to ±10. An element that never varied, and so all padding, comes out as zero. What has
    been seen changes in `update` only: acting and learning between two updates see one and the same function."""

    LIMIT = 10.0

    def __init__(self, stack: int, size: int):
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(stack, size))
        self.register_buffer("variance", torch.ones(stack, size))
        self.register_buffer("count", torch.zeros(stack, 1, dtype=torch.float64))

    def scale(self) -> Tensor:
        """What centred values are multiplied by, [S, size]."""
        return torch.rsqrt(self.variance + 1e-8) * (self.variance > 0)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean.unsqueeze(1)) * self.scale().unsqueeze(1)).clamp(-self.LIMIT, self.LIMIT)

    def then(self, linear: StackedLinear, x: Tensor) -> Tensor:
        """linear(self(x)). x [S, B, size] -> [S, B, out]."""
        return linear(self(x))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in a batch [S, B, size] (moments merged as by Chan et al. 1979)."""
        new = x.shape[1]
        variance, mean = torch.var_mean(x, 1, correction=0)
        share = (new / (self.count + new)).to(x.dtype)
        gap = mean - self.mean
        self.mean += gap * share
        self.variance += (variance - self.variance) * share + gap.square() * share * (1 - share)
        self.count += new


class NoNorm(nn.Module):
    """Leaves x as it is."""

    def then(self, linear: StackedLinear, x: Tensor) -> Tensor:
        """linear(x)."""
        return linear(x)


class StackedGRUCell(nn.Module):
    """S single-step gated recurrent units, gates in torch.nn.GRUCell's order (reset, update, new).

    x [S, B, in], h [S, B, H] -> new h [S, B, H].
    """

    def __init__(self, stack: int, inputs: int, hidden: int):
        super().__init__()
        self.input = StackedLinear(stack, inputs, 3 * hidden, gain=1.0)
        self.hidden = StackedLinear(stack, hidden, 3 * hidden, gain=1.0)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        size = h.shape[-1]
        from_input, from_hidden = self.input(x), self.hidden(h)
        reset, update = (from_input[..., : 2 * size] + from_hidden[..., : 2 * size]).sigmoid_().chunk(2, -1)
        new = torch.addcmul(from_input[..., 2 * size :], reset, from_hidden[..., 2 * size :]).tanh_()
        return torch.lerp(new, h, update)

    def unroll(self, x: Tensor, h: Tensor, keep: Tensor) -> Tensor:
        """Along L steps, for R rows of B that S divides, S networks taking R / S rows each.

        x [R, L, B, in], h [R, B, H], keep [R, L, B], 0 where h is forgotten before the step -> [R, L, B, H]."""
        rows, length, batch, _ = x.shape
        both = 2 * h.shape[-1]
        # What the hidden state's bias adds to reset and update may as well be added with the input's.
        bias = self.input.bias + F.pad(self.hidden.bias[:, :both], (0, h.shape[-1]))
        gates = affine(x.reshape(len(bias), -1, x.shape[-1]), self.input.weight, bias).view(rows, length, batch, -1)
        return _Unrolled.apply(gates, h, keep, self.hidden.weight, self.hidden.bias[:, both:])


class _Unrolled(torch.autograd.Function):
    """The recurrent part of `StackedGRUCell.unroll`, its gradient written out.

    gates [R, L, B, 3H], what the input and all biases but `bias` add to the gates; h [R, B, H]; keep [R, L, B];
    weight [S, H, 3H]; bias [S, H] of what reset is applied to -> states [R, L, B, H]. Backpropagation through time by
    hand needs a third of autograd's operations, and one product over all steps gives the weights' gradient (Cho et al.
    2014; reset applied after the product, as in torch.nn.GRU). Nothing is allocated and no view is cut inside the
    loops: on pieces this small both would cost as much as the arithmetic."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, h: Tensor, keep: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, length, batch, size = *gates.shape[:3], h.shape[-1]
        stack, both = weight.shape[0], 2 * size
        states = gates.new_empty(rows, length, batch, size)
        # Time leads, so that every step's part is one piece of memory.
        before, new = gates.new_empty(2, length, rows, batch, size)
        switches = gates.new_empty(length, rows, batch, both)
        hidden = gates.new_empty(length, rows, batch, 3 * size)
        bias, minus = F.pad(bias, (both, 0)).unsqueeze(1), gates.new_tensor(-1.0)
        steps = zip(
            keep.unsqueeze(-1).unbind(1), before.unbind(), before.view(length, stack, -1, size).unbind(),
            hidden.view(length, stack, -1, 3 * size).unbind(), hidden[..., :both].unbind(), hidden[..., both:].unbind(),
            gates[..., :both].unbind(1), gates[..., both:].unbind(1), switches.unbind(), switches[..., :size].unbind(),
            switches[..., size:].unbind(), new.unbind(), states.unbind(1), strict=True,
        )  # fmt: skip
        for kept, old, old_s, product, to_switches, to_new, gates_s, gates_n, both_s, reset, update, n, state in steps:
            torch.mul(h, kept, out=old)
            torch.baddbmm(bias, old_s, weight, out=product)
            torch.add(gates_s, to_switches, out=both_s).sigmoid_()
            # tanh x = 2 sigmoid 2x - 1, and torch has the faster sigmoid.
            torch.addcmul(gates_n, reset, to_new, out=n).mul_(2.0).sigmoid_()
            torch.add(minus, n, alpha=2.0, out=n)
            h = torch.lerp(n, old, update, out=state)
        ctx.save_for_backward(before, new, hidden, switches, keep, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        before, new, hidden, switches, keep, weight = ctx.saved_tensors
        length, rows, batch, size = before.shape
        stack, both = weight.shape[0], 2 * size
        to_input, to_hidden = grad.new_empty(rows, length, batch, 3 * size), torch.empty_like(hidden)
        d, carry, back = (grad.new_zeros(rows, batch, size) for _ in range(3))
        to_switches, by_network = grad.new_empty(rows, batch, both), back.view(stack, -1, size)
        to_reset, to_update = to_switches.chunk(2, -1)
        transposed = weight.transpose(1, 2)
        steps = zip(
            range(length), grad.unbind(1), before.unbind(), new.unbind(), hidden[..., both:].unbind(), switches.unbind(),
            switches[..., :size].unbind(), switches[..., size:].unbind(), keep.unsqueeze(-1).unbind(1),
            to_input[..., :both].unbind(1), to_input[..., both:].unbind(1), to_hidden[..., :both].unbind(),
            to_hidden[..., both:].unbind(), to_hidden.view(length, stack, -1, 3 * size).unbind(), strict=True,
        )  # fmt: skip
        for t, given, old, n, from_n, both_s, reset, update, kept, in_s, in_n, out_s, out_n, product in reversed(
            list(steps)
        ):
            torch.add(given, carry, out=d)
            torch.addcmul(d, d, update, value=-1, out=back)
            torch.ops.aten.tanh_backward(back, n, grad_input=in_n)
            torch.mul(in_n, from_n, out=to_reset)
            torch.mul(torch.sub(old, n, out=back), d, out=to_update)
            torch.ops.aten.sigmoid_backward(to_switches, both_s, grad_input=out_s)
            in_s.copy_(out_s)
            torch.mul(in_n, reset, out=out_n)
            if t or ctx.needs_input_grad[1]:
                torch.bmm(product, transposed, out=by_network)
                torch.addcmul(back, d, update, out=carry).mul_(kept)
        # A network's own rows of all steps side by side, for one product.
        before, to_hidden = (
            array.view(length, stack, -1, array.shape[-1]).transpose(0, 1).reshape(stack, -1, array.shape[-1])
            for array in (before, to_hidden)
        )
        to_weight = torch.bmm(before.transpose(1, 2), to_hidden)
        return to_input, carry if ctx.needs_input_grad[1] else None, None, to_weight, to_hidden[..., both:].sum(1)


def clip_stack_grad_norm(parameters: list[nn.Parameter], stack: int, max_norm: float) -> Tensor:
    """Clip each of S networks by its own gradient norm, as if it were trained alone.

    The first dimension of every parameter divides into S equal parts, network after network. Returns the norms
    before clipping, [S].
    """
    grads = []
    for p in parameters:
        if p.grad is not None:
            p.grad = p.grad.contiguous()  # a gradient written out by hand may come transposed
            grads.append(p.grad.view(stack, -1))
    if not grads:
        return torch.zeros(stack, device=parameters[0].device if parameters else None)
    norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in grads]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1)
    for g in grads:
        g.mul_(scale)
    return norms
