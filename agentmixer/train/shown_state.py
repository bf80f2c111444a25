"""Tasks that show another observation, or another state, than their own."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from agentmixer.tasks.base import Task, TaskStep


class Shown:
    """`task`, its steps put through `shown`. All else is the task's own."""

    def __init__(self, task: Task):
        self._task, self.spec = task, task.spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        return self.shown(self._task.reset(seed, episodes))

    def step(self, actions: torch.Tensor) -> TaskStep:
        return self.shown(self._task.step(actions))

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        return self.shown(self._task.restore(arrays))

    def shown(self, step: TaskStep) -> TaskStep:
        """What is shown in the place of a step."""
        raise NotImplementedError


class ShownState(Shown):
    """`task`, with observations [own observation ‖ state]: agent i has d_i + S elements.

    Agents of unlike sizes are padded behind the state, as everywhere."""

    def __init__(self, task: Task):
        super().__init__(task)
        state, spec = tuple(f"state.{i}" for i in range(task.spec.state_size)), task.spec
        self.spec = msgspec.structs.replace(
            spec, obs_names=tuple((*names, *state) for names in spec.obs_names), obs_elements=()
        )
        self._sizes = spec.obs_sizes

    def shown(self, step: TaskStep) -> TaskStep:
        return step._replace(
            obs=self._both(step.obs, step.state), final_obs=self._both(step.final_obs, step.final_state)
        )

    def _both(self, obs: Any, state: Any) -> np.ndarray:
        """obs [N, E, D], state [E, S] -> [N, E, D + S]."""
        obs, state = np.asarray(obs), np.asarray(state)
        out = np.zeros((*obs.shape[:2], obs.shape[2] + state.shape[1]), np.float32)
        for i, size in enumerate(self._sizes):
            out[i, :, :size] = obs[i, :, :size]
            out[i, :, size : size + state.shape[1]] = state
        return out


class ShownObservations(Shown):
    """`task`, whose state is what all agents observe, one observation after the other, each of D elements: [E, N * D]."""

    def __init__(self, task: Task):
        super().__init__(task)
        size = task.spec.num_agents * max(task.spec.obs_sizes)
        self.spec = msgspec.structs.replace(task.spec, state_size=size)

    def shown(self, step: TaskStep) -> TaskStep:
        return step._replace(state=self._all(step.obs), final_state=self._all(step.final_obs))

    def _all(self, obs: Any) -> np.ndarray:
        """obs [N, E, D] -> [E, N * D]."""
        obs = np.asarray(obs)
        return obs.swapaxes(0, 1).reshape(obs.shape[1], -1)
