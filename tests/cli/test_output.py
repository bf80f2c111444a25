"""What becomes of a command whose reader stops reading, whose terminal knows few characters, or who is told to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agentmixer_cli import app
from commands import Process, agentmixer
from typer.models import CommandInfo

#: Signals that interrupt, and the exit codes then.
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]

#: Prints as many lines as it is told to, two at a time, and ends with that exit code.
LONG = """
import sys
import typer
from agentmixer_cli import app, main
from agentmixer_cli.terminal import Terminal, say

def talk(code: int, pairs: int):
    for _ in range(pairs):
        Terminal().print("µ" * 40)
        say("σ" * 40)
    raise typer.Exit(code)

app.app.command("talk")(talk)
sys.argv[1:] = ["talk", *sys.argv[1:]]
main.main()
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_reader_that_has_gone_changes_no_exit_code(code: int) -> None:
    # Far more than a pipe holds.
    command = [sys.executable, "-c", LONG, str(code), "1500"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().decode() == "µ" * 40 + "\n"
    process.stdout.close()
    assert process.wait(120) == code
    assert process.stderr.read() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_lacks_are_spelled_out(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LONG, "0", "1"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    first, second = done.stdout.decode(encoding).splitlines()[:2]
    assert first == ("\\xb5" if encoding == "ascii" else "µ") * 40
    assert second == "\\u03c3" * 40


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("command", app.app.registered_commands, ids=lambda command: command.name)
def test_every_command_says_that_it_was_interrupted(
    command: CommandInfo, number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "callback", lambda: signal.raise_signal(number))
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    done = agentmixer(command.name, cwd=tmp_path)
    signal.signal(signal.SIGHUP, old)
    assert done == (code, "", "interrupted\n")


def test_an_interruption_in_a_finalizer_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def callback() -> None:
        Finalized()
        time.sleep(60)

    monkeypatch.setattr(app.app.registered_commands[0], "callback", callback)
    begin = time.monotonic()
    done = agentmixer(app.app.registered_commands[0].name, cwd=tmp_path)
    assert done == (130, "", "interrupted\n")
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train matrix climbing", "no training was begun, so there is nothing to continue"),
        ("train matrix climbing --resume", "the same command continues"),
    ],
)
def test_before_a_run_is_begun_there_is_nothing_to_continue(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentmixer.tasks.family", lambda name: signal.raise_signal(signal.SIGINT))
    done = agentmixer(*command.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, f"interrupted; {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_every_exit_code_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()
    section = page.partition("## Exit codes\n")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE))
    assert list(listed) == ["0", "1", "2", *sorted(str(code) for _, code in SIGNALS)]
    for number, code in SIGNALS:
        assert f"by {number.name}: " in listed[str(code)]


#: Interrupts itself when the module is looked for that it is told.
LOADING = """
import os, runpy, signal, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))
sys.meta_path.insert(0, Stop())
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
runpy.run_module("agentmixer_cli.main", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", ["agentmixer_cli.app", "typer", "rich.console", "agentmixer_cli.verify"])
def test_a_command_that_still_loads_says_so_too(module: str, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", LOADING, module, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "interrupted\n")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_every_signal_to_stop_leaves_a_checkpoint(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = Process(
        "train", "mamujoco", "Hopper-3x1", "--steps", "1e9", "--out", "run", "--set", "eval_interval=0", cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    done = process.done(timeout=120)
    said = "interrupted; continue with: agentmixer train mamujoco Hopper-3x1 --resume --out run\n"
    assert (done.returncode, done.stderr) == (code, said)
    assert list(tmp_path.glob("run/checkpoints/step_*.safetensors"))
