"""Writing a bundle: record golden traces, export each actor, check parity three ways, then publish."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator

from agentmixer import __version__, provenance
from agentmixer.contract.manifest import (
    LEAPP_FILE,
    NOISE,
    OPSET,
    REPORTS_FOLDER,
    SCHEMA_VERSION,
    AgentManifest,
    Release,
    Source,
    StateSpec,
    TeamManifest,
    TensorSpec,
    Tolerances,
    WhenUnusual,
    sha256,
)
from agentmixer.contract.spec import Box, Name, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export import c_code
from agentmixer.export.bundle_place import check_place
from agentmixer.export.bundle_writer import AgentParts, certified, write_bundle
from agentmixer.export.elements import described
from agentmixer.export.episodes import profiles, record
from agentmixer.export.graph import export_graph
from agentmixer.export.graph_step import graph_step
from agentmixer.export.quantize import QuantizationReport, judge, quantize
from agentmixer.runtime import leapp, profile, signature
from agentmixer.runtime.actions import array_type
from agentmixer.runtime.bundle import BUNDLES, MAX_BYTES, read_bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.golden import Golden, Parity, StepFunction, dump, parse, replay
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.onnx_graph import GraphRefused
from agentmixer.train import checkpoint
from agentmixer.train.algorithms import ALGORITHMS, Algorithm
from agentmixer.train.deployed import DeployedActor
from agentmixer.train.run import Run, folder_name


class Forms(NamedTuple):
    """What is written beside ONNX of float32: each agent as C, with its self-test run if this machine has a C compiler; leapp.yaml;
    matrices as int8 in place of float32 (`quantize`); and whole numbers that are drawn, by noise that the graph takes as an input, in
    place of the mode."""

    c: bool = False
    leapp: bool = False
    int8: bool = False
    sampled: bool = False


ONNX = Forms()


class DoesNotHold(AgentMixerError):
    """With int8 the team is another. report: in what."""

    def __init__(self, report: QuantizationReport):
        super().__init__(
            f"this team does not hold with --quantize int8: {report.verdict.removeprefix('FAIL: ')}; nothing was exported; export "
            "without --quantize"
        )
        self.report = report


class Exported(NamedTuple):
    """A published bundle and how each agent's graph compared: {agent: {evaluator: Parity}}.

    remembered: whether this machine will know which run it came from. self_tests: what each agent's self-test in C said, None
    where there is no C compiler; empty unless exported as C. quantization: what int8 costs, if that was asked for."""

    path: Path
    parity: dict[str, dict[str, Parity]]
    remembered: bool
    self_tests: dict[str, str | None]
    quantization: QuantizationReport | None


def evaluators(actor: DeployedActor, model: onnx.ModelProto) -> dict[str, StepFunction]:
    """The three that must agree: torch's single actor, ONNX Runtime, and onnx's reference evaluator."""

    def step_function(run: Callable[[dict[str, np.ndarray]], Any]) -> StepFunction:
        def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
            given = {"obs": obs, "action_mask": mask, NOISE: noise, "state_in": state}
            out = list(run({name: given[name] for name in actor.inputs}))
            return out if actor.memory else [*out, state]

        return step

    def in_torch(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [out.numpy() for out in actor(*map(torch.from_numpy, feed.values()))]

    told = model
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        # The reference has this operator from opset 19 on, in which the other operators mean the same.
        told = onnx.ModelProto.FromString(model.SerializeToString())
        told.opset_import[0].version = 19
    reference = ReferenceEvaluator(told)
    return {
        "torch": step_function(in_torch),
        "onnxruntime": graph_step(model.SerializeToString()),
        "reference": step_function(lambda feed: reference.run(actor.outputs, feed)),
    }


def side_by_side(golden: Golden, step: StepFunction) -> StepFunction:
    """A step function that answers `replay` with what `step` does when all episodes of the trace run side by side, one row
    an episode: as many calls as the longest episode has steps. Each episode feeds back its own recurrent state, as it does
    when episodes run one after the other."""
    starts = np.flatnonzero(golden.reset)
    lengths = np.diff(starts, append=len(golden.reset))
    state = np.zeros((len(starts), golden.state_out.shape[1]), np.float32)
    answers: dict[int, list[np.ndarray]] = {}
    for k in range(lengths.max()):
        running = np.flatnonzero(lengths > k)
        rows = starts[running] + k
        out = step(golden.obs[rows], golden.action_mask[rows], state[running], golden.noise[rows])
        state[running] = out[2]
        answers |= {int(t): [array[i : i + 1] for array in out] for i, t in enumerate(rows)}
    in_order = iter(range(len(golden.reset)))
    return lambda *_: answers[next(in_order)]


def compare(actor: DeployedActor, model: onnx.ModelProto, golden: Golden, tolerances: Tolerances) -> dict[str, Parity]:
    """Replay the trace in the three that must agree. ONNX Runtime takes one row a call, as on a device; the other two, which
    cost most, take all episodes side by side."""
    return {
        kind: replay(golden, step if kind == "onnxruntime" else side_by_side(golden, step), actor.space, tolerances)
        for kind, step in evaluators(actor, model).items()
    }


def _manifest(
    spec: TaskSpec, index: int, actor: DeployedActor, team: tuple[str, int], source: Source,
    when_unusual: WhenUnusual = "report",
) -> AgentManifest:  # fmt: skip
    """What the exporter knows of an agent; certificate, cost and digests are filled in from its files."""
    space, elements = spec.action_spaces[index], spec.obs_names[index]
    low, high = (
        (space.low, space.high)
        if isinstance(space, Box)
        else ([start for _, start in space.choices], [start + n - 1 for n, start in space.choices])
    )
    tensors = {
        "obs": TensorSpec("obs", "float32", (len(elements),), elements),
        "action_mask": TensorSpec("action_mask", "bool", (space.n,)),
        NOISE: TensorSpec(NOISE, "float32", (space.n,)),
        "state_in": TensorSpec("state_in", "float32", (actor.memory,)),
        "action": TensorSpec("action", *array_type(space), low=min(low), high=max(high)),
        "logits": TensorSpec("logits", "float32", (space.n,)),
        "mean": TensorSpec("mean", "float32", (space.n,)),
        "state_out": TensorSpec("state_out", "float32", (actor.memory,)),
    }
    return AgentManifest(
        schema_version=SCHEMA_VERSION,
        team_id=team[0],
        release=team[1],
        agent=spec.agents[index],
        index=index,
        task=spec.name,
        scenario=spec.scenario,
        inputs=tuple(tensors[name] for name in actor.inputs),
        outputs=tuple(tensors[name] for name in actor.outputs),
        state=StateSpec("state_in", "state_out", actor.memory) if actor.memory else None,
        mask_rule="forbid" if actor.masked else "none",
        action_space=space,
        action_scaling="graph" if isinstance(space, Box) else "none",
        control_period_s=spec.control_period_s,
        fallback_action=spec.fallback_actions[index],
        opset=OPSET,
        multiply_adds=0,
        depends_on={},
        files={},
        source=source,
        obs_elements=spec.elements_of(index),
        action_names=spec.actions_of(index),
        when_unusual=when_unusual,
    )


def default_path(source: Source, task: TaskSpec) -> Path:
    """A place under `bundles/` that names task, scenario, run, step and the checkpoint's digest."""
    name = f"{task.name}-{folder_name(task.scenario)}-{Path(source.run).name}-step{source.step}-{source.checkpoint_sha256[:8]}"
    return BUNDLES / name


def default_team_id(task: TaskSpec) -> str:
    """Task and scenario as a name."""
    return re.sub("[^A-Za-z0-9_-]+", "-", f"{task.name}-{task.scenario}")[:64]


def checked_team(team_id: str, release: int) -> tuple[str, int]:
    """Both as given. Raises AgentMixerError if a manifest cannot hold them."""
    try:
        return msgspec.convert((team_id, release), tuple[Name, Release])
    except msgspec.ValidationError as error:
        raise AgentMixerError(
            f"team '{team_id}', release {release} cannot stand in a bundle; a team's name has 1 to 64 letters, digits, _ "
            "and -, and a release is a number from 0 to 2,147,483,647"
        ) from error


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder unless it is there. A folder that was made here and has nothing in it afterwards is removed."""
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made:
                path.rmdir()


def _check_drawn(algorithm: type[Algorithm], forms: Forms) -> None:
    """Raises AgentMixerError if agents of this algorithm cannot draw their actions, or not in these forms."""
    if not algorithm.stochastic:
        raise AgentMixerError(
            f"agents of {algorithm.name} take the action of greatest utility, and utilities are no probabilities to draw by; export "
            "without --sampled"
        )
    if forms.int8:
        raise AgentMixerError(
            "--quantize int8 judges a team by its modes, so it cannot be said what it costs a team that draws; leave out --sampled or "
            "--quantize"
        )


def export(
    run: Run, out: Path | None = None, progress: Callable[[str], None] = lambda _: None, sign: Path | None = None,
    team_id: str | None = None, release: int = 0, file: Path | None = None, replace: bool = False,
    elements: Path | None = None, when_unusual: WhenUnusual = "report", forms: Forms = ONNX,
) -> Exported:  # fmt: skip
    """Export a checkpoint of `run`, one folder an agent; PM and critics are not written.

    file: the checkpoint, the run's newest unless given. The bundle goes to `out`, or to `default_path`. What is there
    is left alone; with `replace` a bundle that is there gives way, with its signatures and reports. Nothing appears
    there before all agents have passed parity. Calls `progress` with each agent that is exported. sign: file of the private key to
    sign it with; elements: a file that names and explains elements and actions (`elements.described`); when_unusual: the manifest's;
    team_id, release: what a device may hold its agent to (`default_team_id` unless given); forms: what else to write.

    Raises DoesNotHold if int8 changes the team too much, and AgentMixerError if parity or a self-test in C fails, something is in the
    bundle's place, the key is none, `team_id` or `release` cannot be what they should, the algorithm's agents need more than their own
    observations, or `forms` cannot be written."""
    key = signature.private_key(sign) if sign else None
    if forms.c:
        c_code.check_possible(when_unusual)
    run = run.on_cpu()
    file = file or checkpoint.latest(run)
    if not (sees := ALGORITHMS[run.algorithm].execution_sees).alone:
        others = ", ".join(name for name, other in ALGORITHMS.items() if other.execution_sees.alone)
        raise AgentMixerError(
            f"an agent of {run.algorithm} needs {sees.value} to act, so none can be exported on its own; agents of these can: "
            f"{others}"
        )
    if forms.sampled:
        _check_drawn(ALGORITHMS[run.algorithm], forms)
    if out is not None:
        check_place(out, replace)
    with contextlib.closing(run.make_task(1)) as task:
        spec = described(task.spec, elements) if elements else task.spec
        if forms.sampled and spec.real_valued:
            raise AgentMixerError(
                f"the actors of {run.path} choose real values, which have no spread of their own: what they would draw is the mean; "
                "export without --sampled"
            )
        team = checked_team(default_team_id(spec) if team_id is None else team_id, release)
        algorithm, step = checkpoint.load_weights(run, task, file)
        source = Source(
            agentmixer=__version__,
            algorithm=run.algorithm,
            preset=run.preset,
            seed=run.seed,
            step=step,
            run=str(run.path),
            config_sha256=run.digest,
            checkpoint=file.name,
            checkpoint_sha256=sha256(file.read_bytes()),
        )
        target = out or default_path(source, spec)
        if out is None:
            check_place(target, replace)
        if forms.int8:
            trained = checkpoint.load_weights(run, task, file)[0].team
            quantize(algorithm.team)
        goldens = record(algorithm.team, task, progress=progress, sampled=forms.sampled)
        foreign = task.restarts  # environments of others' code are costly, and each needs a process
    # As many environments as the run trained in: JAX has compiled its games for so many.
    envs = 1 if foreign else run.config.run.num_envs // run.config.run.lanes
    with contextlib.closing(run.make_task(envs)) as task:
        seen = profiles(algorithm.team, task, progress, sampled=forms.sampled)
        quantization = judge(algorithm.team, trained, task, run.config.run, progress) if forms.int8 else None
    if quantization and not quantization.passed:
        raise DoesNotHold(quantization)
    tolerances = Tolerances()
    parity: dict[str, dict[str, Parity]] = {}
    self_tests: dict[str, str | None] = {}
    agents: dict[str, AgentParts] = {}
    with _folder(target.parent), tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        draft = Path(scratch) / "bundle"
        for index, name in enumerate(spec.agents):
            progress(f"exporting {name}, agent {index + 1} of {spec.num_agents}")
            actor = algorithm.team.deployed(index, forms.sampled)
            metadata = {
                "agent": name,
                "task": spec.name,
                "scenario": spec.scenario,
                "checkpoint_sha256": source.checkpoint_sha256,
            }
            model = export_graph(actor, metadata, forms.int8)
            parity[name] = compare(actor, model, goldens[index], tolerances)
            for kind, result in parity[name].items():
                if not result.passed:
                    raise AgentMixerError(
                        f"agent {name}: {kind} departs from the trained network at golden step {result.first_failure} "
                        f"(by up to {max(result.policy_error, result.state_error):.1e}); nothing was exported"
                    )
            data, golden = model.SerializeToString(deterministic=True), dump(goldens[index])
            measured = profile.dump(profile.measure(*seen[index], spec.action_spaces[index]))
            try:
                manifest = certified(_manifest(spec, index, actor, team, source, when_unusual), data)
            except GraphRefused as error:
                raise AgentMixerError(
                    f"agent {name}: {error}; nothing was exported; train with a smaller network (--set hidden=...)"
                ) from error
            check_locality(check_model(data, manifest), manifest)
            parse(golden, manifest)
            profile.parse(measured, manifest)
            optional: dict[str, bytes] = {}
            if forms.c:
                progress(f"writing {name} as C, agent {index + 1} of {spec.num_agents}")
                optional |= c_code.c_files(data, manifest, goldens[index])
                self_tests[name] = c_code.run_self_test(optional)
            if forms.leapp:
                optional[LEAPP_FILE] = leapp.description(data, manifest)
            agents[name] = AgentParts(manifest, data, golden, measured, optional)
            if forms.c and sum(part.size for part in agents.values()) > MAX_BYTES:
                raise AgentMixerError(
                    f"with C beside them the agents' files have more than {MAX_BYTES:,} bytes together; nothing was exported; agentmixer export "
                    "--per-agent onnx writes no C"
                )
        digest = write_bundle(draft, TeamManifest(SCHEMA_VERSION, *team, spec, {}, source, tolerances), agents)
        if quantization:
            quantization = dataclasses.replace(quantization, bundle=str(target))
            (draft / REPORTS_FOLDER).mkdir()
            (draft / REPORTS_FOLDER / "quantization.json").write_text(quantization.to_json())
        if key:
            signature.sign(draft, key)
        read_bundle(draft)
        if replace and target.exists():
            target.rename(Path(scratch) / "replaced")
        draft.rename(target)
    return Exported(target, parity, provenance.remember("bundles", digest, run.path), self_tests, quantization)
