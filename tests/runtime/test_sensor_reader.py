"""The example whose sensors are wired by name, one of them wrong: an audit finds which."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from commands import agentmixer

from agentmixer.export import episodes

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    "num_envs=4",
    "rollout_length=64",
    "minibatches=2",
    "hidden=16",
    "chunk_length=4",
    "eval_episodes=2",
    "final_episodes=2",
)


def read(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run the example in this process."""
    monkeypatch.setattr(sys, "argv", ["sensor_reader.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "sensor_reader.py"), run_name="__main__")


def test_an_audit_finds_the_wrong_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(episodes, "PROFILE_STEPS", 16_384)  # as it is outside of tests
    settings = [f"--set={setting}" for setting in SMALL]
    agentmixer("train", "gymnasium", "CartPole-v1", "--steps", "2048", *settings, cwd=tmp_path)
    exported = agentmixer("export", "--elements", EXAMPLES / "cart.toml", "--out", "bundle", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    folder = tmp_path / "bundle/agents/agent_0"
    read(monkeypatch, folder, "--log", tmp_path / "wrong.npz")
    assert "400 decisions" in capsys.readouterr().out
    found = agentmixer("audit", folder, "--log", "wrong.npz", cwd=tmp_path)
    assert found.returncode == 1
    assert "pole.angle is 57.3 times too large (degrees instead of radians): divide it by 57.3" in found.stdout
    read(monkeypatch, folder, "--log", tmp_path / "mended.npz", "--mended")
    mended = agentmixer("audit", folder, "--log", "mended.npz", cwd=tmp_path)
    assert mended.returncode == 0, mended.stdout
