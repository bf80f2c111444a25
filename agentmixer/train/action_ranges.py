"""From what the networks of a whole team give to actions in the task's own units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.runtime.actions import ranges


class TeamRanges(NamedTuple):
    """`runtime.actions.Ranges` of all agents of K teams, [K * N, 1, W] each, zero where an agent has no such element.

    whole: True where an action is rounded; None if none is."""

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    whole: Tensor | None

    def action(self, x: Tensor) -> Tensor:
        """The actions, in the task's own units. x [K * N, E, W]."""
        action = self.centre + self.scale * x
        if self.whole is not None:
            action = torch.where(self.whole, action.round(), action)
        return torch.clamp(action, self.low, self.high)


def team_ranges(spec: TaskSpec, teams: int, device: str) -> TeamRanges:
    """Those of K teams of the task."""
    room = np.zeros((4, spec.num_agents, 1, spec.action_size), np.float32)
    for i, space in enumerate(spec.action_spaces):
        room[:, i, 0, : space.size] = ranges(space)
    centre, scale, low, high = torch.from_numpy(room).repeat(1, teams, 1, 1).to(device)
    rounded = [isinstance(space, Box) and space.whole for space in spec.action_spaces]
    whole = torch.tensor(rounded * teams, device=device).view(-1, 1, 1) if any(rounded) else None
    return TeamRanges(centre, scale, low, high, whole)
