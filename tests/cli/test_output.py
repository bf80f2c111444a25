"""What becomes of a command whose reader stops reading, whose terminal knows few characters, or who is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Process

#: Prints as many lines as it is told to, two at a time, and ends with that exit code.
LONG = """
import sys
import typer
from agentmixer_cli import main
from agentmixer_cli.terminal import Terminal, say

def talk(code: int, pairs: int):
    for _ in range(pairs):
        Terminal().print("µ" * 40)
        say("σ" * 40)
    raise typer.Exit(code)

main.app.command("talk")(talk)
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_every_signal_to_stop_leaves_a_checkpoint(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = Process(
        "train", "mamujoco", "Hopper-3x1", "--steps", "1e9", "--out", "run", "--set", "eval_interval=0", cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    done = process.done(timeout=120)
    assert (done.returncode, done.stderr) == (code, "")
    assert "interrupted; continue with: agentmixer train mamujoco Hopper-3x1 --resume --out run" in done.stdout
    assert list(tmp_path.glob("run/checkpoints/step_*.safetensors"))
