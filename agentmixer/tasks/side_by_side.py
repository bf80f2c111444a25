"""The tasks of several teams stepped as one, for teams that train side by side and never meet."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from agentmixer.errors import AgentMixerError, TeamError
from agentmixer.tasks.base import Task, TaskStep, cores, to_torch

if TYPE_CHECKING:
    import torch


def side_by_side(tasks: Sequence[Task], device: str = "cpu") -> Task:
    """One task for all teams; a single team's own task as it is. All must be of one scenario and size."""
    return tasks[0] if len(tasks) == 1 else SideBySide(tasks, device)


def joined(steps: Sequence[TaskStep], device: str = "cpu") -> TaskStep:
    """The steps of K teams as one, team after team: per-agent arrays [K * N, E, ...], others [K * E, ...].

    Their arrays are torch tensors then; the step of a single team is returned as it is."""
    import torch

    if len(steps) == 1:
        return steps[0]
    return TaskStep(*(torch.cat([to_torch(array, device) for array in arrays]) for arrays in zip(*steps, strict=True)))


def apart(task: Task) -> Sequence[Task]:
    """The tasks that a task is put together of; one that is not is alone."""
    return task.tasks if isinstance(task, SideBySide) else [task]


def lost_in(task: Task) -> np.ndarray | None:
    """Which environments failed in the task's last step and were made anew, [K * E] bool; None if none did."""
    parts = [(getattr(own, "lost", None), own.num_envs) for own in apart(task)]  # isinstance costs much in every step
    if all(lost is None for lost, _ in parts):
        return None
    return np.concatenate([np.zeros(envs, bool) if lost is None else lost for lost, envs in parts])


class SideBySide:
    """K tasks as one. E (`num_envs`) counts the environments of each; arrays are as in `joined`.

    Tasks of this package are stepped by as many threads as there are cores, and put together in their order: no
    result depends on how many threads there are. Foreign ones are stepped one after another. Errors are `TeamError`s,
    which say whose they are."""

    def __init__(self, tasks: Sequence[Task], device: str = "cpu"):
        self.tasks, self.device = list(tasks), device
        self.spec, self.num_envs, self.restarts = tasks[0].spec, tasks[0].num_envs, tasks[0].restarts
        # Foreign code, which cannot be put back either, need not bear threads.
        self._threads = ThreadPoolExecutor(1 if self.restarts else min(len(tasks), cores()))

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        """Every team starts in the same episodes. Teams with seeds of their own are reset one by one (`joined`)."""
        return joined([task.reset(seed, episodes) for task in self.tasks], self.device)

    def step(self, actions: torch.Tensor) -> TaskStep:
        """actions [K * N, E] or [K * N, E, A]. See `Task.step`."""
        parts = zip(self.tasks, actions.chunk(len(self.tasks)), strict=True)
        running = [self._threads.submit(task.step, part) for task, part in parts]
        steps = []
        for team, future in enumerate(running):
            try:
                steps.append(future.result())
            except AgentMixerError as error:
                raise TeamError(str(error), team) from error
        return joined(steps, self.device)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What all tasks give, each name led by its team's number."""
        parts = ((team, name, array) for team, task in enumerate(self.tasks) for name, array in task.snapshot().items())
        return {f"{team}.{name}": array for team, name, array in parts}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        """See `Task.restore`."""
        own: list[dict[str, np.ndarray]] = [{} for _ in self.tasks]
        for key, array in arrays.items():
            team, _, name = key.partition(".")
            own[int(team)][name] = array
        return joined([task.restore(part) for task, part in zip(self.tasks, own, strict=True)], self.device)

    def close(self) -> None:
        """Close all tasks."""
        self._threads.shutdown()
        for task in self.tasks:
            task.close()
