"""SMACv2 scenarios (Ellis et al. 2022): {protoss, terran, zerg} x {5v5, 10v10, 10v11, 20v20, 20v23}.

Backend `smax` plays them in SMAX, the field's StarCraft-free stand-in. Backend `sc2` is the real game.
This file knows names and sizes only and imports no simulator.
"""

from __future__ import annotations

import sys

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, check_known

#: Race -> unit types that SMAX can express, with their SMACv2 weights. The medivac (heals) and the
#: baneling (explodes) cannot be expressed; their weight of .1 is shared by the other two.
TEAMS: dict[str, dict[str, float]] = {
    "protoss": {"stalker": 0.45, "zealot": 0.45, "colossus": 0.10},
    "terran": {"marine": 0.50, "marauder": 0.50},
    "zerg": {"zergling": 0.50, "hydralisk": 0.50},
}
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

Options = NoOptions
backends = ("smax", "sc2")
names_code = False
notes = (
    "Backend smax is JaxMARL's SMAX with a scripted enemy, not StarCraft II. It does not model healing "
    "(medivac left out), self-destruction (baneling left out), splash (the colossus hits one target), "
    "shields and armour (health is the sum), terrain or collisions with walls other than death at the map's "
    "edge. The medivac's and baneling's weight of .1 is shared by the race's other two units. Episodes end "
    "after 100 steps of 0.5 s (real game: 200 of 0.357 s); the observation has SMAX's layout and sizes, not "
    "the real game's. Win rates are not comparable with published SMACv2 figures."
)


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


def state_size(scenario: str) -> int:
    """Length of SMAX's global state: own features, team and type of every unit."""
    race, allies, enemies = split(scenario)
    return (len(OWN_FEATURES) + len(TEAMS[race]) + 2) * (allies + enemies)


def scenarios() -> list[ScenarioInfo]:
    """Every scenario with its sizes under the default backend."""
    rows = []
    for race in TEAMS:
        for size, (allies, enemies) in SIZES.items():
            name = f"{race}_{size}"
            rows.append(
                ScenarioInfo(
                    scenario=name,
                    agents=allies,
                    obs_sizes=tuple(map(len, obs_names(name))),
                    state_size=state_size(name),
                    actions=f"{len(MOVES) + enemies} discrete, masked",
                    episode_limit=EPISODE_LIMIT,
                    source="SMACv2 (Ellis et al. 2022), played in SMAX (JaxMARL)",
                )
            )
    return rows


def check(scenario: str, backend: str, options: NoOptions) -> None:
    """Raise AgentMixerError for an unknown scenario, and for backend sc2, which is not available yet."""
    check_known(sys.modules[__name__], "smacv2", scenario)
    if backend == "sc2":
        raise AgentMixerError(
            "backend 'sc2' needs StarCraft II 4.10 and the smacv2 package in a worker of its own and is not "
            "available in this release; leave --backend out to play the same scenario in SMAX"
        )


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    """Build the task with backend smax."""
    from agentmixer.tasks.smax import SmaxTask

    return SmaxTask(scenario, num_envs, device)
