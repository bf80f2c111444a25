"""Whether a bundle, or one agent's folder, is what was exported and does what it did: every check by its name.

Needs what a device has. This process reads bytes and judges signatures; everything else, from the first manifest on, is
decoded and tried by a process of its own in the sandbox (`runtime.inspector`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from agentmixer.contract.manifest import AGENT_FILE, AGENTS_FOLDER, TEAM_FILE, sha256
from agentmixer.contract.results import TEAM, Report
from agentmixer.errors import AgentMixerError, printable
from agentmixer.runtime import bundle, signature
from agentmixer.runtime.bundle import AgentFiles, Raw
from agentmixer.runtime.inspection import (
    AGENT_CHECKS,
    MAX_TEXT,
    TEAM_CHECKS,
    Answer,
    Checklist,
    Header,
    receive,
    send,
)
from agentmixer.runtime.launch import launch
from agentmixer.runtime.sandbox import Isolation

#: The script of `runtime.inspector`.
INSPECTOR = Path(__file__).with_name("inspector.py")
#: Seconds of CPU that the inspector may take: to start, and for each agent.
START_CPU_S, AGENT_CPU_S = 10, 10
#: How many times as long it may take by the clock, on a busy machine.
PATIENCE = 6


@dataclass(frozen=True, kw_only=True)
class VerifyReport(Report):
    """What was checked, in order. bundle: a bundle's path, or an agent's folder; isolation: the level that the process
    which decoded it had reached."""

    isolation: str


def verify(
    path: Path, trusted: Path | None = None, name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> VerifyReport:
    """Check a bundle, or one agent's folder. trusted: file of the public key that must have signed it, and whose pin holds;
    name: which agent a folder must be of; progress: called with how far it is.

    Raises AgentMixerError if `path` is neither, or if the key or its pin is none; whatever is wrong with a bundle that is
    one, is in the report."""
    pinned = signature.pinned_for(trusted)
    if trusted:
        signature.public_key(trusted)
    if os.path.lexists(path / TEAM_FILE):
        if name is not None:
            raise AgentMixerError(
                f"{path} is a whole bundle, which holds all agents; --agent is for one agent's folder"
            )
        return _bundle(path, trusted, pinned, progress)
    if os.path.lexists(path / AGENT_FILE):
        with _Inspection(path, 1) as inspection:
            _agent(inspection, path, "agent", trusted, pinned, name)
        return inspection.report()
    raise AgentMixerError(
        f"{path} is nothing to verify (it holds neither {TEAM_FILE} nor {AGENT_FILE}); give a bundle or one agent's folder"
    )


def inspected(folder: Path, trusted: Path | None = None, name: str | None = None) -> AgentFiles:
    """An agent's verified files, decoded here only after the inspector has passed them.

    Raises AgentMixerError naming the first check that failed, or as `bundle.read_agent` does."""
    report = verify(folder, trusted, name)
    for check in report.checks:
        if not check.passed:
            raise AgentMixerError(f"{folder} does not pass: {check.name}: {check.sentence}")
    files = bundle.read_agent(folder, trusted, name)
    if not report.checks[0].sentence.endswith(files.digest):
        raise AgentMixerError(f"{folder} was changed while it was being checked; load it again")
    return files


def _bundle(
    path: Path, trusted: Path | None, pinned: signature.Pin | None, progress: Callable[[str], None]
) -> VerifyReport:
    checklist = Checklist()
    found = checklist.run(TEAM, "read", _read_team, path)
    signed = checklist.run(TEAM, "signature", _team_signature, found, _Key(trusted))
    with _Inspection(path, len(found[1]) if found else 0, checklist) as inspection:
        names: tuple[str, ...] = ()
        if found and signed:
            answer = inspection.ask(TEAM, *found, pin=pinned)
            names = answer.agents if answer else ()
        else:
            checklist.leave_out(TEAM, *TEAM_CHECKS)
        if not names:
            checklist.add("agents", "all", "not run", "something they need has failed")
        for number, name in enumerate(names, 1):
            progress(f"verifying {name}, agent {number} of {len(names)}")
            _agent(inspection, path / AGENTS_FOLDER / name, name, trusted, pinned)
    return inspection.report()


def _agent(
    inspection: _Inspection, folder: Path, subject: str, trusted: Path | None, pinned: signature.Pin | None,
    name: str | None = None,
) -> None:  # fmt: skip
    checklist = inspection.checklist
    raw = checklist.run(subject, "read", _read_agent, folder, inspection)
    signed = checklist.run(subject, "signature", _agent_signature, raw, _Key(trusted))
    if raw and signed:
        inspection.ask(subject, raw, name=name, pin=pinned)
    else:
        checklist.leave_out(subject, *AGENT_CHECKS)


class _Key:
    """The key that was asked for, or that none was, which is not the same as something that failed."""

    def __init__(self, trusted: Path | None):
        self.trusted = trusted


def _read_team(path: Path) -> tuple[tuple[Raw, tuple[str, ...]], str]:
    raw, names = bundle.read_team_raw(path)
    raw.read(TEAM_FILE)
    return (raw, names), f"{TEAM_FILE} is a regular file, {AGENTS_FOLDER} a folder"


def _read_agent(folder: Path, inspection: _Inspection) -> tuple[Raw, str]:
    raw = bundle.read_raw(folder, bundle.AGENT_LIMITS)
    inspection.size = bundle.check_size(inspection.size + raw.size, inspection.path)
    return raw, f"{AGENT_FILE} is a regular file, SHA-256 {sha256(raw.read(AGENT_FILE))}"


def _team_signature(found: tuple[Raw, tuple[str, ...]], key: _Key) -> tuple[bool, str]:
    return True, bundle.check_team_signature(found[0], key.trusted)


def _agent_signature(raw: Raw, key: _Key) -> tuple[bool, str]:
    return True, bundle.check_agent_signature(raw, key.trusted)


def _shown(name: str) -> str:
    """A file's name as it is told to the inspector: as it is if it is one that an export gives, else printable and short,
    and then no longer such a name."""
    shown = printable(name)
    return shown if len(shown) <= 64 else shown[:64] + "…"


class _Inspection:
    """The inspector's process as this one holds it, and all checks so far, its own and this process's. Use as a context
    manager."""

    def __init__(self, path: Path, agents: int, checklist: Checklist | None = None):
        self.path, self.checklist = path, checklist or Checklist()
        self.isolation = Isolation()
        #: Bytes of agents' files read so far.
        self.size = 0
        self._seconds = START_CPU_S + AGENT_CPU_S * agents
        self._ended: str | None = None

    def __enter__(self) -> _Inspection:
        self._launched = launch(INSPECTOR, str(self._seconds))
        self._until = time.monotonic() + PATIENCE * self._seconds
        try:
            told = receive(self._launched.link, MAX_TEXT, self._until)
            self.isolation = msgspec.json.decode(told, type=Isolation)
        except (AgentMixerError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._end(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._launched.link.close()
        self._launched.process.kill()
        self._launched.process.wait()
        self._launched.directory.cleanup()

    def report(self) -> VerifyReport:
        """What has been checked."""
        checks = tuple(self.checklist.checks)
        return VerifyReport(bundle=str(self.path), isolation=self.isolation.level, checks=checks)

    def ask(
        self, subject: str, raw: Raw, neighbours: tuple[str, ...] = (), name: str | None = None,
        pin: signature.Pin | None = None,
    ) -> Answer | None:  # fmt: skip
        """Let the inspector judge a folder and add its checks; None if it did not answer."""
        header = Header(
            team=subject == TEAM,
            subject=subject,
            folder=printable(str(raw.folder)),
            names=tuple(map(_shown, raw.names)),
            problems={name: printable(problem) for name, problem in raw.problems.items()},
            files=tuple((name, len(data)) for name, data in raw.files.items()),
            neighbours=tuple(map(_shown, neighbours)),
            name=name,
            pin=pin,
        )
        parts = (msgspec.json.encode(header), *raw.files.values())
        if not self._ended:
            try:
                link = self._launched.link
                for part in parts:
                    send(link, part, self._until)
                answer = msgspec.json.decode(receive(link, MAX_TEXT, self._until), type=Answer)
                for check in answer.checks:
                    self.checklist.add(check.subject, check.name, check.status, check.sentence)
                return answer
            except (AgentMixerError, OSError, msgspec.MsgspecError, UnicodeError) as error:
                self._end(error)
        self.checklist.add(subject, "inspection", "failed", self._ended or "")
        return None

    def _end(self, error: Exception) -> None:
        process = self._launched.process
        process.kill()
        status = process.wait()
        why = {-24: f"it took more than {self._seconds} s of CPU"}.get(status, "") if status != -9 else ""
        if isinstance(error, socket.timeout):
            why = "it did not answer in time"
        self._ended = (
            f"the sandboxed process that decodes it ended before it answered ({why or f'{error}, status {status}'}); do not "
            "use this bundle"
        )
