"""Finding tasks. Ours and third parties' come through one door: the entry-point group `agentmixer.tasks`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from agentmixer.errors import AgentMixerError, nearest
from agentmixer.missing import Problem
from agentmixer.tasks.base import Task, TaskFamily, check_actions

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.contract.spec import TaskSpec
    from agentmixer.tasks.scene import Scene

GROUP = "agentmixer.tasks"


def names() -> list[str]:
    """Names of all installed tasks."""
    return sorted(_points())


def _points() -> dict[str, EntryPoint]:
    """All installed tasks, by name."""
    return _points_on(tuple(sys.path))


@functools.cache
def _points_on(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Looked for once for each `sys.path`: that opens a file of every installed package."""
    return {point.name: point for point in entry_points(group=GROUP)}


def family(task: str) -> TaskFamily:
    """The task family of that name.

    Raises AgentMixerError naming the nearest known task, or the missing package."""
    points = _points()
    if task not in points:
        raise AgentMixerError(f"unknown task '{task}'{nearest(task, points)}")
    try:
        return cast(TaskFamily, points[task].load())
    except ImportError as error:
        raise AgentMixerError(
            f"task '{task}' needs a package that is not installed ({error}); pip install 'agentmixer[train]'"
        ) from error


def names_code(task: str) -> bool:
    """Whether scenarios of that family name code to import. A family that does not say is taken to do so."""
    return bool(getattr(family(task), "names_code", True))


def option_names(task: str, scenario: str) -> tuple[str, ...] | None:
    """Names of the options (--env-arg) that a scenario takes, None if that is not known beforehand.

    A family whose scenarios decide on the options has a function `option_names(scenario)`; for every other family the
    names are those of its `Options`. Raises AgentMixerError where there is no such task or no such factory."""
    found = family(task)
    own = getattr(found, "option_names", None)
    return own(scenario) if own else found.Options.names()


def backend_problems(task: str, backend: str) -> list[Problem]:
    """What this machine lacks for a backend of a task, in the order in which one would mend it.

    A family says so in a function `backend_problems(backend)`; of every other family nothing is known to be missing."""
    own = getattr(family(task), "backend_problems", None)
    return own(backend) if own else []


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """A recorded episode as shapes: states [T + 1, S], obs [T + 1, N, D], actions [T, N] or [T, N, W].

    A family says how in a function `scene` of the same arguments. Where there is none, or it returns None, or packages that it
    needs are not installed, the numbers of observations and actions are drawn as bars (`numbers_scene`).
    Raises AgentMixerError if the arrays are not of an episode of that scenario."""
    from agentmixer.tasks import numbers_scene

    point = _points().get(spec.name)
    drawn = None
    try:
        own = getattr(point.load(), "scene", None) if point else None
        drawn = own(spec, states, obs, actions) if own else None
    except ImportError:
        pass
    except Exception as error:  # what others wrote may break in any way, in a recording and in a family
        raise AgentMixerError(
            f"this recording cannot be drawn as an episode of {spec.name} {spec.scenario} ({type(error).__name__}: {error}); "
            "run agentmixer deploy-sim again"
        ) from error
    return drawn or numbers_scene.scene(spec, states, obs, actions)


def check(
    task: str, scenario: str, backend: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Whether the task, scenario, backend and options exist, without building anything.

    Returns the backend's name and all options, resolved. Raises AgentMixerError naming the nearest known one."""
    found = family(task)
    chosen = backend or found.backends[0]
    if chosen not in found.backends:
        raise AgentMixerError(f"task '{task}' has no backend '{chosen}'{nearest(chosen, found.backends)}")
    resolved = found.Options().replace(dict(options or {}), kind="option")
    found.check(scenario, chosen, resolved)
    return chosen, resolved.as_dict()


def check_workers(task: str, backend: str, workers: str) -> None:
    """Raise AgentMixerError if environments of a backend cannot be stepped there."""
    if workers != "processes" and backend not in getattr(family(task), "takes_workers", ()):
        raise AgentMixerError(
            f"task '{task}' steps the environments of backend {backend} in this process; leave --workers out"
        )


def make(
    task: str,
    scenario: str,
    num_envs: int,
    backend: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    workers: str = "processes",
) -> Task:
    """Build `num_envs` environments of `task`/`scenario`. workers: where they are stepped, "processes" or "ray" (see
    `TaskFamily`).

    Raises AgentMixerError for an unknown task, scenario, backend or option, for num_envs < 1, and for actions that cannot
    be used (`check_actions`)."""
    chosen, resolved = check(task, scenario, backend, options)
    if num_envs < 1:
        raise AgentMixerError(f"num_envs is {num_envs}; it must be at least 1")
    found = family(task)
    check_workers(task, chosen, workers)
    further = {} if workers == "processes" else {"workers": workers}
    made = found.make(scenario, num_envs, chosen, found.Options(**resolved), device, **further)
    try:
        check_actions(made.spec)
    except AgentMixerError:
        made.close()
        raise
    return made
