"""Reading a bundle and refusing what is not exactly what was exported."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENT_FILES,
    AGENTS_FOLDER,
    C_FILES,
    GOLDEN_FILE,
    LEAPP_FILE,
    MAX_AGENT_FILE,
    MAX_TEAM_FILE,
    MODEL_FILE,
    NOISE,
    OPTIONAL_FILES,
    PROFILE_FILE,
    REPORTS_FOLDER,
    TEAM_FILE,
    AgentManifest,
    TeamManifest,
    decode,
    sha256,
)
from agentmixer.contract.spec import Box, Discrete, allows
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.runtime import golden, leapp, profile, signature
from agentmixer.runtime.actions import array_type
from agentmixer.runtime.onnx_graph import MAX_FILE

#: Where bundles go and are looked for unless told otherwise.
BUNDLES = Path("bundles")


#: Most entries that a folder of agents may have, and any other folder of a bundle.
MAX_AGENTS, MOST_FILES = 1024, 64
#: Most bytes of a file of C, and of leapp.yaml.
MAX_C_FILE, MAX_LEAPP_FILE = 1 << 24, 1 << 24
#: Most bytes of all agents' files together.
MAX_BYTES = 128 << 20


class AgentFiles(NamedTuple):
    """One agent's folder, verified: the bytes here are the bytes whose digests were checked."""

    manifest: AgentManifest
    model: bytes
    golden: bytes
    profile: bytes
    #: SHA-256 of agent.json, which covers everything else.
    digest: str


class Bundle(NamedTuple):
    """A verified bundle: every file is what was exported. The models are checked when they are loaded.

    `agents` follows the order of `team.task.agents`; `digest` is the SHA-256 of team.json, which covers everything else."""

    path: Path
    team: TeamManifest
    agents: dict[str, AgentFiles]
    digest: str

    def folder(self, agent: str) -> Path:
        """The agent's own folder: all that its device gets."""
        return self.path / self.team.agents[agent].folder

    @property
    def sampled(self) -> bool:
        """Whether its agents draw their whole numbers (`export --sampled`)."""
        return any(files.manifest.noise for files in self.agents.values())


class Raw(NamedTuple):
    """A folder's files as they lie there: bytes, and nothing of them decoded yet.

    names: all that is in the folder; files: contents by name; problems: why a file could not be read."""

    folder: Path
    names: tuple[str, ...]
    files: dict[str, bytes]
    problems: dict[str, str]

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises AgentMixerError if it could not be read."""
        if name not in self.files:
            problem = self.problems.get(name) or f"{self.folder / name} is missing; copy or export the bundle again"
            raise AgentMixerError(problem)
        return self.files[name]

    @property
    def size(self) -> int:
        """Bytes of the files that were read."""
        return sum(map(len, self.files.values()))

    def only(self, allowed: Iterable[str]) -> None:
        """Raises AgentMixerError naming a file that lies in the folder and should not."""
        for name in self.names:
            if name not in allowed:
                raise AgentMixerError(
                    f"{self.folder / name} is not listed in the manifest; remove it, or export the bundle again"
                )


#: Files of an agent's folder and of a bundle, each with its most bytes.
AGENT_LIMITS = {
    AGENT_FILE: MAX_AGENT_FILE,
    signature.AGENT_SIGNATURE_FILE: signature.LENGTH,
    MODEL_FILE: MAX_FILE,
    GOLDEN_FILE: golden.MAX_FILE,
    PROFILE_FILE: profile.MAX_FILE,
    **dict.fromkeys(C_FILES, MAX_C_FILE),
    LEAPP_FILE: MAX_LEAPP_FILE,
}
TEAM_LIMITS = {TEAM_FILE: MAX_TEAM_FILE, signature.SIGNATURE_FILE: signature.LENGTH}


def read_raw(folder: Path, limits: dict[str, int]) -> Raw:
    """Read a folder's known files, bytes once, and list the others. limits: the most bytes of each.

    Raises AgentMixerError if there is no such folder, or far more in it than should be."""
    names = listed(folder, MOST_FILES)
    files, problems = {}, {}
    for name in limits.keys() & set(names):
        try:
            files[name] = read_regular(folder / name, limits[name])
        except AgentMixerError as error:
            problems[name] = str(error)
    return Raw(folder, names, files, problems)


def listed(folder: Path, most: int) -> tuple[str, ...]:
    """Names of all that is in a folder, which no link leads to, sorted.

    Raises AgentMixerError if there is no such folder, or more in it than `most`."""
    if folder.is_symlink():
        raise AgentMixerError(f"{folder} is a link, so that it is not a folder of its own; give the folder it leads to")
    if not folder.is_dir():
        raise AgentMixerError(
            f"{folder} is missing or not a folder; copy the bundle again or export one: agentmixer export --per-agent onnx"
        )
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in itertools.islice(entries, most + 1))
    if len(names) > most:
        raise AgentMixerError(f"{folder} holds more than {most} files; copy or export the bundle again")
    return tuple(names)


def read_agent(folder: Path, trusted: Path | None = None, name: str | None = None) -> AgentFiles:
    """Read and verify one agent's folder, bytes once.

    trusted: public key that must have signed it (and see `signature.Pin`); name: which agent it must be.
    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    return open_agent(read_raw(folder, AGENT_LIMITS), trusted, name)


def open_agent(raw: Raw, trusted: Path | None = None, name: str | None = None) -> AgentFiles:
    """`read_agent` of a folder whose bytes have been read."""
    check_agent_signature(raw, trusted)
    manifest = named_manifest(raw, name)
    signature.check_pin(manifest, raw.folder, signature.pinned_for(trusted))
    only_listed(raw, manifest)
    return open_listed(raw, manifest)


def only_listed(raw: Raw, manifest: AgentManifest) -> None:
    """Raises AgentMixerError naming a file of an agent's folder that its manifest does not list."""
    raw.only((AGENT_FILE, signature.AGENT_SIGNATURE_FILE, *manifest.files))


def named_manifest(raw: Raw, name: str | None) -> AgentManifest:
    """An agent's manifest. Raises AgentMixerError if it is none, contradicts itself or is another agent's than `name`'s."""
    manifest = agent_manifest(raw.folder, raw.read(AGENT_FILE))
    if name is not None and manifest.agent != name:
        raise AgentMixerError(f"{raw.folder} holds agent {manifest.agent}, not {name}; copy the folder of {name} here")
    return manifest


def check_agent_signature(raw: Raw, trusted: Path | None) -> str:
    """See `signature.check`."""
    file = signature.AGENT_SIGNATURE_FILE
    given = raw.read(file) if file in raw.names else None
    return signature.check(raw.folder / AGENT_FILE, raw.read(AGENT_FILE), raw.folder / file, given, trusted)


def agent_manifest(folder: Path, data: bytes) -> AgentManifest:
    """The manifest in `data`, the bytes of agent.json. Raises AgentMixerError if it is none or contradicts itself."""
    manifest = decode(data, AgentManifest, folder / AGENT_FILE)
    groups = [AGENT_FILES, *(group for group in OPTIONAL_FILES if not manifest.files.keys().isdisjoint(group))]
    if manifest.files.keys() != {*itertools.chain(*groups)}:
        raise AgentMixerError(
            f"{folder / AGENT_FILE} must list {', '.join(AGENT_FILES)}, may list {LEAPP_FILE}, and of {', '.join(C_FILES)} "
            "all or none; export the bundle again"
        )
    if not allows(manifest.action_space, manifest.fallback_action):
        raise AgentMixerError(
            f"{folder / AGENT_FILE} has a fallback action that does not exist; export the bundle again"
        )
    _consistent(manifest, folder / AGENT_FILE)
    if manifest.tensor("obs").shape != (len(manifest.tensor("obs").elements),):
        raise AgentMixerError(f"{folder / AGENT_FILE} does not name every element of obs; export the bundle again")
    _named(manifest, folder / AGENT_FILE)
    return manifest


def _named(manifest: AgentManifest, path: Path) -> None:
    """Names of elements and actions are as many as there should be, and differ. Raises AgentMixerError if not."""
    space, names = manifest.action_space, manifest.tensor("obs").elements
    actions = space.n if isinstance(space, Discrete) else space.size
    sized = len(manifest.obs_elements) in (0, len(names)) and len(manifest.action_names) in (0, actions)
    if not sized or any(len(set(some)) < len(some) for some in (names, manifest.action_names)):
        raise AgentMixerError(
            f"{path} must describe each element of obs and name each action, with names that differ, or none; export the "
            "bundle again"
        )


def open_listed(raw: Raw, manifest: AgentManifest) -> AgentFiles:
    """The files that the manifest lists. Raises AgentMixerError naming one that is missing or changed."""
    for name, digest in manifest.files.items():
        if sha256(raw.read(name)) != digest:
            raise AgentMixerError(
                f"{raw.folder / name} is not what was exported (its SHA-256 differs); copy or export the bundle again"
            )
    model, trace, figures = (raw.files[name] for name in AGENT_FILES)
    if LEAPP_FILE in manifest.files and raw.files[LEAPP_FILE] != leapp.description(model, manifest):
        raise AgentMixerError(
            f"{raw.folder / LEAPP_FILE} does not describe this agent as export --leapp does; export the bundle again"
        )
    return AgentFiles(manifest, model, trace, figures, sha256(raw.files[AGENT_FILE]))


def _consistent(manifest: AgentManifest, path: Path) -> None:
    """The tensors are those that the action space, the mask rule and the memory call for.

    Raises AgentMixerError naming the first thing that is not."""
    space, state = manifest.action_space, manifest.state
    # Real values have no spread of their own, so nothing of them is drawn.
    drawn = manifest.noise > 0 and not isinstance(space, Box)
    inputs = ["obs"] + ["action_mask"] * (manifest.mask_rule == "forbid") + [NOISE] * drawn
    inputs += [state.input] if state else []
    outputs = ["action", manifest.policy] + ([state.output] if state else [])
    told: dict[str, object] = {
        "inputs": [tensor.name for tensor in manifest.inputs],
        "outputs": [tensor.name for tensor in manifest.outputs],
        "action scaling": manifest.action_scaling,
    }
    wanted: dict[str, object] = {
        "inputs": inputs,
        "outputs": outputs,
        "action scaling": "graph" if isinstance(space, Box) else "none",
    }
    if told == wanted:
        action = manifest.tensor("action")
        told = {"action": (action.dtype, action.shape), "policy": manifest.tensor(manifest.policy).shape}
        wanted = {"action": array_type(space), "policy": (space.n,)}
        if manifest.mask_rule == "forbid":
            told["mask"], wanted["mask"] = manifest.tensor("action_mask").shape, (space.n,)
        if drawn:
            told[NOISE], wanted[NOISE] = manifest.tensor(NOISE).shape, (space.n,)
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
        "team": ((manifest.team_id, manifest.release), (team.team_id, team.release)),
        "task": ((manifest.task, manifest.scenario), (task.name, task.scenario)),
        "action space": (manifest.action_space, task.action_spaces[index]),
        "control period": (manifest.control_period_s, task.control_period_s),
        "fallback action": (manifest.fallback_action, task.fallback_actions[index]),
        "observation": (manifest.tensor("obs").elements, task.obs_names[index]),
        "elements": (manifest.obs_elements, task.elements_of(index)),
        "action names": (manifest.action_names, task.actions_of(index)),
    }
    for name, (told, wanted) in told_and_wanted.items():
        if told != wanted:
            raise AgentMixerError(
                f"{folder} is not what {TEAM_FILE} describes (its {name} differs); export the bundle again"
            )


def bundle_around(path: Path) -> Path | None:
    """The innermost folder above `path` that is a bundle, or an agent's folder that stands alone; None if there is none."""
    for folder in Path(os.path.abspath(path)).parents:
        if (folder / TEAM_FILE).is_file():
            return folder
        if (folder / AGENT_FILE).is_file() and not (folder.parent.parent / TEAM_FILE).is_file():
            return folder
    return None


def read_bundle(path: Path, trusted: Path | None = None) -> Bundle:
    """Read and verify a whole bundle. trusted: public key that must have signed it (and see `signature.Pin`).

    Raises AgentMixerError naming the file that is missing, changed, unlisted or of an unknown version."""
    raw, names = read_team_raw(path)
    check_team_signature(raw, trusted)
    team = team_manifest(path, raw.read(TEAM_FILE))
    signature.check_pin(team, path, signature.pinned_for(trusted))
    only_agents(raw, names, team)
    agents, size = {}, 0
    for index, name in enumerate(team.task.agents):
        folder = path / team.agents[name].folder
        raw_agent = read_raw(folder, AGENT_LIMITS)
        size = check_size(size + raw_agent.size, path)
        agents[name] = open_agent(raw_agent)
        belongs(agents[name].manifest, agents[name].digest, team, index, folder)
    return Bundle(path, team, agents, sha256(raw.read(TEAM_FILE)))


def check_size(size: int, path: Path) -> int:
    """The bytes read of a bundle so far. Raises AgentMixerError if they are too many."""
    if size > MAX_BYTES:
        raise AgentMixerError(
            f"the agents of {path} have more than {MAX_BYTES:,} bytes together; export a smaller team, or hand out its agents "
            "one by one"
        )
    return size


def read_team_raw(path: Path) -> tuple[Raw, tuple[str, ...]]:
    """A bundle's own files, and the names of what lies in its folder of agents.

    Raises AgentMixerError if there is no bundle, or no real folder of agents."""
    if not os.path.lexists(path / TEAM_FILE):
        raise AgentMixerError(
            f"{path} holds no bundle (no {TEAM_FILE}); export one first: agentmixer export --per-agent onnx"
        )
    return read_raw(path, TEAM_LIMITS), listed(path / AGENTS_FOLDER, MAX_AGENTS)


def check_team_signature(raw: Raw, trusted: Path | None) -> str:
    """See `signature.check`."""
    file = signature.SIGNATURE_FILE
    given = raw.read(file) if file in raw.names else None
    return signature.check(raw.folder / TEAM_FILE, raw.read(TEAM_FILE), raw.folder / file, given, trusted)


def team_manifest(path: Path, data: bytes) -> TeamManifest:
    """The manifest in `data`, the bytes of team.json. Raises AgentMixerError if it is none or contradicts itself."""
    team = decode(data, TeamManifest, path / TEAM_FILE)
    if set(team.agents) != set(team.task.agents) or len(team.agents) != len(team.task.agents):
        raise AgentMixerError(f"{path / TEAM_FILE} lists other agents than its task has; export the bundle again")
    task = team.task
    entries = {len(task.obs_names), len(task.action_spaces), len(task.fallback_actions)}
    entries |= {len(task.obs_elements), len(task.action_names)} - {0}
    if entries != {len(task.agents)} or not task.agents:
        raise AgentMixerError(
            f"{path / TEAM_FILE} does not say of every agent what it sees and does; export the bundle again"
        )
    for name, entry in team.agents.items():
        if entry.folder != f"{AGENTS_FOLDER}/{name}":
            raise AgentMixerError(
                f"{path / TEAM_FILE} places agent {name} outside {AGENTS_FOLDER}/; export the bundle again"
            )
    return team


def only_agents(raw: Raw, names: tuple[str, ...], team: TeamManifest) -> None:
    """Raises AgentMixerError naming what lies in the bundle, or among its agents (`names`), and is not the team's."""
    raw.only({*TEAM_LIMITS, AGENTS_FOLDER, REPORTS_FOLDER})
    Raw(raw.folder / AGENTS_FOLDER, names, {}, {}).only(team.task.agents)


def newest(root: Path = BUNDLES) -> Path:
    """The bundle exported last under `root`. Raises AgentMixerError saying what to type when there is none."""
    found = sorted(root.glob(f"*/{TEAM_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise AgentMixerError(f"no bundle found under {root}/; export one first: agentmixer export --per-agent onnx")
    return found[-1].parent
