"""Replays and deciding policies, opened as files in headless Chromium."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import msgspec
import numpy as np
import pytest
from bundle_by_hand import write_by_hand
from conftest import tiny_algorithm, tiny_spec
from made_bundle import made_bundle

from agentmixer.contract.manifest import TensorSpec
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.graph import export_graph
from agentmixer.report.live_page import live_page
from agentmixer.report.onnxruntime_web import web_runtime
from agentmixer.report.page import Page, compose
from agentmixer.report.replay_section import replay_section
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.tasks import make, registry
from agentmixer.tasks.scene import Drawing, Scene, Shape
from agentmixer.validate.recording import Episode, Recording

#: What a stranger might call something.
BAD = "</script><img src=x onerror=alert(1)>"


def episode(spec: TaskSpec, arm: str, steps: int, seed: int = 0, **arrays: Any) -> Episode:
    """An episode of numbers that no simulator gave."""
    random = np.random.default_rng(seed)
    agents, entries = spec.num_agents, max(space.n for space in spec.action_spaces)
    actions: Any = np.ones((steps, agents), np.int32)
    if not spec.discrete:
        actions = random.uniform(-0.3, 0.3, (steps, agents, spec.action_size)).astype(np.float32)
    made = {
        "states": random.random((steps + 1, spec.state_size), np.float32),
        "obs": random.normal(size=(steps + 1, agents, max(spec.obs_sizes))).astype(np.float32),
        "masks": np.ones((steps + 1, agents, entries), bool),
        "active": np.ones((steps + 1, agents), bool),
        "actions": actions,
        "decided": np.ones((steps, agents), bool),
        "rewards": np.ones(steps, np.float32),
    }
    return Episode(arm=arm, number=0, won=True, ended=True, **(made | arrays))


def written(path: Path, spec: TaskSpec, scene: Callable[[Episode], Scene | None], *episodes: Episode) -> Path:
    """A page with a replay alone."""
    section = replay_section(Recording(episodes, 1), spec, scene)
    assert section
    path.write_text(compose(Page("a team", "It holds.", "good", (), (section,))))
    return path


def test_a_replay_plays_by_keyboard_alone(chromium: Any, tmp_path: Path) -> None:
    """tests/test_every_task.py opens pages of every family."""
    made = make("predator_prey", "5x5", 1)
    made.close()
    spec, steps = made.spec, 8
    arms = [episode(spec, arm, steps) for arm in ("joint", "deployed")]
    scene = lambda one: registry.scene(spec, one.states, one.obs, one.actions)  # noqa: E731
    file = written(tmp_path / "page.html", spec, scene, *arms)
    with browser.opened(chromium, file, 390, color_scheme="dark") as page:
        assert page.locator("canvas").count() == 1  # one below the other would be far apart
        page.focus("#replay-scrubber")
        page.keyboard.press("ArrowRight")
        assert browser.step(page) == 1
        page.keyboard.press("Home")
        assert browser.step(page) == 0
        page.keyboard.press(" ")
        page.wait_for_selector(f"#replay-player[data-step='{steps}']")
        page.focus("canvas")
        page.keyboard.press("Enter")
        assert page.inner_text("#replay-who") == f"What {spec.agents[0]} sees"
        page.keyboard.press("ArrowLeft")
        assert browser.step(page) == steps - 1
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.keyboard.press("Escape")
        assert page.is_hidden("#replay-who")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.emulate_media(color_scheme="light")
        page.focus("#replay-arms")
        page.keyboard.press("Home")
        assert page.locator("canvas").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") == 1440


def test_a_click_shows_what_an_agent_sees_and_only_that(chromium: Any, tmp_path: Path) -> None:
    """agent_0 at (2, 5) of 10 x 10 sees the near enemy at (4, 5), and not the far one at (8, 5)."""
    spec = tiny_spec(agents=1, obs=2)
    spec = msgspec.structs.replace(spec, obs_names=((BAD, "y"),), action_names=(("wait", BAD, "left", "right"),))
    drawing = Drawing(4, 1)
    drawing.add(Shape("circle", "agent", "agent_0", 0.5, 0), (2, 5))
    for name, x, seen in (("near", 4, True), ("far", 8, False)):
        drawing.add(Shape("circle", "other", f"{name} {BAD}", 0.5), (x, 5), seen=seen)
    scene = drawing.scene(10, 10, sight=3.0)
    obs = np.array([[[0.5 + t, 0]] for t in range(4)], np.float32)
    arms = [episode(spec, arm, 3, obs=obs) for arm in ("joint", "deployed")]
    arms[1].actions[2] = 2
    file = written(tmp_path / "page.html", spec, lambda _: scene, *arms)
    pixel = """(canvas, x) => canvas.getContext("2d")
        .getImageData(x * canvas.width / 10, canvas.height / 2, 1, 1).data.join()"""
    with browser.opened(chromium, file, reduced_motion="reduce") as page:
        canvas = page.locator("canvas").first
        box = canvas.bounding_box()
        before = [canvas.evaluate(pixel, x) for x in (4, 8)]
        canvas.click(position={"x": 0.2 * box["width"], "y": 0.5 * box["height"]})
        after = [canvas.evaluate(pixel, x) for x in (4, 8)]
        assert before[0] == before[1] == after[0] != after[1]  # the far enemy is greyed out
        assert page.inner_text("#replay-sees").startswith(f"Sees 1 of 2 (joint policy): near {BAD}.")
        assert page.inner_text("#replay-action").startswith(f"Joint policy: does {BAD}; may wait, {BAD}, left, right.")
        assert page.locator("#replay-values tr").first.inner_text().split("\t") == [BAD, "0.5", "0.5"]
        assert page.inner_text("#replay-parted") == "The teams first act differently at step 2."
        page.click("#replay-jump")
        assert browser.step(page) == 2
        assert page.locator("#replay-values tr").first.inner_text().split("\t") == [BAD, "2.5", "2.5"]
        assert page.locator("img").count() == 0


@pytest.mark.parametrize("discrete", [True, False])
def test_the_page_unpacks_what_was_packed(discrete: bool, chromium: Any, tmp_path: Path) -> None:
    """Whole-number teams' observations to the last bit; all others, and places, to 1/65534 of their range."""
    spec = tiny_spec(agents=2)
    if not discrete:
        spec = msgspec.structs.replace(spec, action_spaces=(Box((-1.0,), (1.0,)),) * 2, has_action_mask=False)
    one = episode(spec, "deployed", 30)
    drawing = Drawing(31, 2)
    at = np.random.default_rng(1).normal(size=(31, 2)).astype(np.float32)
    drawing.add(Shape("circle", "agent", "agent_0", 0.5, 0), at)
    file = written(tmp_path / "page.html", spec, lambda _: drawing.scene(1, 1), one)
    with browser.opened(chromium, file) as page:
        read = "(array) => btoa(String.fromCharCode(...new Uint8Array(array.buffer)))"
        obs, places, levels = (
            np.frombuffer(base64.b64decode(page.evaluate(f"({read})(replayPlayer.all[0].{name})")), np.float32)
            for name in ("obs", "scene.at", "scene.level")
        )
    obs, places = obs.reshape(2, 7, 31).transpose(2, 0, 1), places.reshape(2, 31).T
    allowed = 0 if discrete else np.ptp(one.obs) / 65534
    np.testing.assert_allclose(obs, one.obs, rtol=0, atol=allowed)
    np.testing.assert_allclose(places, at, rtol=0, atol=np.ptp(at) / 65534)
    assert np.isnan(levels).all()


def real_valued_bundle(path: Path) -> Bundle:
    """Two agents with memory that were not trained: 7 in, 2 real values out."""
    space = Box((-2.0, -0.5), (4.0, 0.5))
    spec = tiny_spec(agents=2)
    spec = msgspec.structs.replace(
        spec, action_spaces=(space,) * 2, fallback_actions=((0.0, 0.0),) * 2, has_action_mask=False
    )
    team = tiny_algorithm(spec).team
    actors = [team.deployed(i) for i in range(2)]
    models = {
        name: export_graph(actor, {}).SerializeToString() for name, actor in zip(spec.agents, actors, strict=True)
    }
    memory = actors[0].memory
    inputs = (TensorSpec("obs", "float32", (7,), spec.obs_names[0]), TensorSpec("state_in", "float32", (memory,)))
    sizes = (("action", 2), ("mean", 2), ("state_out", memory))
    outputs = tuple(TensorSpec(name, "float32", (size,)) for name, size in sizes)
    tensors = (inputs, outputs)
    write_by_hand(path, ("real", 1), models, dict.fromkeys(models, b""), tensors, space, (0.0, 0.0), memory=memory)
    return read_bundle(path)


def played(bundle: Bundle, steps: int) -> Episode:
    """What the bundle's agents do on noise."""
    spec = bundle.team.task
    one = episode(spec, "deployed", steps)
    one.masks[:] = np.random.default_rng(2).random(one.masks.shape) < 0.6
    one.masks[..., 0] = True
    for index, files in enumerate(bundle.agents.values()):
        agent = Agent(files)
        for t in range(steps):
            mask = one.masks[t, index] if spec.has_action_mask else None
            one.actions[t, index] = agent.act(one.obs[t, index].copy(), None if mask is None else mask.copy())
    return one


@pytest.mark.parametrize("kind", ["discrete", "real-valued"])
def test_policies_in_workers_decide_what_was_recorded(kind: str, chromium: Any, tmp_path: Path) -> None:
    """And a recorded action that is not theirs is noticed; one that nobody decided in time is left out."""
    try:
        runtime = web_runtime()
    except AgentMixerError as error:
        pytest.skip(str(error))
    path = tmp_path / "bundle"
    bundle = read_bundle(made_bundle(path)) if kind == "discrete" else real_valued_bundle(path)
    right = played(bundle, 30)
    wrong = right._replace(number=1, actions=right.actions.copy(), decided=right.decided.copy())
    wrong.actions[7, 1] = (wrong.actions[7, 1] + 1) % 4 if kind == "discrete" else wrong.actions[7, 1] + 3e-4
    wrong.actions[9, 0], wrong.decided[9, 0] = 0, False
    page = live_page(bundle, Recording((right, wrong), 2), lambda _: None, runtime)
    file = tmp_path / "live.html"
    file.write_text(compose(page))
    assert file.stat().st_size < 8_000_000
    with browser.opened(chromium, file, 390) as shown:
        shown.wait_for_selector("#live-player[data-state=different], #live-player[data-state=failed]", timeout=120_000)
        data = {
            name: shown.get_attribute("#live-player", f"data-{name}") for name in ("decided", "equal", "late", "far")
        }
        told = shown.inner_text("#live-result")
        assert (data["decided"], data["equal"], data["late"]) == ("119", "118", "1"), told
        assert told.endswith("Left out: 1 recorded fallback, which no policy decided.")
        if kind == "real-valued":
            assert float(data["far"]) == pytest.approx(3e-4, abs=1e-5)
        digests = [hashlib.sha256(files.model).hexdigest() for files in bundle.agents.values()]
        assert shown.locator("dd.digest").all_inner_texts() == digests
        assert shown.locator("text=as agent.json says").count() == 2
        assert shown.evaluate("document.documentElement.scrollWidth") == 390


def test_another_archive_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "onnxruntime-web.tgz"
    file.write_bytes(b"something else")
    with pytest.raises(AgentMixerError, match=r"is not the archive of onnxruntime-web .* npm pack"):
        web_runtime(file)


def test_without_npm_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AgentMixerError, match=r"npm is not installed; .* --onnxruntime-web FILE.tgz"):
        web_runtime()
