"""Teams, names and sizes of the SMACv2 scenarios as SMAX plays them. This file imports no simulator."""

from __future__ import annotations

from typing import NamedTuple

from agentmixer.contract.spec import Element

#: Race -> unit types that SMAX can express, with their SMACv2 weights. The medivac (heals) and the
#: baneling (explodes) cannot be expressed; their weight of .1 is shared by the other two.
TEAMS: dict[str, dict[str, float]] = {
    "protoss": {"stalker": 0.45, "zealot": 0.45, "colossus": 0.10},
    "terran": {"marine": 0.50, "marauder": 0.50},
    "zerg": {"zergling": 0.50, "hydralisk": 0.50},
}


class Unit(NamedTuple):
    """SMAX's parameters of a unit: distances in map units, times in seconds."""

    velocity: float
    attack: float
    attack_range: float
    sight_range: float
    radius: float
    health: float
    cooldown: float


#: The first six rows are SMAX's own values. The colossus (not in SMAX) has the real unit's speed, range,
#: sight, radius, weapon cooldown, health (200 + 150 shield) and damage (two beams of 10), on one target.
UNITS: dict[str, Unit] = {
    "marine": Unit(3.15, 9.0, 5.0, 9.0, 0.375, 45.0, 0.61),
    "marauder": Unit(2.25, 10.0, 6.0, 10.0, 0.5625, 125.0, 1.07),
    "stalker": Unit(4.13, 13.0, 6.0, 10.0, 0.625, 160.0, 1.87),
    "zealot": Unit(3.15, 8.0, 2.0, 9.0, 0.5, 150.0, 0.86),
    "zergling": Unit(4.13, 5.0, 2.0, 8.0, 0.375, 35.0, 0.5),
    "hydralisk": Unit(3.15, 12.0, 5.0, 9.0, 0.625, 80.0, 0.59),
    "colossus": Unit(3.15, 20.0, 7.0, 10.0, 1.0, 350.0, 1.07),
}
#: The map's width and height.
MAP_SIZE = 32

SIZES: dict[str, tuple[int, int]] = {
    "5v5": (5, 5),
    "10v10": (10, 10),
    "10v11": (10, 11),
    "20v20": (20, 20),
    "20v23": (20, 23),
}

MOVES = ("north", "east", "south", "west", "stop")
UNIT_FEATURES = ("health", "dx", "dy", "last_move_x", "last_move_y", "last_target", "cooldown")
OWN_FEATURES = ("health", "x", "y", "cooldown")
EPISODE_LIMIT = 100
#: 8 world steps of 1/16 s each.
CONTROL_PERIOD_S = 0.5


def split(scenario: str) -> tuple[str, int, int]:
    """'protoss_5v5' -> ('protoss', 5, 5)."""
    race, size = scenario.split("_")
    return race, *SIZES[size]


def obs_names(scenario: str) -> tuple[tuple[str, ...], ...]:
    """Element names of each agent's observation under SMAX: other allies, enemies, itself."""
    race, allies, enemies = split(scenario)
    kinds = tuple(f"is_{unit}" for unit in TEAMS[race])
    rows = []
    for i in range(allies):
        others = [f"ally_{j}" for j in range(allies) if j != i] + [f"enemy_{j}" for j in range(enemies)]
        names = [f"{other}.{feature}" for other in others for feature in UNIT_FEATURES + kinds]
        rows.append(tuple(names + [f"own.{feature}" for feature in OWN_FEATURES + kinds]))
    return tuple(rows)


#: What each feature is; a feature that is not here says whether the unit is of a type.
MEANINGS = {
    "health": Element("share of full health", 0.0, 1.0),
    "x": Element("share of the map", frame="map"),
    "y": Element("share of the map", frame="map"),
    "dx": Element("sight range", -1.0, 1.0, "own position"),
    "dy": Element("sight range", -1.0, 1.0, "own position"),
    "last_move_x": Element(low=-1.0, high=1.0, frame="map"),
    "last_move_y": Element(low=-1.0, high=1.0, frame="map"),
    "last_target": Element("share of the largest action", 0.0, 1.0),
    "cooldown": Element("share of the weapon's cooldown", 0.0, 1.0),
}
YES_OR_NO = Element(low=0.0, high=1.0)


def obs_elements(scenario: str) -> tuple[tuple[Element, ...], ...]:
    """What each element of `obs_names` is."""
    return tuple(
        tuple(MEANINGS.get(name.rpartition(".")[2], YES_OR_NO) for name in names) for names in obs_names(scenario)
    )


def action_names(scenario: str) -> tuple[str, ...]:
    """An agent's actions under SMAX."""
    _, _, enemies = split(scenario)
    return (
        *(move if move == "stop" else f"move_{move}" for move in MOVES),
        *(f"attack_enemy_{j}" for j in range(enemies)),
    )


def state_size(scenario: str) -> int:
    """Length of SMAX's global state: own features, team and type of every unit."""
    race, allies, enemies = split(scenario)
    return (len(OWN_FEATURES) + len(TEAMS[race]) + 2) * (allies + enemies)
