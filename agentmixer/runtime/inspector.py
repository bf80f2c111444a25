"""The process that decodes a bundle for `verify`: in the sandbox from its first byte on, told everything over its link.

Started by `runtime.launch` as `python -I inspector.py SECONDS`. Whoever asks reads bytes and decodes nothing; this process
opens no file, decodes what it is sent and answers with one line a check. What would take it over the limits of the
sandbox, memory or SECONDS of CPU, ends it alone.

A request is a header and then the files it names, an answer is an `Answer`; each is sent as its length and then its
bytes, in messages that a socket takes.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # Read when numpy and onnxruntime are imported; the sandbox wants a single thread.
    os.environ.update(OPENBLAS_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")

import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import onnxruntime

from agentmixer.contract.manifest import AGENT_FILE, TEAM_FILE, AgentManifest, TeamManifest, Tolerances, sha256
from agentmixer.contract.results import Check, Status
from agentmixer.contract.spec import Name
from agentmixer.errors import AgentMixerError, printable
from agentmixer.runtime import bundle, golden, guard, sandbox
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles, Raw
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.onnx_graph import MAX_FILE, MAX_NODES, Graph, read_graph
from agentmixer.runtime.signature import Pin, check_pin

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
    "model",
    "contract",
    "limits",
    "locality",
    "session",
    "golden",
)


class Inspector:
    """Judges a team and then its agents, or one agent's folder alone."""

    def __init__(self) -> None:
        self.team: TeamManifest | None = None

    def judge(self, header: Header, raw: Raw) -> Answer:
        """Every check of what was sent."""
        checklist = Checklist()
        if header.team:
            self._judge_team(checklist, header, raw)
            return Answer(tuple(checklist.checks), self.team.task.agents if self.team else ())
        self._judge_agent(checklist, header, raw)
        return Answer(tuple(checklist.checks))

    def _judge_team(self, checklist: Checklist, header: Header, raw: Raw) -> None:
        team = checklist.run("team", "manifest", _team, raw)
        checklist.run("team", "pin", _pin, team, raw, _Given(header.pin))
        # Where anything else lies among the agents, they are left alone: as many as lie there have time to be judged.
        self.team = team if checklist.run("team", "files", _agents_only, raw, header.neighbours, team) else None

    def _judge_agent(self, checklist: Checklist, header: Header, raw: Raw) -> None:
        def run(name: str, check: Callable[..., tuple[Result, str]], *needs: Any | None) -> Result | None:
            return checklist.run(header.subject, name, check, *needs)

        manifest = run("manifest", _manifest, raw, _Given(header.name))
        run("pin", _pin, manifest, raw, _Given(header.pin))
        tolerances = Tolerances()
        if self.team:
            if not run("team", _belongs, manifest, raw, self.team, header.subject):
                manifest = None
            tolerances = self.team.tolerances
        run("files", _listed_only, raw, manifest)
        files = run("digests", _digests, raw, manifest)
        graph = run("model", _model, files)
        contract = run("contract", _contract, graph, manifest)
        cost = run("limits", _limits, graph, files)
        local = run("locality", _locality, graph, manifest)
        session = run("session", _session, files, contract, cost, local)
        run("golden", _golden, files, session, cost, tolerances)


class _Given(NamedTuple):
    """What may have been left out, which is not the same as something that failed."""

    value: Any


def _team(raw: Raw) -> tuple[TeamManifest, str]:
    team = bundle.team_manifest(raw.folder, raw.read(TEAM_FILE))
    return (
        team,
        f"schema version {team.schema_version}, {team.task.name} {team.task.scenario}, {len(team.agents)} agents",
    )


def _pin(manifest: AgentManifest | TeamManifest, raw: Raw, given: _Given) -> tuple[bool, str]:
    return True, check_pin(manifest, raw.folder, given.value)


def _agents_only(raw: Raw, neighbours: tuple[str, ...], team: TeamManifest) -> tuple[bool, str]:
    bundle.only_agents(raw, neighbours, team)
    return True, "nothing but the team's"


def _manifest(raw: Raw, given: _Given) -> tuple[AgentManifest, str]:
    manifest = bundle.named_manifest(raw, given.value)
    return (
        manifest,
        f"schema version {manifest.schema_version}, agent {manifest.agent} of {manifest.task} {manifest.scenario}",
    )


def _belongs(manifest: AgentManifest, raw: Raw, team: TeamManifest, name: str) -> tuple[bool, str]:
    index = team.task.agents.index(name)
    bundle.belongs(manifest, sha256(raw.read(AGENT_FILE)), team, index, raw.folder)
    return True, f"is what {TEAM_FILE} lists and describes"


def _listed_only(raw: Raw, manifest: AgentManifest) -> tuple[bool, str]:
    raw.only(bundle.AGENT_LIMITS)
    return True, "nothing but what the manifest lists"


def _digests(raw: Raw, manifest: AgentManifest) -> tuple[AgentFiles, str]:
    return bundle.open_listed(raw, manifest), f"{' and '.join(sorted(manifest.files))} are what was exported"


def _model(files: AgentFiles) -> tuple[Graph, str]:
    graph = read_graph(files.model)
    return graph, f"{len({node.op for node in graph.nodes})} kinds of operators, all on the list; all data inside"


def _contract(graph: Graph, manifest: AgentManifest) -> tuple[bool, str]:
    guard.check_contract(graph, manifest)
    return (
        True,
        f"names, types and shapes of {len(graph.inputs)} inputs and {len(graph.outputs)} outputs are the manifest's",
    )


def _limits(graph: Graph, files: AgentFiles) -> tuple[guard.Cost, str]:
    cost = guard.check_cost(graph, files.manifest)
    return cost, (
        f"{len(files.model):,} of {MAX_FILE:,} bytes, {cost.nodes:,} of {MAX_NODES:,} operators, a decision takes "
        f"{cost.multiply_adds:,} of {guard.MAX_MULTIPLY_ADDS:,} multiply-adds and computes {cost.elements:,} of "
        f"{guard.MAX_ELEMENTS:,} elements, shapes fixed but for the batch"
    )


def _locality(graph: Graph, manifest: AgentManifest) -> tuple[bool, str]:
    derived = check_locality(graph, manifest)
    return True, "; ".join(f"{output} from {', '.join(inputs) or 'nothing'}" for output, inputs in derived.items())


def _session(files: AgentFiles, *_: Any) -> tuple[onnxruntime.InferenceSession, str]:
    return Agent(files).session, f"loads in onnxruntime {onnxruntime.__version__}, one CPU thread"


def _golden(
    files: AgentFiles, session: onnxruntime.InferenceSession, cost: guard.Cost, tolerances: Tolerances
) -> tuple[bool, str]:
    manifest = files.manifest
    trace = golden.parse(files.golden, manifest)
    golden.check_length(trace, cost.work)
    names = [spec.name for spec in manifest.inputs]

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        out = session.run(None, dict(zip(names, _arguments(manifest, obs, mask, state), strict=True)))
        return list(out) if manifest.state else [*out, state]

    parity = golden.replay(trace, step, tolerances)
    if not parity.passed:
        raise AgentMixerError(
            f"the replay departs from the trace at step {parity.first_failure} of {parity.steps} (largest error "
            f"{max(parity.policy_error, parity.state_error):.1e}, {parity.different_actions} different actions); "
            "export the bundle again"
        )
    return True, (
        f"{parity.steps} steps repeated, largest error {max(parity.policy_error, parity.state_error):.1e}, "
        f"{parity.near_ties} near ties"
    )


def _arguments(manifest: AgentManifest, obs: np.ndarray, mask: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
    """In the order that `bundle.agent_manifest` has made sure of."""
    return [obs] + [mask] * (manifest.mask_rule == "forbid") + [state] * (manifest.state is not None)


def main(link: socket.socket, seconds: int) -> None:
    """Enter the sandbox, say what that came to, and answer until the other end hangs up."""
    send(link, msgspec.json.encode(sandbox.enter(link.fileno(), seconds)))
    inspector = Inspector()
    while True:
        try:
            header = msgspec.json.decode(receive(link, MAX_TEXT), type=Header)
            files = {name: receive(link, size) for name, size in header.files}
        except AgentMixerError:
            return
        answer = inspector.judge(header, Raw(Path(header.folder), header.names, files, header.problems))
        send(link, msgspec.json.encode(answer))


if __name__ == "__main__":
    main(socket.socket(fileno=sys.stdin.fileno()), int(sys.argv[1]))
