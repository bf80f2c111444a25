"""The evidence, tested: copies of a real bundle that are wrong in one thing each, and the check that says so.

A wrong copy has its digests and manifests made anew, so that only its meaning is wrong. Golden traces stay what
torch recorded, but where the mutation is that they do not. A running team is made wrong frame by frame.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from agentmixer import __version__
from agentmixer.contract.manifest import (
    AGENT_FILE,
    AGENTS_FOLDER,
    GOLDEN_FILE,
    MODEL_FILE,
    TEAM_FILE,
    TeamAgent,
    TensorSpec,
    encode,
    sha256,
)
from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import record as record_golden
from agentmixer.export.graph import check as check_graph
from agentmixer.host.agent_process import AgentLost
from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import Bundle, read_bundle
from agentmixer.runtime.certificate import certificate
from agentmixer.runtime.frames import Kind, pack, unpack
from agentmixer.runtime.golden import Golden, StepFunction, dump, parse, replay
from agentmixer.runtime.guard import cost
from agentmixer.runtime.onnx_graph import GraphRefused, read_graph
from agentmixer.train import checkpoint
from agentmixer.train.algorithms import Algorithm
from agentmixer.train.joint_policy import ILLEGAL
from agentmixer.train.run import Run
from agentmixer.validate.arms import ActorsArm, DeployedArm, Played
from agentmixer.validate.deploy_sim import compare, source_run
from agentmixer.validate.locality import PATIENCE_S, Moment, record

#: Recorded steps that a tampered team is asked again.
STEPS = 100
#: Observations beside the golden ones on which a mutant must part from the original to be one.
PROBES = 256
#: How long a step waits where decisions that are not accepted make it wait, and how many such steps, s.
WAIT_S, WAITED_STEPS = 0.5, 4
#: What a leak adds up to: far too little to be noticed by how well the team plays.
LEAK = 1e-3


class DoesNotApply(Exception):
    """There is nothing to get wrong in this way. Says why."""


@dataclass(frozen=True)
class Outcome:
    """One mutation: what was done to the bundle, the check that caught it, and its sentence (or why it does not apply)."""

    mutation: str
    what: str
    verdict: Literal["caught", "survived", "does not apply"]
    check: str | None
    sentence: str


@dataclass(frozen=True)
class Mutations:
    """Every mutation. `untouched`: the same checks on a re-made copy with nothing wrong, None if all pass."""

    bundle: str
    untouched: str | None
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Nothing survived, something was caught, and nothing is caught where nothing is wrong."""
        verdicts = {outcome.verdict for outcome in self.outcomes}
        return self.untouched is None and "survived" not in verdicts and "caught" in verdicts

    def to_json(self) -> str:
        """The verdict and every outcome, as JSON."""
        return json.dumps({"passed": self.passed, "agentmixer": __version__, **asdict(self)}, indent=2) + "\n"


# Wrong graphs -------------------------------------------------------------------------------------------------------


def _tidy(graph: onnx.GraphProto) -> None:
    """Remove what nothing uses: that a change left it behind is not what is to be noticed."""
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        idle = [node for node in graph.node if not used & set(node.output)]
        unused = [tensor for tensor in graph.initializer if tensor.name not in used]
        if not idle and not unused:
            return
        for node in idle:
            graph.node.remove(node)
        for tensor in unused:
            graph.initializer.remove(tensor)


class Draft:
    """A bundle taken apart, one agent of it (`name`) to be made wrong: graphs, manifests, golden traces and team."""

    def __init__(self, bundle: Bundle):
        self.bundle, self.team = bundle, bundle.team
        self.models = {name: onnx.load_from_string(files.model) for name, files in bundle.agents.items()}
        self.manifests = {name: files.manifest for name, files in bundle.agents.items()}
        self.goldens = {name: files.golden for name, files in bundle.agents.items()}
        self.name = next(iter(bundle.agents))

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph to make wrong."""
        return self.models[self.name].graph

    def golden(self) -> Golden:
        """What torch recorded of that agent."""
        files = self.bundle.agents[self.name]
        return parse(files.golden, files.manifest)

    def other(self) -> str:
        """Another agent."""
        names = list(self.bundle.agents)
        if len(names) < 2:
            raise DoesNotApply("a team of one")
        return names[1]

    def write(self, path: Path) -> None:
        """The bundle with every digest and certificate made anew. Every graph still follows the conventions."""
        entries = {}
        for name, model in self.models.items():
            check_graph(model)
            _tidy(model.graph)
            contents = {MODEL_FILE: model.SerializeToString(deterministic=True), GOLDEN_FILE: self.goldens[name]}
            digests = {file: sha256(data) for file, data in contents.items()}
            changed = msgspec.structs.replace(self.manifests[name], files=digests)
            with contextlib.suppress(GraphRefused):  # such a graph has no certificate; its check will say so
                graph = read_graph(contents[MODEL_FILE])
                changed = msgspec.structs.replace(changed, depends_on=certificate(graph))
                changed = msgspec.structs.replace(changed, multiply_adds=cost(graph).multiply_adds)
            manifest = encode(changed)
            folder = path / AGENTS_FOLDER / name
            folder.mkdir(parents=True)
            for file, data in {**contents, AGENT_FILE: manifest}.items():
                (folder / file).write_bytes(data)
            entries[name] = TeamAgent(f"{AGENTS_FOLDER}/{name}", sha256(manifest))
        (path / TEAM_FILE).write_bytes(encode(msgspec.structs.replace(self.team, agents=entries)))

    # How a graph is changed.

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant in the graph; returns its name."""
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def producer(self, value: str) -> int:
        """Position of the node that makes `value`."""
        return next(i for i, node in enumerate(self.graph.node) if value in node.output)

    def redirect(self, old: str, new: str, first: int = 0) -> None:
        """Nodes from position `first` on take `new` where they took `old`."""
        for node in list(self.graph.node)[first:]:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def prepend(self, *nodes: onnx.NodeProto) -> None:
        """Nodes before all others, in order."""
        for node in reversed(nodes):
            self.graph.node.insert(0, node)

    def memory(self) -> None:
        """Raise DoesNotApply without memory."""
        if self.manifests[self.name].state is None:
            raise DoesNotApply("no memory")

    def mask(self) -> None:
        """Raise DoesNotApply without a mask."""
        if self.manifests[self.name].mask_rule == "none":
            raise DoesNotApply("no mask")

    def add_hidden_input(self) -> None:
        """The graph reads the global state and adds a little of it to its logits or means."""
        manifest, size = self.manifests[self.name], self.team.task.state_size
        actions = manifest.tensor(manifest.policy).shape[0]
        self.graph.input.append(helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["batch", size]))
        index = self.producer(manifest.policy)
        self.graph.node[index].output[0] = "without_state"
        self.redirect(manifest.policy, "without_state", index + 1)
        weight = self.constant("leak", np.full((size, actions), LEAK, np.float32))
        self.graph.node.insert(index + 1, helper.make_node("MatMul", ["state", weight], ["from_state"]))
        added = helper.make_node("Add", ["without_state", "from_state"], [manifest.policy])
        self.graph.node.insert(index + 2, added)
        self.redirect("without_state", manifest.policy, index + 3)


def _swap_columns(draft: Draft) -> None:
    obs = draft.golden().obs
    size = obs.shape[1]
    if size < 2:
        raise DoesNotApply("observations of one element")
    apart = np.abs(obs[:, :, None] - obs[:, None]).sum(0)
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    order = np.arange(size)
    order[[a, b]] = order[[b, a]]
    draft.redirect("obs", "swapped")
    matrix = draft.constant("swap", np.eye(size, dtype=np.float32)[order])
    draft.prepend(helper.make_node("MatMul", ["obs", matrix], ["swapped"]))


def _drop_normaliser(draft: Draft) -> None:
    value, dropped = "obs", []
    while (node := next(node for node in draft.graph.node if node.input[0] == value)).op_type not in {"Gemm", "MatMul"}:
        dropped.append(node)
        value = node.output[0]
    if not dropped:
        raise DoesNotApply("no normaliser")
    draft.redirect(value, "obs")
    used = {name for node in draft.graph.node if node not in dropped for name in node.input}
    for node in dropped:
        for name in node.input:
            for tensor in [t for t in draft.graph.initializer if t.name == name and name not in used]:
                draft.graph.initializer.remove(tensor)
        draft.graph.node.remove(node)


def _zero_state(draft: Draft) -> None:
    draft.memory()
    draft.redirect("state_in", "forgotten")
    draft.prepend(helper.make_node("Mul", ["state_in", draft.constant("zero", np.array(0, np.float32))], ["forgotten"]))


def _freeze_state(draft: Draft) -> None:
    draft.memory()
    index = draft.producer("state_out")
    draft.graph.node[index].output[0] = "state_next"
    draft.redirect("state_out", "state_next")
    draft.graph.node.append(helper.make_node("Identity", ["state_in"], ["state_out"]))


def _stale_logits(draft: Draft) -> None:
    draft.memory()
    draft.redirect("state_out", "state_in", draft.producer("state_out") + 1)


def _flip_mask_bit(draft: Draft) -> None:
    draft.mask()
    legal = draft.golden().action_mask.sum(0)
    bit = int(legal.argmax())
    keep, flip = np.ones(legal.size, np.float32), np.zeros(legal.size, np.float32)
    keep[bit], flip[bit] = 0, 1
    index = draft.producer("logits")
    where = draft.graph.node[index]
    raw, illegal = where.input[1], np.float32(ILLEGAL)
    for name, mine, theirs in (("legal_side", keep, flip), ("illegal_side", flip, keep)):
        scaled, shift = draft.constant(f"{name}_scale", mine), draft.constant(f"{name}_shift", theirs * illegal)
        draft.graph.node.insert(index, helper.make_node("Add", [f"{name}_scaled", shift], [name]))
        draft.graph.node.insert(index, helper.make_node("Mul", [raw, scaled], [f"{name}_scaled"]))
    where.input[1], where.input[2] = "legal_side", "illegal_side"


def _forget_mask(draft: Draft) -> None:
    draft.mask()
    index = draft.producer("logits")
    raw = draft.graph.node[index].input[1]
    draft.graph.node.remove(draft.graph.node[index])
    draft.graph.node.insert(index, helper.make_node("Identity", [raw], ["logits"]))


def _logits_before_mask(draft: Draft) -> None:
    draft.mask()
    index = draft.producer("logits")
    raw = draft.graph.node[index].input[1]
    draft.graph.node[index].output[0] = "masked"
    draft.redirect("logits", "masked")
    draft.graph.node.insert(index, helper.make_node("Identity", [raw], ["logits"]))


def _hidden_input(draft: Draft) -> None:
    draft.add_hidden_input()


def _declared_input(draft: Draft) -> None:
    draft.add_hidden_input()
    manifest = draft.manifests[draft.name]
    state = TensorSpec("state", "float32", (draft.team.task.state_size,))
    draft.manifests[draft.name] = msgspec.structs.replace(manifest, inputs=(*manifest.inputs, state))


def _wide_observation(draft: Draft) -> None:
    task, manifest = draft.team.task, draft.manifests[draft.name]
    elements = manifest.tensor("obs").elements
    wider = (*elements, *(f"state.{i}" for i in range(task.state_size)))
    draft.redirect("obs", "own_and_state")
    matrix = np.full((len(wider), len(elements)), LEAK, np.float32)
    matrix[: len(elements)] = np.eye(len(elements))
    draft.prepend(helper.make_node("MatMul", ["obs", draft.constant("mix", matrix)], ["own_and_state"]))
    draft.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(wider)
    inputs = [
        TensorSpec("obs", "float32", (len(wider),), wider) if tensor.name == "obs" else tensor
        for tensor in manifest.inputs
    ]
    draft.manifests[draft.name] = msgspec.structs.replace(manifest, inputs=tuple(inputs))
    names = tuple(wider if i == manifest.index else names for i, names in enumerate(task.obs_names))
    draft.team = msgspec.structs.replace(draft.team, task=msgspec.structs.replace(task, obs_names=names))


def _swap_graphs(draft: Draft) -> None:
    a, b = draft.name, draft.other()
    draft.models[a], draft.models[b] = draft.models[b], draft.models[a]


def _swap_folders(draft: Draft) -> None:
    a, b = draft.name, draft.other()
    _swap_graphs(draft)
    draft.manifests[a], draft.manifests[b] = draft.manifests[b], draft.manifests[a]
    draft.goldens[a], draft.goldens[b] = draft.goldens[b], draft.goldens[a]
    for name, index in ((a, 0), (b, 1)):
        draft.manifests[name] = msgspec.structs.replace(draft.manifests[name], agent=name, index=index)


def _golden_of_the_wrong(draft: Draft) -> None:
    """Weights that are off by 1 %, and a golden trace recorded from them."""
    weight = next(tensor for tensor in draft.graph.initializer if tensor.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    wrong, golden = _stepper(draft.models[draft.name].SerializeToString()), draft.golden()
    action, policy, state_out = golden.action.copy(), golden.policy.copy(), golden.state_out.copy()
    state = np.zeros((1, golden.state_out.shape[1]), np.float32)
    for t, fresh in enumerate(golden.reset):
        state = state * 0 if fresh else state
        action[t], policy[t], state_out[t] = (
            out[0] for out in wrong(golden.obs[t : t + 1], golden.action_mask[t : t + 1], state)
        )
        state = state_out[t : t + 1]
    draft.goldens[draft.name] = dump(golden._replace(action=action, policy=policy, state_out=state_out))


def _drop_scale(draft: Draft) -> None:
    if draft.team.task.discrete:
        raise DoesNotApply("discrete actions")
    value, dropped = "action", []
    while value != "mean":
        node = draft.graph.node[draft.producer(value)]
        if node.op_type in {"Add", "Mul"}:
            dropped.append(node)
        # Clamping takes the value first; adding and scaling take the value and a constant, in either order.
        value = next(name for name in node.input if any(name in other.output for other in draft.graph.node))
    if dropped:
        draft.redirect(dropped[0].output[0], "mean")
    for node in dropped:
        draft.graph.node.remove(node)


def _drop_clamp(draft: Draft) -> None:
    if draft.team.task.discrete:
        raise DoesNotApply("discrete actions")
    index = draft.producer("action")
    value = draft.graph.node[index].input[0]
    while draft.graph.node[draft.producer(value)].op_type in {"Min", "Max", "Clip"}:
        value = draft.graph.node[draft.producer(value)].input[0]
    draft.graph.node.remove(draft.graph.node[index])
    draft.graph.node.append(helper.make_node("Identity", [value], ["action"]))


class Mutation(NamedTuple):
    """One way to be wrong. comparable: whether the mutant takes what the original takes, so that both can be run."""

    name: str
    what: str
    make: Callable[[Draft], None]
    comparable: bool = True


MUTATIONS = (
    Mutation("columns swapped", "two columns of the observation change places in the graph", _swap_columns),
    Mutation("normaliser dropped", "the observation reaches the first layer raw", _drop_normaliser),
    Mutation("state zeroed", "the recurrent state that comes in counts as zeros", _zero_state),
    Mutation("state frozen", "the state that goes out is the one that came in", _freeze_state),
    Mutation("stale logits", "logits are those of the state before this step", _stale_logits),
    Mutation("mask bit flipped", "one action is legal where it is not, and the other way round", _flip_mask_bit),
    Mutation("mask forgotten", "logits and action know no mask", _forget_mask),
    Mutation("logits before the mask", "the action is masked, the logits given out are not", _logits_before_mask),
    Mutation("hidden input", "the graph reads the global state; the manifest is silent", _hidden_input, False),
    Mutation("hidden input, declared", "the same, and the manifest lists it", _declared_input, False),
    Mutation("wider observation", "the global state comes as further elements of obs, all manifests agree",
             _wide_observation, False),
    Mutation("graphs permuted", "agent 0 has agent 1's graph and the other way round", _swap_graphs),
    Mutation("folders permuted", "the same with golden traces, manifests rewritten to fit", _swap_folders),
    Mutation("golden of the wrong", "weights 1 % off, and the golden trace recorded from them", _golden_of_the_wrong),
    Mutation("scale dropped", "actions stay in units of half their range", _drop_scale),
    Mutation("clamp dropped", "actions may leave their bounds", _drop_clamp),
)  # fmt: skip


def _stepper(model: bytes) -> StepFunction:
    """One step of a graph, as golden replay wants it."""
    session = make_session(model)
    names = [node.name for node in session.get_inputs()]
    memory = "state_in" in names

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        given = {"obs": obs, "action_mask": mask, "state_in": state}
        out = session.run(None, {name: given[name] for name in names})
        return out if memory else [*out, state]

    return step


def _same(draft: Draft) -> bool:
    """Whether all graphs compute what they did, on golden observations and on noise."""
    generator = np.random.default_rng(0)
    for name, files in draft.bundle.agents.items():
        golden = parse(files.golden, files.manifest)
        noise = generator.normal(0, 10, (PROBES, golden.obs.shape[1])).astype(np.float32)
        masks = generator.random((PROBES, golden.policy.shape[1])) < 0.5
        masks[:, 0] |= ~masks.any(1)
        states = generator.normal(0, 0.5, (PROBES, golden.state_out.shape[1])).astype(np.float32)
        old, new = _stepper(files.model), _stepper(draft.models[name].SerializeToString())
        for given in ((golden.obs, golden.action_mask, golden.state_out), (noise, masks, states)):
            try:
                if not all(np.array_equal(a, b) for a, b in zip(old(*given), new(*given), strict=True)):
                    return False
            except Exception:  # onnxruntime's exceptions have no common base below Exception
                return False  # it cannot even be run on the original's inputs
    return True


# The checks on a bundle ---------------------------------------------------------------------------------------------


class Context(NamedTuple):
    """What the checks hold a bundle against: the run it came from."""

    bundle: Bundle
    algorithm: Algorithm
    goldens: list[Golden]
    moments: list[Moment]


def prepare(bundle: Bundle, run: Run | None = None) -> Context:
    """What the checks need. Raises AgentMixerError if the run that the bundle came from is gone."""
    run = run or source_run(bundle)
    with contextlib.closing(run.make_task(1)) as task:
        algorithm, _ = checkpoint.load_weights(run, task, run.checkpoints / bundle.team.source.checkpoint)
        return Context(bundle, algorithm, record_golden(algorithm, task), record(bundle, task, STEPS))


def _check_manifests(path: Path, context: Context) -> None:
    read_bundle(path)


def _check_contract(path: Path, context: Context) -> None:
    for files in read_bundle(path).agents.values():
        Agent(files)


def _check_golden(path: Path, context: Context) -> None:
    bundle = read_bundle(path)
    for name, files in bundle.agents.items():
        _replayed(bundle, name, parse(files.golden, files.manifest), "its golden trace")


def _check_run(path: Path, context: Context) -> None:
    bundle = read_bundle(path)
    for name, golden in zip(bundle.agents, context.goldens, strict=True):
        _replayed(bundle, name, golden, "the actor in its run's checkpoint")


def _replayed(bundle: Bundle, name: str, golden: Golden, what: str) -> None:
    result = replay(golden, _stepper(bundle.agents[name].model), bundle.team.tolerances)
    if not result.passed:
        raise AgentMixerError(
            f"agent {name} departs from {what} at step {result.first_failure} (outputs by up to "
            f"{result.policy_error:.1e}, state by {result.state_error:.1e}, {result.different_actions} other actions)"
        )


#: Name -> check, in the order in which a bundle meets them; a check raises AgentMixerError.
CHECKS: dict[str, Callable[[Path, Context], None]] = {
    "manifests": _check_manifests,
    "contract": _check_contract,
    "golden replay": _check_golden,
    "run replay": _check_run,
}


def _judge(path: Path, context: Context) -> tuple[str, str] | None:
    """The first check that objects, and its sentence."""
    for name, check in CHECKS.items():
        try:
            check(path, context)
        except AgentMixerError as error:
            return name, str(error).replace(f"{path}/", "")
    return None


def mutate(mutation: Mutation, context: Context) -> Outcome:
    """Make one wrong copy in a temporary folder and hold it against every check."""
    draft = Draft(context.bundle)
    try:
        mutation.make(draft)
        if mutation.comparable and _same(draft):
            raise DoesNotApply(f"the graph computes the same on all golden steps and {PROBES} others")
    except DoesNotApply as reason:
        return Outcome(mutation.name, mutation.what, "does not apply", None, str(reason))
    with tempfile.TemporaryDirectory(prefix="agentmixer-") as scratch:
        path = Path(scratch) / "bundle"
        draft.write(path)
        return _outcome(mutation.name, mutation.what, _judge(path, context))


def _outcome(name: str, what: str, caught: tuple[str, str] | None) -> Outcome:
    if caught is None:
        return Outcome(name, what, "survived", None, "no check objected")
    return Outcome(name, what, "caught", *caught)


# Wrong teams --------------------------------------------------------------------------------------------------------


class _Link:
    """An agent's link, on which decisions are changed before the host reads them."""

    def __init__(self, link: Any, change: Callable[[bytes], bytes]):
        self._link, self._change = link, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def recv(self, size: int) -> bytes:
        data = self._link.recv(size)
        return self._change(data) if data and unpack(data).kind == Kind.ACT else data


def _echo(step: int = 0, episode: int = 0) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        frame = unpack(data)
        return pack(
            frame.kind, frame.agent, frame.digest, bytes(frame.payload), frame.episode + episode, frame.step + step,
            frame.sent_ns,
        )  # fmt: skip

    return change


def _one_late() -> Callable[[bytes], bytes]:
    """Every decision is the one before, under the echo of this step."""
    last: list[bytes] = []

    def change(data: bytes) -> bytes:
        frame = unpack(data)
        last.append(bytes(frame.payload))
        return pack(
            frame.kind, frame.agent, frame.digest, last[-2:][0], frame.episode, frame.step, frame.sent_ns
        )  # fmt: skip

    return change


class _SwappingHost(Host):
    """Gives the first two agents each other's observation and mask."""

    def step(self, episode: int, step: int, obs: list[np.ndarray], masks: list[np.ndarray] | None) -> Any:
        first, second, *rest = obs
        if masks is not None:
            masks = [masks[1], masks[0], *masks[2:]]
        return super().step(episode, step, [second, first, *rest], masks)


def _check_echo(host: Host, context: Context, index: int) -> tuple[str, str] | None:
    """Stale-frame refusal: a decision that echoes another step than was asked is not accepted."""
    name, host.deadline_s = host.agents[index].name, WAIT_S
    accepted = 0
    for t, moment in enumerate(context.moments[:WAITED_STEPS]):
        accepted += host.step(moment.episode, t, moment.obs, moment.masks)[index].in_time
    if accepted:
        return None
    return (
        "stale-frame refusal",
        f"agent {name}: none of its decisions echoes the step that was asked; the host took its fallback",
    )


def _check_parity(host: Host, context: Context) -> tuple[str, str] | None:
    """Deploy-sim's parity: what the running team does against the torch actors, on the same observations."""
    spec = context.bundle.team.task
    arm, shadow = DeployedArm(host, spec), ActorsArm(context.algorithm)
    taken: list[list[np.ndarray]] = []
    beside: list[list[np.ndarray]] = []
    last = None
    try:
        for moment in context.moments:
            if moment.episode != last:
                last = moment.episode
                arm.reset(moment.episode)
                shadow.reset(moment.episode)
                taken.append([])
                beside.append([])
            taken[-1].append(arm.act(moment.step))
            beside[-1].append(shadow.act(moment.step))
    except AgentLost as error:
        return "host", str(error)
    count = len(taken)
    played = Played(
        np.zeros(count), np.zeros(count, bool), [np.stack(rows) for rows in taken], [np.stack(rows) for rows in beside]
    )
    parity = compare(played, shadow.logits, spec.agents, context.bundle.team.tolerances)
    if parity.passed:
        return None
    return (
        "deploy-sim parity",
        f"{parity.different} of {parity.actions} actions differ from the actors', first: {parity.first}",
    )


def tampered(context: Context) -> list[Outcome]:
    """Teams of real processes with a bundle that is right and a link or a host that is wrong."""
    bundle, outcomes = context.bundle, []
    for name, what, change in (
        ("step echo off by one", "decisions echo the step after the one that was asked", _echo(step=1)),
        ("episode echo off by one", "decisions echo the next episode", _echo(episode=1)),
    ):
        with Host(bundle, PATIENCE_S) as host:
            host.agents[0].link = _Link(host.agents[0].link, change)  # type: ignore[assignment]
            outcomes.append(_outcome(name, what, _check_echo(host, context, 0)))

    name, what = "stale decision", "an agent answers with its last decision under the right echo"
    varies = [
        i for i in range(len(bundle.agents))
        if any(not np.array_equal(a.actions[i], b.actions[i]) for a, b in zip(context.moments, context.moments[1:], strict=False))
    ]  # fmt: skip
    if varies:
        with Host(bundle, PATIENCE_S) as host:
            agent = host.agents[varies[0]]
            agent.link = _Link(agent.link, _one_late())  # type: ignore[assignment]
            outcomes.append(_outcome(name, what, _check_parity(host, context)))
    else:
        why = f"every agent does the same at all {len(context.moments)} recorded steps"
        outcomes.append(Outcome(name, what, "does not apply", None, why))

    name, what = "observations permuted", "the host gives two agents each other's observation and mask"
    if len(bundle.agents) < 2:
        outcomes.append(Outcome(name, what, "does not apply", None, "a team of one"))
    elif not _heeded(context):
        why = f"neither agent would do anything else at the {len(context.moments)} recorded steps"
        outcomes.append(Outcome(name, what, "does not apply", None, why))
    else:
        with _SwappingHost(bundle, PATIENCE_S) as host:
            outcomes.append(_outcome(name, what, _check_parity(host, context)))
    return outcomes


def _heeded(context: Context) -> bool:
    """Whether the first two agents would do anything else with each other's observations; so say agents alone."""
    first, second, *_ = context.bundle.agents.values()
    for i, j in ((0, 1), (1, 0)):
        agent, last = Agent((first, second)[i]), None
        for moment in context.moments:
            if moment.episode != last:
                last = moment.episode
                agent.reset()
            try:
                action = agent.act(moment.obs[j], None if moment.masks is None else moment.masks[j])
            except AgentMixerError:
                return True
            if not np.array_equal(action, moment.actions[i]):
                return True
    return False


def mutations(bundle: Bundle, run: Run | None = None, progress: Callable[[str], None] = lambda _: None) -> Mutations:
    """Make every wrong copy of `bundle` and see which check objects first.

    Calls `progress` with each mutation's name. Raises AgentMixerError if the run it came from is gone."""
    progress("recording")
    context = prepare(bundle, run)
    outcomes = []
    for mutation in MUTATIONS:
        progress(mutation.name)
        outcomes.append(mutate(mutation, context))
    progress("running teams")
    outcomes += tampered(context)
    with tempfile.TemporaryDirectory(prefix="agentmixer-") as scratch:
        path = Path(scratch) / "bundle"
        Draft(bundle).write(path)
        caught = _judge(path, context)
    with Host(bundle, PATIENCE_S) as host:
        caught = caught or _check_parity(host, context)
    return Mutations(str(bundle.path), f"{caught[0]}: {caught[1]}" if caught else None, tuple(outcomes))
