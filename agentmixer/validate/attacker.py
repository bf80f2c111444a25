"""The process of a hostile agent. Started by `validate.attack_stage` in the place of one agent, and by nothing else.

    python -I attacker.py FOLDER (attack | victim) [--open]

`attack`: start as an agent does, then try what the host asks for, one attack a message: {"attack": name, ...target}
in, {"got": text} or {"error": text, "errno": number} out. `victim`: an agent. `--open`: without the sandbox, for the
control that shows that the attacks work.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # As in runtime.process.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import encodings.idna  # noqa: F401  sockets import it when they first meet an address
import json
import socket
import sys
from pathlib import Path

import msgspec

from agentmixer.runtime import process, sandbox
from agentmixer.runtime.sandbox import Isolation
from agentmixer.validate.attacks import Open, Target
from agentmixer.validate.process_attacks import PROCESS_ATTACKS
from agentmixer.validate.system_attacks import SYSTEM_ATTACKS

#: This file, for `runtime.launch`.
SCRIPT = Path(__file__)
MAX_MESSAGE = 1 << 16
ATTACKS = SYSTEM_ATTACKS | PROCESS_ATTACKS


def serve(link: socket.socket) -> None:
    """Try what the host asks for until it hangs up."""
    while data := link.recv(MAX_MESSAGE):
        to = msgspec.json.decode(data, type=Target)
        answer: dict[str, str | int | None]
        try:
            answer = {"got": ATTACKS[to.attack](to)}
        except Open:
            answer = {"got": "open"}
        except OSError as error:
            answer = {"error": os.strerror(error.errno or 0), "errno": error.errno}
        link.send(json.dumps(answer).encode())


def main(link: socket.socket, folder: Path, role: str, unprotected: bool) -> None:
    """Command line."""

    def stay(_: int) -> Isolation:
        return Isolation()

    enter = stay if unprotected else sandbox.enter
    if role == "victim":
        process.main(link, folder, enter=enter)
    elif process.start(link, folder, enter=enter):
        serve(link)


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()), Path(sys.argv[1]), sys.argv[2], "--open" in sys.argv[3:])
