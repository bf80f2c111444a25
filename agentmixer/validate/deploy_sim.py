"""The deployment rehearsal: three arms on the same paired episodes, and a verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from agentmixer import intervals
from agentmixer.contract.manifest import Tolerances
from agentmixer.contract.results import Check, Report, Status, judged
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.host.agent_link import AgentLost
from agentmixer.host.device_link import DeviceLink
from agentmixer.host.devices import Devices
from agentmixer.host.lock_step import Decision, Host
from agentmixer.runtime.actions import allowance, array_type, is_near_tie
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.log import Logger
from agentmixer.tasks import Task
from agentmixer.train import checkpoint
from agentmixer.train.evaluate import longest_episode
from agentmixer.train.run import Run
from agentmixer.validate import equivalence
from agentmixer.validate.arms import ActorsArm, Arm, DeployedArm, JointArm, Played, play
from agentmixer.validate.equivalence import Equivalence
from agentmixer.validate.histogram import Histogram, histogram
from agentmixer.validate.recording import Recorder
from agentmixer.validate.source_run import check_task, exported_team, has_int8, source_run

#: Episodes of their own, apart from training, evaluation and golden traces.
DEPLOY_SEED = 3_000_017
#: What arms are called while they play.
_PLAYING = {"joint": "joint policy", "actors": "actors", "deployed": "deployed agents"}


@dataclass(frozen=True, kw_only=True)
class ParityCheck(Check):
    """Deployed actions against the torch actors' on the same observations, over whole closed-loop episodes: passed if no
    decision that came in time differs beyond a near tie or the tolerance. A fallback is nobody's decision: it is not
    compared, and other checks count it."""

    episodes: int
    steps: int
    #: Decisions that were compared, and those that were not: fallbacks, and what an agent with memory on a device decided in the
    #: rest of an episode after it had missed a step.
    actions: int
    not_compared: int
    different: int
    near_ties: int
    #: Largest difference of a real-valued action element, in the task's units; None if no agent has one.
    largest_error: float | None
    #: Where they first part beyond a near tie or the tolerance: episode, step, agent, both actions; None if never.
    first: dict[str, Any] | None


@dataclass(frozen=True)
class DeviceFigures:
    """An agent's device. address: where it was called; lost: how often it went away; health: what it counted since it was
    called last (`runtime.health.Health`), None if it did not say."""

    address: str
    lost: int
    health: dict[str, Any] | None


@dataclass(frozen=True)
class AgentFigures:
    """What one agent's process cost, and its isolation: level, and what full isolation has beyond it. Times in
    microseconds, memory in MB of 2^20 bytes."""

    isolation: str
    isolation_lacks: tuple[str, ...]
    start_s: float
    resident_mb: float
    peak_mb: float
    deciding_us: dict[str, float | None]
    deciding_histogram: Histogram
    bytes_to_agent: int
    bytes_from_agent: int
    missed_deadlines: int
    #: Steps in which the agent's policy gave no valid decision, and it fell back.
    invalid_decisions: int
    #: None for an agent that ran on the host's machine.
    device: DeviceFigures | None = None


@dataclass(frozen=True, kw_only=True)
class DeploySimReport(Report):
    """Everything deploy-sim found out. Its checks: parity, deadline, decisions, and equivalence, which applies if a margin
    was asked for."""

    task: str
    scenario: str
    seed: int
    arms: dict[str, dict[str, Any]]
    #: joint minus deployed on the same episodes, by measure: mean and Student's 95 % interval of the paired differences.
    asymmetric_gap: dict[str, dict[str, float]]
    #: Share of decisions in which joint policy and actor have the same mode (Definition 6), with its Wilson interval,
    #: on what the joint and the deployed team came to see.
    mode_agreement: dict[str, dict[str, float]]
    #: Deployed against the actors on the same episodes: two one-sided tests against the margin.
    equivalence: Equivalence
    deadline_s: float
    control_period_s: float
    #: Episodes of each arm that did not end within `longest_episode` steps and count as lost.
    longest_episode: int
    unended: dict[str, tuple[int, ...]]
    step_us: dict[str, float | None]
    step_histogram: Histogram
    start_to_first_action_s: float
    agents: dict[str, AgentFigures]

    @property
    def parity(self) -> ParityCheck:
        """The check of parity, with its figures."""
        return next(check for check in self.checks if isinstance(check, ParityCheck))


def compare(
    played: Played, policies: list[list[np.ndarray]], spec: TaskSpec, tolerances: Tolerances,
    decided: np.ndarray | None = None,
) -> ParityCheck:  # fmt: skip
    """Hold what the deployed arm did against what its shadow, the torch actors, would have done at every step.

    policies[episode][step]: [N, A], the actors'. decided: [steps of all episodes, N] bool, where an agent's decision came in
    time; everywhere unless given. Real values are equal within the tolerances, whole numbers exactly."""
    agents, real = spec.agents, np.array([isinstance(space, Box) and not space.whole for space in spec.action_spaces])
    steps = actions = different = ties = 0
    largest: float | None = None
    first: dict[str, Any] | None = None
    for episode, (deployed, actors) in enumerate(zip(played.actions, played.shadow, strict=True)):
        counted = (
            np.ones((len(deployed), len(agents)), bool) if decided is None else decided[steps : steps + len(deployed)]
        )
        steps += len(deployed)
        actions += int(counted.sum())
        ours, theirs = deployed.reshape(*counted.shape, -1), actors.reshape(*counted.shape, -1)
        parted = (ours != theirs).any(-1)
        if real.any():
            largest = max(largest or 0.0, float(np.abs(ours - theirs)[counted & real].max(initial=0.0)))
            for agent, space in enumerate(spec.action_spaces):
                if isinstance(space, Box) and real[agent]:
                    a, b = ours[:, agent, : space.size], theirs[:, agent, : space.size]
                    parted[:, agent] = ~(np.abs(a - b) <= allowance(space, b, tolerances)).all(-1)
        parted &= counted
        different += int(parted.sum())
        for t, agent in np.argwhere(parted):
            space = spec.action_spaces[agent]
            mine = ours[t, agent, : space.size].astype(array_type(space)[0])
            if is_near_tie(space, policies[episode][t][agent], mine, tolerances):
                ties += 1
            elif first is None:
                first = {
                    "episode": episode,
                    "step": int(t),
                    "agent": agents[agent],
                    "actors": actors[t, agent].tolist(),
                    "deployed": deployed[t, agent].tolist(),
                }
    left = steps * len(agents) - actions
    hows = [] if real.all() else [f"{ties} near ties"]
    how = ", ".join(hows if largest is None else [*hows, f"largest error {largest:.1e}"])
    if left:
        how += f"; {left:,} are not compared: fallbacks, and those of a device with memory in the rest of an episode after one"
    if first:
        how += "; first in episode {episode}, step {step}: {agent} did {deployed}, its actor {actors}".format(**first)
    return ParityCheck(
        name="parity",
        status=judged(not first) if actions else "not run",
        sentence=f"{actions - different:,} of {actions:,} decisions equal over {steps:,} steps, {how}",
        episodes=len(played.actions),
        steps=steps,
        actions=actions,
        not_compared=left,
        different=different,
        near_ties=ties,
        largest_error=largest,
        first=first,
    )


def timing_checks(figures: dict[str, AgentFigures], deadline_s: float, control_period_s: float) -> list[Check]:
    """Whether every decision came in time, and was a valid action. An agent's work is the same for every decision, so where
    deciding as a rule takes less than a tenth of the deadline, late ones are laid to the machine."""
    missed = sum(agent.missed_deadlines for agent in figures.values())
    usual = [agent.deciding_us["p50"] for agent in figures.values() if agent.missed_deadlines]
    slowest = max((time for time in usual if time is not None), default=0.0)
    whose = ""
    on_devices = any(agent.device for agent in figures.values())
    if missed and not on_devices and None not in usual and slowest < deadline_s * 1e6 / 10:
        whose = (
            f"; deciding takes these agents {slowest / 1e3:.2g} ms as a rule, so the machine was busy: try again when it "
            "is idle, or with a longer --deadline-ms"
        )
    invalid = sum(agent.invalid_decisions for agent in figures.values())
    return [
        Check(
            name="deadline",
            status=judged(not missed),
            sentence=f"{missed} decisions later than {deadline_s * 1e3:g} ms (control period {control_period_s * 1e3:g} ms){whose}",
        ),
        Check(
            name="decisions",
            status=judged(not invalid),
            sentence=f"{invalid} were no valid action, and the agent fell back",
        ),
    ]


def devices_check(host: Host, figures: dict[str, AgentFigures]) -> list[Check]:
    """Whether all devices stayed, and refused nothing; no check for a team without devices."""
    devices = {name: agent.device for name, agent in figures.items() if agent.device}
    if not devices:
        return []
    told = [f"{event.agent} {event.what} at step {event.step:,}" for event in host.events if event.agent in devices]
    refused = sum(tally.refused + tally.broken for tally in host.tallies)
    if refused:
        told.append(f"{refused:,} frames were refused or broken")
    return [
        Check(
            name="devices",
            status=judged(not told),
            sentence=f"{len(devices)} agent{'s' * (len(devices) > 1)} on devices, over mutual TLS: "
            + ("; ".join(told) or "none went away"),
        )
    ]


def compared(host: Host, episodes: Sequence[np.ndarray], decisions: list[list[Decision]]) -> np.ndarray:
    """Which decisions can be held against the actors', [steps of all episodes, N] bool: those that came in time. A device with
    memory, or one that draws its actions, may not have seen a step that it missed, so the rest of that episode is left out.

    episodes: an array of a length per episode."""
    found = np.array([[d.in_time and d.invalid is None for d in step] for step in decisions])
    manifests = [agent.files.manifest for agent in host.agents]
    forgetful = [
        isinstance(agent, DeviceLink) and own.memory + own.noise > 0
        for agent, own in zip(host.agents, manifests, strict=True)
    ]
    begin = 0
    for length in map(len, episodes):
        rows = found[begin : begin + length]
        rows[:, forgetful] = np.logical_and.accumulate(rows[:, forgetful], axis=0)
        begin += length
    return found


def equivalence_check(found: Equivalence, wins: bool, margin_asked: bool) -> Check:
    """Whether equivalence was shown, if a margin was asked for. wins: whether win rates were compared."""
    status: Status = judged(found.equivalent) if margin_asked else "does not apply"
    return Check(name="equivalence", status=status, sentence=equivalence.sentence(found, wins))


def quantiles(values_ns: list[int]) -> dict[str, float | None]:
    """p50, p99, p99.9 and maximum in microseconds; None without any value."""
    if not values_ns:
        return dict.fromkeys(("p50", "p99", "p99.9", "max"))
    p50, p99, p999, top = np.quantile(np.array(values_ns) / 1e3, [0.5, 0.99, 0.999, 1.0])
    return {"p50": float(p50), "p99": float(p99), "p99.9": float(p999), "max": float(top)}


def deploy_sim(
    bundle: Bundle, episodes: int, seed: int = DEPLOY_SEED, run: Run | None = None, deadline_s: float | None = None,
    progress: Callable[[str], None] = lambda _: None, require_isolation: bool = False, margin: float | None = None,
    recorders: Mapping[str, Recorder] | None = None, loggers: Sequence[Logger] = (), devices: Devices | None = None,
) -> DeploySimReport:  # fmt: skip
    """Play `episodes` paired episodes with each arm and judge the deployed one.

    margin: what deployed and actors may differ by (`equivalence.equivalence` says in what unit); if given it decides.
    deadline_s: how long a step waits for decisions; the control period unless given. Calls `progress` with
    what is played, and how far. recorders: of arms, by name; loggers: of the deployed agents, one each.
    devices: which of the deployed agents run on other machines. run: as `source_run.source_run` gives it. Raises AgentMixerError if the run is gone, an agent cannot be started,
    or its isolation is required and not full."""
    run = run or source_run(bundle)
    with contextlib.closing(run.make_task(1)) as task:
        return _deploy_sim(
            bundle, run, task, episodes, seed, deadline_s, progress, require_isolation, margin, recorders or {}, loggers,
            devices,
        )  # fmt: skip


def _deploy_sim(
    bundle: Bundle, run: Run, task: Task, episodes: int, seed: int, deadline_s: float | None,
    progress: Callable[[str], None], require_isolation: bool, margin: float | None,
    recorders: Mapping[str, Recorder], loggers: Sequence[Logger], devices: Devices | None,
) -> DeploySimReport:  # fmt: skip
    check_task(task, bundle, run)
    algorithm, _ = checkpoint.load_weights(run, task, run.checkpoints / bundle.team.source.checkpoint)
    longest = longest_episode(task.spec, run.config.run.judge_limit)

    def playing(name: str, arm: Arm, shadow: Arm | None = None) -> Played:
        def told(done: str) -> None:
            progress(f"playing, {_PLAYING[name]}: {done}")

        return play(arm, task, episodes, seed, shadow, longest, told, recorders.get(name))

    # One seed for the noise of all agents, which each draws its own by.
    seeds = [0] * task.spec.num_agents if bundle.sampled else None
    joint = JointArm(algorithm.team, seeds)
    played = {"joint": playing("joint", joint), "actors": playing("actors", ActorsArm(algorithm.team, seeds))}
    with Host(bundle, deadline_s, require_isolation=require_isolation, devices=devices) as host:
        exported = exported_team(bundle, run, task) if has_int8(bundle) else algorithm
        announced = [agent.seed for agent in host.agents] if bundle.sampled else None
        deployed, shadow = DeployedArm(host, task.spec, loggers), ActorsArm(exported.team, announced)
        played["deployed"] = playing("deployed", deployed, shadow)
        figures = {agent.name: _figures(host, i, deployed.decisions) for i, agent in enumerate(host.agents)}
        first_action = max(host.start_seconds) + deployed.step_ns[0] / 1e9
    equivalent = equivalence.equivalence(
        played["deployed"], played["actors"], task.spec, intervals.MARGIN if margin is None else margin
    )
    return DeploySimReport(
        bundle=str(bundle.path),
        checks=(
            compare(
                played["deployed"],
                shadow.policies,
                task.spec,
                bundle.team.tolerances,
                compared(host, played["deployed"].actions, deployed.decisions),
            ),
            *timing_checks(figures, host.deadline_s, task.spec.control_period_s),
            *devices_check(host, figures),
            equivalence_check(equivalent, task.spec.reports_wins, margin is not None),
        ),
        task=task.spec.name,
        scenario=task.spec.scenario,
        seed=seed,
        arms={
            name: {"return": intervals.mean(arm.returns)._asdict()}
            | ({"win_rate": intervals.rate(arm.won)._asdict()} if task.spec.reports_wins else {})
            for name, arm in played.items()
        },
        asymmetric_gap={
            name: intervals.paired(getattr(played["joint"], field), getattr(played["deployed"], field))._asdict()
            for name, field in (("return", "returns"), *([("win_rate", "won")] if task.spec.reports_wins else []))
        },
        mode_agreement={
            name: intervals.share(arm.agreed, arm.decided)._asdict()
            for name, arm in (("joint", joint), ("deployed", shadow))
            if arm.decided
        },
        equivalence=equivalent,
        deadline_s=host.deadline_s,
        control_period_s=task.spec.control_period_s,
        longest_episode=longest,
        unended={name: arm.unended for name, arm in played.items() if arm.unended},
        step_us=quantiles(deployed.step_ns),
        step_histogram=histogram(deployed.step_ns),
        start_to_first_action_s=first_action,
        agents=figures,
    )


def _figures(host: Host, index: int, decisions: list[list[Decision]]) -> AgentFigures:
    agent, mine = host.agents[index], [step[index] for step in decisions]
    device = None
    if isinstance(agent, DeviceLink):
        health = agent.health()
        lost = sum(event.agent == agent.name and event.what == "lost" for event in host.events)
        device = DeviceFigures(agent.where, lost, msgspec.structs.asdict(health) if health else None)
    resident, peak = agent.resident_mb()
    deciding_ns = [decision.deciding_ns for decision in mine if decision.in_time]
    return AgentFigures(
        isolation=agent.isolation.level,
        isolation_lacks=agent.isolation.missing,
        start_s=host.start_seconds[index],
        resident_mb=resident,
        peak_mb=peak,
        deciding_us=quantiles(deciding_ns),
        deciding_histogram=histogram(deciding_ns),
        bytes_to_agent=agent.sent_bytes,
        bytes_from_agent=agent.received_bytes,
        missed_deadlines=sum(not decision.in_time and decision.invalid is None for decision in mine),
        invalid_decisions=sum(decision.invalid is not None for decision in mine),
        device=device,
    )


def lost_report(bundle: Bundle, error: AgentLost) -> Report:
    """The report of a rehearsal that ended because an agent was lost: it has no figures, and takes an older report's place."""
    lost = Check(name="running", status="failed", sentence=str(error))
    return Report(bundle=str(bundle.path), checks=(lost,))
