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
from agentmixer.contract.spec import Discrete, allows
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import signature
from agentmixer.runtime.guard import read_regular
from agentmixer.runtime.onnx_graph import MAX_FILE

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
    """A verified bundle: every file is what was exported. The models are checked when they are loaded.

    `agents` follows the order of `team.task.agents`."""

    path: Path
    team: TeamManifest
    agents: dict[str, AgentFiles]

    def folder(self, agent: str) -> Path:
        """The agent's own folder: all that its device gets."""
        return self.path / self.team.agents[agent].folder


def _only(folder: Path, allowed: set[str]) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.name not in allowed:
            raise AgentMixerError(f"{entry} is not listed in the manifest; remove it, or export the bundle again")


def read_agent(folder: Path, trusted: Path | None = None, name: str | None = None) -> AgentFiles:
    """Read and verify one agent's folder, bytes once.

    trusted: public key that must have signed it; name: which agent it must be.
    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    data = read_agent_file(folder)
    if trusted is not None or name is not None:
        signature.check_agent(folder, data, trusted, name)
    manifest = agent_manifest(folder, data)
    only_listed(folder, manifest)
    return read_listed(folder, manifest, data)


def read_agent_file(folder: Path) -> bytes:
    """The bytes of agent.json in an agent's folder. Raises AgentMixerError if there is no such folder or file."""
    if not folder.is_dir() or folder.is_symlink():
        raise AgentMixerError(
            f"{folder} is missing: no agent there; export one first: agentmixer export --per-agent onnx"
        )
    return read_regular(folder / AGENT_FILE, MAX_FILE)


def agent_manifest(folder: Path, data: bytes) -> AgentManifest:
    """The manifest in `data`, the bytes of agent.json. Raises AgentMixerError if it is none or contradicts itself."""
    manifest = decode(data, AgentManifest, folder / AGENT_FILE)
    if set(manifest.files) != {MODEL_FILE, GOLDEN_FILE}:
        raise AgentMixerError(
            f"{folder / AGENT_FILE} must list {MODEL_FILE} and {GOLDEN_FILE}; export the bundle again"
        )
    if not allows(manifest.action_space, manifest.fallback_action):
        raise AgentMixerError(
            f"{folder / AGENT_FILE} has a fallback action that does not exist; export the bundle again"
        )
    _consistent(manifest, folder / AGENT_FILE)
    if manifest.tensor("obs").shape != (len(manifest.tensor("obs").elements),):
        raise AgentMixerError(f"{folder / AGENT_FILE} does not name every element of obs; export the bundle again")
    return manifest


def only_listed(folder: Path, manifest: AgentManifest) -> None:
    """Raises AgentMixerError naming a file in the agent's folder that its manifest does not list."""
    _only(folder, {AGENT_FILE, signature.AGENT_SIGNATURE_FILE, *manifest.files})


def read_listed(folder: Path, manifest: AgentManifest, data: bytes) -> AgentFiles:
    """The files that the manifest lists. Raises AgentMixerError naming one that is missing or changed.

    data: the bytes of agent.json."""
    contents = {}
    for name, digest in manifest.files.items():
        contents[name] = read_regular(folder / name, MAX_FILE)
        if sha256(contents[name]) != digest:
            raise AgentMixerError(
                f"{folder / name} is not what was exported (its SHA-256 differs); copy or export the bundle again"
            )
    return AgentFiles(manifest, contents[MODEL_FILE], contents[GOLDEN_FILE], sha256(data))


def _consistent(manifest: AgentManifest, path: Path) -> None:
    """The tensors are those that the action space, the mask rule and the memory call for.

    Raises AgentMixerError naming the first thing that is not."""
    space, state = manifest.action_space, manifest.state
    discrete = isinstance(space, Discrete)
    inputs = ["obs"] + ["action_mask"] * (manifest.mask_rule == "forbid") + ([state.input] if state else [])
    outputs = ["action", manifest.policy] + ([state.output] if state else [])
    told: dict[str, object] = {
        "inputs": [tensor.name for tensor in manifest.inputs],
        "outputs": [tensor.name for tensor in manifest.outputs],
        "action scaling": manifest.action_scaling,
    }
    wanted: dict[str, object] = {
        "inputs": inputs,
        "outputs": outputs,
        "action scaling": "none" if discrete else "graph",
    }
    if told == wanted:
        action = manifest.tensor("action")
        told = {"action": (action.dtype, action.shape), "policy": manifest.tensor(manifest.policy).shape}
        wanted = {"action": ("int64", ()) if discrete else ("float32", (space.n,)), "policy": (space.n,)}
        if state:
            told["state"] = [manifest.tensor(name).shape for name in (state.input, state.output)]
            wanted["state"] = [(state.size,)] * 2
    for name, value in wanted.items():
        if told[name] != value:
            raise AgentMixerError(
                f"{path} contradicts itself (its {name}: {told[name]}, where its action space, mask rule and state "
                f"call for {value}); export the bundle again"
            )


def belongs(manifest: AgentManifest, digest: str, team: TeamManifest, index: int, folder: Path) -> None:
    """Team and agent tell the same story. digest: SHA-256 of agent.json.

    Raises AgentMixerError naming the first thing they differ in."""
    task = team.task
    if digest != team.agents[task.agents[index]].sha256:
        raise AgentMixerError(
            f"{folder / AGENT_FILE} is not what was exported (its SHA-256 differs); copy or export the bundle again"
        )
    told_and_wanted: dict[str, tuple[object, object]] = {
        "agent": (manifest.agent, task.agents[index]),
        "index": (manifest.index, index),
        "task": ((manifest.task, manifest.scenario), (task.name, task.scenario)),
        "action space": (manifest.action_space, task.action_spaces[index]),
        "control period": (manifest.control_period_s, task.control_period_s),
        "fallback action": (manifest.fallback_action, task.fallback_actions[index]),
        "observation": (manifest.tensor("obs").elements, task.obs_names[index]),
    }
    for name, (told, wanted) in told_and_wanted.items():
        if told != wanted:
            raise AgentMixerError(
                f"{folder} is not what {TEAM_FILE} describes (its {name} differs); export the bundle again"
            )


def read_bundle(path: Path, trusted: Path | None = None) -> Bundle:
    """Read and verify a whole bundle. trusted: public key that must have signed it.

    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    data = read_team_file(path)
    if trusted is not None:
        signature.check(path, data, trusted)
    team = team_manifest(path, data)
    only_agents(path, team)
    agents = {}
    for index, name in enumerate(team.task.agents):
        folder = path / team.agents[name].folder
        agents[name] = read_agent(folder)
        belongs(agents[name].manifest, agents[name].digest, team, index, folder)
    return Bundle(path, team, agents)


def read_team_file(path: Path) -> bytes:
    """The bytes of a bundle's team.json. Raises AgentMixerError if there is none, or no real folder of agents."""
    if not (path / TEAM_FILE).is_file():
        raise AgentMixerError(
            f"{path} holds no bundle (no {TEAM_FILE}); export one first: agentmixer export --per-agent onnx"
        )
    folder = path / AGENTS_FOLDER
    if not folder.is_dir() or folder.is_symlink():
        raise AgentMixerError(f"{folder} is missing or not a folder; copy or export the bundle again")
    return read_regular(path / TEAM_FILE, MAX_FILE)


def team_manifest(path: Path, data: bytes) -> TeamManifest:
    """The manifest in `data`, the bytes of team.json. Raises AgentMixerError if it is none or contradicts itself."""
    team = decode(data, TeamManifest, path / TEAM_FILE)
    if set(team.agents) != set(team.task.agents) or len(team.agents) != len(team.task.agents):
        raise AgentMixerError(f"{path / TEAM_FILE} lists other agents than its task has; export the bundle again")
    task = team.task
    if {len(task.obs_names), len(task.action_spaces), len(task.fallback_actions)} != {
        len(task.agents)
    } or not task.agents:
        raise AgentMixerError(
            f"{path / TEAM_FILE} does not say of every agent what it sees and does; export the bundle again"
        )
    for name, entry in team.agents.items():
        if entry.folder != f"{AGENTS_FOLDER}/{name}":
            raise AgentMixerError(
                f"{path / TEAM_FILE} places agent {name} outside {AGENTS_FOLDER}/; export the bundle again"
            )
    return team


def only_agents(path: Path, team: TeamManifest) -> None:
    """Raises AgentMixerError naming what lies in the bundle, or among its agents, and is not the team's."""
    _only(path, {TEAM_FILE, signature.SIGNATURE_FILE, AGENTS_FOLDER, REPORTS_FOLDER})
    _only(path / AGENTS_FOLDER, set(team.task.agents))


def newest(root: Path = BUNDLES) -> Path:
    """The bundle exported last under `root`. Raises AgentMixerError saying what to type when there is none."""
    found = sorted(root.glob(f"*/{TEAM_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise AgentMixerError(f"no bundle found under {root}/; export one first: agentmixer export --per-agent onnx")
    return found[-1].parent
