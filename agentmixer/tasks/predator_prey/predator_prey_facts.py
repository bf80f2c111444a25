"""Sizes, names and constants of predator and prey, for the game's rules and for whoever lists its scenarios.

This file imports no simulator.
"""

from __future__ import annotations

from typing import NamedTuple

from agentmixer.contract.spec import Element


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


def obs_names() -> tuple[str, ...]:
    """Element names of an agent's observation, 28 of them, whatever the size."""
    around = range(-SIGHT, SIGHT + 1)
    view = tuple(f"prey.row{row:+d}.col{col:+d}" for row in around for col in around)
    return ("own.row", "own.col", *view, "time")


def obs_elements() -> tuple[Element, ...]:
    """What each element of `obs_names` is."""
    place, here, time = (
        Element("share of the grid", 0.0, 1.0, "grid"),
        Element(low=0.0, high=1.0, frame="own cell"),
        Element("share of the limit", 0.0, 1.0),
    )
    return (place, place, *(here,) * (2 * SIGHT + 1) ** 2, time)


def state_size(of: Size) -> int:
    """Row and column of every predator; row, column and a flag of every prey; the time."""
    return 2 * of.predators + 3 * of.preys + 1
