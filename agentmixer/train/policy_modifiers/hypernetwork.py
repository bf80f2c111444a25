"""The Policy Modifier with a hypernetwork: the state generates the weights by which agents mix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agentmixer.train.policy_modifiers.base import PolicyModifier, linear


class HyperPM(PolicyModifier):
    """mix(X) = W2(s) σ(W1(s) X): MixerPM's MLP over agents, its weights and biases generated from the state s.

    The hypernetwork has two layers, as in QMIX (Rashid et al. 2018): the state encoder, which the tokens share,
    and one linear map to all weights. The weights may have any sign, for nothing here must be monotonic. Its bias
    starts as MixerPM's own initial weights and its gain is small, so that mixing begins as a plain mixer and
    learns to depend on the state. Generated per sample: 2 N hidden + hidden + N numbers.
    """

    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """The map from the encoded state to W1 [hidden, N], b1 [hidden], W2 [N, hidden], b2 [N]."""
        self.agent_hidden = hidden
        self.sizes = (hidden * self.agents, hidden, self.agents * hidden, self.agents)
        self.hyper = linear(width, sum(self.sizes), gain=0.1)
        agent_in, agent_out = linear(self.agents, hidden), linear(hidden, self.agents, gain=1.0)
        with torch.no_grad():
            self.hyper.bias.copy_(
                torch.cat([p.flatten() for p in (agent_in.weight, agent_in.bias, agent_out.weight, agent_out.bias)])
            )

    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """x [N, B, C], encoded [B, width] -> [N, B, C]."""
        w1, b1, w2, b2 = self.hyper(encoded).split(self.sizes, -1)
        w1, w2 = w1.view(-1, self.agent_hidden, self.agents), w2.view(-1, self.agents, self.agent_hidden)
        y = torch.baddbmm(b1.unsqueeze(-1), w1, x.transpose(0, 1))
        return torch.baddbmm(b2.unsqueeze(-1), w2, F.gelu(y)).transpose(0, 1)
