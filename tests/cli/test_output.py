"""What becomes of a command whose reader stops reading, whose terminal knows few characters, or who is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "agentmixer_cli.main"]
#: Prints far more than a pipe holds, then fails a verdict.
LONG = """
import sys
import typer
from agentmixer_cli import main
from agentmixer_cli.terminal import Terminal, say

def talk(code: int):
    for _ in range(3_000):
        Terminal().print("µ" * 40)
        say("σ" * 40)
    raise typer.Exit(code)

main.app.command("talk")(talk)
sys.argv[1:] = ["talk", sys.argv[1]]
main.main()
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_reader_that_has_gone_changes_no_exit_code(code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", LONG, str(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().decode() == "µ" * 40 + "\n"
    process.stdout.close()
    assert process.wait(120) == code
    assert process.stderr.read() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_lacks_are_spelled_out(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LONG, "0"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    first, second = done.stdout.decode(encoding).splitlines()[:2]
    assert first == ("\\xb5" if encoding == "ascii" else "µ") * 40
    assert second == "\\u03c3" * 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_every_signal_to_stop_leaves_a_checkpoint(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [
        *COMMAND,
        "train",
        "mamujoco",
        "Hopper-3x1",
        "--steps",
        "1e9",
        "--out",
        "run",
        "--set",
        "eval_interval=0",
    ]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup, and inherited
    try:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (code, "")
    assert "interrupted; continue with: agentmixer train mamujoco Hopper-3x1 --resume --out run" in out
    assert list(tmp_path.glob("run/checkpoints/step_*.safetensors"))
