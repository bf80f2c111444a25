"""Layers that hold several independent networks as one stack.

A stack of S networks keeps every weight as [S, in, out], so that one batched matrix product serves all.
Activations are [S, B, features]. S = 1 means one network shared by all agents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedLinear(nn.Module):
    """S affine maps, orthogonal weights with the given gain, zero bias. x [S, B, in] -> [S, B, out]."""

    def __init__(self, stack: int, inputs: int, outputs: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(stack, outputs))
        for weight in self.weight.data:
            nn.init.orthogonal_(weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[0] == 1:
            return torch.addmm(self.bias[0], x[0], self.weight[0]).unsqueeze(0)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)


class StackedLayerNorm(nn.Module):
    """S layer normalisations over the last dimension. x [S, B, size] -> [S, B, size].

    sizes: how many leading elements each network really has. The rest of x must be zero; it takes no part in the
    moments and comes out as zero, so that a padded network computes what it would without padding."""

    def __init__(self, stack: int, size: int, sizes: tuple[int, ...] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, size))
        self.bias = nn.Parameter(torch.zeros(stack, size))
        self.exists = existing(stack, size, sizes)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-1],)
        if self.exists is not None:
            exists = self.exists.to(x.device)
            count = exists.sum(-1, keepdim=True)
            centred = (x - x.sum(-1, keepdim=True) / count) * exists
            variance = centred.square().sum(-1, keepdim=True) / count
            y = centred * torch.rsqrt(variance + 1e-5) * self.weight.unsqueeze(1)
            return y + (self.bias.unsqueeze(1) * exists)
        if self.weight.shape[0] == 1:
            return F.layer_norm(x, size, self.weight[0], self.bias[0])
        return torch.addcmul(self.bias.unsqueeze(1), F.layer_norm(x, size), self.weight.unsqueeze(1))


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
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def scale(self) -> Tensor:
        """What centred values are multiplied by, [S, size]."""
        return torch.rsqrt(self.variance + 1e-8) * (self.variance > 0)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean.unsqueeze(1)) * self.scale().unsqueeze(1)).clamp(-self.LIMIT, self.LIMIT)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in a batch [S, B, size] (moments merged as by Chan et al. 1979)."""
        new = x.shape[1]
        variance, mean = torch.var_mean(x, 1, correction=0)
        share = float(new / (self.count + new))
        gap = mean - self.mean
        self.mean += gap * share
        self.variance += (variance - self.variance) * share + gap.square() * share * (1 - share)
        self.count += new


class StackedGRUCell(nn.Module):
    """S single-step gated recurrent units, gates in torch.nn.GRUCell's order (reset, update, new).

    x [S, B, in], h [S, B, H] -> new h [S, B, H].
    """

    def __init__(self, stack: int, inputs: int, hidden: int):
        super().__init__()
        self.input = StackedLinear(stack, inputs, 3 * hidden, gain=1.0)
        self.hidden = StackedLinear(stack, hidden, 3 * hidden, gain=1.0)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        input_reset, input_update, input_new = self.input(x).chunk(3, -1)
        hidden_reset, hidden_update, hidden_new = self.hidden(h).chunk(3, -1)
        reset = torch.sigmoid(input_reset + hidden_reset)
        update = torch.sigmoid(input_update + hidden_update)
        new = torch.tanh(torch.addcmul(input_new, reset, hidden_new))
        return torch.lerp(new, h, update)


def clip_stack_grad_norm(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip each network of a stack by its own gradient norm, as if it were trained alone.

    All parameters lead with the stack dimension S. Returns the norms before clipping, [S].
    """
    grads = [p.grad.flatten(1) for p in parameters if p.grad is not None]
    norms = torch.stack([g.square().sum(1) for g in grads]).sum(0).sqrt()
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(scale.view(-1, *([1] * (p.grad.dim() - 1))))
    return norms
