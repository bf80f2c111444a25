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
    """S layer normalisations over the last dimension. x [S, B, size] -> [S, B, size]."""

    def __init__(self, stack: int, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, size))
        self.bias = nn.Parameter(torch.zeros(stack, size))

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-1],)
        if self.weight.shape[0] == 1:
            return F.layer_norm(x, size, self.weight[0], self.bias[0])
        return torch.addcmul(self.bias.unsqueeze(1), F.layer_norm(x, size), self.weight.unsqueeze(1))


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
