"""The Policy Modifier as an MLP-Mixer (paper, eq. 5): agents mix through one learned MLP."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agentmixer.train.policy_modifiers.base import PolicyModifier, linear


class MixerPM(PolicyModifier):
    """mix(X) = W2 σ(W1 X): the same MLP over agents for every channel and every state."""

    def add_mixing(self, width: int, channels: int, hidden: int) -> None:
        """W1 [hidden, N] and W2 [N, hidden]."""
        self.agent_in = linear(self.agents, hidden)
        self.agent_out = linear(hidden, self.agents, gain=1.0)

    def mix(self, x: Tensor, encoded: Tensor) -> Tensor:
        """x [N, B, C] -> [N, B, C]; the state plays no part beyond its share of x."""
        # Agents lead, so mixing across them is a plain product with everything else flattened.
        y = torch.addmm(self.agent_in.bias.unsqueeze(1), self.agent_in.weight, x.view(self.agents, -1))
        y = torch.addmm(self.agent_out.bias.unsqueeze(1), self.agent_out.weight, F.gelu(y))
        return y.view_as(x)
