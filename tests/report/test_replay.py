"""Films of recorded episodes, and `agentmixer replay`."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import agentmixer
from made_bundle import made_bundle
from PIL import Image

from agentmixer.contract.spec import TaskSpec
from agentmixer.report import film
from agentmixer.runtime.bundle import read_bundle
from agentmixer.validate import recording
from agentmixer.validate.recording import Episode, Recording


def episode(arm: str, spec: TaskSpec, steps: int, number: int = 0) -> Episode:
    """Noise that never looks the same twice; the actions of both arms are alike."""
    noise, chosen = np.random.default_rng(steps), np.random.default_rng(number)
    return Episode(
        arm=arm,
        number=number,
        states=np.zeros((steps + 1, spec.state_size), np.float32),
        obs=noise.normal(size=(steps + 1, spec.num_agents, max(spec.obs_sizes))).astype(np.float32),
        masks=np.ones((steps + 1, spec.num_agents, 4), bool),
        active=np.ones((steps + 1, spec.num_agents), bool),
        actions=chosen.integers(0, 4, (steps, spec.num_agents)).astype(np.int32),
        decided=np.ones((steps, spec.num_agents), bool),
        rewards=np.ones(steps, np.float32),
        won=True,
        ended=True,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a recording: episode 0 of 7 and of 5 steps, and episode 4 of 3 steps."""
    path = made_bundle(tmp_path / "bundle")
    spec = read_bundle(path).team.task
    kept = [
        episode("joint", spec, 7),
        episode("deployed", spec, 5),
        episode("joint", spec, 3, 4),
        episode("deployed", spec, 3, 4),
    ]
    (path / "reports").mkdir()
    (path / "reports" / "deploy_sim.npz").write_bytes(recording.dump(Recording(tuple(kept), 6)))
    return path


def test_a_gif_has_a_picture_for_every_moment(bundle: Path, tmp_path: Path) -> None:
    done = agentmixer("replay", bundle, "--size", "120", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (bundle / "reports").glob("*.gif")
    assert file.name == "replay_0.gif" and str(file) in done.stdout
    assert "7 steps; they first act differently in step 6" in done.stdout  # one arm had ended
    with Image.open(file) as made:
        assert made.n_frames == 8 and made.size[0] == 2 * 120 + 4
    assert agentmixer("verify", bundle, cwd=tmp_path).returncode == 0
    again = agentmixer("replay", bundle, "--size", "120", "--json", cwd=tmp_path)
    told = json.loads(again.stdout)
    assert told["files"] == [str(bundle / "reports/replay_0-2.gif")] and told["pictures"] == 8
    assert told["first_difference"] == 5


def test_a_film_of_many_steps_leaves_moments_out_but_not_the_end() -> None:
    spec = read_spec()
    made = film.film([episode("joint", spec, 1000)], spec, 120)
    assert len(made.moments) <= film.MOST + 1 and made.moments[0] == 0 and made.moments[-1] == 1000
    short = film.film([episode("joint", spec, 2)], spec, 120)
    with Image.open(io.BytesIO(film.gif(short))) as shown:
        shown.seek(2)
        assert shown.info["duration"] == 2000


def read_spec() -> TaskSpec:
    from conftest import tiny_spec

    return tiny_spec(agents=2, obs=3, state=2)


def test_only_what_an_agent_sees_is_drawn() -> None:
    """Of the plain drawing an agent's own row alone: a change of another's numbers changes no pixel."""
    spec = read_spec()
    one = episode("joint", spec, 4)
    other = one._replace(obs=one.obs.copy())
    other.obs[:, 1] *= np.linspace(0.1, 0.9, 5)[:, None].astype(np.float32)
    for only, alike in ((0, True), (1, False), (None, False)):
        ours, theirs = (film.film([which], spec, 200, only).draw(1).tobytes() for which in (one, other))
        assert (ours == theirs) == alike


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episode", "9"], "holds no episode 9 of arm both; it holds 0, 4 (2 of 6 episodes played)"),
        (["--agent", "agent_x"], "the team has no agent 'agent_x'"),
        (["--gif", "film.mp4"], "--gif film.mp4 must end in .gif"),
        (["--recording", "nowhere.npz"], "nowhere.npz is missing; run agentmixer deploy-sim again"),
        (["--gif", "bundle/agents/x.gif"], "which no file may be added to but in reports/; choose another --gif FILE"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(
    bundle: Path, arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = agentmixer("replay", bundle, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_bundle_without_a_recording_says_what_makes_one(bundle: Path, tmp_path: Path) -> None:
    (bundle / "reports" / "deploy_sim.npz").unlink()
    done = agentmixer("replay", bundle, cwd=tmp_path)
    assert done.returncode == 2 and f"holds no recorded episodes; run agentmixer deploy-sim {bundle}" in done.stderr


def test_an_mp4_needs_ffmpeg_and_says_so(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ffmpeg"):
        done = agentmixer("replay", bundle, "--arm", "deployed", "--mp4", "x.mp4", "--size", "120", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "x.mp4").read_bytes()[4:8] == b"ftyp"
        assert not list((bundle / "reports").glob("*.gif"))
    monkeypatch.setenv("PATH", str(tmp_path))
    done = agentmixer("replay", bundle, "--mp4", "y.mp4", cwd=tmp_path)
    assert done.returncode == 2 and "--mp4 needs the program ffmpeg" in done.stderr
