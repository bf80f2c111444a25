"""`agentmixer` as it is typed, without importing torch and JAX anew: in the process of the tests, or in a forked one."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import psutil
from agentmixer_cli.main import main

#: Begins a program that can import nothing which only training needs, as where only the base install is.
ON_A_DEVICE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "scipy", "jax", "jaxmarl", "onnx", "onnxscript", "safetensors", "mujoco", "pettingzoo", "cryptography"
        }:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from agentmixer_cli.main import main
sys.argv[0] = "agentmixer"
main()
"""

#: Its processes are forks of one that has imported what training needs and has done nothing else.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "agentmixer_cli.train", "agentmixer.study.comparison", "agentmixer.tasks.mamujoco.mujoco_team",
    "agentmixer.tasks.matrix.matrix_game", "agentmixer.tasks.jax_task", "agentmixer.train.trainer", "torch._dynamo",
])  # fmt: skip


class Done(NamedTuple):
    """What a finished command leaves."""

    returncode: int
    stdout: str
    stderr: str


def agentmixer(*arguments: object, cwd: Path, columns: int = 200) -> Done:
    """Run `agentmixer ARGUMENTS` in the folder `cwd`, on a terminal so many columns wide."""
    out, error = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["agentmixer", *map(str, arguments)]),
        mock.patch.dict(os.environ, COLUMNS=str(columns)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        try:
            main()
        except SystemExit as done:
            return Done(int(done.code or 0), out.getvalue(), error.getvalue())
    raise AssertionError("main() returned without an exit code")


class Process:
    """`agentmixer ARGUMENTS` in a process of its own, in the folder `cwd`. What it prints goes to files; where `terminal` is
    given, the descriptor of one, standard output goes there."""

    def __init__(self, *arguments: object, cwd: Path, terminal: int | None = None):
        self._files = [cwd.with_name(f"{cwd.name}.{name}") for name in ("stdout", "stderr")]
        environment = {}
        if terminal is not None:
            self._files[0], environment = Path(os.ttyname(terminal)), {"TERM": "xterm", "COLUMNS": "80"}
        self._process = FORKS.Process(target=_typed, args=([*map(str, arguments)], cwd, self._files, environment))
        self._process.start()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def workers(self) -> list[psutil.Process]:
        """The processes that its multiprocessing has started and that have not ended."""
        found = []
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                if child.status() != "zombie" and "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def done(self, timeout: float) -> Done:
        """Wait for its end."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "it has not ended"
        return Done(self._process.exitcode, *(file.read_text() if file.is_file() else "" for file in self._files))


def _typed(arguments: list[str], cwd: Path, files: list[Path], environment: dict[str, str]) -> None:
    os.environ |= environment
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup, and inherited
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what was blocked where the first fork was asked for
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    if os.isatty(1):
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - what was there was made for a file
    os.chdir(cwd)
    sys.argv = ["agentmixer", *arguments]
    main()
