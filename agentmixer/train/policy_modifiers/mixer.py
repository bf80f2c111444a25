"""The Policy Modifier as an MLP-Mixer (paper, eq. 5): agents mix through one learned MLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agentmixer.train.policy_modifiers.base import PolicyModifier
from agentmixer.train.stack import StackedLinear

#: Columns that mix at once, so that what lies between the two layers stays in a processor's cache and products are not too many.
COLUMNS = 40000


class MixerPM(PolicyModifier):
    """mix(X) = W2 σ(W1 X): the same MLP over agents for every channel and every state."""

    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """W1 [N, hidden] and W2 [hidden, N]."""
        self.agent_in = StackedLinear(self.teams, self.agents, hidden)
        self.agent_out = StackedLinear(self.teams, hidden, self.agents, gain=1.0)

    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """x [K, N, B, C] -> [K, N, B, C]; the state plays no part beyond its share of x."""
        first, second = self.agent_in, self.agent_out
        # Agents lead, so mixing across them is a plain product with everything else flattened.
        return _Mix.apply(x.flatten(2), first.weight, first.bias, second.weight, second.bias).view_as(x)


class _Mix(torch.autograd.Function):
    """W2 σ(W1 x + b1) + b2 along the second dimension of x [K, N, M]; weights [K, in, out], biases [K, out].

    The hidden layer is many times as large as x and cheap to compute, so it is made a few thousand columns at a
    time, and made again for the gradient instead of kept. Biases go in as the weights of a row of ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        out = torch.empty_like(x)
        into, second = _with_bias(w1, b1), w2.transpose(1, 2)
        for k, columns in _pieces(x):
            hidden = torch.mm(into[k], _with_ones(x[k, :, columns])).relu_()
            out[k, :, columns] = torch.addmm(b2[k].unsqueeze(1), second[k], hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        to_x, into = torch.empty_like(x), _with_bias(w1, b1)
        # Products whose result is wider than high are the faster ones.
        to_into = into.new_zeros(into.transpose(1, 2).shape)
        to_w2 = w2.new_zeros(w2.transpose(1, 2).shape)
        for k, columns in _pieces(x):
            part, d = _with_ones(x[k, :, columns]), grad[k, :, columns]
            hidden = torch.mm(into[k], part).relu_()
            to_w2[k].addmm_(d, hidden.t())
            d = torch.ops.aten.threshold_backward(torch.mm(w2[k], d), hidden, 0)
            to_into[k].addmm_(part, d.t())
            to_x[k, :, columns] = torch.mm(w1[k], d)
        to_w2 = to_w2.transpose(1, 2).contiguous()
        return to_x, to_into[:, :-1].contiguous(), to_into[:, -1].contiguous(), to_w2, grad.sum(2)


def _pieces(x: Tensor) -> Iterator[tuple[int, slice]]:
    width = COLUMNS if x.device.type == "cpu" else x.shape[2]
    for k in range(x.shape[0]):
        for begin in range(0, x.shape[2], width):
            yield k, slice(begin, begin + width)


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """[K, in, out], [K, out] -> [K, out, in + 1]."""
    return torch.cat([weight.transpose(1, 2), bias.unsqueeze(2)], 2)


def _with_ones(x: Tensor) -> Tensor:
    """[N, C] -> [N + 1, C]."""
    out = x.new_empty(x.shape[0] + 1, x.shape[1])
    out[:-1], out[-1] = x, 1.0
    return out
