"""What replays are drawn from: a battle recorded while it is played, kept in a file, and drawn as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from agentmixer.tasks import make
from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.jax_task import JaxTask
from agentmixer.tasks.registry import scene
from agentmixer.tasks.smacv2.smacv2_facts import UNITS
from agentmixer.validate import recording
from agentmixer.validate.arms import Played, play
from agentmixer.validate.recording import Recorder, Recording


class Watched:
    """An arm that does anything legal, and remembers what the simulator held and what the task showed."""

    def __init__(self, task: JaxTask):
        self.task, self.generator = task, np.random.default_rng(0)
        self.worlds: list[list[Any]] = []
        self.steps: list[list[TaskStep]] = []

    def reset(self, episode: int) -> None:
        self.worlds.append([])
        self.steps.append([])

    def act(self, step: TaskStep) -> np.ndarray:
        self.worlds[-1].append(self.task.state().state)
        self.steps[-1].append(TaskStep(*map(np.array, step)))
        noise = self.generator.random(np.shape(step.action_mask)) * (np.asarray(step.action_mask) + 1e-9)
        noise[:, :, 5:] *= 4  # attacks, where they are legal
        return np.asarray(noise.argmax(-1)[:, 0].astype(np.int32))


class Battle(NamedTuple):
    task: JaxTask
    arm: Watched
    played: Played
    kept: Recording
    last: TaskStep


@pytest.fixture(scope="module")
def battle() -> Battle:
    task = make("smacv2", "protoss_5v5", 1)
    assert isinstance(task, JaxTask)
    arm, recorder = Watched(task), Recorder("joint")
    played = play(arm, task, 2, 7, recorder=recorder)
    assert task._last is not None
    return Battle(task, arm, played, Recording(tuple(recorder.episodes), recorder.played), task._last)


def test_an_episode_is_what_was_played_and_ends_with_its_own_end(battle: Battle) -> None:
    assert battle.kept.numbers == [0, 1] and battle.kept.played == 2
    for number, steps in enumerate(battle.arm.steps):
        episode = battle.kept.find("joint", number)
        assert episode is not None and episode.ended
        length = len(steps)
        np.testing.assert_array_equal(episode.actions, battle.played.actions[number])
        np.testing.assert_array_equal(episode.states[:length], [step.state[0] for step in steps])
        np.testing.assert_array_equal(episode.obs[:length], [step.obs[:, 0] for step in steps])
        np.testing.assert_array_equal(episode.masks[:length], [step.action_mask[:, 0] for step in steps])
        np.testing.assert_array_equal(episode.active[:length], [step.active[:, 0] for step in steps])
        assert len(episode.states) == length + 1
        assert episode.rewards.sum() == pytest.approx(battle.played.returns[number], abs=1e-5)
    last, task = battle.kept.episodes[-1], battle.last  # the task shows the next episode already
    np.testing.assert_array_equal(last.states[-1], np.asarray(task.final_state)[0])
    np.testing.assert_array_equal(last.obs[-1], np.asarray(task.final_obs)[:, 0])
    assert not np.array_equal(last.states[-1], np.asarray(task.state)[0])


def test_a_file_gives_back_what_went_in_bit_for_bit(battle: Battle, tmp_path: Path) -> None:
    file = tmp_path / "deploy_sim.npz"
    file.write_bytes(recording.dump(battle.kept))
    read = recording.load(file, battle.task.spec)
    assert read.played == battle.kept.played
    for ours, theirs in zip(read.episodes, battle.kept.episodes, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            if isinstance(other, np.ndarray):
                assert mine.dtype == other.dtype
                np.testing.assert_array_equal(mine, other)
            else:
                assert mine == other


def test_a_battle_is_drawn_where_the_simulator_has_it(battle: Battle) -> None:
    episode, spec = battle.kept.episodes[0], battle.task.spec
    drawn = scene(spec, episode.states, episode.obs, episode.actions)
    units, attacks = range(10), range(10, 20)
    assert [drawn.shapes[i].agent for i in units] == [0, 1, 2, 3, 4] + [None] * 5
    struck = 0
    for t, world in enumerate(battle.arm.worlds[0]):
        at, alive, types = (np.asarray(x)[0] for x in (world.unit_positions, world.unit_alive, world.unit_types))
        kinds = [shape.label.split(", ")[1] for shape in drawn.shapes[:10]]
        full = np.array([UNITS[kind].health for kind in kinds])
        np.testing.assert_array_equal([["stalker", "zealot", "colossus"].index(kind) for kind in kinds], types)
        np.testing.assert_array_equal(drawn.shown[t, :10], alive)
        np.testing.assert_allclose(drawn.at[t, :10][alive], at[alive], atol=1e-5)
        np.testing.assert_allclose(
            drawn.level[t, :10][alive], (np.asarray(world.unit_health)[0] / full)[alive], atol=1e-5
        )
        # Who sees whom, by the rule: nearer than its own sight, both alive.
        distance = np.linalg.norm(at[:5, None] - at[None], axis=-1)
        near = distance < np.array([UNITS[kind].sight_range for kind in kinds[:5]])[:, None]
        np.testing.assert_array_equal(drawn.seen[t, :, :10], near & alive[:5, None] & alive)
        # Attacks: the simulator's own record of the last orders.
        orders = np.asarray(world.prev_attack_actions)[0]
        for i in attacks:
            order, j = orders[i - 10], i - 10
            if t and j < 5:
                assert drawn.shown[t, i] == (order >= 5)
            if drawn.shown[t, i]:
                target = order if j < 5 else 4 - (order - 5)
                np.testing.assert_allclose(drawn.to[t, i], drawn.at[t, target])
                np.testing.assert_allclose(drawn.at[t, i], drawn.at[t, j])
                struck += 1 + 100 * (j >= 5)
    assert struck % 100 and struck > 100  # both sides did
