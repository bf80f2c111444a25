"""The control loop on a clock that the test moves, as a command, and the page that shows its example."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import agentmixer
from made_bundle import made_bundle

from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.control import GoldenDevice, control
from agentmixer.runtime.golden import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("loop") / "bundle") / "agents" / "a"


SILENT, BROKEN = "silent", "broken"


class Scripted:
    """A device whose observations take so many control periods each, and the clock that they move."""

    def __init__(self, agent: Agent, periods: list[Any]):
        self.agent, self.period, self.periods = agent, agent.manifest.control_period_s, iter(periods)
        self.now, self.began, self.applied = 0.0, [], []  # type: ignore[var-annotated]

    def observe(self) -> tuple[np.ndarray, np.ndarray] | None:
        self.began.append(round(self.now / self.period, 6))
        takes = next(self.periods)
        if takes in (SILENT, BROKEN):
            self.now += 0.1 * self.period
            if takes == BROKEN:
                raise OSError("no answer on the bus")
            return None
        self.now += abs(takes) * self.period
        obs = np.full(self.agent.manifest.tensor("obs").shape, 1.0 if takes > 0 else np.nan, np.float32)
        return obs, np.array([False, False, True, False])  # action 2 alone is legal; the fallback is 0

    def apply(self, action: np.ndarray) -> None:
        self.applied.append(int(action))

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_late_decisions_are_not_applied_and_missed_ticks_are_left_out(folder: Path) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.1, 1.5, 0.1, 3.2, 0.1, -0.1])
    ticks = control(agent, device, 6, clock=device.clock, sleep=device.sleep)
    assert device.began == [0.0, 1.0, 2.5, 3.0, 6.2, 7.0]  # never before its time; ticks 4 and 5 are left out
    assert device.applied == [2, 0, 2, 0, 2, 0, 0], "and the fallback at the end"
    assert (ticks.applied, ticks.late, ticks.refused, ticks.skipped) == (3, 2, 1, 2)
    assert ticks.fallbacks == 3 and np.isclose(ticks.longest_s, 3.2 * device.period)
    start, end = ticks.quantiles(0.0, 0.5, 1.0)
    assert np.allclose(end / device.period, [0.1, 0.45, 3.2])
    assert np.allclose(start / device.period, [0.0, 0.0, 0.5])


def test_silence_and_errors_of_the_device_cost_one_tick_each(folder: Path) -> None:
    agent = Agent.load(folder)
    device, errors = Scripted(agent, [0.1, SILENT, BROKEN, 0.1, 0.1]), []
    real, device_apply = device.apply, iter([None, None, None, OSError("stuck"), None, None])

    def apply(action: np.ndarray) -> None:
        if error := next(device_apply):
            raise error
        real(action)

    device.apply = apply  # type: ignore[method-assign]
    ticks = control(agent, device, 5, failed=errors.append, clock=device.clock, sleep=device.sleep)
    assert device.applied == [2, 0, 0, 2, 0]
    assert (ticks.applied, ticks.silent, ticks.failed) == (3, 1, 2)
    assert [str(error) for error in errors] == ["no answer on the bus", "stuck"]


def test_a_loop_that_is_stopped_leaves_the_device_at_its_fallback(folder: Path) -> None:
    agent, stop = Agent.load(folder), threading.Event()
    device = Scripted(agent, [0.1] * 10)

    def sleep(seconds: float) -> None:
        device.sleep(seconds)
        if device.now > 3.5 * device.period:
            stop.set()

    ticks = control(agent, device, stop=stop, clock=device.clock, sleep=sleep)
    assert device.applied == [2] * ticks.applied + [0] and ticks.applied == 5


def test_golden_observations_give_golden_actions(folder: Path) -> None:
    files = read_agent(folder)
    device, golden, done = GoldenDevice(files), parse(files.golden, files.manifest), []
    device.apply = lambda action: done.append(int(action))  # type: ignore[method-assign]
    agent = Agent(files)
    control(agent, device, len(golden.obs), period_s=1e-3, sleep=lambda _: None, clock=lambda: 0.0)
    assert done[:-1] == golden.action.tolist()


def test_a_grid_without_drift(folder: Path) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.3] * 1000)
    control(agent, device, 1000, clock=device.clock, sleep=device.sleep)
    assert np.allclose(device.began, np.arange(1000))


def test_systemd_hears_of_every_tick(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.1] * 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        control(agent, device, 3, clock=device.clock, sleep=device.sleep)
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_as_a_command(folder: Path) -> None:
    for device in ("control_loop:device", "golden"):
        done = agentmixer(
            "agent", folder, "--control", device, "--steps", 3, "--rate-hz", 1000, "--json", cwd=ROOT / "examples"
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert sum(found[name] for name in ("applied", "late", "refused")) == 3 and found["period_s"] == 1e-3
        assert set(found["end_us"]) == {"p50", "p99", "p99.9", "p99.99", "max"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what this agent is to do: --listen ADDRESS --tls KEYS"),
        (["--control", "golden", "--listen", "x:1"], "say what this agent is to do"),
        (["--listen", "127.0.0.1:0"], "give --tls KEYS (make them: agentmixer keygen --tls)"),
        (["--control", "golden", "--tls", "keys"], "--tls and --require-isolation belong to --listen"),
        (["--control", "control_loop"], "write MODULE:FUNCTION"),
        (["--control", "nowhere_to_be_found:device"], "there is no module nowhere_to_be_found here"),
        (["--control", "control_loop:nothing"], "control_loop has no function nothing"),
        (["--control", "json:dumps"], "Object of type Agent is not JSON serializable"),
        (["--control", "builtins:repr"], "what repr returns has no method observe"),
    ],
)
def test_what_the_command_cannot_do(folder: Path, words: list[str], message: str) -> None:
    done = agentmixer("agent", folder, *words, cwd=ROOT / "examples")
    assert done.returncode == 2 and message in " ".join(done.stderr.split())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """With an executable at its path, as systemd wants one."""
    unit = (ROOT / "examples" / "agent.service").read_text()
    (tmp_path / "agent.service").write_text(unit.replace("/opt/agentmixer/bin/agentmixer", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "agent.service"], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_page_shows_the_files() -> None:
    page = (ROOT / "docs" / "control-loop.md").read_text()
    for name, language in (("control_loop.py", "python"), ("agent.service", "ini")):
        assert f"```{language}\n{(ROOT / 'examples' / name).read_text()}```\n" in page, name
