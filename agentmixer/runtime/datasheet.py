"""The data sheet of a bundle, or of one agent's folder: what a device must provide to run it.

Reads files, manifests and graphs with the guards of `runtime.bundle` and `runtime.guard`, and makes no session.
"""

from __future__ import annotations

import os
from collections import Counter
from math import prod
from pathlib import Path

import msgspec

from agentmixer.contract.manifest import AGENT_FILE, TEAM_FILE, AgentManifest, Source, TeamManifest, TensorSpec
from agentmixer.contract.spec import Action, ActionSpace, Element
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import signature
from agentmixer.runtime.bundle import AgentFiles, read_agent, read_bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.guard import check_model, cost


class AgentSheet(msgspec.Struct, frozen=True):
    """One agent. inputs, outputs: as in agent.json, shapes without the batch; memory: length of the recurrent state in
    float32, 0 without one; operators: how often the graph has each; parameters: float32 numbers that policy.onnx holds;
    multiply_adds, elements: what one decision takes (`guard.Cost`); model_bytes: size of policy.onnx; signed: whether
    agent.sig lies in the agent's folder; obs_elements, action_names, when_unusual: as in agent.json."""

    agent: str
    index: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory: int
    mask_rule: str
    action_space: ActionSpace
    fallback_action: Action
    operators: dict[str, int]
    parameters: int
    multiply_adds: int
    elements: int
    model_bytes: int
    signed: bool
    obs_elements: tuple[Element, ...]
    action_names: tuple[str, ...]
    when_unusual: str


class DataSheet(msgspec.Struct, frozen=True):
    """A bundle, or one agent's folder. path: as given; digest: SHA-256 of team.json (of agent.json for a folder);
    signature: what is known of the signature over that file; rate_hz: decisions a second, 1 / control_period_s."""

    path: str
    team_id: str
    release: int
    task: str
    scenario: str
    control_period_s: float
    rate_hz: float
    source: Source
    digest: str
    signature: str
    agents: tuple[AgentSheet, ...]


def data_sheet(path: Path, trusted: Path | None = None) -> DataSheet:
    """The data sheet of a bundle, or of one agent's folder. trusted: file of the public key that must have signed it, and
    whose pin holds.

    Raises AgentMixerError if `path` is neither, or naming the first thing that makes it unfit to be loaded. The golden
    trace is not replayed: that is `runtime.verify`."""
    if os.path.lexists(path / TEAM_FILE):
        found = read_bundle(path, trusted)
        agents = tuple(_agent(files, found.folder(name)) for name, files in found.agents.items())
        task = found.team.task
        signed = _signature(path / signature.SIGNATURE_FILE, trusted)
        return _sheet(path, found.team, task.name, task.scenario, task.control_period_s, found.digest, signed, agents)
    if os.path.lexists(path / AGENT_FILE):
        files = read_agent(path, trusted)
        own = files.manifest
        signed = _signature(path / signature.AGENT_SIGNATURE_FILE, trusted)
        agents = (_agent(files, path),)
        return _sheet(path, own, own.task, own.scenario, own.control_period_s, files.digest, signed, agents)
    raise AgentMixerError(
        f"{path} is nothing to show (it holds neither {TEAM_FILE} nor {AGENT_FILE}); give a bundle or one agent's folder"
    )


def _sheet(
    path: Path, manifest: TeamManifest | AgentManifest, task: str, scenario: str, period_s: float, digest: str,
    signed: str, agents: tuple[AgentSheet, ...],
) -> DataSheet:  # fmt: skip
    return DataSheet(
        path=str(path),
        team_id=manifest.team_id,
        release=manifest.release,
        task=task,
        scenario=scenario,
        control_period_s=period_s,
        rate_hz=1 / period_s,
        source=manifest.source,
        digest=digest,
        signature=signed,
        agents=agents,
    )


def _agent(files: AgentFiles, folder: Path) -> AgentSheet:
    """files: verified. Raises AgentMixerError if the model is not such as export writes."""
    manifest = files.manifest
    graph = check_model(files.model, manifest)
    check_locality(graph, manifest)
    found = cost(graph)
    return AgentSheet(
        agent=manifest.agent,
        index=manifest.index,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        memory=manifest.memory,
        mask_rule=manifest.mask_rule,
        action_space=manifest.action_space,
        fallback_action=manifest.fallback_action,
        operators=dict(Counter(node.op for node in graph.nodes).most_common()),
        parameters=sum(prod(constant.shape) for constant in graph.constants.values()),
        multiply_adds=found.multiply_adds,
        elements=found.elements,
        model_bytes=len(files.model),
        signed=os.path.lexists(folder / signature.AGENT_SIGNATURE_FILE),
        obs_elements=manifest.obs_elements,
        action_names=manifest.action_names,
        when_unusual=manifest.when_unusual,
    )


def _signature(file: Path, trusted: Path | None) -> str:
    """What is known of a signature in a folder that has been read with `trusted`, which refuses a wrong signature."""
    if not os.path.lexists(file):
        return "unsigned"
    if trusted is None:
        return "signed, not checked: no --trusted key given"
    return f"signed by {signature.fingerprint(signature.public_key(trusted))}"
