"""The protocol every task follows.

Batched over E environments and N agents, agent-major, so that training never transposes.
Arrays stay in the task's own library (anything that speaks dlpack); `to_torch` hands them over.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from agentmixer.config import Settings
from agentmixer.contract.spec import MOST_ACTIONS, NO_BOUND, Box, TaskSpec
from agentmixer.errors import AgentMixerError, nearest

if TYPE_CHECKING:
    import numpy as np
    import torch

Array = Any
#: Largest observation, state, reward or action bound, either way. Sums of squares of larger numbers, which normalisers
#: and losses take, overflow in float32.
LARGEST = NO_BOUND


class TaskStep(NamedTuple):
    """One batched step. After an episode ends, `obs`, `state`, `action_mask` and `active` already
    belong to the next one; what the ended one looked like is in `final_obs` and `final_state`
    (equal to `obs` and `state` where nothing ended).

    Shapes: obs [N, E, D] float32; state [E, S] float32; action_mask [N, E, A] bool; active [N, E] bool
    (the agent can still act); reward [E] float32, shared by the team; terminated, truncated [E] bool;
    won [E] bool, meaningful where an episode ended and the task reports wins.

    D and A are the largest of the team; a smaller agent's own elements come first, then zeros (obs) or
    False (mask). A is the `n` of an action space: an entry of the mask belongs to an action (Discrete), to a value of an
    element (MultiDiscrete, those of element 0 first), or to an element (Box, where it is True). Where nothing is forbidden,
    and at all times where the specification's `has_action_mask` is False, an agent's whole mask is True. Numbers are finite
    and at most LARGEST either way.
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


@runtime_checkable
class Restarting(Protocol):
    """What a task offers beside `Task` if it can make an environment anew that fails.

    What a step that failed would have shown is not known: its episode is truncated, its reward is 0, `final_obs` and
    `final_state` are those before the step, and nothing is to be learned of the step or reported of the episode."""

    #: How often it still may, all environments together. 0 at first: the task ends with the first failure.
    env_restarts: int
    #: Which environments failed in the last step and were made anew, [E] bool; None if none did.
    lost: np.ndarray | None

    def failures(self) -> list[str]:
        """A sentence for every environment that was made anew since the last call."""
        ...


class Task(Protocol):
    """E copies of one scenario, stepped together and reset by themselves.

    Arrays of a step may be used again by the next one: whoever keeps a step copies it.

    The same seed gives the same episodes, bit for bit, whatever E is and however the copies are spread over
    threads or processes. `reset(seed, episodes)` starts environment e in episode stream `episodes[e]` of that
    seed, so that two policies can be judged on paired episodes.
    """

    spec: TaskSpec
    num_envs: int

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep: ...

    def step(self, actions: torch.Tensor) -> TaskStep:
        """Advance by one step. actions: [N, E] int32 where the whole team is Discrete; else [N, E, W] float32, W the
        specification's `action_size`, in the task's own units and within its bounds, whole numbers where an element is one
        (elements an agent does not have are ignored).

        Raises AgentMixerError naming the environment if it failed."""
        ...

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything needed to continue exactly here."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        """Continue from `snapshot()`; returns the step that was current then. A task that cannot put its
        environments back (foreign code) starts new episodes instead and says so with `restarts` = True."""
        ...

    #: Whether `restore` starts new episodes instead of continuing the ones that were running.
    restarts: bool

    def close(self) -> None:
        """Release processes and threads. Doing it twice is harmless."""
        ...


class Probe(NamedTuple):
    """A change of one environment's state that an agent must not see (`hidden`), or a change that the agent must see,
    which shows that changes are noticed at all.

    change(randomness, state, agent) -> state, the same state where there is nothing of that kind to change."""

    name: str
    hidden: bool
    change: Callable[[Any, Any, Any], Any]


class Probed(NamedTuple):
    """What a probe did, numpy. changed [E] bool: the state became another state; moved [E] bool: a bit of the agent's
    observation or mask became another bit."""

    changed: np.ndarray
    moved: np.ndarray


@runtime_checkable
class Probing(Protocol):
    """What a task offers beside `Task` if its rules hide something that can be changed, for `agentmixer locality`."""

    @property
    def probes(self) -> tuple[Probe, ...]: ...

    def probe(self, probe: Probe, agent: int, seed: int) -> Probed:
        """Change the current state of every environment and look again as one agent. Episodes go on unchanged."""
        ...


class Pictures(Protocol):
    """What a renderer of a task with one environment gives: [H, W, 3] uint8, None where nothing is rendered.

    now: of the moment that `obs` shows; final: of the moment that `final_obs` shows."""

    #: Pictures are taken while this is True: they cost time.
    wanted: bool
    now: np.ndarray | None
    final: np.ndarray | None


@runtime_checkable
class Rendering(Protocol):
    """What a task offers beside `Task` if its environment may render pictures of itself. None: not in this process."""

    pictures: Pictures | None


class ScenarioInfo(NamedTuple):
    """One row of `agentmixer tasks`, known without building the task. obs_sizes: one an agent."""

    scenario: str
    agents: int
    obs_sizes: tuple[int, ...]
    state_size: int
    actions: str
    episode_limit: int
    source: str


class TaskFamily(Protocol):
    """What an entry point of the group `agentmixer.tasks` names: a module or object with these members.

    Importing a family must be cheap: `agentmixer tasks` imports every family. Simulators are imported by `make`.

    Three functions may be left out: `option_names(scenario)`, `backend_problems(backend)` and
    `scene(spec, states, obs, actions)`; see the functions of the same names in `registry`.
    """

    backends: tuple[str, ...]
    notes: str
    #: Whether a scenario names code to import. A task of a run or bundle from elsewhere is then built only if the user
    #: repeats that name.
    names_code: bool
    #: Settings of the task, given with --env-arg: a `config.Settings`.
    Options: type[Any]

    def scenarios(self) -> list[ScenarioInfo]: ...

    def check(self, scenario: str, backend: str, options: Any) -> None:
        """Raise AgentMixerError if there is no such scenario, options do not fit it, or the backend cannot
        be used on this machine. `options` is an instance of `Options`. Builds nothing."""
        ...

    def make(self, scenario: str, num_envs: int, backend: str, options: Any, device: str = "cpu") -> Task:
        """Build the task. A family with an attribute `takes_workers`, the names of some backends, also takes `workers` for
        these: "processes", or "ray" for environments on a Ray cluster (`workers.ray_pool`)."""
        ...


class NoOptions(Settings, frozen=True):
    """For families without settings."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_known(task: str, scenario: str, known: Iterable[str]) -> None:
    """Raise AgentMixerError naming the nearest known scenario if `scenario` is not among them."""
    names = list(known)
    if scenario not in names:
        raise AgentMixerError(f"task '{task}' has no scenario '{scenario}'{nearest(scenario, names)}")


def check_actions(spec: TaskSpec) -> None:
    """Raise AgentMixerError naming agent and element if an action space cannot be used: too many choices, whole numbers
    that float32 cannot hold, or bounds that are too large, crossed, or no longer apart as float32."""
    for agent, space in zip(spec.agents, spec.action_spaces, strict=True):
        if not isinstance(space, Box):
            if space.n > MOST_ACTIONS:
                raise AgentMixerError(f"agent '{agent}' has {space.n:,} actions; at most {MOST_ACTIONS:,} are possible")
            for element, (n, start) in enumerate(space.choices):
                if not -MOST_ACTIONS <= start <= start + n - 1 <= MOST_ACTIONS:
                    raise AgentMixerError(
                        f"element {element} of the actions of agent '{agent}' runs from {start:,} to {start + n - 1:,}, "
                        f"beyond {MOST_ACTIONS:,}, where 32-bit numbers have gaps; let the environment shift its actions"
                    )
            continue
        for element, (low, high) in enumerate(zip(space.low, space.high, strict=True)):
            bounds = f"element {element} of the actions of agent '{agent}' has the bounds {low!r} and {high!r}"
            if low > high:
                raise AgentMixerError(f"{bounds}, the lower above the upper; exchange them")
            if not -LARGEST <= low <= high <= LARGEST:
                raise AgentMixerError(
                    f"{bounds}, beyond {LARGEST:g}, where 32-bit arithmetic overflows; let the environment scale its actions"
                )
            if low < high and ctypes.c_float(low).value == ctypes.c_float(high).value:
                raise AgentMixerError(
                    f"{bounds}, which are the same 32-bit number; let the environment shift or scale its actions"
                )


def to_torch(array: Array, device: str = "cpu") -> torch.Tensor:
    """Any dlpack array as a torch tensor; no copy where both live on the same device.

    The tensor may alias memory its producer believes immutable: read it, never write it.
    """
    import torch.utils.dlpack

    return torch.utils.dlpack.from_dlpack(array).to(device)
