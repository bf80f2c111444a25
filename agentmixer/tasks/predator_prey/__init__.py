"""Predator and prey on a grid: two predators must stand beside a prey at the same time to catch it.

After the task of DICG (Li et al. 2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from agentmixer.config import Settings
from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import ScenarioInfo, Task, check_known
from agentmixer.tasks.predator_prey.predator_prey_facts import (
    CAPTORS,
    EPISODE_LIMIT,
    MOVES,
    SIZES,
    Size,
    obs_elements,
    obs_names,
    state_size,
)

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene


class Options(Settings, frozen=True):
    """Settings of the task."""

    grid: Annotated[int, Meta(ge=0, le=20, description="Rows and columns of the grid; 0 is the scenario's own.")] = 0
    predators: Annotated[
        int, Meta(ge=0, le=16, description="Number of predators, the agents; 0 is the scenario's own.")
    ] = 0
    preys: Annotated[int, Meta(ge=0, le=16, description="Number of prey; 0 is the scenario's own.")] = 0
    penalty: Annotated[
        float, Meta(ge=-10.0, le=0.0, description="Reward for each prey that exactly one predator stands beside.")
    ] = 0.0


backends = ("jax",)
names_code = False
notes = (
    "Won means that all prey were caught within the limit. Published figures differ in the penalty, in the reward "
    "for a capture and in the limit: compare only with runs of the same rules (docs/tasks.md states ours)."
)


def size(scenario: str, options: Options) -> Size:
    """The scenario's size with the options applied."""
    own = SIZES[scenario]
    return Size(options.grid or own.grid, options.predators or own.predators, options.preys or own.preys)


def scenarios() -> list[ScenarioInfo]:
    """The scenarios with their own sizes."""
    return [
        ScenarioInfo(
            scenario=name,
            agents=of.predators,
            obs_sizes=(len(obs_names()),) * of.predators,
            state_size=state_size(of),
            actions=f"{len(MOVES)} discrete, masked",
            episode_limit=EPISODE_LIMIT,
            source="after DICG (Li et al. 2021)",
        )
        for name, of in SIZES.items()
    ]


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["jax"])


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError for an unknown scenario and for options that make no game."""
    check_known("predator_prey", scenario, SIZES)
    grid, predators, preys = size(scenario, options)
    if grid < 3:
        raise AgentMixerError(f"option grid is {grid}; it must be at least 3, or 0 for the scenario's own")
    if predators < CAPTORS:
        raise AgentMixerError(f"option predators is {predators}; it takes at least {CAPTORS} to catch a prey")
    if predators + preys > grid * grid:
        raise AgentMixerError(
            f"{predators} predators and {preys} prey do not fit on the {grid * grid} cells of a {grid}x{grid} grid; "
            "raise option grid"
        )


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.predator_prey import grid_scene

    of = size(spec.scenario, Options().replace(dict(spec.options), kind="option"))
    return grid_scene.scene(of, spec, states, obs)


def make(scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on."""
    from agentmixer.tasks.jax_task import JaxTask
    from agentmixer.tasks.predator_prey.predator_prey_game import game

    of = size(scenario, options)
    spec = TaskSpec(
        name="predator_prey",
        scenario=scenario,
        backend=backend,
        options=options.as_dict(),
        agents=tuple(f"predator_{i}" for i in range(of.predators)),
        obs_names=(obs_names(),) * of.predators,
        state_size=state_size(of),
        action_spaces=(Discrete(len(MOVES)),) * of.predators,
        has_action_mask=True,
        reports_wins=True,
        episode_limit=EPISODE_LIMIT,
        control_period_s=1.0,
        fallback_actions=(list(MOVES).index("stay"),) * of.predators,
        shared="reward",
        obs_elements=(obs_elements(),) * of.predators,
        action_names=(tuple(MOVES),) * of.predators,
    )
    return JaxTask(spec, game(of, options.penalty), num_envs)
