"""The Policy Modifier that correlates: each agent's modification knows which actions the agents before it have drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agentmixer.train.policy_modifiers.mixer import MixerPM


class Halves(NamedTuple):
    """What a `CausalPM` makes of state and policies, whatever actions are drawn: direct [K, N, B, A], inner [K, N, B, hidden], and
    `short` [K, hidden + 1, A], the weights that lead from there to the output. B is 1 where all rows are alike."""

    direct: Tensor
    inner: Tensor
    short: Tensor


class CausalPM(MixerPM):
    """`MixerPM` whose channel mixing is also told actions: X <- X + W4 σ(W3 LN(X) + Σ_{j < i} U_j a_j) for agent i.

    a_j is the action that agent j has drawn in this step: one-hot of a choice, or how far a real-valued action lies from the actor's
    mean. The sum is over the agents before i, so the joint policy Π_i π_i(a_i | s, a_0 .. a_i-1) can be any distribution over joint
    actions, which a product over agents cannot. Shapes as in `PolicyModifier`; P numbers code an action.

    Weights of the last layer start near zero, those of U so large that an action counts as much as the rest of the token."""

    def __init__(
        self,
        agents: int,
        state: int,
        policy: int,
        features: int,
        outputs: int,
        width: int,
        agent_hidden: int,
        channel_hidden: int,
        teams: int = 1,
        norm: str = "layer",
    ):
        """As `PolicyModifier`; outputs: A, or 2 A of real-valued actions. An action is coded by as many numbers as a policy."""
        super().__init__(
            agents, state, policy, features, outputs, width, agent_hidden, channel_hidden, teams, norm=norm
        )
        self.told = nn.Parameter(torch.empty(teams * agents, policy, channel_hidden))
        for weight in self.told.data:
            nn.init.orthogonal_(weight, math.sqrt(channel_hidden))
        self.before: Tensor  #: [N, N, 1, 1], 1 where the second agent acts before the first.
        self.register_buffer("before", torch.ones(agents, agents).tril(-1)[..., None, None], persistent=False)

    def begin(self, state: Tensor, policy: Tensor, features: Tensor) -> Halves:
        """All that can be known before any agent acts, in one pass."""
        shape = self.teams, self.agents, features.shape[1], -1
        direct, inner = self.halves(state, policy, features)
        return Halves(direct.view(shape), inner.view(shape), self.short())

    def turn(self, halves: Halves, agent: int, told: Tensor) -> Tensor:
        """The output for one agent of each team, [K, B, A]. told [K, B, hidden]: the sum of `telling` of the agents before it."""
        return self.whole(halves.direct[:, agent], halves.inner[:, agent] + told, halves.short)

    def telling(self, agent: int, coded: Tensor) -> Tensor:
        """What the agents after `agent` are told of its coded actions [K, B, P]: [K, B, hidden]."""
        return torch.bmm(coded, self.told.unflatten(0, (self.teams, -1))[:, agent])

    def given(self, halves: Halves, coded: Tensor) -> Tensor:
        """The output for all agents, [K * N, B, A], given all actions [K * N, B, P] in one pass. Halves may have one row, for all."""
        teams, agents, rows = self.teams, self.agents, coded.shape[1]
        # Every agent is shown all codes side by side, and its weights for those of itself and of later agents are zero.
        shown = coded.unflatten(0, (teams, 1, agents)).transpose(2, 3).flatten(3).expand(-1, agents, -1, -1)
        weight = (self.told.unflatten(0, (teams, 1, agents)) * self.before).flatten(2, 3)
        inner = torch.baddbmm(halves.inner.flatten(0, 1), shown.flatten(0, 1), weight.flatten(0, 1))
        direct = halves.direct.expand(-1, -1, rows, -1).flatten(1, 2)
        return self.whole(direct, inner.view(teams, agents * rows, -1), halves.short).view(teams * agents, rows, -1)
