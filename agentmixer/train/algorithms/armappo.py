"""ARMAPPO (Fu et al. 2022, arXiv 2206.07505): MAPPO with an autoregressive joint policy.

What differs from `mappo`: actor i also reads the actions that agents 0 .. i - 1 take in the same step, and zeros in the places of
the others'. The critic is that of `mappo`, and actors keep their memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.train.algorithms.base import Sees
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.autoregressive import AutoregressiveTeam
from agentmixer.train.networks import Actor
from agentmixer.train.team import ActorStep, make_actor, most_actions
from agentmixer.train.transformer import coded


class ToldTeam(AutoregressiveTeam):
    """Actors that read [own observation ‖ actions of the agents before], the second part (N - 1) * A elements."""

    def answer(self, seen: Tensor, mask: Tensor, memory: Tensor, action: Tensor) -> ActorStep:
        return super(AutoregressiveTeam, self).step(torch.cat([seen, self.told(action)], -1), mask, memory)

    def unroll(
        self, obs: Tensor, mask: Tensor, memory: Tensor, episode_start: Tensor, action: Tensor | None = None
    ) -> ActorStep:
        assert action is not None
        told = self.told(action.flatten(1, 2)).unflatten(1, obs.shape[1:3])
        return super().unroll(torch.cat([obs, told], -1), mask, memory, episode_start)

    def told(self, action: Tensor) -> Tensor:
        """What each agent is told of actions [K * N, B] or [K * N, B, W] -> [K * N, B, (N - 1) * A]."""
        agents = self.spec.num_agents
        rows = coded(action, self.actions).unflatten(0, (self.count, agents))  # [K, N, B, A]
        before = torch.ones(agents, agents, device=rows.device).tril(-1)[:, :-1]  # [i, j]: 1 where j < i
        all_rows = rows[:, :-1].permute(0, 2, 1, 3).unsqueeze(1)  # [K, 1, B, N - 1, A]
        return (all_rows * before.view(1, agents, 1, -1, 1)).flatten(3).flatten(0, 1)


class ARMAPPO(MAPPO):
    """MAPPO whose agents act one after another, each told the actions of those before it."""

    name, source = "armappo", "Fu et al. 2022, arXiv 2206.07505"
    execution_sees = Sees.OTHERS_ACTIONS
    kind_of_team = ToldTeam

    def make_actor(self, spec: TaskSpec, teams: int) -> Actor:
        """Actors that are told of (N - 1) * A elements."""
        return make_actor(spec, self.config.team, teams, (spec.num_agents - 1) * most_actions(spec))
