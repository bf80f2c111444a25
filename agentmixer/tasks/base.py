"""The protocol every task follows.

Batched over E environments and N agents, agent-major, so that training never transposes.
Arrays stay in the task's own library (anything that speaks dlpack); `to_torch` hands them over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from agentmixer.contract.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

Array = Any


class TaskStep(NamedTuple):
    """One batched step. After an episode ends, `obs`, `state`, `action_mask` and `active` already
    belong to the next one; what the ended one looked like is in `final_obs` and `final_state`
    (equal to `obs` and `state` where nothing ended).

    Shapes: obs [N, E, D] float32; state [E, S] float32; action_mask [N, E, A] bool; active [N, E] bool
    (the agent can still act); reward [E] float32, shared by the team; terminated, truncated [E] bool;
    won [E] bool, meaningful where an episode ended.
    """

    obs: Array
    state: Array
    action_mask: Array
    active: Array
    reward: Array
    terminated: Array
    truncated: Array
    won: Array
    final_obs: Array
    final_state: Array


class Task(Protocol):
    """E copies of one scenario, stepped together and reset by themselves.

    The same seed gives the same episodes, bit for bit. `reset(seed, episodes)` starts environment e
    in episode number `episodes[e]` of that seed, so that two policies can be judged on paired episodes.
    """

    spec: TaskSpec
    num_envs: int

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep: ...

    def step(self, actions: torch.Tensor) -> TaskStep:
        """Advance by one step. actions: [N, E] int32 (discrete)."""
        ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly here."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        """Continue from `snapshot()`; returns the step that was current then."""
        ...


class ScenarioInfo(NamedTuple):
    """One row of `agentmixer tasks`, known without building the task."""

    scenario: str
    agents: int
    obs_size: int
    state_size: int
    actions: str
    episode_limit: int
    source: str


class TaskFamily(Protocol):
    """What an entry point of the group `agentmixer.tasks` names: a module or object with these."""

    backends: tuple[str, ...]
    notes: str

    def scenarios(self) -> list[ScenarioInfo]: ...

    def check_backend(self, backend: str) -> None:
        """Raise AgentMixerError if the backend cannot be used on this machine."""
        ...

    def make(self, scenario: str, num_envs: int, backend: str, device: str = "cpu") -> Task: ...


def to_torch(array: Array, device: str = "cpu") -> torch.Tensor:
    """Any dlpack array as a torch tensor; no copy where both live on the same device.

    The tensor may alias memory its producer believes immutable: read it, never write it.
    """
    import torch.utils.dlpack

    return torch.utils.dlpack.from_dlpack(array).to(device)
