"""What a command that takes long says where no bar can be drawn."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import pytest
from agentmixer_cli.terminal import Terminal
from commands import FORKS, agentmixer

from agentmixer.export.exporter import Exported
from agentmixer.progress import LINE_EVERY_S, Doing
from agentmixer.train.run import Run


def test_a_line_is_said_every_ten_seconds_and_says_the_newest() -> None:
    now, said = [0.0], list[tuple[float, str]]()
    doing = Doing(lambda what: said.append((now[0], what)), lambda: now[0])
    for second in range(31):
        now[0] = float(second)
        doing(f"episode {second}")
    assert LINE_EVERY_S == 10.0
    assert said == [(0.0, "episode 0"), (10.0, "episode 10"), (20.0, "episode 20"), (30.0, "episode 30")]


def test_train_says_nothing_at_once_for_it_has_named_its_run() -> None:
    now, said = [0.0], list[str]()
    doing = Doing(said.append, lambda: now[0], at_once=False)
    doing("step 1")
    now[0] = 10.0
    doing("step 2")
    assert said == ["step 2"]


def test_a_line_is_said_at_once_and_on_standard_error_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stderr in (True, False):
        with Terminal(stderr=stderr).doing() as doing:
            assert capsys.readouterr() == ("", "")
            doing("playing")
            assert capsys.readouterr() == ("", "playing\n")
            monkeypatch.setattr("agentmixer.progress.LINE_EVERY_S", 1e9)
            doing("episode 1 of 2")
            monkeypatch.setattr("agentmixer.progress.LINE_EVERY_S", 0.0)
            doing("episode 2 of 2 \x1b")
        assert capsys.readouterr() == ("", "episode 2 of 2 \\x1b\n")


def test_a_terminal_shows_one_line_and_gets_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr("agentmixer_cli.terminal.say", lambda *told, **_: said.append(told))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = []
    terminal = Terminal(force_terminal=True)
    monkeypatch.setattr(terminal, "status", lambda text: Status(shown, text))
    with terminal.doing() as doing:
        doing("[b]2[/b]")
    assert shown == ["starting", r"\[b]2\[/b]"] and not said


class Status:
    """Stands for Rich's, and keeps what it is told."""

    def __init__(self, shown: list[str], text: str):
        self.update = shown.append
        self.update(text)

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is due."""
    monkeypatch.setattr("agentmixer.progress.LINE_EVERY_S", 0.0)


@pytest.mark.parametrize(
    ("command", "begin", "how_far"),
    [
        (
            "deploy-sim --episodes 2",
            "playing, joint policy: episode 1 of 2\n",
            "playing, deployed agents: episode 2 of 2",
        ),
        ("isolation", "without the sandbox: attack 1 of 52, ", "in the sandbox: attack 52 of 52, "),
        ("verify", "verifying agent_0, agent 1 of 5", "verifying agent_4, agent 5 of 5"),
    ],
)
@pytest.mark.usefixtures("hasty")
def test_commands_on_a_bundle_say_how_far_they_are(
    command: str, begin: str, how_far: str, exported: Exported, tmp_path: Path
) -> None:
    name, *options = command.split()
    done = agentmixer(name, exported.path, *options, "--json", cwd=tmp_path)
    assert done.stderr.startswith(begin)
    assert f"\n{how_far}" in done.stderr
    assert json.loads(done.stdout)["checks"]


@pytest.mark.usefixtures("hasty")
def test_evaluate_and_export_say_how_far_they_are(trained: Run, tmp_path: Path) -> None:
    done = agentmixer("evaluate", trained.path, "--episodes", "4", "--json", cwd=tmp_path)
    assert done.stderr.startswith("episodes 0 of 4\n")
    assert json.loads(done.stdout)["episodes"] == 4
    done = agentmixer("export", trained.path, "--json", cwd=tmp_path)
    assert done.stderr.startswith("recording 256 steps\n") and "\nexporting agent_4, agent 5 of 5\n" in done.stderr
    assert json.loads(done.stdout)["checkpoint"]


@pytest.mark.usefixtures("hasty")
def test_compare_and_analyze_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)  # a process that has imported torch and JAX
    quick = [
        "--steps",
        "100",
        "--set",
        "num_envs=50",
        "--set",
        "final_episodes=4",
        "--set",
        "hidden=8",
        "--set",
        "pm=mixer",
    ]
    done = agentmixer("compare", "matrix", "climbing", "--seeds", "0", "--out", "c", *quick, "--json", cwd=tmp_path)
    assert done.stderr.endswith("training: 1 of 1 runs finished, 100 of 100 steps saved\n")
    [run] = json.loads(done.stdout)["runs"]
    done = agentmixer("analyze", tmp_path / run["run"], "--json", cwd=tmp_path)
    assert done.stderr == "averaging over signals: 0 of 1\n"
    assert json.loads(done.stdout)["step"] == 100
