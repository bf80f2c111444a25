"""Manifests: the file format is these structs. Unknown fields and unknown versions are refused."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from agentmixer.contract.spec import Action, ActionSpace, Box, Count, Discrete, Element, Name, Period, TaskSpec
from agentmixer.errors import AgentMixerError

SCHEMA_VERSION = 4
OPSET: Literal[18] = 18

TEAM_FILE = "team.json"
AGENT_FILE = "agent.json"
MODEL_FILE = "policy.onnx"
GOLDEN_FILE = "golden.npz"
PROFILE_FILE = "profile.npz"
#: What every agent's folder holds beside agent.json.
AGENT_FILES = (MODEL_FILE, GOLDEN_FILE, PROFILE_FILE)
#: The same agent as C, if it was exported so.
C_FILE, C_HEADER_FILE, C_TEST_FILE = C_FILES = ("policy.c", "policy.h", "self_test.c")
#: The agent described for LEAPP, if that was asked for.
LEAPP_FILE = "leapp.yaml"
#: What may stand beside them: of each group all or none.
OPTIONAL_FILES = (C_FILES, (LEAPP_FILE,))
AGENTS_FOLDER = "agents"
#: What may lie beside the agents and is not covered by digests: results about the bundle, not part of it.
REPORTS_FOLDER = "reports"


#: The input of a policy that draws its actions: standard Gumbel noise, added to the logits before the mask.
NOISE = "noise"
#: Most bytes of a manifest: what its decoding costs is bounded by them.
MAX_TEAM_FILE, MAX_AGENT_FILE = 1 << 22, 1 << 20

#: An agent's place in its team.
Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
#: Grows with every release of a team, so that a device can refuse an older one.
Release = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
#: What `Agent.step` does about an observation outside what was seen at export. report: say so in the status. clamp: decide on
#: the nearest observation that is not outside. fall back: do the fallback action, also where an element is stale. refuse: refuse to
#: start an episode whose first observation is outside, and report later ones.
WhenUnusual = Literal["report", "clamp", "fall back", "refuse"]
#: Small enough that no manifest can talk a difference away.
Tolerance = Annotated[float, msgspec.Meta(ge=0, le=1e-3)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph input or output. shape without the leading batch; elements name the last axis, in order;
    low and high bound every element (None: unbounded)."""

    name: str
    dtype: Literal["float32", "bool", "int64"]
    shape: tuple[Size, ...]
    elements: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


class StateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recurrent state: the graph output to feed back, the input to feed it to. Zeros when an episode starts."""

    input: str
    output: str
    size: Size


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an exported policy comes from. `run` is the run directory as given at export, a note for people: nothing is
    looked for there. `config_sha256` is the SHA-256 of the run's config.toml, `checkpoint_sha256` of its checkpoint."""

    agentmixer: str
    algorithm: str
    preset: str
    seed: Count
    step: Count
    run: str
    config_sha256: str
    checkpoint: str
    checkpoint_sha256: str


class AgentManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """agent.json: all that one device needs to know. `files` maps each file of the folder to its SHA-256; `team_id` and
    `release` say which team this agent belongs to, and are team.json's. `obs_elements` and `action_names` are as in
    `TaskSpec`, of this agent: empty where nobody has said anything."""

    schema_version: int
    team_id: Name
    release: Release
    agent: Name
    index: Index
    task: str
    scenario: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: None: the policy has no memory.
    state: StateSpec | None
    #: "forbid": True marks a legal action, illegal ones are never chosen; "none": the task does not mask.
    mask_rule: Literal["forbid", "none"]
    action_space: ActionSpace
    #: Where bounds and scaling live. "none" for discrete actions; "graph": outputs are in the task's units.
    action_scaling: Literal["none", "graph"]
    control_period_s: Period
    #: What to do when no decision arrives in time.
    fallback_action: Action
    opset: Literal[18]
    #: Multiplications with additions in the matrix products of one decision.
    multiply_adds: Count
    #: The static locality certificate: for each output, the inputs among its ancestors, in the inputs' order.
    depends_on: Annotated[dict[str, tuple[str, ...]], msgspec.Meta(max_length=8)]
    files: dict[str, str]
    source: Source
    obs_elements: tuple[Element, ...] = ()
    action_names: tuple[str, ...] = ()
    when_unusual: WhenUnusual = "report"

    @property
    def names_of_actions(self) -> tuple[str, ...]:
        """A name for each action of a Discrete space, or for each element of another: the task's, else `action_0` and so on."""
        space = self.action_space
        return self.action_names or tuple(
            f"action_{i}" for i in range(space.n if isinstance(space, Discrete) else space.size)
        )

    @property
    def policy(self) -> str:
        """The output that the action is the mode of: `mean` (Box) or `logits`."""
        return "mean" if isinstance(self.action_space, Box) else "logits"

    @property
    def memory(self) -> int:
        """Length of the recurrent state; 0 without one."""
        return self.state.size if self.state else 0

    @property
    def noise(self) -> int:
        """Length of the noise that a decision is drawn by; 0 where the action is the mode."""
        return next((math.prod(spec.shape) for spec in self.inputs if spec.name == NOISE), 0)

    def tensor(self, name: str) -> TensorSpec:
        """The input or output of that name. Raises AgentMixerError if the manifest declares none."""
        for spec in self.inputs + self.outputs:
            if spec.name == name:
                return spec
        raise AgentMixerError(f"agent {self.agent} declares no tensor '{name}'; export the bundle again")


class TeamAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an agent lies in the bundle, and the SHA-256 of its agent.json."""

    folder: str
    sha256: str


class Tolerances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What parity means: outputs may differ by this much between torch and ONNX, real-valued actions included;
    two discrete actions whose logits are closer than near_tie may swap, and are counted."""

    absolute: Tolerance = 1e-5
    relative: Tolerance = 1e-5
    near_tie: Tolerance = 1e-5


class TeamManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """team.json: the task and its agents. `team_id` names the team over all its releases."""

    schema_version: int
    team_id: Name
    release: Release
    task: TaskSpec
    agents: dict[str, TeamAgent]
    source: Source
    tolerances: Tolerances


Manifest = TypeVar("Manifest", AgentManifest, TeamManifest)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def encode(manifest: AgentManifest | TeamManifest) -> bytes:
    """Indented JSON with sorted keys: the same manifest is the same bytes.

    Raises AgentMixerError if something is out of the range that a manifest can hold."""
    try:
        # Once through JSON, so that a whole number in a float's place is spelled as the float it will be read as.
        manifest = msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest))
    except msgspec.ValidationError as error:
        raise AgentMixerError(f"a manifest cannot hold this task ({error}); see docs/bundle-format.md") from error
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def decode(data: bytes, kind: type[Manifest], path: Path) -> Manifest:
    """Parse a manifest. Raises AgentMixerError naming the file when it is not one this version can read.

    Only the spelling that `encode` gives is accepted, so that no two readers can understand a file differently: a key
    that stands there twice is refused, whichever of its values a reader would take."""
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise AgentMixerError(
                f"{path} has schema version {version}, this agentmixer reads {SCHEMA_VERSION}; "
                + ("upgrade agentmixer" if version > SCHEMA_VERSION else "export the bundle again")
            )
        manifest = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AgentMixerError(f"{path} is not a valid manifest ({error}); export the bundle again") from error
    if encode(manifest) != data:
        raise AgentMixerError(
            f"{path} is not spelled as export spells it (keys sorted and each once, one space of indentation); export "
            "the bundle again"
        )
    return manifest


class _Version(msgspec.Struct):
    schema_version: int
