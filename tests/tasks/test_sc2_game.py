"""The real game's backend against a stand-in for smacv2's interface: plumbing, sizes, seeds, and what goes wrong.

Nothing here says anything about win rates. `test_sc2_smacv2.py` plays unmodified smacv2, where that can be imported."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import agentmixer
from stand_ins.installed import install

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import check, make
from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.smacv2 import sc2_facts, sc2_game, scenarios
from agentmixer.tasks.workers.chunk import row_type
from agentmixer.tasks.workers.worker_task import WorkerTask

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that has the real game, as far as anybody can see. Returns the folder that says what goes wrong."""
    path = [str(STAND_INS / "interface"), *sys.path, str(STAND_INS / "packages")]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setenv("PYTHONPATH", ":".join((path[0], path[-1])))
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))
    folder = tmp_path / "wrong"
    folder.mkdir()
    monkeypatch.setenv("SMACV2_STAND_IN", str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "smacv2":
            del sys.modules[name]


def legal(step: TaskStep, source: np.random.Generator) -> torch.Tensor:
    """A legal action of every agent, [N, E]."""
    agents, envs, _ = step.action_mask.shape
    rows = [[source.choice(np.flatnonzero(step.action_mask[i, e])) for e in range(envs)] for i in range(agents)]
    return torch.tensor(np.array(rows, np.int32))


def walk(task: WorkerTask, seed: int, steps: int, episodes: list[int] | None = None) -> list[TaskStep]:
    """Steps under actions that depend on nothing but what each environment shows."""
    taken = [task.reset(seed, None if episodes is None else np.array(episodes))]
    for _ in range(steps):
        legal_last = taken[-1].action_mask.shape[2] - 1 - taken[-1].action_mask[:, :, ::-1].argmax(2)
        taken.append(task.step(torch.tensor(legal_last.astype(np.int32))))
    return taken


def game(scenario: str = "protoss_5v5", wipe: bool = False) -> tuple[sc2_game.StarCraftGame, np.ndarray]:
    """A game in this process, and its row."""
    spec = sc2_game.specification(scenario, wipe)
    row = np.zeros(1, row_type(spec))
    return sc2_game.StarCraftGame(scenario, wipe, 0, {name: row[name][0, ...] for name in row.dtype.names}), row


@pytest.mark.parametrize("scenario", [info.scenario for info in scenarios()])
def test_sizes_are_those_that_the_game_tells(scenario: str) -> None:
    """The game is asked at its start, and is refused where it tells others."""
    one, row = game(scenario)
    one.reset(0, 0, 0)
    told = one.env.get_env_info()
    assert (told["obs_shape"], told["state_shape"]) == (row["obs"].shape[-1], row["state"].shape[-1])
    assert len(set(one.spec.obs_names[0])) == told["obs_shape"]


@pytest.mark.parametrize(
    ("size", "protoss", "others", "actions"),
    [
        ("5v5", (92, 130), (82, 120), 11),
        ("10v10", (182, 310), (162, 290), 16),
        ("10v11", (191, 327), (170, 306), 17),
        ("20v20", (362, 820), (322, 780), 26),
        ("20v23", (389, 901), (346, 858), 29),
    ],
)
def test_sizes_are_smacv2s(size: str, protoss: tuple[int, int], others: tuple[int, int], actions: int) -> None:
    """As `get_env_info` of smacv2 told them: observation and state."""
    for race, sizes in (("protoss", protoss), ("terran", others), ("zerg", others)):
        spec = sc2_game.specification(f"{race}_{size}", False)
        assert (spec.obs_sizes[0], spec.state_size) == sizes and len(set(spec.obs_sizes)) == 1
        assert {space.n for space in spec.action_spaces} == {actions}


def test_a_game_of_other_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = game()
    wrapper = importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper
    monkeypatch.setattr(wrapper, "get_env_info", lambda self: dict.fromkeys(
        ("n_agents", "obs_shape", "state_shape", "n_actions", "episode_limit"), 5))  # fmt: skip
    with pytest.raises(AgentMixerError, match="this smacv2 has obs_shape 5 where 92 is meant"):
        one.reset(0, 0, 0)


def test_rewards_are_scaled_by_the_scenario() -> None:
    """Five enemies of .45 * 160 + .45 * 150 + .1 * 350 points and 10 each, and 200 for the battle."""
    assert sc2_facts.most_reward("protoss_5v5") == 5 * (174.5 + 10) + 200
    assert sc2_facts.most_reward("terran_10v11") == pytest.approx(11 * (91.5 + 10) + 200)
    assert sc2_facts.most_reward("zerg_20v23") == pytest.approx(23 * (59.25 + 10) + 200)
    one, row = game()
    one.reset(3, 0, 0)
    one.env.step = lambda actions: (50.0, False, {"battle_won": False})
    one.step()
    assert row["reward"][0] == np.float32(50 * 20 / 1122.5)


def test_names_say_what_stands_in_an_observation() -> None:
    """Positions, points and types of the stand-in's units are found under their names."""
    one, row = game()
    one.reset(1, 0, 0)
    for i, unit in enumerate(one.env.allies):
        seen = dict(zip(one.spec.obs_names[i], row["obs"][0, i].tolist(), strict=True))
        assert seen["own.x"] == pytest.approx(unit.at[0] / 32) and seen["own.y"] == pytest.approx(unit.at[1] / 32)
        assert seen[f"own.is_{unit.kind}"] == seen["own.health"] == seen["own.shield"] == seen["can_move_east"] == 1
        for lead, others in (("ally", one.env.allies), ("enemy", one.env.enemies)):
            for j, other in enumerate(others):
                if other is unit:
                    continue
                distance = np.linalg.norm(other.at - unit.at)
                visible = distance < 9
                assert seen[f"{lead}_{j}.distance"] == pytest.approx(visible * distance / 9, abs=1e-6)
                assert seen[f"{lead}_{j}.is_{other.kind}"] == visible
                assert seen[f"{lead}_{j}.dy"] == pytest.approx(visible * (other.at[1] - unit.at[1]) / 9, abs=1e-6)


@pytest.mark.parametrize("wipe", [False, True])
def test_an_enemy_whom_nobody_has_seen_hides_others_only_where_that_is_asked_for(wipe: bool) -> None:
    one, row = game(wipe=wipe)
    one.reset(1, 0, 0)
    for unit in one.env.allies:
        unit.at = np.array([10.0, 10.0])
    for j, unit in enumerate(one.env.enemies):
        unit.at = np.array([31.0, 31.0]) if j == 4 else np.array([12.0, 10.0])
    one.env.env.obs_enemies[:] = 0
    one._show()
    names = one.spec.obs_names[0]
    assert row["obs"][0, 0, names.index("enemy_0.distance")] == (0 if wipe else np.float32(2 / 9))
    assert row["obs"][0, 0, names.index("enemy_4.distance")] == 0


def test_seeds_decide_teams_and_places_however_games_are_spread() -> None:
    _, options = check("smacv2", "protoss_5v5", "sc2", {})
    three, one = (make("smacv2", "protoss_5v5", n, "sc2", options) for n in (3, 1))
    together, alone, again = walk(three, 7, 30), walk(one, 7, 30, [2]), walk(one, 7, 30, [2])
    for field in TaskStep._fields:
        for a, b, c in zip(together, alone, again, strict=True):
            lead = (slice(None),) if field in ("obs", "action_mask", "active", "final_obs") else ()
            np.testing.assert_array_equal(getattr(a, field)[(*lead, slice(2, 3))], getattr(b, field))
            np.testing.assert_array_equal(getattr(b, field), getattr(c, field))
    assert not np.array_equal(together[0].obs[:, 0], together[0].obs[:, 1])
    assert any(step.terminated.any() for step in together)
    three.close()
    one.close()


def test_the_dead_do_nothing_and_ends_are_told_apart() -> None:
    one, row = game()
    one.reset(4, 0, 0)
    ends = []
    for _ in range(400):
        asleep = ~row["active"][0]
        assert (row["action_mask"][0, asleep].sum(-1) == 1).all() and row["action_mask"][0, asleep, 0].all()
        row["actions"][0] = 1  # stop, which is not legal for the dead
        one.step()
        if row["terminated"][0] or row["truncated"][0]:
            ends.append((bool(row["terminated"][0]), bool(row["truncated"][0]), bool(row["won"][0])))
        one.env.peace = len(ends) == 1  # an episode without hits lasts to its limit
        for unit in one.env.enemies if len(ends) == 2 else []:
            unit.health = 0
        if len(ends) == 3:
            break
    assert ends == [(True, False, False), (False, True, False), (True, False, True)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("kill.1.3", "the worker process of environment {e} was killed by SIGKILL"),
        ("hang.1.3", "the worker process of environment {e} gave no answer for 2 s, and was ended"),
        ("die.1.3", "game {e}, step 3 of episode 0 of stream {e}, failed: StarCraft ended, or no longer answered"),
    ],
)
def test_a_game_that_is_lost_in_battle_is_no_battle_lost(wrong: str, words: str, machine: Path) -> None:
    task = make("smacv2", "protoss_5v5", 2, "sc2")
    task._pool._patience = 2.0
    task.env_restarts = 3
    step = task.reset(1)
    (machine / wrong).touch()
    source = np.random.default_rng(0)
    for _ in range(2):
        step = task.step(legal(step, source))
    before, step = step, task.step(legal(step, source))
    assert task.lost.sum() == 1 and task.env_restarts == 2
    e = int(task.lost.argmax())
    (told,) = task.failures()
    assert told.startswith(words.format(e=e))
    assert step.truncated.tolist() == task.lost.tolist() and not step.terminated.any() and not step.won.any()
    assert step.reward[e] == 0
    np.testing.assert_array_equal(step.final_obs[:, e], before.obs[:, e])
    assert step.active[:, e].all() and step.obs[:, e].any()  # the next episode's start
    step = task.step(legal(step, source))
    assert task.lost is None
    task.close()


def test_units_that_had_to_be_set_up_again_are_no_failure(machine: Path) -> None:
    (machine / "draw.1.0").touch()
    one, row = game()
    one.reset(1, 0, 0)
    assert row["obs"].any() and not (machine / "draw.1.0").exists()


def test_a_game_that_dies_while_it_is_set_up_starts_the_next_episode(machine: Path) -> None:
    (machine / "die.1.0").touch()
    task = make("smacv2", "protoss_5v5", 1, "sc2")
    task.env_restarts = 1
    step, calm = task.reset(1), make("smacv2", "protoss_5v5", 1, "sc2")
    assert task.failures() == [
        "game 0, step 0 of episode 0 of stream 0, failed: StarCraft ended, or no longer answered"
    ]
    calm.restore({"seed": np.array(1), "streams": np.array([0]), "episodes": np.array([1])})
    np.testing.assert_array_equal(step.obs, calm._last.obs)
    task.close()
    calm.close()


def test_the_three_commands_and_their_neighbours(tmp_path: Path, machine: Path) -> None:
    small = [
        "num_envs=2",
        "rollout_length=16",
        "epochs=2",
        "hidden=16",
        "final_episodes=2",
        "eval_episodes=2",
        "checkpoint_interval=64",
    ]
    settings = [word for setting in small for word in ("--set", setting)]
    command = ["train", "smacv2", "protoss_5v5", "--backend", "sc2"]
    (machine / "kill.2.3").touch()
    ended = agentmixer(*command, "--steps", 256, *settings, "--out", "run", cwd=tmp_path)
    assert ended.returncode == 2 and "was killed by SIGKILL" in ended.stderr
    (machine / "kill.1.3").touch()
    (machine / "die.2.2").touch()
    trained = agentmixer(*command[:3], "--resume", "--out", "run", "--env-restarts", 9, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    told = trained.stdout + trained.stderr
    assert "killed by SIGKILL" in told and "StarCraft ended" in told and "it was made anew, " in told
    exported = agentmixer("export", "run", "--per-agent", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    rehearsed = agentmixer("deploy-sim", "--episodes", 3, cwd=tmp_path)
    assert rehearsed.returncode == 0 and "verdict: PASS" in rehearsed.stdout, rehearsed.stdout + rehearsed.stderr
    manifest = json.loads(next(tmp_path.glob("bundles/*/**/agent_3/agent.json")).read_text())
    assert manifest["fallback_action"] == 1 and "enemy_2.is_colossus" in json.dumps(manifest)
    judged = agentmixer("evaluate", "run", "--episodes", 4, "--json", cwd=tmp_path)
    assert judged.returncode == 0 and "win_rate" in judged.stdout
    compared = agentmixer(
        "compare", *command[1:], "--vary", "pm=none", "--seeds", "0", "--steps", 64, *settings, cwd=tmp_path
    )  # fmt: skip
    assert compared.returncode == 0 and "win rate" in compared.stdout, compared.stderr


def test_an_option_of_the_real_game_is_refused_elsewhere(tmp_path: Path) -> None:
    refused = agentmixer("train", "smacv2", "protoss_5v5", "--env-arg", "unsighted_wipe=true", cwd=tmp_path)
    assert refused.returncode == 2 and "unsighted_wipe is of the real game" in refused.stderr
    refused = agentmixer("train", "smacv2", "protoss_5v5", "--workers", "ray", "--steps", "64", cwd=tmp_path)
    assert refused.returncode == 2 and "steps the environments of backend smax in this process" in refused.stderr
