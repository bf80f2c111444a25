"""Reading a bundle and refusing what is not exactly what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENTS_FOLDER,
    GOLDEN_FILE,
    MODEL_FILE,
    REPORTS_FOLDER,
    TEAM_FILE,
    AgentManifest,
    TeamManifest,
    decode,
    sha256,
)
from agentmixer.errors import AgentMixerError

#: Where bundles go and are looked for unless told otherwise.
BUNDLES = Path("bundles")


class AgentFiles(NamedTuple):
    """One agent's folder, verified: the bytes here are the bytes whose digests were checked."""

    manifest: AgentManifest
    model: bytes
    golden: bytes
    #: SHA-256 of agent.json, which covers everything else.
    digest: str


class Bundle(NamedTuple):
    """A verified bundle. `agents` follows the order of `team.task.agents`."""

    path: Path
    team: TeamManifest
    agents: dict[str, AgentFiles]

    def folder(self, agent: str) -> Path:
        """The agent's own folder: all that its device gets."""
        return self.path / self.team.agents[agent].folder


def _read(path: Path, whose: str) -> bytes:
    if not path.is_file() or path.is_symlink():
        raise AgentMixerError(f"{whose}: {path} is missing or not a regular file; copy or export the bundle again")
    return path.read_bytes()


def _only(folder: Path, allowed: set[str]) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.name not in allowed:
            raise AgentMixerError(f"{entry} is not listed in the manifest; remove it, or export the bundle again")


def read_agent(folder: Path) -> AgentFiles:
    """Read and verify one agent's folder, bytes once.

    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    if not folder.is_dir():
        raise AgentMixerError(
            f"{folder} is missing: no agent there; export one first: agentmixer export --per-agent onnx"
        )
    data = _read(folder / AGENT_FILE, "agent manifest")
    manifest = decode(data, AgentManifest, folder / AGENT_FILE)
    if set(manifest.files) != {MODEL_FILE, GOLDEN_FILE}:
        raise AgentMixerError(
            f"{folder / AGENT_FILE} must list {MODEL_FILE} and {GOLDEN_FILE}; export the bundle again"
        )
    _only(folder, {AGENT_FILE, *manifest.files})
    contents = {}
    for name, digest in manifest.files.items():
        contents[name] = _read(folder / name, f"agent {manifest.agent}")
        if sha256(contents[name]) != digest:
            raise AgentMixerError(
                f"{folder / name} is not what was exported (its SHA-256 differs); copy or export the bundle again"
            )
    return AgentFiles(manifest, contents[MODEL_FILE], contents[GOLDEN_FILE], sha256(data))


def read_bundle(path: Path) -> Bundle:
    """Read and verify a whole bundle.

    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    if not (path / TEAM_FILE).is_file():
        raise AgentMixerError(
            f"{path} holds no bundle (no {TEAM_FILE}); export one first: agentmixer export --per-agent onnx"
        )
    team = decode(_read(path / TEAM_FILE, "team manifest"), TeamManifest, path / TEAM_FILE)
    if tuple(team.agents) != tuple(sorted(team.task.agents)):
        raise AgentMixerError(f"{path / TEAM_FILE} lists other agents than its task has; export the bundle again")
    _only(path, {TEAM_FILE, AGENTS_FOLDER, REPORTS_FOLDER})
    agents = {}
    for index, name in enumerate(team.task.agents):
        entry = team.agents[name]
        if entry.folder != f"{AGENTS_FOLDER}/{name}":
            raise AgentMixerError(
                f"{path / TEAM_FILE} places agent {name} outside {AGENTS_FOLDER}/; export the bundle again"
            )
        files = read_agent(path / entry.folder)
        if files.digest != entry.sha256:
            raise AgentMixerError(
                f"{path / entry.folder / AGENT_FILE} is not what was exported (its SHA-256 differs); copy or export the bundle again"
            )
        if (files.manifest.agent, files.manifest.index) != (name, index):
            raise AgentMixerError(
                f"{path / entry.folder} holds agent {files.manifest.agent}, not {name}; export the bundle again"
            )
        agents[name] = files
    _only(path / AGENTS_FOLDER, set(team.task.agents))
    return Bundle(path, team, agents)


def newest(root: Path = BUNDLES) -> Path:
    """The bundle exported last under `root`. Raises AgentMixerError saying what to type when there is none."""
    found = sorted(root.glob(f"*/{TEAM_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise AgentMixerError(f"no bundle found under {root}/; export one first: agentmixer export --per-agent onnx")
    return found[-1].parent
