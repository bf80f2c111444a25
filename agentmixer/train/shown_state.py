"""A task whose agents are shown the global state beside what each observes itself."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from agentmixer.tasks.base import Task, TaskStep


class ShownState:
    """`task`, with observations [own observation ‖ state]: agent i has d_i + S elements. All else is the task's own.

    Agents of unlike sizes are padded behind the state, as everywhere."""

    def __init__(self, task: Task):
        self._task, spec = task, task.spec
        state = tuple(f"state.{i}" for i in range(spec.state_size))
        self.spec = msgspec.structs.replace(spec, obs_names=tuple((*names, *state) for names in spec.obs_names))
        self._sizes = spec.obs_sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        return self._shown(self._task.reset(seed, episodes))

    def step(self, actions: torch.Tensor) -> TaskStep:
        return self._shown(self._task.step(actions))

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        return self._shown(self._task.restore(arrays))

    def _shown(self, step: TaskStep) -> TaskStep:
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
