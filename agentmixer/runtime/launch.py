"""How a process of an agent is started, and the first thing it says."""

from __future__ import annotations

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


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a READY frame, as JSON: who speaks, and what its process has given up."""

    agent: str
    isolation: Isolation


class Launched(NamedTuple):
    """A process and the host's end of its link. `directory` is its empty working directory."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    directory: tempfile.TemporaryDirectory[str]
    started_ns: int


def launch(script: Path, *arguments: str) -> Launched:
    """Start `script` with an empty environment in an empty directory. Its standard input is its end of a
    SEQPACKET socket pair, and its only descriptor but stderr."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = tempfile.TemporaryDirectory(prefix="agentmixer-")
    started = time.monotonic_ns()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", str(script), *arguments],
            env={},
            cwd=directory.name,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is for the host, which then stops its agents
        )
    return Launched(process, link, directory, started)
