"""Unmodified smacv2 and pysc2 play the stand-in for StarCraft II. Skipped where they cannot be imported."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from installed import install, misbehave, process_ids

for package, origin in (
    ("s2clientprotocol", "the package pys2clientprotocol"),
    ("websockets", "the package websockets"),
    ("pysc2", "the package pysc2, installed with --no-deps"),
    ("smacv2", "a copy of the repository oxwhirl/smacv2 on PYTHONPATH"),
):
    pytest.importorskip(package, reason=f"smacv2 cannot play the stand-in for StarCraft II without {package}: {origin}")

# Importing smacv2 has parsed absl's flags, without which pysc2 starts nothing.
FLAGS = pytest.importorskip("absl.flags").FLAGS
Wrapper = pytest.importorskip("smacv2.env").StarCraftCapabilityEnvWrapper
controller = pytest.importorskip("pysc2.lib.remote_controller")

#: Unit types, their weights, and the type that no team has alone.
RACES: dict[str, tuple[list[str], list[float], list[str]]] = {
    "protoss": (["stalker", "zealot", "colossus"], [0.45, 0.45, 0.1], []),
    "terran": (["marine", "marauder", "medivac"], [0.45, 0.45, 0.1], ["medivac"]),
    "zerg": (["zergling", "baneling", "hydralisk"], [0.45, 0.1, 0.45], ["baneling"]),
}
SIZES = ((5, 5), (10, 10), (10, 11), (20, 20), (20, 23))
STOP, NORTH, SOUTH, EAST, WEST, FIRST_TARGET = range(1, 7)

Policy = Callable[[Any, int, np.ndarray], int]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that pysc2 finds."""
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))
    return tmp_path / "sc2"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """pysc2 asks ten times a second whether a game listens, in place of once."""
    usual = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: usual(min(seconds, 0.1)))


@pytest.fixture
def impatient() -> Iterator[None]:
    """pysc2 waits for an answer, or for a game to listen, for 4 s in place of 6 minutes."""
    usual, FLAGS.sc2_timeout = FLAGS.sc2_timeout, 4
    yield
    FLAGS.sc2_timeout = usual


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes environments, which are closed after the test."""
    made = []

    def make_one(race: str, allies: int = 5, enemies: int = 5, seed: int = 0) -> Any:
        made.append(Wrapper(**settings(race, allies, enemies)))
        seed_everything(made[-1], seed)
        return made[-1]

    yield make_one
    for environment in made:
        environment.close()


def settings(race: str, allies: int, enemies: int) -> dict[str, Any]:
    """What SMACv2 plays a scenario with, but for the reward's scale, and with time limits told apart."""
    unit_types, weights, never_alone = RACES[race]
    team = {"dist_type": "weighted_teams", "unit_types": unit_types, "weights": weights, "observe": True}
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    return {
        "map_name": f"10gen_{race}",
        "capability_config": {
            "n_units": allies,
            "n_enemies": enemies,
            "team_gen": team | {"exception_unit_types": never_alone},
            "start_positions": places,
        },
        "use_unit_ranges": True,
        "obs_own_pos": True,
        "reward_scale": False,
        "continuing_episode": True,
    }


def seed_everything(environment: Any, seed: int) -> None:
    """Seeds all that smacv2 draws from: the generators of teams and places, numpy's global one and Python's."""
    random.seed(seed)
    np.random.seed(seed)
    waiting = list(environment.env_key_to_distribution_map.values())
    while waiting:
        distribution = waiting.pop()
        if hasattr(distribution, "rng"):
            distribution.rng = np.random.default_rng((seed, len(waiting)))
        waiting += [part for part in vars(distribution).values() if hasattr(part, "generate")]


def hunt(environment: Any, agent: int, mask: np.ndarray) -> int:
    """Attacks or heals the first in reach, else goes towards the nearest enemy."""
    legal = np.flatnonzero(mask)
    if legal[-1] >= FIRST_TARGET:
        return int(legal[legal >= FIRST_TARGET][0])
    unit = environment.agents[agent]
    ways = [
        (enemy.pos.x - unit.pos.x, enemy.pos.y - unit.pos.y) for enemy in environment.enemies.values() if enemy.health
    ]
    x, y = min(ways, key=lambda way: np.hypot(*way))
    along_x, along_y = (EAST if x > 0 else WEST), (NORTH if y > 0 else SOUTH)
    wanted = along_x if abs(x) > abs(y) else along_y
    return wanted if mask[wanted] else int(legal[0])


def stand(_environment: Any, _agent: int, mask: np.ndarray) -> int:
    return int(np.flatnonzero(mask)[0])


def one_step(environment: Any, policy: Policy) -> tuple[float, bool, dict[str, Any]]:
    masks = np.array(environment.get_avail_actions())
    return environment.step([policy(environment, agent, mask) for agent, mask in enumerate(masks)])


def play(environment: Any, policy: Policy) -> tuple[list[bytes], int, dict[str, Any]]:
    """One episode: all that was seen in it, byte for byte, its steps, and what smacv2 said at its end."""
    environment.reset()
    seen, steps, ended, info = [], 0, False, {}
    while not ended:
        seen.append(np.array(environment.get_obs()).tobytes() + environment.get_state().tobytes())
        seen.append(np.array(environment.get_avail_actions()).tobytes())
        reward, ended, info = one_step(environment, policy)
        seen.append(np.float64(reward).tobytes())
        steps += 1
    return seen, steps, info


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("race", RACES)
def test_episodes_end_by_battle(race, folder, make, hurried):
    environment = make(race, 10, 11)
    for _ in range(3):
        _, steps, info = play(environment, hunt)
        assert steps < 200 and "episode_limit" not in info
        assert info["battle_won"] or info["dead_allies"] > 0
    assert environment.battles_game == 3 and environment.force_restarts == 0


@pytest.mark.parametrize("race", RACES)
def test_a_peaceful_enemy_is_beaten_by_hunting_and_outlasted_by_standing(race, folder, make, hurried):
    misbehave(folder, "peace")
    environment = make(race)
    assert play(environment, hunt)[2]["battle_won"]
    _, steps, info = play(environment, stand)
    assert (steps, info["episode_limit"], info["battle_won"]) == (200, True, False)


@pytest.mark.parametrize("race", RACES)
def test_the_same_commands_give_the_same_game(race, folder, make, hurried):
    first, second = make(race, seed=3), make(race, seed=3)
    random_state, numpy_state = random.getstate(), np.random.get_state()
    games = []
    for environment in (first, second):
        random.setstate(random_state)
        np.random.set_state(numpy_state)
        games.append([play(environment, hunt) for _ in range(2)])
    assert games[0] == games[1]
    assert games[0][0] != games[0][1]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}v{size[1]}")
@pytest.mark.parametrize("race", RACES)
def test_sizes_are_those_that_smacv2_names(race, size, folder, make, hurried):
    environment = make(race, *size)
    named = environment.get_env_info()
    environment.reset()
    for _ in range(3):
        observations, masks = np.array(environment.get_obs()), np.array(environment.get_avail_actions())
        assert (
            observations.shape
            == (named["n_agents"], named["obs_shape"])
            == (size[0], len(environment.get_obs_feature_names()))
        )
        assert environment.get_state().shape == (named["state_shape"],) == (len(environment.get_state_feature_names()),)
        assert masks.shape == (named["n_agents"], named["n_actions"])
        assert np.isfinite(observations).all() and masks.any(axis=1).all()
        one_step(environment, hunt)


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_a_game_that_fails_in_an_episode_is_replaced_and_the_episode_lost(fault, folder, make, impatient):
    misbehave(folder, f"{fault} game=1 episode=2 step=3")
    environment = make("terran")
    play(environment, hunt)
    environment.reset()
    answers = [one_step(environment, hunt) for _ in range(3)]
    assert answers[1][1:] != (True, {}) and answers[2] == (0, True, {})
    failed, replacement = process_ids(folder)
    assert gone(failed) and not gone(replacement)
    assert play(environment, hunt)[2]["dead_allies"] >= 0


def test_a_game_that_fails_while_units_are_made_leaves_an_episode_of_one_step(folder, make):
    """What smacv2 makes of it: reset says nothing, and then all units of the episode before are taken for dead."""
    misbehave(folder, "crash game=1 episode=2")
    environment = make("protoss")
    play(environment, hunt)
    environment.reset()
    assert environment.force_restarts == 1
    reward, ended, info = one_step(environment, stand)
    assert reward > 0 and ended
    assert info == {"battle_won": False, "dead_allies": 5, "dead_enemies": 5}
    assert play(environment, hunt)[1] > 1


def test_a_game_that_is_late_is_waited_for(folder, make):
    misbehave(folder, "late seconds=1.5 episode=1 step=3")
    environment = make("zerg")
    assert "battle_won" in play(environment, hunt)[2]
    assert environment.force_restarts == 0


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("refuse", "RequestError", "InvalidMapData"),
        ("crash", "ConnectError", "Failed to connect"),
        ("hang", "ConnectError", "Failed"),
    ],
)
def test_a_game_that_does_not_start_is_told_of(fault, error, words, folder, make, impatient):
    misbehave(folder, fault)
    environment = make("protoss")
    with pytest.raises(getattr(controller, error), match=words):
        environment.reset()


def test_units_that_never_come_make_the_wrappers_reset_return_nothing(folder, make, hurried):
    misbehave(folder, "no_units episode=2")
    environment = make("protoss")
    play(environment, hunt)
    assert environment.reset() is None
    assert len(environment.get_obs()) == 5


def test_it_can_say_that_it_is_another_version(folder, make, hurried):
    misbehave(folder, "version name=4.9.3 build=75025")
    environment = make("protoss")
    environment.reset()
    said = environment._controller.ping()
    assert (said.game_version, said.base_build) == ("4.9.3", 75025)


def test_a_closed_game_is_gone(folder, make, hurried):
    environment = make("protoss")
    environment.reset()
    (process,) = process_ids(folder)
    assert not gone(process)
    environment.close()
    assert gone(process)
