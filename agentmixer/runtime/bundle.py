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
from agentmixer.contract.spec import Discrete, TaskSpec, allows
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import signature

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


def read_agent(folder: Path, trusted: Path | None = None, name: str | None = None) -> AgentFiles:
    """Read and verify one agent's folder, bytes once.

    trusted: public key that must have signed it; name: which agent it must be.
    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    if not folder.is_dir() or folder.is_symlink():
        raise AgentMixerError(
            f"{folder} is missing: no agent there; export one first: agentmixer export --per-agent onnx"
        )
    data = _read(folder / AGENT_FILE, "agent manifest")
    if trusted is not None or name is not None:
        signature.check_agent(folder, data, trusted, name)
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
    _only(folder, {AGENT_FILE, signature.AGENT_SIGNATURE_FILE, *manifest.files})
    contents = {}
    for name, digest in manifest.files.items():
        contents[name] = _read(folder / name, f"agent {manifest.agent}")
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
    for name, value in wanted.items():
        if told[name] != value:
            raise AgentMixerError(
                f"{path} contradicts itself (its {name}: {told[name]}, where its action space, mask rule and state "
                f"call for {value}); export the bundle again"
            )


def _belongs(manifest: AgentManifest, task: TaskSpec, index: int, folder: Path) -> None:
    """Team and agent tell the same story. Raises AgentMixerError naming the first thing they differ in."""
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
    if not (path / TEAM_FILE).is_file():
        raise AgentMixerError(
            f"{path} holds no bundle (no {TEAM_FILE}); export one first: agentmixer export --per-agent onnx"
        )
    data = _read(path / TEAM_FILE, "team manifest")
    if trusted is not None:
        signature.check(path, data, trusted)
    team = decode(data, TeamManifest, path / TEAM_FILE)
    if set(team.agents) != set(team.task.agents) or len(team.agents) != len(team.task.agents):
        raise AgentMixerError(f"{path / TEAM_FILE} lists other agents than its task has; export the bundle again")
    _only(path, {TEAM_FILE, signature.SIGNATURE_FILE, AGENTS_FOLDER, REPORTS_FOLDER})
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
        _belongs(files.manifest, team.task, index, path / entry.folder)
        agents[name] = files
    _only(path / AGENTS_FOLDER, set(team.task.agents))
    return Bundle(path, team, agents)


def newest(root: Path = BUNDLES) -> Path:
    """The bundle exported last under `root`. Raises AgentMixerError saying what to type when there is none."""
    found = sorted(root.glob(f"*/{TEAM_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise AgentMixerError(f"no bundle found under {root}/; export one first: agentmixer export --per-agent onnx")
    return found[-1].parent
