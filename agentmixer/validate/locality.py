"""Locality, measured: what an agent does depends on nothing but what it is given, and what it is given shows
nothing that the task hides.

Everything that an agent must not depend on is changed, and not one bit of its decisions may move. Beside every
check stands a control: something that does depend on it, and must move.
"""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentmixer import __version__
from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_process import AgentProcess, HungUp
from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.certificate import check_locality
from agentmixer.runtime.frames import MAX_FRAME, Kind, action_of, pack, unpack
from agentmixer.runtime.guard import check_model
from agentmixer.tasks import Task
from agentmixer.tasks.base import Probing, TaskStep, to_torch
from agentmixer.train import checkpoint
from agentmixer.train.algorithms import Algorithm
from agentmixer.train.run import Run
from agentmixer.validate.arms import ActorsArm, DeployedArm
from agentmixer.validate.deploy_sim import check_task, source_run

#: Episodes of their own, apart from training, evaluation, golden traces and deploy-sim.
LOCALITY_SEED = 4_000_037
#: How long an agent may take to answer before it counts as silent, s.
PATIENCE_S = 10.0
#: What takes the place of everything that must not matter.
REPLACEMENTS = ("noise", "zeros", "NaN")
#: Environments that states are drawn from, and how often they are probed on the way through an episode.
PROBED_ENVS, PROBED_TIMES, STEPS_BETWEEN = 64, 16, 3

#: Where something was changed.
TEAM, PROCESS, TRAINING, TASK = "running team", "one process", "training", "observation"


class Moment(NamedTuple):
    """One recorded step. obs: one [D] float32 an agent; masks: one [A] bool an agent, None where nothing is masked;
    step: all that the task gave, numpy; actions: what the deployed agents did, one array an agent."""

    episode: int
    obs: list[np.ndarray]
    masks: list[np.ndarray] | None
    step: TaskStep
    actions: list[np.ndarray]


@dataclass(frozen=True)
class Finding:
    """One agent while one thing was changed: arrays compared, their bits, and how many of these differ.

    control: whether something that does depend on the change was compared, so that bits must differ."""

    where: str
    change: str
    agent: str
    control: bool
    comparisons: int
    bits: int
    differing: int

    @property
    def passed(self) -> bool:
        """Something was compared, and moved only if it had to."""
        return self.comparisons > 0 and (self.differing > 0) == self.control


@dataclass(frozen=True)
class Locality:
    """Everything found. static: for each agent, the inputs that each output of its graph is computed from, all of them
    its own; `observation`: whether the task could say what its observations hide, in words."""

    bundle: str
    steps: int
    static: dict[str, dict[str, tuple[str, ...]]]
    observation: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Nothing moved that must not, and every control moved."""
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    def to_json(self) -> str:
        """The verdict and every finding, as JSON."""
        findings = [{"passed": finding.passed, **asdict(finding)} for finding in self.findings]
        head = {"passed": self.passed, "agentmixer": __version__, "bundle": self.bundle, "steps": self.steps}
        return (
            json.dumps({**head, "static": self.static, "observation": self.observation, "findings": findings}, indent=2)
            + "\n"
        )


def locality(
    bundle: Bundle, steps: int, run: Run | None = None, progress: Callable[[str], None] = lambda _: None
) -> Locality:
    """Record `steps` steps of the deployed team, then change what must not matter, one thing after another.

    run: as `deploy_sim.source_run` gives it. Calls `progress` with what comes next. Raises AgentMixerError if the run is gone or an agent cannot be started."""
    run = run or source_run(bundle)
    findings: list[Finding] = []
    static = {
        name: check_locality(check_model(files.model, files.manifest), files.manifest)
        for name, files in bundle.agents.items()
    }
    with contextlib.closing(run.make_task(1)) as task:
        check_task(task, bundle, run)
        algorithm, _ = checkpoint.load_weights(run, task, run.checkpoints / bundle.team.source.checkpoint)
        progress(f"recording {steps} steps")
        moments = record(bundle, task, steps)
    if len(bundle.agents) > 1:  # a team of one has nobody to hear from
        for index, name in enumerate(bundle.agents):
            progress(f"{name} while the others change")
            findings += running_team(bundle, moments, index)
            findings += one_process(bundle, moments, index)
    progress("the process that trains")
    findings += training(algorithm, moments)
    progress("what observations hide")
    with contextlib.closing(run.make_task(PROBED_ENVS)) as task:
        said, found = environmental(task)
    return Locality(str(bundle.path), len(moments), static, said, (*findings, *found))


def record(bundle: Bundle, task: Task, steps: int, seed: int = LOCALITY_SEED) -> list[Moment]:
    """Let the deployed team play whole episodes until `steps` steps are recorded. task: one environment."""
    moments: list[Moment] = []
    spec = task.spec
    with Host(bundle, PATIENCE_S) as host:
        arm = DeployedArm(host, spec)
        episode = 0
        while len(moments) < steps:
            step = task.reset(seed, np.array([episode]))
            arm.reset(episode)
            ended = False
            while not ended and len(moments) < steps:
                action = arm.act(step)
                decisions = arm.decisions[-1]
                if not all(decision.in_time for decision in decisions):
                    raise AgentMixerError(f"an agent was silent for {PATIENCE_S:.0f} s; is this machine overloaded?")
                kept = TaskStep(*(np.array(array) for array in step))
                obs = [kept.obs[i, 0, :size] for i, size in enumerate(spec.obs_sizes)]
                masks = [kept.action_mask[i, 0, : space.n] for i, space in enumerate(spec.action_spaces)]
                actions = [np.asarray(decision.action) for decision in decisions]
                moments.append(Moment(episode, obs, masks if spec.has_action_mask else None, kept, actions))
                step = task.step(torch.from_numpy(action[:, None].copy()))
                ended = bool(np.asarray(step.terminated)[0] or np.asarray(step.truncated)[0])
            episode += 1
    return moments


class Tally:
    """Compares arrays bit for bit and adds up."""

    def __init__(self) -> None:
        self.comparisons = self.bits = self.differing = 0

    def compare(self, reference: np.ndarray, found: np.ndarray | None) -> None:
        """An array that is missing, or of another kind, differs in every bit."""
        self.comparisons += 1
        self.bits += reference.nbytes * 8
        if found is None or (found.shape, found.dtype) != (reference.shape, reference.dtype):
            self.differing += reference.nbytes * 8
        else:
            ours, theirs = (np.frombuffer(array.tobytes(), np.uint8) for array in (reference, found))
            self.differing += int(np.unpackbits(ours ^ theirs).sum())

    def finding(self, where: str, change: str, agent: str, control: bool = False) -> Finding:
        """What was added up, under its name."""
        return Finding(where, change, agent, control, self.comparisons, self.bits, self.differing)


# The others ---------------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """What a team is given in one step, and the order in which its agents get it."""

    obs: list[np.ndarray]
    masks: list[np.ndarray] | None
    order: list[int]


#: From a recorded step to what the team is given instead.
Change = Callable[[Moment], Inputs]


def _unchanged(moment: Moment) -> Inputs:
    return Inputs(moment.obs, moment.masks, list(range(len(moment.obs))))


def _replacing(kind: str, index: int) -> Change:
    """Everybody but agent `index` sees noise (and a random mask), zeros or NaN."""
    generator = np.random.default_rng(index)

    def change(moment: Moment) -> Inputs:
        given = _unchanged(moment)
        obs = [mine if j == index else replaced(kind, mine, generator) for j, mine in enumerate(given.obs)]
        masks = given.masks
        if masks is not None and kind == "noise":
            masks = [mine if j == index else _random_mask(mine, generator) for j, mine in enumerate(masks)]
        return Inputs(obs, masks, given.order)

    return change


def _shuffling(index: int) -> Change:
    generator = np.random.default_rng(index)
    return lambda moment: _unchanged(moment)._replace(order=generator.permutation(len(moment.obs)).tolist())


def _leaking(change: Change, index: int) -> Change:
    """The same, but on its way agent `index`'s observation has its neighbour's added to it."""

    def leaky(moment: Moment) -> Inputs:
        given = change(moment)
        mine, theirs = given.obs[index].copy(), given.obs[(index + 1) % len(given.obs)]
        size = min(mine.size, theirs.size)
        mine[:size] += theirs[:size]
        return given._replace(obs=[mine if j == index else seen for j, seen in enumerate(given.obs)])

    return leaky


def replaced(kind: str, array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An array like it that says nothing of it. kind: one of REPLACEMENTS; noise has standard deviation 10."""
    if kind == "noise":
        return generator.normal(0.0, 10.0, array.shape).astype(array.dtype)
    return np.full_like(array, 0.0 if kind == "zeros" else np.nan)


def _random_mask(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    drawn = generator.random(mask.size) < 0.5
    drawn[generator.integers(mask.size)] = True
    return drawn


class _Team:
    """A running team that is asked for single steps, whether or not all of it lives and answers."""

    def __init__(self, host: Host):
        self.host = host
        self.episode = 0

    def replay(
        self, moments: list[Moment], index: int, change: Change, killed: bool = False
    ) -> list[np.ndarray | None]:
        """What agent `index` does at each moment; None where it refuses or is silent. killed: all others are, with
        SIGKILL, before the second half."""
        answers: list[np.ndarray | None] = []
        last = None
        for t, moment in enumerate(moments):
            if moment.episode != last:
                last, self.episode = moment.episode, self.episode + 1  # so that all agents forget the last one
            if killed and t == len(moments) // 2:
                for agent in self.host.agents:
                    if agent.index != index:
                        agent.process.kill()
                        agent.process.wait()
            given = change(moment)
            asked = [j for j in given.order if self._ask(self.host.agents[j], t, given)]
            replies = {j: self._answer(self.host.agents[j], t) for j in asked}
            answers.append(replies.get(index))
        return answers

    def _ask(self, agent: AgentProcess, step: int, given: Inputs) -> bool:
        seen = given.obs[agent.index].tobytes()
        mask = b"" if given.masks is None else given.masks[agent.index].tobytes()
        sizes = (len(seen), len(mask))
        now, patience_us = time.monotonic_ns(), int(PATIENCE_S * 1e6)
        frame = pack(Kind.OBSERVE, agent.index, agent.digest, seen + mask, self.episode, step, now, patience_us, *sizes)
        try:
            return agent.send(frame)
        except HungUp:
            return False

    def _answer(self, agent: AgentProcess, step: int) -> np.ndarray | None:
        end = time.monotonic() + PATIENCE_S
        while select.select([agent.link], [], [], max(end - time.monotonic(), 0.0))[0]:
            try:
                data = agent.link.recv(MAX_FRAME)
            except OSError:
                return None
            if not data:
                return None
            frame = unpack(data)
            if (frame.episode, frame.step) == (self.episode, step):
                return np.asarray(action_of(frame, agent.space)[0]) if frame.kind == Kind.ACT else None
        return None


def running_team(bundle: Bundle, moments: list[Moment], index: int) -> list[Finding]:
    """Agent `index`'s actions in a team of real processes, while the others see something else, die or are asked in
    another order, against what it did when the moments were recorded."""
    name = bundle.team.task.agents[index]
    recorded: list[np.ndarray | None] = [moment.actions[index] for moment in moments]
    findings = []

    def judge(change: str, reference: list[np.ndarray | None], found: list[np.ndarray | None]) -> None:
        findings.append(_compared(reference, found).finding(TEAM, change, name))

    with Host(bundle, PATIENCE_S) as host:
        team = _Team(host)
        judge("nothing: the same again", recorded, team.replay(moments, index, _unchanged))
        for kind in REPLACEMENTS:
            found = team.replay(moments, index, _replacing(kind, index))
            judge(f"others' observations: {kind}", recorded, found)
        judge("order of sending", recorded, team.replay(moments, index, _shuffling(index)))
        leaky = team.replay(moments, index, _leaking(_unchanged, index))
        control = Tally()
        for kind in REPLACEMENTS:  # a policy that hardly heeds its observation may be moved by the last one only
            if not control.differing:
                found = team.replay(moments, index, _leaking(_replacing(kind, index), index))
                _compared(leaky, found, control)
        judge("others killed half way", recorded, team.replay(moments, index, _unchanged, killed=True))
    findings.append(control.finding(TEAM, "control: a host that mixes observations", name, control=True))
    return findings


def _compared(reference: list[np.ndarray | None], found: list[np.ndarray | None], tally: Tally | None = None) -> Tally:
    tally = tally or Tally()
    for ours, theirs in zip(reference, found, strict=True):
        if ours is not None:
            tally.compare(ours, theirs)
    return tally


def one_process(bundle: Bundle, moments: list[Moment], index: int) -> list[Finding]:
    """The same with all agents in one process, where an agent's logits or means and its recurrent state can be
    compared too. The actions are held against those of its own process."""
    name = bundle.team.task.agents[index]
    agents = [Agent(files) for files in bundle.agents.values()]
    reference = _decide(agents, moments, index, _unchanged)
    apart = _compared([moment.actions[index] for moment in moments], [rows[0] if rows else None for rows in reference])
    findings = [apart.finding(PROCESS, "one process for all", name)]
    changes = {f"others' observations: {kind}": _replacing(kind, index) for kind in REPLACEMENTS}
    for change, how in (*changes.items(), ("order of deciding", _shuffling(index))):
        findings.append(_rows(reference, _decide(agents, moments, index, how)).finding(PROCESS, change, name))
    leaky = _decide(agents, moments, index, _leaking(_unchanged, index))
    control = Tally()
    for kind in REPLACEMENTS:
        if not control.differing:
            _rows(leaky, _decide(agents, moments, index, _leaking(_replacing(kind, index), index)), control)
    findings.append(control.finding(PROCESS, "control: observations mixed on the way", name, control=True))
    return findings


#: An agent's action, policy output and recurrent state; None where it refused.
Rows = list[tuple[np.ndarray, ...] | None]


def _decide(agents: list[Agent], moments: list[Moment], index: int, change: Change) -> Rows:
    rows: Rows = []
    last = None
    for moment in moments:
        if moment.episode != last:
            last = moment.episode
            for agent in agents:
                agent.reset()
        given = change(moment)
        row = None
        for j in given.order:
            with contextlib.suppress(AgentMixerError):  # a refusal; only agent `index`'s counts
                action = agents[j].act(given.obs[j], None if given.masks is None else given.masks[j])
                if j == index:
                    policy = agents[j].policy
                    assert policy is not None
                    row = (np.array(action), policy.copy(), agents[j].state.copy())
        rows.append(row)
    return rows


def _rows(reference: Rows, found: Rows, tally: Tally | None = None) -> Tally:
    tally = tally or Tally()
    for ours, theirs in zip(reference, found, strict=True):
        for k, array in enumerate(ours or ()):
            tally.compare(array, theirs[k] if theirs else None)
    return tally


# The process that trains --------------------------------------------------------------------------------------------


def training(algorithm: Algorithm, moments: list[Moment]) -> list[Finding]:
    """Every actor's decentralised decisions, their modes and samples and its memory, while Policy Modifier and critics
    have other weights and the global state is another one. Control: the joint policy, which reads both."""
    reference, joint = _actors(algorithm, moments), _joint(algorithm, moments)
    agents = algorithm.spec.agents
    findings = []
    moved = [Tally() for _ in agents]
    for kind in REPLACEMENTS:
        for change, context, how in (
            (f"Policy Modifier and critics: {kind}", _other_weights(algorithm, kind), moments),
            (f"global state: {kind}", contextlib.nullcontext(), _other_state(moments, kind)),
        ):
            with context:
                found, control = _actors(algorithm, how), _joint(algorithm, how)
            for i, name in enumerate(agents):
                tally = Tally()
                for ours, theirs in zip(reference, found, strict=True):
                    tally.compare(ours[i], theirs[i])
                findings.append(tally.finding(TRAINING, change, name))
                for ours, theirs in zip(joint, control, strict=True):
                    moved[i].compare(ours[i], theirs[i])
    return findings + [
        tally.finding(TRAINING, "control: the joint policy, which reads both", name, control=True)
        for tally, name in zip(moved, agents, strict=True)
    ]


def _fresh(moments: list[Moment]) -> Iterator[tuple[Moment, bool]]:
    last = None
    for moment in moments:
        yield moment, moment.episode != last
        last = moment.episode


def _actors(algorithm: Algorithm, moments: list[Moment]) -> list[np.ndarray]:
    """Modes, samples and memories, each [N, ...], as the actors give them without anything central."""
    arm, found = ActorsArm(algorithm), []
    generator = algorithm.generators[0].get_state()
    algorithm.generators[0].manual_seed(LOCALITY_SEED)
    for moment, fresh in _fresh(moments):
        if fresh:
            arm.reset(moment.episode)
        obs, mask = (to_torch(a, algorithm.device) for a in (moment.step.obs, moment.step.action_mask))
        sample, _ = algorithm.act_decentralised(obs, mask, arm.memory["actor"], greedy=False)
        mode = arm.act(moment.step)
        found += [mode, _numpy(sample), _numpy(arm.memory["actor"])]
    algorithm.generators[0].set_state(generator)
    return found


def _joint(algorithm: Algorithm, moments: list[Moment]) -> list[np.ndarray]:
    """Log-probabilities [N, 1] of the joint policy's modes."""
    found = []
    memory = algorithm.initial_memory(1)
    for moment, fresh in _fresh(moments):
        if fresh:
            memory = algorithm.initial_memory(1)
        seen = moment.step
        obs, state, mask = (to_torch(a, algorithm.device) for a in (seen.obs, seen.state, seen.action_mask))
        _, log_prob, memory["actor"] = algorithm.act_joint(obs, state, memory["signal"], mask, memory["actor"], True)
        found.append(_numpy(log_prob))
    return found


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _other_state(moments: list[Moment], kind: str) -> list[Moment]:
    generator = np.random.default_rng(LOCALITY_SEED)
    return [
        moment._replace(
            step=moment.step._replace(
                state=replaced(kind, moment.step.state, generator),
                final_state=replaced(kind, moment.step.final_state, generator),
            )
        )
        for moment in moments
    ]


@contextlib.contextmanager
def _other_weights(algorithm: Algorithm, kind: str) -> Iterator[None]:
    """Everything but the actors has other weights in here."""
    generator = np.random.default_rng(LOCALITY_SEED)
    tensors = [
        tensor
        for name, module in algorithm.modules.items()
        if name != "actor"
        for tensor in module.state_dict().values()
        if tensor.is_floating_point()
    ]
    kept = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.copy_(torch.from_numpy(replaced(kind, _numpy(tensor), generator)))
    try:
        yield
    finally:
        for tensor, old in zip(tensors, kept, strict=True):
            tensor.copy_(old)


# The task -----------------------------------------------------------------------------------------------------------


def environmental(task: Task, seed: int = LOCALITY_SEED) -> tuple[str, list[Finding]]:
    """What each agent is given while the state that the task's rules hide from it is changed, in states that random
    legal play comes through. Returns what could be done, in words, and the findings.

    comparisons: states that a change really altered; bits: the same, for here a whole observation moves or does not.
    What never came up is left out of the findings and named."""
    spec = task.spec
    if not isinstance(task, Probing):
        return f"not available: the states of {spec.name} cannot be changed from outside", []
    if not task.probes:
        return f"nothing to change: {spec.name} {spec.scenario} declares no hidden state", []
    generator = np.random.default_rng(seed)
    counts = {(probe, agent): [0, 0] for probe in task.probes for agent in range(spec.num_agents)}
    step = task.reset(seed)
    for t in range(PROBED_TIMES * STEPS_BETWEEN):
        if t % STEPS_BETWEEN == 0:
            for (probe, agent), count in counts.items():
                found = task.probe(probe, agent, seed + t)
                count[0] += int(found.changed.sum())
                count[1] += int(found.moved.sum())
        mask = np.asarray(step.action_mask)
        step = task.step(torch.from_numpy((generator.random(mask.shape) * mask).argmax(-1).astype(np.int32)))
    findings = [
        Finding(TASK, probe.name if probe.hidden else f"control: {probe.name}", spec.agents[agent], not probe.hidden,
                changed, changed, moved)
        for (probe, agent), (changed, moved) in counts.items()
        if changed or moved or not probe.hidden
    ]  # fmt: skip
    never = [p.name for p in task.probes if not any(count[0] for (probe, _), count in counts.items() if probe is p)]
    return (
        f"{PROBED_ENVS * PROBED_TIMES:,} states, changed in what {spec.name} hides"
        + (f"; never came up: {', '.join(never)}" if never else ""),
        findings,
    )
