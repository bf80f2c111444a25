"""Whether a bundle, or one agent's folder, is what was exported and does what it did: every check by its name.

Needs what a device has. Nothing is loaded whose bytes have not passed everything before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENTS_FOLDER,
    TEAM_FILE,
    AgentManifest,
    TeamManifest,
    Tolerances,
    sha256,
)
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import bundle, golden, guard, signature
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.locality import check_locality
from agentmixer.runtime.onnx_graph import MAX_ELEMENTS, MAX_FILE, MAX_NODES, Graph, read_graph

Result = TypeVar("Result")


class Check(NamedTuple):
    """One line of the report. status: "ok", "FAILED" or "not run", because something it needs has failed."""

    subject: str
    name: str
    status: str
    detail: str


@dataclass
class Report:
    """What was checked, in order."""

    path: Path
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Every check was run and is ok."""
        return all(check.status == "ok" for check in self.checks)

    def run(
        self, subject: str, name: str, check: Callable[..., tuple[Result, str]], *needs: Any | None
    ) -> Result | None:
        """Run one check on what others have found; None, and so `not run` for those that need it, if it fails."""
        if any(need is None for need in needs):
            self.checks.append(Check(subject, name, "not run", "something it needs has failed"))
            return None
        try:
            result, detail = check(*needs)
        except (AgentMixerError, OSError) as error:
            self.checks.append(Check(subject, name, "FAILED", _line(str(error))))
            return None
        self.checks.append(Check(subject, name, "ok", _line(detail)))
        return result


def verify(path: Path, trusted: Path | None = None, name: str | None = None) -> Report:
    """Check a bundle, or one agent's folder. trusted: file of the public key that must have signed it; name: which
    agent a folder must be of.

    Raises AgentMixerError if `path` is neither; whatever is wrong with one that is, is in the report."""
    report = Report(path)
    if (path / TEAM_FILE).is_file():
        if name is not None:
            raise AgentMixerError(
                f"{path} is a whole bundle, which holds all agents; --agent is for one agent's folder"
            )
        _bundle(report, path, trusted)
    elif (path / AGENT_FILE).is_file():
        data = report.run("agent", "read", _agent_file, path)
        signed = report.run("agent", "signature", _signature, _agent_signature(name), path, data, _Given(trusted))
        _agent(report, path, "agent", data, signed, Tolerances())
    else:
        raise AgentMixerError(
            f"{path} is nothing to verify (it holds neither {TEAM_FILE} nor {AGENT_FILE}); "
            "give a bundle or one agent's folder"
        )
    return report


def _bundle(report: Report, path: Path, trusted: Path | None) -> None:
    data = report.run("team", "read", _team_file, path)
    signed = report.run("team", "signature", _signature, signature.check, path, data, _Given(trusted))
    team = report.run("team", "manifest", _team, path, data, signed)
    report.run("team", "files", _agents_only, path, team)
    if team is None:
        report.checks.append(Check("agents", "all", "not run", "something they need has failed"))
        return
    for index, name in enumerate(team.task.agents):
        folder = path / team.agents[name].folder
        found = report.run(name, "read", _agent_file, folder)
        signed = report.run(name, "signature", _signature, signature.check_agent, folder, found, _Given(trusted))
        _agent(report, folder, name, found, signed, team.tolerances, (team, index))


def _agent(
    report: Report,
    folder: Path,
    subject: str,
    data: bytes | None,
    signed: bool | None,
    tolerances: Tolerances,
    place: tuple[TeamManifest, int] | None = None,
) -> None:
    manifest = report.run(subject, "manifest", _manifest, folder, data, signed)
    if place:
        ours = report.run(subject, "team", _belongs, manifest, data, *place, folder)
        manifest = manifest if ours else None
    report.run(subject, "files", _listed_only, folder, manifest)
    files = report.run(subject, "digests", _digests, folder, manifest, data)
    graph = report.run(subject, "model", _model, files)
    contract = report.run(subject, "contract", _contract, graph, manifest)
    limits = report.run(subject, "limits", _limits, graph, files)
    local = report.run(subject, "locality", _locality, graph, manifest)
    session = report.run(subject, "session", _session, files, contract, limits, local)
    report.run(subject, "golden", _golden, files, session, tolerances)


class _Given(NamedTuple):
    """What the user may have left out, which is not the same as something that failed."""

    trusted: Path | None


def _team_file(path: Path) -> tuple[bytes, str]:
    return bundle.read_team_file(path), f"{TEAM_FILE} is a regular file, {AGENTS_FOLDER} a folder"


def _agent_file(folder: Path) -> tuple[bytes, str]:
    data = bundle.read_agent_file(folder)
    return data, f"{AGENT_FILE} is a regular file, SHA-256 {sha256(data)}"


def _signature(
    check: Callable[[Path, bytes, Path | None], str], path: Path, data: bytes, given: _Given
) -> tuple[bool, str]:
    return True, check(path, data, given.trusted)


def _agent_signature(name: str | None) -> Callable[[Path, bytes, Path | None], str]:
    return lambda folder, data, trusted: signature.check_agent(folder, data, trusted, name)


def _team(path: Path, data: bytes, _: bool) -> tuple[TeamManifest, str]:
    team = bundle.team_manifest(path, data)
    return (
        team,
        f"schema version {team.schema_version}, {team.task.name} {team.task.scenario}, {len(team.agents)} agents",
    )


def _agents_only(path: Path, team: TeamManifest) -> tuple[bool, str]:
    bundle.only_agents(path, team)
    return True, "nothing but the team's"


def _manifest(folder: Path, data: bytes, _: bool) -> tuple[AgentManifest, str]:
    manifest = bundle.agent_manifest(folder, data)
    return (
        manifest,
        f"schema version {manifest.schema_version}, agent {manifest.agent} of {manifest.task} {manifest.scenario}",
    )


def _belongs(manifest: AgentManifest, data: bytes, team: TeamManifest, index: int, folder: Path) -> tuple[bool, str]:
    bundle.belongs(manifest, sha256(data), team, index, folder)
    return True, f"is what {TEAM_FILE} lists and describes"


def _listed_only(folder: Path, manifest: AgentManifest) -> tuple[bool, str]:
    bundle.only_listed(folder, manifest)
    return True, "nothing but what the manifest lists"


def _digests(folder: Path, manifest: AgentManifest, data: bytes) -> tuple[AgentFiles, str]:
    return bundle.read_listed(folder, manifest, data), f"{' and '.join(sorted(manifest.files))} are what was exported"


def _model(files: AgentFiles) -> tuple[Graph, str]:
    graph = read_graph(files.model)
    return graph, f"{len({node.op for node in graph.nodes})} kinds of operators, all on the list; all data inside"


def _contract(graph: Graph, manifest: AgentManifest) -> tuple[bool, str]:
    guard.check_contract(graph, manifest)
    return (
        True,
        f"names, types and shapes of {len(graph.inputs)} inputs and {len(graph.outputs)} outputs are the manifest's",
    )


def _limits(graph: Graph, files: AgentFiles) -> tuple[bool, str]:
    elements = guard.count_elements(graph)
    return True, (
        f"{len(files.model):,} of {MAX_FILE:,} bytes, {len(graph.nodes):,} of {MAX_NODES:,} nodes, "
        f"{elements:,} of {MAX_ELEMENTS:,} elements, shapes fixed but for the batch"
    )


def _locality(graph: Graph, manifest: AgentManifest) -> tuple[bool, str]:
    derived = check_locality(graph, manifest)
    return True, "; ".join(f"{output} from {', '.join(inputs) or 'nothing'}" for output, inputs in derived.items())


def _session(files: AgentFiles, *_: bool) -> tuple[onnxruntime.InferenceSession, str]:
    Agent(files)
    return make_session(files.model), f"loads in onnxruntime {onnxruntime.__version__}, one CPU thread"


def _golden(files: AgentFiles, session: onnxruntime.InferenceSession, tolerances: Tolerances) -> tuple[bool, str]:
    manifest = files.manifest
    trace = golden.parse(files.golden, manifest)
    if len(trace.reset) < golden.MIN_STEPS:
        raise AgentMixerError(
            f"golden.npz holds {len(trace.reset)} steps, fewer than {golden.MIN_STEPS}; export the bundle again"
        )
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


def _line(text: str) -> str:
    """One line that a terminal shows as it is, whatever a file was named."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
