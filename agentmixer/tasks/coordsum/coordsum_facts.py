"""Sizes and constants of numbers that add up, for the game's rules and for whoever lists its scenarios.

This file imports no simulator.
"""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """How large a scenario is: agents N, actions of each K, targets M."""

    agents: int
    actions: int
    targets: int


SIZES = {
    "3x10-30": Size(3, 10, 30),
    "3x30-50": Size(3, 30, 50),
    "5x20-80": Size(5, 20, 80),
    "8x15-100": Size(8, 15, 100),
}
EPISODE_LIMIT = 100
#: What the team earns where its numbers add up to the target, and where the opponent has guessed agent_0's number too.
REWARD, GUESSED = 2.0, 1.0
#: The state shows this share of a count.
COUNT_SCALE = 0.1


def state_size(of: Size) -> int:
    """The target, the step, and a count for each of agent_0's actions."""
    return of.targets + 1 + of.actions
