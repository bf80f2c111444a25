"""How a process of an agent is started, and the first thing it says."""

from __future__ import annotations

import functools
import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from agentmixer.runtime.sandbox import Isolation

#: The script of `runtime.process`. Started by its path: as a module of this package it would import numpy, and with
#: it threads, before its own first line.
PROCESS = Path(__file__).with_name("process.py")


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a READY frame, as JSON: who speaks, what its process has given up, and the seed of its noise, which is left
    out where it is 0."""

    agent: str
    isolation: Isolation
    seed: int = 0


class Launched(NamedTuple):
    """A process and the host's end of its link. `directory` is its empty working directory."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    directory: tempfile.TemporaryDirectory[str]
    started_ns: int


#: What the processes import beside the standard library.
PACKAGES = ("agentmixer", "numpy", "onnxruntime", "msgspec")
#: Runs a script as Python does, once the folders of PACKAGES stand behind the standard library. Isolated mode (-I) knows
#: neither PYTHONPATH nor a user's own packages, where a robot's workspace may have them.
_BOOT = """
import runpy, sys
folders, sys.argv = sys.argv[1].split("\\n"), sys.argv[2:]
site = [i for i, folder in enumerate(sys.path) if folder.endswith("-packages")]
at = min(site, default=len(sys.path))
sys.path[at:at] = [folder for folder in folders if folder not in sys.path]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@functools.cache
def _import_folders() -> list[str]:
    """The folders that this process imports PACKAGES from."""
    specs = [importlib.util.find_spec(name) for name in PACKAGES]
    origins = [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]
    return list(dict.fromkeys(str(origin.absolute().parents[1]) for origin in origins))


def launch(script: Path, *arguments: str) -> Launched:
    """Start `script` with an empty environment in an empty directory. It imports PACKAGES from where this process does. Its
    standard input is its end of a SEQPACKET socket pair, and its only descriptor but stderr."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = tempfile.TemporaryDirectory(prefix="agentmixer-")
    started = time.monotonic_ns()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, "\n".join(_import_folders()), str(script), *arguments],
            env={},
            cwd=directory.name,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is for the host, which then stops its agents
        )
    return Launched(process, link, directory, started)
