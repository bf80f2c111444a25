"""The process that decodes a bundle for `verify`: in the sandbox from its first byte on, told everything over its link.

Started by `runtime.launch` much as `python -I inspector.py SECONDS`. Whoever asks reads bytes and decodes nothing; this process
opens no file, decodes what it is sent and answers with one line a check. What would take it over the limits of the
sandbox, memory or SECONDS of CPU, ends it alone. `runtime.inspection` has what both say.
"""

from __future__ import annotations

import os

if __name__ == "__main__":
    # Read when numpy and onnxruntime are imported; the sandbox wants a single thread.
    os.environ.update(OPENBLAS_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime

from agentmixer.contract.manifest import AGENT_FILE, TEAM_FILE, AgentManifest, TeamManifest, Tolerances, sha256
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import bundle, golden, guard, profile, sandbox
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles, Raw
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.inspection import MAX_TEXT, Answer, Checklist, Header, Result, receive, send
from agentmixer.runtime.onnx_graph import MAX_FILE, MAX_NODES, Graph, read_graph
from agentmixer.runtime.signature import check_pin


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
        known = run("profile", _profile, files)
        graph = run("model", _model, files)
        contract = run("contract", _contract, graph, manifest)
        cost = run("limits", _limits, graph, files)
        local = run("locality", _locality, graph, manifest)
        session = run("session", _session, files, contract, cost, local, known)
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
    bundle.only_listed(raw, manifest)
    return True, "nothing but what the manifest lists"


def _digests(raw: Raw, manifest: AgentManifest) -> tuple[AgentFiles, str]:
    return bundle.open_listed(raw, manifest), f"{', '.join(sorted(manifest.files))} are what was exported"


def _profile(files: AgentFiles) -> tuple[bool, str]:
    steps, episodes, starts = profile.parse(files.profile, files.manifest).counts.tolist()
    return True, f"of {steps:,} decisions in {episodes:,} episodes, {starts:,} first observations"


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
    return Agent(files, seed=0).session, f"loads in onnxruntime {onnxruntime.__version__}, one CPU thread"


def _golden(
    files: AgentFiles, session: onnxruntime.InferenceSession, cost: guard.Cost, tolerances: Tolerances
) -> tuple[bool, str]:
    manifest = files.manifest
    trace = golden.parse(files.golden, manifest)
    golden.check_length(trace, cost.work)
    names = [spec.name for spec in manifest.inputs]

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        out = session.run(None, dict(zip(names, _arguments(manifest, obs, mask, state, noise), strict=True)))
        return list(out) if manifest.state else [*out, state]

    parity = golden.replay(trace, step, manifest.action_space, tolerances)
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


def _arguments(
    manifest: AgentManifest, obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray
) -> list[np.ndarray]:
    """In the order that `bundle.agent_manifest` has made sure of."""
    given = [obs] + [mask] * (manifest.mask_rule == "forbid") + [noise] * (manifest.noise > 0)
    return given + [state] * (manifest.state is not None)


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
