"""The scenarios of Multi-Agent MuJoCo: the sizes of their teams, and the divisions of joints that mamujoco_v1 lacks.

This file imports no simulator.
"""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """A team under agent_obsk=0: observation and action length of each agent, state length, step limit."""

    obs: tuple[int, ...]
    actions: tuple[int, ...]
    state: int
    limit: int = 1000


TEAMS: dict[str, Sizes] = {
    "Ant-2x4": Sizes((61,) * 2, (4,) * 2, 105),
    "Ant-2x4d": Sizes((61,) * 2, (4,) * 2, 105),
    "Ant-4x2": Sizes((39,) * 4, (2,) * 4, 105),
    "Ant-8x1": Sizes((25, 31) * 4, (1,) * 8, 105),
    "HalfCheetah-2x3": Sizes((11,) * 2, (3,) * 2, 17),
    "HalfCheetah-3x2": Sizes((9,) * 3, (2,) * 3, 17),
    "HalfCheetah-6x1": Sizes((7,) * 6, (1,) * 6, 17),
    "Hopper-3x1": Sizes((7,) * 3, (1,) * 3, 11),
    "Humanoid-9|8": Sizes((236, 167), (9, 8), 348),
    "Humanoid-17x1": Sizes((80,) * 5 + (36, 80, 80, 36) + (58,) * 8, (1,) * 17, 348),
    "HumanoidStandup-9|8": Sizes((236, 167), (9, 8), 348),
    "ManySegmentAnt-2x3": Sizes((161,) * 2, (12,) * 2, 311),
    "ManySegmentAnt-3x1": Sizes((61,) * 3, (4,) * 3, 161),
    "ManySegmentSwimmer-5x4": Sizes((8,) * 5, (4,) * 5, 44),
    "ManySegmentSwimmer-6x1": Sizes((2,) * 6, (1,) * 6, 16),
    "ManySegmentSwimmer-10x2": Sizes((4,) * 10, (2,) * 10, 44),
    "Pusher-3p": Sizes((15, 11, 15), (3, 1, 3), 23, limit=100),
    "Reacher-2x1": Sizes((5, 8), (1, 1), 10, limit=50),
    "Swimmer-2x1": Sizes((5, 5), (1, 1), 8),
    "Walker2d-2x3": Sizes((11,) * 2, (3,) * 2, 17),
    "Walker2d-3x2": Sizes((9,) * 3, (2,) * 3, 17),
    "Walker2d-6x1": Sizes((7,) * 6, (1,) * 6, 17),
}

#: Factorisations that mamujoco_v1 does not list: a factorisation that it does list, whose joints these
#: are, and what each agent moves. One joint an agent follows the order of that listed factorisation.
REGROUPED: dict[str, tuple[str, tuple[tuple[str, ...], ...] | None]] = {
    "Ant-8x1": ("4x2", None),
    "HalfCheetah-3x2": ("6x1", (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh"))),
    "Humanoid-17x1": ("9|8", None),
    "Walker2d-3x2": (
        "2x3",
        (("foot_joint", "leg_joint"), ("thigh_joint", "foot_left_joint"), ("leg_left_joint", "thigh_left_joint")),
    ),
    "Walker2d-6x1": ("2x3", None),
}


def split(scenario: str) -> tuple[str, str]:
    """'Ant-4x2' -> ('Ant', '4x2')."""
    robot, _, factorisation = scenario.partition("-")
    return robot, factorisation
