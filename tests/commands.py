"""`agentmixer` as it is typed, run in the process of the tests: a process of its own would import torch and JAX anew."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

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
