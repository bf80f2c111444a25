"""A task of one environment as a `RowEnv`, for tasks that are stepped by threads here and by workers elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.workers.chunk import Row


class TaskRow:
    """One environment, whose task's `reset` also takes the numbers of the episodes in their streams."""

    starting = True

    def __init__(self, make: Callable[[], Any], index: int, row: Row):
        """make: builds the task. index: the environment's number in the whole task."""
        self.task, self.row = make(), row

    def reset(self, seed: int, stream: int, number: int) -> None:
        self.starting = True
        self._show(self.task.reset(seed, np.array([stream]), np.array([number])))
        self.starting = False

    def step(self) -> None:
        self._show(self.task.step(self.row["actions"][:, None]))

    def close(self) -> None:
        self.task.close()

    def _show(self, step: TaskStep) -> None:
        for name in TaskStep._fields:
            array = np.asarray(getattr(step, name))
            self.row[name][...] = array[:, 0] if name in ("obs", "action_mask", "active", "final_obs") else array[0]
