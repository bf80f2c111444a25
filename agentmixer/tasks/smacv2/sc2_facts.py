"""SMACv2's scenarios as the real game plays them: teams, settings, sizes, names. This file imports no simulator.

Source: SMACv2 (Ellis et al. 2022), its example configurations and `StarCraft2Env`."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentmixer.tasks.smacv2.smacv2_facts import split


class Kind(NamedTuple):
    """A type of unit: its share in drawn teams, and its health and shield in points."""

    weight: float
    health: int
    shield: int


#: Race -> its types of units, in the order in which observations and states encode them.
KINDS: dict[str, dict[str, Kind]] = {
    "protoss": {"stalker": Kind(0.45, 80, 80), "zealot": Kind(0.45, 100, 50), "colossus": Kind(0.1, 200, 150)},
    "terran": {"marine": Kind(0.45, 45, 0), "marauder": Kind(0.45, 125, 0), "medivac": Kind(0.1, 150, 0)},
    "zerg": {"zergling": Kind(0.45, 35, 0), "hydralisk": Kind(0.45, 90, 0), "baneling": Kind(0.1, 30, 0)},
}
#: Types that no team consists of alone.
NEVER_ALONE = {"terran": ["medivac"], "zerg": ["baneling"]}
MOVES = ("no_op", "stop", "north", "south", "east", "west")
#: What a unit that is dead does, and what a unit does when no decision arrives in time.
NO_OP, STOP = 0, 1
EPISODE_LIMIT = 200
#: 8 game loops, of which a second has 22.4.
CONTROL_PERIOD_S = 8 / 22.4
#: Rewards of an episode in which all enemies die are worth about so much.
REWARD_SCALE = 20.0
#: Rewards before they are scaled: for a dead enemy and for a won battle, beside a point for each point of damage.
DEATH, WIN = 10.0, 200.0


def settings(scenario: str) -> dict[str, Any]:
    """What smacv2's `StarCraftCapabilityEnvWrapper` is called with: SMACv2's own configuration, except that rewards are
    scaled here (`reward_scale`), and that an episode which meets its time limit says so (`continuing_episode`)."""
    race, allies, enemies = split(scenario)
    kinds = KINDS[race]
    team: dict[str, Any] = {
        "dist_type": "weighted_teams",
        "unit_types": list(kinds),
        "weights": [kind.weight for kind in kinds.values()],
        "observe": True,
    }
    if race in NEVER_ALONE:
        team["exception_unit_types"] = list(NEVER_ALONE[race])
    return {
        "map_name": f"10gen_{race}",
        "game_version": "4.10",
        "capability_config": {
            "n_units": allies,
            "n_enemies": enemies,
            "team_gen": team,
            "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
        },
        "step_mul": 8,
        "move_amount": 2,
        "difficulty": "7",
        "obs_all_health": True,
        "obs_own_health": True,
        "obs_own_pos": True,
        "obs_last_action": False,
        "state_last_action": True,
        "conic_fov": False,
        "use_unit_ranges": True,
        "min_attack_range": 2,
        "prob_obs_enemy": 1.0,
        "action_mask": True,
        "reward_sparse": False,
        "reward_only_positive": True,
        "reward_death_value": DEATH,
        "reward_win": WIN,
        "reward_defeat": 0,
        "reward_scale": False,
        "continuing_episode": True,
    }


def most_reward(scenario: str) -> float:
    """The mean, over the teams that are drawn, of the reward of an episode in which every enemy dies: what rewards are
    scaled by, the same for every episode."""
    race, _, enemies = split(scenario)
    points = sum(kind.weight * (kind.health + kind.shield) for kind in KINDS[race].values())
    return enemies * (points + DEATH) + WIN


def obs_names(scenario: str) -> tuple[tuple[str, ...], ...]:
    """Element names of each agent's observation: where it may move, enemies, other allies, itself. Positions are relative,
    as a share of the agent's sight range; `own.x` and `own.y` are shares of the map."""
    race, allies, enemies = split(scenario)
    points = ("health", "shield") if race == "protoss" else ("health",)
    kinds = tuple(f"is_{kind}" for kind in KINDS[race])
    place = ("distance", "dx", "dy")
    moves = tuple(f"can_move_{move}" for move in MOVES[2:])
    seen = tuple(f"enemy_{j}.{name}" for j in range(enemies) for name in ("shootable", *place, *points, *kinds))
    own = tuple(f"own.{name}" for name in (*points, "x", "y", *kinds))
    rows = []
    for i in range(allies):
        others = (j for j in range(allies) if j != i)
        team = tuple(f"ally_{j}.{name}" for j in others for name in ("visible", *place, *points, *kinds))
        rows.append(moves + seen + team + own)
    return tuple(rows)


def state_size(scenario: str) -> int:
    """Length of the global state: allies (health, cooldown or energy, x, y, shield, type), enemies (health, x, y, shield,
    type), and every ally's last action."""
    race, allies, enemies = split(scenario)
    common = (race == "protoss") + len(KINDS[race])
    return allies * (4 + common) + enemies * (3 + common) + allies * (len(MOVES) + enemies)
