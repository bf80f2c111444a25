"""What replays are drawn from: a battle recorded while it is played, kept in a file, and drawn as it was."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from agentmixer.errors import AgentMixerError
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


@pytest.fixture(scope="module")
def file(battle: Battle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "deploy_sim.npz"
    path.write_bytes(recording.dump(battle.kept))
    return path


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], bytes]:
    """A recording with one array changed."""

    def rewritten(data: bytes) -> bytes:
        with np.load(io.BytesIO(data)) as found:
            kept = {key: change(found[key]) if key == name else found[key] for key in found.files}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **kept)
        return buffer.getvalue()

    return rewritten


def pickled(data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, played=np.array([print], object))
    return buffer.getvalue()


def bomb(data: bytes) -> bytes:
    """Far more zeros than the steps call for, in next to no bytes."""
    return changed("rewards", lambda array: np.zeros(1 << 22, np.float32))(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "is not an archive of 14 arrays"),
        (lambda data: b"", "is not an archive of 14 arrays"),
        (lambda data: data[:9000] + bytes([data[9000] ^ 255]) + data[9001:], "no recording"),
        (pickled, "is not an archive of 14 arrays"),
        (bomb, "rewards is float32"),
        (changed("states", lambda array: array[:, :-1]), "states is float32"),
        (changed("obs", lambda array: array.astype(np.float64)), "obs is float64"),
        (changed("obs", lambda array: array * np.nan), "obs are not finite"),
        (changed("actions", lambda array: array + 10), "agent_0 does what it cannot"),
        (changed("steps", lambda array: array * 0), "that no rehearsal plays"),
        (changed("steps", lambda array: array - 1), "states is float32"),
        (changed("number", lambda array: array + 5), "that no rehearsal plays"),
        (changed("arm", lambda array: array + 7), "that no rehearsal plays"),
        (changed("frames", lambda array: np.zeros((len(array), 9, 9, 4), np.uint8)), "its frames have the shape"),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_refused_in_a_sentence(
    file: Path, battle: Battle, damage: Callable[[bytes], bytes], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(AgentMixerError, match=words) as told:
        recording.load(path, battle.task.spec)
    assert str(path) in str(told.value) and "run agentmixer deploy-sim again" in str(told.value)


def test_more_than_a_recording_may_have_is_not_read(file: Path, battle: Battle, tmp_path: Path) -> None:
    """Frames that would take 5 GB, of which the archive holds next to nothing, are refused before they are read."""
    huge = tmp_path / "huge.npz"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(huge, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "frames.npy":
                header = np.lib.format.magic(1, 0)
                text = str({"descr": "|u1", "fortran_order": False, "shape": (60, 5000, 5000, 3)}).ljust(117) + "\n"
                data = header + len(text).to_bytes(2, "little") + text.encode()
            new.writestr(name, data)
    with pytest.raises(AgentMixerError, match="bytes, where 24,000,000 are possible"):
        recording.load(huge, battle.task.spec)
    link = tmp_path / "link.npz"
    link.symlink_to(file)
    with pytest.raises(AgentMixerError, match="is a link"):
        recording.load(link, battle.task.spec)


def test_episodes_are_kept_whole_while_they_fit_and_the_first_is_cut() -> None:
    """One agent: a moment takes 4 bytes of state, 4 of observation, 1 of mask and 1 of activity; a step 9 beside."""

    def kept(room: int) -> list[tuple[int, bool]]:
        """Steps and whether it ended, of what is kept of two episodes of 3 steps."""
        recorder = Recorder("joint", room)
        no, yes, number, row = (
            np.zeros(1, bool),
            np.ones(1, bool),
            np.zeros(1, np.float32),
            np.zeros((1, 1), np.float32),
        )
        for _ in range(2):
            moments = [
                TaskStep(row[None], row, yes[None, None], yes[None], number, end, no, no, row[None], row)
                for end in (no, no, no, yes)
            ]
            recorder.begin(moments[0])
            for moment in moments[1:]:
                recorder.add(np.zeros(1, np.int32), yes, moment)
            recorder.end(True, True)
        assert recorder.played == 2
        return [(len(episode.actions), episode.ended) for episode in recorder.episodes]

    whole = 10 + 3 * 19
    assert kept(2 * whole) == [(3, True), (3, True)]
    assert kept(2 * whole - 1) == kept(whole) == [(3, True)]
    assert kept(whole - 1) == [(2, False)]
    assert kept(10) == []


def test_arms_first_differ_where_an_action_does(battle: Battle) -> None:
    one = battle.kept.episodes[0]
    other = one._replace(actions=one.actions.copy())
    assert recording.first_difference(one, other) is None
    other.actions[5, 2] += 1
    assert recording.first_difference(one, other) == 5
    assert recording.first_difference(one, one._replace(actions=one.actions[:9])) == 9


def test_pictures_are_of_the_episode_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is as bright as the step's number, at the end too, where the task shows the next episode's start."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tasks")

    class Still:
        def reset(self, episode: int) -> None: ...

        def act(self, step: TaskStep) -> np.ndarray:
            return np.zeros(2, np.int32)

    for mode, size in (("rgb_array", (66, 133)), (None, None)):
        options = {"length": 3} | ({"render_mode": mode} if mode else {})
        task, recorder = make("pettingzoo", "zoo_envs:Rendered", 1, "serial", options), Recorder("joint")
        play(Still(), task, 2, 0, recorder=recorder)
        for episode in recorder.episodes:
            if size is None:
                assert episode.frames is None
                continue
            assert episode.frames is not None and episode.frames.shape == (4, *size, 3)
            assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        file = tmp_path / f"{mode}.npz"
        file.write_bytes(recording.dump(recording.gathered({"joint": recorder})))
        for read, kept in zip(recording.load(file, task.spec).episodes, recorder.episodes, strict=True):
            assert (read.frames is None) == (kept.frames is None)
            if kept.frames is not None:
                np.testing.assert_array_equal(read.frames, kept.frames)
        task.close()
