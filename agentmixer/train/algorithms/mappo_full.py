"""MAPPO_FULL (Li et al. 2024, Figure 10): MAPPO whose actors are shown the global state, also when they act.

What it says is what partial observation costs. Nothing else differs from `mappo`.
"""

from __future__ import annotations

from agentmixer.tasks.base import Task
from agentmixer.train.algorithms.base import Sees
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.shown_state import ShownState


class MAPPOFull(MAPPO):
    """MAPPO whose actors are shown the global state beside their own observations."""

    name, source = "mappo_full", "Li et al. 2024, arXiv 2401.08728 (Figure 10)"
    execution_sees = Sees.STATE

    @classmethod
    def shown(cls, task: Task) -> Task:
        """Every agent's observation is followed by the state."""
        return ShownState(task)
