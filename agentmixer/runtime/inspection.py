"""What `verify` and its inspector say to each other, and the list of checks that both keep.

A request is a header and then the files it names, an answer is an `Answer`; each is sent as its length and then its
bytes, in messages that a socket takes.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agentmixer.contract.results import Check, Status
from agentmixer.contract.spec import Name
from agentmixer.errors import AgentMixerError, printable
from agentmixer.runtime.signature import Pin

Result = TypeVar("Result")

_LENGTH = struct.Struct("<Q")
_MESSAGE = 1 << 16
#: Most bytes of a header or an answer.
MAX_TEXT = 1 << 20
#: Most characters of a check's sentence: a manifest may hold far more to complain about.
MAX_SENTENCE = 2000


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked: `team`, the bundle's own files, or else an agent's folder. The rest is `bundle.Raw`, files by name and
    size, in the order in which their bytes follow; `neighbours`: what lies beside the agents' folders."""

    team: bool
    subject: str
    folder: str
    names: tuple[str, ...]
    problems: dict[str, str]
    files: tuple[tuple[str, int], ...]
    neighbours: tuple[str, ...] = ()
    name: str | None = None
    pin: Pin | None = None


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of it. agents: the team's, in order, where it could be read."""

    checks: tuple[Check, ...]
    agents: tuple[Name, ...] = ()


def send(link: socket.socket, data: bytes | memoryview, until: float | None = None) -> None:
    """Its length, then its bytes. until: on the monotonic clock in s; then TimeoutError is raised."""
    _wait(link, until)
    link.send(_LENGTH.pack(len(data)))
    view = memoryview(data)
    for begin in range(0, len(view), _MESSAGE):
        _wait(link, until)
        link.send(view[begin : begin + _MESSAGE])


def receive(link: socket.socket, limit: int, until: float | None = None) -> bytes:
    """What `send` sent. Raises AgentMixerError if the other end has gone or sends more than `limit` bytes, and as `send`
    does."""
    _wait(link, until)
    length = link.recv(_MESSAGE)
    if len(length) != _LENGTH.size or (size := _LENGTH.unpack(length)[0]) > limit:
        raise AgentMixerError("it hung up" if not length else "it sends more than it may")
    data, at = bytearray(size), 0
    while at < size:
        _wait(link, until)
        got = link.recv_into(memoryview(data)[at : at + _MESSAGE])
        if not got:
            raise AgentMixerError("it hung up")
        at += got
    return bytes(data)


def _wait(link: socket.socket, until: float | None) -> None:
    """The next message is waited for until then: each gets what is left of the time for all."""
    if until is not None:
        link.settimeout(max(until - time.monotonic(), 1e-3))


class Checklist:
    """Checks in order, each run on what others have found."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def run(
        self, subject: str, name: str, check: Callable[..., tuple[Result, str]], *needs: Any | None
    ) -> Result | None:
        """Run one check; None, and so `not run` for those that need its result, if it fails."""
        if any(need is None for need in needs):
            self.leave_out(subject, name)
            return None
        try:
            result, sentence = check(*needs)
        except (AgentMixerError, OSError) as error:
            self.add(subject, name, "failed", str(error))
            return None
        self.add(subject, name, "passed", sentence)
        return result

    def add(self, subject: str, name: str, status: Status, sentence: str) -> None:
        """Add a check that was judged elsewhere. What is not printable in its words is spelled out."""
        subject, name, sentence = map(printable, (subject, name, sentence))
        self.checks.append(Check(name=name, subject=subject, status=status, sentence=sentence[:MAX_SENTENCE]))

    def leave_out(self, subject: str, *names: str) -> None:
        """Say of checks that they were not run."""
        for name in names:
            self.add(subject, name, "not run", "something it needs has failed")


#: What is checked of a team and of an agent once their bytes have been read and their signature judged, in order.
TEAM_CHECKS = ("manifest", "pin", "files")
AGENT_CHECKS = (
    "manifest",
    "pin",
    "team",
    "files",
    "digests",
    "profile",
    "model",
    "contract",
    "limits",
    "locality",
    "session",
    "golden",
)
