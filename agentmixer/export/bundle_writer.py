"""Writing a bundle: one folder an agent, and the digests that tie them together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from msgspec.structs import replace

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENTS_FOLDER,
    GOLDEN_FILE,
    MODEL_FILE,
    PROFILE_FILE,
    TEAM_FILE,
    AgentManifest,
    TeamAgent,
    TeamManifest,
    encode,
    sha256,
)
from agentmixer.runtime.certificate import certificate
from agentmixer.runtime.guard import cost
from agentmixer.runtime.onnx_graph import read_graph


class AgentParts(NamedTuple):
    """What an agent's folder is written from. The manifest's `files` are filled in when it is written."""

    manifest: AgentManifest
    model: bytes
    golden: bytes
    profile: bytes
    #: Files by name that were asked for beside these: `OPTIONAL_FILES`.
    optional: Mapping[str, bytes] = MappingProxyType({})

    @property
    def size(self) -> int:
        """Bytes of these files."""
        return sum(map(len, (self.model, self.golden, self.profile, *self.optional.values())))


def certified(manifest: AgentManifest, model: bytes) -> AgentManifest:
    """The manifest with the locality certificate and the cost of this model.

    Raises GraphRefused if the model is not such as export writes."""
    graph = read_graph(model)
    return replace(manifest, depends_on=certificate(graph), multiply_adds=cost(graph).multiply_adds)


def write_bundle(path: Path, team: TeamManifest, agents: Mapping[str, AgentParts]) -> str:
    """Write every agent's folder and team.json under `path`; all digests are made here. Returns team.json's SHA-256.

    team: its `agents` are replaced by those given. Raises AgentMixerError as `encode` does."""
    entries = {}
    for name, parts in agents.items():
        contents = {MODEL_FILE: parts.model, GOLDEN_FILE: parts.golden, PROFILE_FILE: parts.profile, **parts.optional}
        digests = {file: sha256(data) for file, data in contents.items()}
        manifest = encode(replace(parts.manifest, files=digests))
        folder = path / AGENTS_FOLDER / name
        folder.mkdir(parents=True)
        for file, data in {**contents, AGENT_FILE: manifest}.items():
            (folder / file).write_bytes(data)
        entries[name] = TeamAgent(f"{AGENTS_FOLDER}/{name}", sha256(manifest))
    written = encode(replace(team, agents=entries))
    (path / TEAM_FILE).write_bytes(written)
    return sha256(written)
