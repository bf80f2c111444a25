"""The backend sc2 against unmodified smacv2, element by element. Both play the stand-in for StarCraft II, each a game of its own.

Skipped where smacv2 or pysc2 cannot be imported."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from stand_ins.installed import install, misbehave, process_ids

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.tasks.smacv2 import sc2_facts, sc2_game
from agentmixer.tasks.smacv2.smacv2_facts import SIZES
from agentmixer.tasks.workers.chunk import episode_seed, row_type

for package in ("s2clientprotocol", "websockets", "pysc2", "smacv2"):
    pytest.importorskip(package, reason=f"the real game's packages are not complete: {package} cannot be imported")
Wrapper = pytest.importorskip("smacv2.env").StarCraftCapabilityEnvWrapper

#: SMACv2's own configuration of each race, as its examples have it. Only that banelings, second there, come last: the order
#: changes what a seed draws, and not how often a type is drawn.
RACES: dict[str, tuple[list[str], list[float], list[str]]] = {
    "protoss": (["stalker", "zealot", "colossus"], [0.45, 0.45, 0.1], []),
    "terran": (["marine", "marauder", "medivac"], [0.45, 0.45, 0.1], ["medivac"]),
    "zerg": (["zergling", "hydralisk", "baneling"], [0.45, 0.45, 0.1], ["baneling"]),
}
EPISODES = 20

Policy = Callable[[Any, np.ndarray, np.random.Generator], np.ndarray]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))
    return tmp_path / "sc2"


def upstream(race: str, allies: int, enemies: int, seed: int) -> Any:
    """smacv2 as it is configured by its authors."""
    types, weights, never_alone = RACES[race]
    team = {"dist_type": "weighted_teams", "unit_types": types, "weights": weights, "observe": True}
    places = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
    return Wrapper(
        map_name=f"10gen_{race}", seed=seed, difficulty="7", continuing_episode=False, obs_own_pos=True, use_unit_ranges=True,
        min_attack_range=2, num_fov_actions=12, conic_fov=False, state_last_action=True, prob_obs_enemy=1.0, action_mask=True,
        capability_config={
            "n_units": allies, "n_enemies": enemies, "team_gen": team | {"exception_unit_types": never_alone},
            "start_positions": places,
        },
    )  # fmt: skip


class Dice:
    """Python's random numbers for one of two games in this process, in the order of which smacv2 shows enemies."""

    def __init__(self) -> None:
        self.state = random.getstate()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        kept = random.getstate()
        random.setstate(self.state)
        yield
        self.state = random.getstate()
        random.setstate(kept)


def begin(theirs: Any, seed: int) -> None:
    """Start an episode of smacv2 whose team and places come from a seed, as the backend starts one."""
    random.seed(seed)
    np.random.seed(seed)
    source = np.random.default_rng(seed)
    for distribution in theirs.env_key_to_distribution_map.values():
        sc2_game._draw_from(source, distribution)
    theirs.reset()


def ours(scenario: str, wipe: bool) -> tuple[sc2_game.StarCraftGame, dict[str, np.ndarray]]:
    rows = np.zeros(1, row_type(sc2_game.specification(scenario, wipe)))
    row = {name: rows[name][0, ...] for name in rows.dtype.names or ()}
    return sc2_game.StarCraftGame(scenario, wipe, 0, row), row


def compare(
    row: dict[str, np.ndarray], obs: str, state: str, theirs: Any, seen: np.ndarray, names: tuple[str, ...], wipe: bool
) -> int:
    """Hold all elements against smacv2's. Returns how many of its observations lack enemies that are in sight."""
    np.testing.assert_array_equal(row[state], theirs.get_state())
    if wipe:
        np.testing.assert_array_equal(row[obs], seen)
        return 0
    other = row[obs] != seen
    assert (seen[other] == 0).all()
    assert all(names[element].startswith("enemy_") for element in np.flatnonzero(other.any(0)))
    return int(other.any(1).sum())


def at_random(theirs: Any, masks: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Mostly the last legal action, which is an attack where somebody is in reach."""
    last = masks.shape[1] - 1 - masks[:, ::-1].argmax(1)
    drawn = [source.choice(np.flatnonzero(mask)) for mask in masks]
    return np.where(source.random(len(masks)) < 0.7, last, drawn)


def waiting_then_hunting(theirs: Any, masks: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Nobody moves in the first episode; in others whoever reaches no enemy goes towards one."""
    if theirs.env.battles_game == 0:
        return masks.argmax(1)
    actions = masks.shape[1] - 1 - masks[:, ::-1].argmax(1)
    for i, unit in theirs.env.agents.items():
        living = [enemy.pos for enemy in theirs.env.enemies.values() if enemy.health > 0]
        if unit.health > 0 and actions[i] < 6:
            goal = min(living, key=lambda pos: np.hypot(pos.x - unit.pos.x, pos.y - unit.pos.y))
            dx, dy = goal.x - unit.pos.x, goal.y - unit.pos.y
            way = (4 if dx > 0 else 5) if abs(dx) > abs(dy) else (2 if dy > 0 else 3)
            actions[i] = way if masks[i, way] else 1
    return actions


@pytest.mark.parametrize("wipe", [False, True])
@pytest.mark.parametrize("race", RACES)
def test_every_element_is_smacv2s(race: str, wipe: bool) -> None:
    """Over EPISODES episodes against an enemy that fights."""
    ends, lacking = same(race, wipe, EPISODES, at_random)
    assert len(ends) == EPISODES and (lacking > 0) != wipe


def test_ends_are_smacv2s(folder: Path) -> None:
    """An enemy that stands still is outlasted by waiting, and beaten by hunting."""
    misbehave(folder, "peace")
    assert same("terran", False, 3, waiting_then_hunting)[0] == ["limit", "won", "won"]


def same(race: str, wipe: bool, episodes: int, policy: Policy) -> tuple[list[str], int]:
    """Hold observations, states, masks, rewards, ends and wins against smacv2's, under the same actions. Rewards but for their
    scale; observations but for enemies that smacv2 hides where another enemy is unsighted or dead. Returns how episodes
    ended, and in how many observations smacv2 hides an enemy in sight."""
    scenario = f"{race}_10v11"
    mine, row = ours(scenario, wipe)
    theirs = upstream(race, *SIZES["10v11"], seed=episode_seed(3, 0, 0))
    source, ends, lacking, at_all = np.random.default_rng(1), [], 0, 0
    my_dice, their_dice, names = Dice(), Dice(), mine.spec.obs_names[0]
    try:
        for episode in range(episodes):
            if episode == 0:
                with my_dice():
                    mine.reset(3, 0, 0)
            with their_dice():
                begin(theirs, episode_seed(3, 0, episode))
                seen = np.array(theirs.get_obs(), np.float32)
            lacking += compare(row, "obs", "state", theirs, seen, names, wipe)
            ended = False
            while not ended:
                masks = np.array(theirs.get_avail_actions(), bool)
                np.testing.assert_array_equal(row["action_mask"], masks)
                np.testing.assert_array_equal(row["active"], [unit.health > 0 for unit in theirs.env.agents.values()])
                actions = policy(theirs, masks, source)
                row["actions"][:] = actions
                with their_dice():
                    reward, ended, info = theirs.step(actions.tolist())
                    seen = np.array(theirs.get_obs(), np.float32)
                with my_dice():
                    mine.step()
                scaled = float(row["reward"]) * sc2_facts.most_reward(scenario) / theirs.env.max_reward
                assert scaled == pytest.approx(reward, rel=1e-5, abs=1e-6)
                assert bool(row["terminated"] | row["truncated"]) == ended
                assert bool(row["won"]) == info["battle_won"]
                assert bool(row["truncated"]) == (ended and theirs.env.timeouts > sum(kind == "limit" for kind in ends))
                lacking += compare(row, "final_obs", "final_state", theirs, seen, names, wipe)
                at_all += 1
            ends.append("limit" if row["truncated"] else "won" if row["won"] else "lost")
    finally:
        mine.close()
        theirs.close()
    print(f"{scenario}: {at_all} steps, {len(ends)} episodes, {lacking} observations lack an enemy in sight in smacv2")
    return ends, lacking


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash step=3", "step 3 of episode 0 of stream 0, failed: StarCraft ended, or no longer answered"),
        ("hang step=3", "the worker process of environment 0 gave no answer for 8 s, and was ended"),
    ],
)
def test_a_game_that_is_lost_is_replaced_and_leaves_no_process(
    fault: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehave(folder, f"{fault} game=1")
    task = make("smacv2", "zerg_5v5", 1, "sc2")
    task.env_restarts, step = 1, task.reset(2)
    task._pool._patience = 8.0
    for _ in range(3):
        assert task.lost is None
        step = task.step(torch.ones(5, 1, dtype=torch.int32))
    assert task.lost.tolist() == [True] and step.truncated[0] and not step.won[0]
    assert words in task.failures()[0]
    task._pool._patience = 120.0
    assert task.step(torch.ones(5, 1, dtype=torch.int32)).obs.any() and task.lost is None
    task.close()
    assert not any(psutil.pid_exists(process) for process in process_ids(folder))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "failed with RequestError"),
        ("crash", "failed with ConnectError"),
        ("version name=4.9.3 build=75025", ""),
    ],
)
def test_a_game_that_does_not_begin_is_told_of(fault: str, words: str, folder: Path) -> None:
    """A game that says that it is another version than its folder's name is played: smacv2 does not ask."""
    misbehave(folder, fault)
    task = make("smacv2", "zerg_5v5", 1, "sc2")
    try:
        if words:
            with pytest.raises(AgentMixerError, match=words):
                task.reset(2)
        else:
            assert task.reset(2).obs.any()
    finally:
        task.close()
