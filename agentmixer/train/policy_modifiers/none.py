"""No Policy Modifier: the joint policy is the product of the actors' own. What MAPPO trains, and what PM is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.train.team import Modifier, most_actions


class NoPM(Modifier):
    """The same score whatever it is given: state, policy and features are ignored.

    An agent of discrete actions: zero for ever, under which either kind of joint policy is the actors' own. An agent of
    real-valued actions: one learned number for each element, so that the spread is learned but depends on nothing.

    forward returns [K * N, B, A] for K teams, and the memory that it was given, as every `PolicyModifier` does.
    """

    real: Tensor | None

    def __init__(self, spec: TaskSpec, teams: int = 1, actions: int = 0):
        """actions: how wide it is padded; as the team's widest unless given."""
        super().__init__()
        shape = teams * spec.num_agents, 1, actions or most_actions(spec)
        self.spread = [isinstance(space, Box) for space in spec.action_spaces]
        self.score = nn.Parameter(torch.zeros(shape), requires_grad=not spec.discrete)
        real = torch.tensor(self.spread * teams).view(-1, 1, 1)
        self.register_buffer("real", None if spec.discrete or spec.real_valued else real, persistent=False)

    def plays_a_part(self, agent: int) -> bool:
        """By the spread of real-valued actions alone."""
        return self.spread[agent]

    def forward(
        self, state: Tensor, policy: Tensor, features: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        score = self.score if self.real is None else self.score * self.real
        return score.expand(-1, policy.shape[1], -1), memory
