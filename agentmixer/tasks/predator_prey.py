"""Predator and prey on a grid: two predators must stand beside a prey at the same time to catch it.

After the task of DICG (Li et al. 2021). This file knows names, sizes and rules' constants only and imports no
simulator; the rules stand in `predator_prey_game`.
"""

from __future__ import annotations

import sys
from typing import Annotated, NamedTuple

from msgspec import Meta

from agentmixer.config import Settings
from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import ScenarioInfo, Task, check_known


class Size(NamedTuple):
    """How large a scenario is. `grid` is the number of rows and of columns."""

    grid: int
    predators: int
    preys: int


SIZES = {"5x5": Size(5, 2, 1), "7x7": Size(7, 4, 2)}
#: Action -> (rows, columns) moved; row 0 is at the top.
MOVES = {"down": (1, 0), "left": (0, -1), "up": (-1, 0), "right": (0, 1), "stay": (0, 0)}
#: How a prey draws its move, in the order of MOVES, and how often it may draw again.
PREY_MOVES = (0.175, 0.175, 0.175, 0.175, 0.3)
PREY_TRIES = 5
#: A predator sees prey at most this many rows and columns away.
SIGHT = 2
EPISODE_LIMIT = 128
STEP_REWARD = -0.01
CAPTURE_REWARD = 10.0
CAPTORS = 2


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


def obs_names() -> tuple[str, ...]:
    """Element names of an agent's observation, 28 of them, whatever the size."""
    around = range(-SIGHT, SIGHT + 1)
    view = tuple(f"prey.row{row:+d}.col{col:+d}" for row in around for col in around)
    return ("own.row", "own.col", *view, "time")


def state_size(of: Size) -> int:
    """Row and column of every predator; row, column and a flag of every prey; the time."""
    return 2 * of.predators + 3 * of.preys + 1


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


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError for an unknown scenario and for options that make no game."""
    check_known(sys.modules[__name__], "predator_prey", scenario)
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


def make(scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on."""
    from agentmixer.tasks import predator_prey_game
    from agentmixer.tasks.jax_task import JaxTask

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
    )
    return JaxTask(spec, predator_prey_game.game(of, options.penalty), num_envs)
