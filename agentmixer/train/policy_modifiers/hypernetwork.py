"""The Policy Modifier with a hypernetwork: the state generates the weights by which agents mix."""

from __future__ import annotations

import torch
from torch import Tensor

from agentmixer.train.policy_modifiers.base import PolicyModifier
from agentmixer.train.stack import StackedLinear


class HyperPM(PolicyModifier):
    """mix(X) = W2(s) σ(W1(s) X): MixerPM's MLP over agents, its weights and biases generated from the state s.

    The hypernetwork has two layers, as in QMIX (Rashid et al. 2018): the state encoder, which the tokens share,
    and one linear map to all weights. The weights may have any sign, for nothing here must be monotonic. Its bias
    starts as MixerPM's own initial weights and its gain is small, so that mixing begins as a plain mixer and
    learns to depend on the state. Generated per sample: 2 N hidden + hidden + N numbers.
    """

    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """The map from the encoded state to W1 [N, hidden], b1 [hidden], W2 [hidden, N], b2 [N]."""
        self.agent_hidden = hidden
        self.sizes = (self.agents * hidden, hidden, hidden * self.agents, self.agents)
        self.hyper = StackedLinear(self.teams, width, sum(self.sizes), gain=0.1)
        first = StackedLinear(self.teams, self.agents, hidden)
        second = StackedLinear(self.teams, hidden, self.agents, gain=1.0)
        with torch.no_grad():
            parts = (first.weight, first.bias, second.weight, second.bias)
            self.hyper.bias.copy_(torch.cat([part.flatten(1) for part in parts], 1))

    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """x [K, N, B, C], encoded [K, B, width] -> [K, N, B, C]."""
        teams, agents, batch, channels = x.shape
        w1, b1, w2, b2 = self.hyper(encoded).flatten(0, 1).split(self.sizes, -1)
        w1, w2 = w1.view(-1, agents, self.agent_hidden), w2.view(-1, self.agent_hidden, agents)
        tokens = x.transpose(1, 2).reshape(teams * batch, agents, channels)
        y = torch.baddbmm(b1.unsqueeze(2), w1.transpose(1, 2), tokens).relu_()
        y = torch.baddbmm(b2.unsqueeze(2), w2.transpose(1, 2), y)
        return y.view(teams, batch, agents, channels).transpose(1, 2)
