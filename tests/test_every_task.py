"""Every task goes through all three commands: trained, exported, deployed, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import browser
import numpy as np
import psutil
import pytest
from agentmixer_cli.app import app
from commands import agentmixer
from conftest import quiet
from typer.testing import CliRunner

from agentmixer.contract.spec import Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.export.exporter import Exported
from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check, predator_prey
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.validate.deploy_sim import deploy_sim

SMALL = {
    "num_envs": 4, "rollout_length": 8, "minibatches": 2, "epochs": 2, "total_steps": 64, "hidden": 16, "chunk_length": 4,
    "eval_interval": 0, "eval_episodes": 2, "final_episodes": 2,
}  # fmt: skip


def started(task: str, scenario: str, path: Path, options: dict[str, Any], **settings: Any) -> Run:
    backend, resolved = check(task, scenario, None, options)
    config = AgentMixerPPO.configure("default", task).replace(SMALL)
    config = config.replace(settings)
    return runs.create(task, scenario, backend, "agentmixer_ppo", "default", 1, "cpu", resolved, config, path)


class Rehearsed(NamedTuple):
    """A family's team: exported, and what deploy-sim says and writes of it."""

    exported: Exported
    report: dict[str, Any]
    page: Path


#: Every family, and of some more than one kind of team.
FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("matrix", "payoffs.json", {}),
    ("passage", "two_agents", {}),
    ("coordsum", "3x10-30", {}),
    ("predator_prey", "7x7", {"penalty": -1}),
    ("mamujoco", "Hopper-3x1", {}),
    ("mamujoco", "Humanoid-9|8", {"agent_obsk": "1"}),
    ("gymnasium", "CartPole-v1", {}),
    ("pettingzoo", "mpe2.simple_spread_v3:parallel_env", {"max_cycles": 10, "continuous_actions": True}),
    ("pettingzoo", "zoo_envs:Dying", {}),
    ("pettingzoo", "gymnasium_robotics.mamujoco_v1:parallel_env", {"scenario": "Hopper", "agent_conf": "3x1"}),
    # Last: the tests beside these have compiled SMAX by then.
    ("smacv2", "protoss_5v5", {}),
]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: "-".join(map(str, family)))
def rehearsed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsed]:
    task, scenario, options = request.param
    folder = tmp_path_factory.mktemp("every")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(Path(__file__).parent / "tasks")
        patch.setattr(predator_prey, "EPISODE_LIMIT", 20)
        # Three agents with two, three and two actions.
        Path("payoffs.json").write_text(json.dumps(np.arange(12.0).reshape(2, 3, 2).tolist()))
        if task == "smacv2":
            exported = request.getfixturevalue("exported")
        else:
            run = started(task, scenario, folder / "run", options)
            assert trainer.train(run, quiet())
            exported = exporting.export(runs.load(run.path), folder / "bundle")
        command = [
            "deploy-sim",
            exported.path,
            "--episodes",
            2,
            "--deadline-ms",
            10_000,
            "--report",
            folder / "found.json",
        ]
        done = agentmixer(*command, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        yield Rehearsed(exported, json.loads(done.stdout), folder / "found.json.html")


def test_trained_exported_deployed(rehearsed: Rehearsed) -> None:
    exported, report, _ = rehearsed
    assert all(parity.passed for kinds in exported.parity.values() for parity in kinds.values())
    bundle = read_bundle(exported.path)
    parity = next(check for check in report["checks"] if check["name"] == "parity")
    assert (parity["status"], parity["different"]) == ("passed", 0)
    assert ("win_rate" in report["arms"]["deployed"]) == bundle.team.task.reports_wins
    for name, space in zip(bundle.team.task.agents, bundle.team.task.action_spaces, strict=True):
        agent = Agent.load(bundle.folder(name))
        size = len(agent.manifest.tensor("obs").elements)
        mask = np.ones(space.n, bool) if bundle.team.task.has_action_mask else None
        action = agent.act(np.full(size, 0.3, np.float32), mask)
        if isinstance(space, Discrete):
            assert 0 <= action < space.n
        else:
            assert isinstance(space, Box)
            assert action.shape == (space.n,) and action.dtype == np.float32
            assert (action >= np.float32(space.low)).all() and (action <= np.float32(space.high)).all()


def test_the_report_opens_and_its_replay_plays(rehearsed: Rehearsed, chromium: Any) -> None:
    """The page that deploy-sim wrote, narrow and wide, dark and light: no error is said on the console, and it never scrolls
    sideways."""
    with browser.opened(chromium, rehearsed.page, 390, color_scheme="dark") as page:
        assert page.inner_text("h1") == "The deployed team does what the trained team does."
        assert page.evaluate("replayPlayer.all.map((arm) => arm.arm).join()") == "joint,deployed"
        page.select_option("#replay-speed", "8")
        page.click("#replay-play")
        page.wait_for_selector("#replay-player:not([data-step='0'])")
        page.focus("canvas")
        page.keyboard.press("End")
        assert browser.step(page) == page.evaluate("replayPlayer.last")
        page.keyboard.press("Enter")
        page.keyboard.press("Home")
        named = read_bundle(rehearsed.exported.path).team.task.actions_of(0)
        assert not named or any(name in page.inner_text("#replay-action") for name in named)
        for width, scheme in ((390, "dark"), (390, "light"), (1440, "light"), (1440, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_run_of_a_foreign_environment_resumes_with_new_episodes(tmp_path: Path) -> None:
    options = {"max_cycles": 10}
    run = started("pettingzoo", "mpe2.simple_spread_v3:parallel_env", tmp_path / "run", options)
    assert trainer.train(run, quiet())
    assert trainer.train(runs.extend(runs.load(run.path), "128", None), quiet(), resume=True)
    assert runs.steps_done(run) == 128


def test_odd_names_survive_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A payoff file with a space, a letter beyond the basic plane, markup and a delete character in its name."""
    monkeypatch.chdir(tmp_path)
    name = "a \U0001f600[b]\x7f'.json"
    Path(name).write_text("[[1, 0], [0, 2]]")
    run = started("matrix", name, tmp_path / "runs" / "q[/b]c", {})
    assert trainer.train(run, quiet())
    again = runs.load(run.path)
    assert (again.scenario, again.options) == (name, {})
    exported = exporting.export(again)
    assert deploy_sim(read_bundle(exported.path), episodes=1, deadline_s=10).passed
    listed = CliRunner().invoke(app, ["runs"])
    assert listed.exit_code == 0
    assert "q[/b]c" in listed.output


def test_a_worker_killed_in_training_is_named_and_the_checkpoint_is_good(tmp_path: Path) -> None:
    run = started(
        "pettingzoo",
        "mpe2.simple_spread_v3:parallel_env",
        tmp_path / "run",
        {},
        total_steps=10**6,
        checkpoint_interval=64,
    )
    before = {child.pid for child in psutil.Process().children()}

    def kill() -> None:
        while not runs.steps_done(run):
            time.sleep(0.05)
        workers = [child for child in psutil.Process().children() if child.pid not in before]
        spawned = [worker for worker in workers if "spawn_main" in " ".join(worker.cmdline())]
        os.kill(spawned[0].pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(
        AgentMixerError, match=r"worker process of environments \d to \d was killed by SIGKILL.*--resume"
    ):
        trainer.train(run, quiet())
    steps = runs.steps_done(run)
    assert steps > 0
    assert trainer.train(runs.extend(runs.load(run.path), str(steps + 64), None), quiet(), resume=True)
