"""Cooperative matrix games: one decision each, one shared payoff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task
from agentmixer.tasks.matrix.payoffs import CHANCE, PAYOFFS, payoff_tables

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene

Options = NoOptions
backends = ("jax",)
names_code = False
_SOURCES = {"nonmonotonic": "Son et al. (2019)"} | dict.fromkeys(CHANCE, "Kapetanakis and Kudenko (2002)")
notes = (
    "One step an episode; every agent sees the constant 1. Won means that the team chose the joint action with the greatest "
    "mean payoff. Any other payoff: give as scenario the path of a .json file (nested lists, one level an agent), a .npy "
    'file or a .csv file (two agents); payoffs of chance: a .json file with "payoffs", a list of such tables, and '
    '"probabilities", one a table.'
)


def scenarios() -> list[ScenarioInfo]:
    """The games known by name."""
    return [
        ScenarioInfo(
            scenario=name,
            agents=2,
            obs_sizes=(1, 1),
            state_size=1,
            actions="3 discrete",
            episode_limit=1,
            source=_SOURCES.get(name, "Claus and Boutilier (1998)"),
        )
        for name in (*PAYOFFS, *CHANCE)
    ]


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["jax"])


def check(scenario: str, backend: str, options: NoOptions) -> None:
    """Raise AgentMixerError if `payoff_tables` would."""
    payoff_tables(scenario)


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene | None:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.matrix import payoff_scene

    return payoff_scene.scene(spec, states, obs, actions)


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on.

    The specification names a file of payoffs without its folder, for other names are made from it."""
    from agentmixer.tasks.jax_task import JaxTask
    from agentmixer.tasks.matrix.matrix_game import game

    found = payoff_tables(scenario)
    cells = found.mean
    spec = TaskSpec(
        name="matrix",
        scenario=Path(scenario).name,
        backend=backend,
        options={},
        agents=tuple(f"agent_{i}" for i in range(cells.ndim)),
        obs_names=(("constant",),) * cells.ndim,
        state_size=1,
        action_spaces=tuple(Discrete(n) for n in cells.shape),
        has_action_mask=False,
        reports_wins=True,
        episode_limit=1,
        control_period_s=1.0,
        fallback_actions=(0,) * cells.ndim,
        shared="reward",
    )
    return JaxTask(spec, game(found), num_envs)
