"""The noise of all agents of a team, each agent's own, for the trained actors to draw by as the exported agents do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agentmixer.contract.spec import Box
from agentmixer.runtime.noise import Noise
from agentmixer.train.team import Team


class TeamNoise:
    """What N agents draw whole numbers by. seeds: each agent's; None: nothing is drawn, and all noise is 0, as that of an agent with
    real values always is."""

    def __init__(self, team: Team, seeds: Sequence[int] | None):
        self.actions, self.device, spaces = team.actions, team.device, team.spec.action_spaces
        self.agents = [
            Noise(0 if seeds is None or isinstance(space, Box) else space.n, 0 if seeds is None else seeds[i], i)
            for i, space in enumerate(spaces)
        ]

    def begin(self, episode: int | None = None) -> None:
        """An episode begins, see `Noise.begin`."""
        for agent in self.agents:
            agent.begin(episode)

    def draw(self) -> Tensor:
        """The next decision's noise, [N, 1, A] float32, to be added to the actors' policies. What is masked stays as it is: its logit is
        too large to be moved."""
        noise = torch.zeros(len(self.agents), 1, self.actions)
        for row, agent in zip(noise, self.agents, strict=True):
            if agent.size:
                row[0, : agent.size] = torch.from_numpy(agent.draw())
        return noise.to(self.device)

    def exponential(self, noise: Tensor) -> Tensor:
        """The same as `JointPolicy.sample` takes it, [N, 1, A]: exponential for agents that draw, 0 for the others, which then do what
        is most likely."""
        drawing = torch.tensor([agent.size > 0 for agent in self.agents], device=noise.device).view(-1, 1, 1)
        return torch.where(drawing, torch.exp(-noise), 0.0)
