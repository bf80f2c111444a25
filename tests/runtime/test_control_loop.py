"""examples/control_loop.py, on a clock that the test moves; and the page that shows it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundle import made_bundle

from agentmixer.runtime import Agent

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("loop") / "bundle") / "agents" / "a"


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import control_loop

    return control_loop


class Scripted:
    """A device whose observations take so many control periods each, and the clock that they move."""

    def __init__(self, agent: Agent, periods: list[float]):
        self.agent, self.period, self.periods = agent, agent.manifest.control_period_s, iter(periods)
        self.now, self.began, self.applied = 0.0, [], []  # type: ignore[var-annotated]

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        self.began.append(round(self.now / self.period, 6))
        takes = next(self.periods)
        self.now += abs(takes) * self.period
        obs = np.full(self.agent.manifest.tensor("obs").shape, 1.0 if takes > 0 else np.nan, np.float32)
        return obs, np.array([False, False, True, False])  # action 2 alone is legal; the fallback is 0

    def apply(self, action: np.ndarray) -> None:
        self.applied.append(int(action))

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_late_decisions_are_not_applied_and_missed_ticks_are_left_out(folder: Path, loop: Any) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.1, 1.5, 0.1, 3.2, 0.1, -0.1])
    ticks = loop.control(agent, device, 6, device.clock, device.sleep)
    assert device.began == [0.0, 1.0, 2.5, 3.0, 6.2, 7.0]  # never before its time; ticks 4 and 5 are left out
    assert device.applied == [2, 0, 2, 0, 2, 0]
    assert (ticks.applied, ticks.late, ticks.refused, ticks.skipped) == (3, 2, 1, 2)
    assert np.allclose(np.array(ticks.seconds) / device.period, [0.1, 1.5, 0.6, 3.2, 0.3, 0.1])


def test_a_grid_without_drift(folder: Path, loop: Any) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.3] * 1000)
    loop.control(agent, device, 1000, device.clock, device.sleep)
    assert np.allclose(device.began, np.arange(1000))


def test_systemd_hears_of_every_tick(folder: Path, loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent.load(folder)
    device = Scripted(agent, [0.1] * 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        loop.control(agent, device, 3, device.clock, device.sleep)
        assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_started_by_hand(
    folder: Path, loop: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["control_loop.py", str(folder), "--steps", "3"])
    monkeypatch.setattr(loop.time, "sleep", lambda seconds: None)  # ticks may then begin early
    loop.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first == "applied 3, late 0, refused 0, skipped 0" and "p50" in second


def test_the_page_shows_the_files() -> None:
    page = (ROOT / "docs" / "control-loop.md").read_text()
    for name, language in (("control_loop.py", "python"), ("agent.service", "ini")):
        assert f"```{language}\n{(ROOT / 'examples' / name).read_text()}```\n" in page, name
