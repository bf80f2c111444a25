"""No Policy Modifier: the joint policy is the product of the actors' own. What MAPPO trains, and what PM is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NoPM(nn.Module):
    """The same score whatever it is given: state, policy and features are ignored.

    Discrete actions: zero for ever, under which either kind of joint policy is the actors' own. Real-valued actions:
    one learned number for each element of each agent's action, so that the spread is learned but depends on nothing.

    forward returns [K * N, B, A] for K teams, as every `PolicyModifier` does.
    """

    def __init__(self, agents: int, actions: int, discrete: bool, teams: int = 1):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(teams * agents, 1, actions), requires_grad=not discrete)

    def forward(self, state: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        return self.score.expand(-1, policy.shape[1], -1)
