"""What a deployed team does when frames are lost and processes die: its declared behaviour, held against what happened."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentmixer import intervals
from agentmixer.contract.manifest import Tolerances
from agentmixer.contract.results import Check, Report, judged
from agentmixer.errors import AgentMixerError
from agentmixer.host.devices import Devices
from agentmixer.host.faulty_link import Faults, Key
from agentmixer.host.lock_step import Event, Host
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.runtime.frames import observation, unpack
from agentmixer.runtime.golden import is_close
from agentmixer.runtime.log import Logger
from agentmixer.tasks import Task
from agentmixer.train.evaluate import longest_episode
from agentmixer.train.run import Run
from agentmixer.validate.arms import DeployedArm, Played, play
from agentmixer.validate.deploy_sim import quantiles
from agentmixer.validate.source_run import check_task, source_run

#: A step with faults may take this much longer than the deadline.
STEP_SLACK = 0.1
#: A dead agent is noticed within this time, and is back within that, s.
NOTICED_S, REJOINED_S = 0.1, 2.0
#: What the fault matrix draws.
MATRIX_KINDS = ("drop", "delay", "duplicate", "reorder", "corrupt")
MATRIX_RATES = (0.0, 0.01, 0.05, 0.2)


@dataclass(frozen=True)
class AgentFaults:
    """What became of one agent's steps and frames. fallbacks: steps without a decision in time; late: those whose
    decision came after all; lost: those whose decision never came, for a known reason; causes: counts of those reasons.
    injected: frames that each fault happened to. damaged: damaged frames that reached the agent and the host; refused:
    those that either refused."""

    decisions: int
    fallbacks: int
    lost: int
    late: int
    causes: dict[str, int]
    stale: int
    duplicates: int
    restarts: int
    injected: dict[str, int]
    damaged: int
    refused: int


@dataclass(frozen=True, kw_only=True)
class FaultReport(Report):
    """Episodes of one deployed team under faults, and whether it behaved as declared: one check a promise."""

    task: str
    scenario: str
    seed: int
    faults: dict[str, Any]
    episodes: int
    steps: int
    deadline_s: float
    step_us: dict[str, float | None]
    figures: dict[str, Any]
    agents: dict[str, AgentFaults]
    events: list[dict[str, Any]]

    @property
    def told(self) -> str:
        """Which faults, in words."""
        told = [f"{kind} {rate:.3g}" for kind, rate in self.faults["rates"].items()]
        told += [f"{i['kind']} {i['agent']}@{i['step']}" for i in self.faults["incidents"]]
        return ", ".join(told) or "none"

    def total(self, name: str) -> int:
        """A count, over all agents."""
        return sum(getattr(agent, name) for agent in self.agents.values())


@dataclass(frozen=True, kw_only=True)
class FaultMatrixReport(Report):
    """Several rehearsals on the same episodes: one check and one report for each set of faults."""

    reports: tuple[FaultReport, ...]


def rehearse(
    bundle: Bundle, faults: Faults, episodes: int, seed: int, run: Run | None = None,
    deadline_s: float | None = None, require_isolation: bool = False,
    progress: Callable[[str], None] = lambda _: None, loggers: Sequence[Logger] = (), devices: Devices | None = None,
) -> FaultReport:  # fmt: skip
    """Play `episodes` episodes with the deployed team under `faults`, drawn from `seed` as the episodes are. The same
    episodes are played without any fault before. Calls `progress` with what is played, and how far. loggers: one an agent,
    of what is played under faults. devices: which agents run on other machines, where no process can be killed or stopped.

    Raises AgentMixerError if the run is gone, an agent cannot be started, or decisions are late without any fault, on a
    busy machine; AgentLost if an agent breaks the protocol."""
    with task_of(bundle, run) as (task, longest):
        arguments = episodes, seed, deadline_s, require_isolation
        calm = playing(progress, "without faults")
        _check_calm(_rehearse(bundle, task, longest, Faults(), *arguments, calm, devices=devices))
        return _rehearse(bundle, task, longest, faults, *arguments, playing(progress, "with faults"), loggers, devices)


def matrix(
    bundle: Bundle, episodes: int, seed: int, run: Run | None = None, deadline_s: float | None = None,
    kinds: Sequence[str] = MATRIX_KINDS, rates: Sequence[float] = MATRIX_RATES,
    progress: Callable[[str], None] = lambda _: None, require_isolation: bool = False,
) -> FaultMatrixReport:  # fmt: skip
    """One report for each kind of fault at each rate, all on the same episodes; rate 0 is played once, without any fault,
    and comes first. A delayed frame is held for one deadline, so that it always misses its step. `progress` and errors as in
    `rehearse`; nothing is known of the machine if rate 0 is left out."""
    held_s = bundle.team.task.control_period_s if deadline_s is None else deadline_s
    cells = [Faults()] if 0 in rates else []
    cells += [Faults({kind: rate}, held_s) for kind in kinds for rate in rates if rate]
    reports: list[FaultReport] = []
    with task_of(bundle, run) as (task, longest):
        for number, faults in enumerate(cells, 1):
            told = ", ".join(f"{kind} {rate:.0%}" for kind, rate in faults.rates.items()) or "no fault"
            saying = playing(progress, f"rehearsal {number} of {len(cells)}, {told}")
            reports.append(
                _rehearse(bundle, task, longest, faults, episodes, seed, deadline_s, require_isolation, saying)
            )
            if not faults.rates:
                _check_calm(reports[0])
    return FaultMatrixReport(bundle=str(bundle.path), checks=tuple(map(_cell, reports)), reports=tuple(reports))


def playing(progress: Callable[[str], None], what: str) -> Callable[[str], None]:
    """`progress` for the episodes of one rehearsal."""
    return lambda done: progress(f"playing {what}: {done}")


def _check_calm(report: FaultReport) -> None:
    """Raise AgentMixerError if agents were late without any fault: what came of faults could not be told from that."""
    if late := report.total("fallbacks"):
        decisions = late + report.total("decisions")
        raise AgentMixerError(
            f"this machine is too busy to judge: without any fault {late:,} of {decisions:,} decisions were later than "
            f"{report.deadline_s * 1e3:g} ms; try again when it is idle, or with a longer --deadline-ms"
        )


def _cell(report: FaultReport) -> Check:
    broken = [f"{check.name}: {check.sentence}" for check in report.checks if not check.passed]
    return Check(name=report.told, status=judged(not broken), sentence="; ".join(broken) or "as declared")


@contextlib.contextmanager
def task_of(bundle: Bundle, run: Run | None) -> Iterator[tuple[Task, int]]:
    """The bundle's task, and the steps after which an episode of it is cut off."""
    run = run or source_run(bundle)
    with contextlib.closing(run.make_task(1)) as task:
        check_task(task, bundle, run)
        yield task, longest_episode(task.spec, run.config.run.judge_limit)


def _rehearse(
    bundle: Bundle, task: Task, longest: int, faults: Faults, episodes: int, seed: int, deadline_s: float | None,
    require_isolation: bool, progress: Callable[[str], None], loggers: Sequence[Logger] = (),
    devices: Devices | None = None,
) -> FaultReport:  # fmt: skip
    with Host(bundle, deadline_s, faults, seed, True, require_isolation, devices) as host:
        arm = DeployedArm(host, task.spec, loggers)
        played = play(arm, task, episodes, seed, longest=longest, progress=progress)
        settle(host, faults)
    return FaultReport(
        bundle=str(bundle.path),
        task=task.spec.name,
        scenario=task.spec.scenario,
        seed=seed,
        faults=dataclasses.asdict(faults)
        | {"incidents": [i._asdict() | {"agent": task.spec.agents[i.agent]} for i in faults.incidents]},
        episodes=episodes,
        steps=len(arm.step_ns),
        deadline_s=host.deadline_s,
        step_us=quantiles(arm.step_ns),
        figures=figures(played, task.spec.reports_wins),
        agents={agent.name: _counts(host, i, len(arm.step_ns)) for i, agent in enumerate(host.agents)},
        events=[event._asdict() for event in host.events],
        checks=tuple(judge(host, arm.applied, max(arm.step_ns) / 1e9, faults)),
    )


def figures(played: Played, wins: bool) -> dict[str, Any]:
    """Return, and win rate where the task knows one (`wins`), with their intervals."""
    found: dict[str, Any] = {"return": intervals.mean(played.returns)._asdict()}
    return found | ({"win_rate": intervals.rate(played.won)._asdict()} if wins else {})


def settle(host: Host, faults: Faults) -> bool:
    """Let everything arrive that was on its way after the last step: held frames, stopped and restarted agents."""
    return host.settle(2 * faults.delay_s + max((i.for_s for i in faults.incidents), default=0.0) + 2 * REJOINED_S)


def _counts(host: Host, index: int, steps: int) -> AgentFaults:
    tally, link = host.tallies[index], host.links[index]
    causes: dict[str, int] = {}
    for why in tally.missed.values():
        name = (why or "unknown").partition(":")[0]
        causes[name] = causes.get(name, 0) + 1
    return AgentFaults(
        decisions=steps - tally.fallbacks,
        fallbacks=tally.fallbacks,
        lost=tally.lost,
        late=tally.late,
        causes=causes,
        stale=tally.stale,
        duplicates=tally.duplicates,
        restarts=tally.restarts,
        injected=link.injected,
        damaged=link.damaged + link.damaged_back,
        refused=link.refused + tally.broken,
    )


def judge(host: Host, applied: list[dict[Key, np.ndarray]], longest_s: float, faults: Faults) -> list[Check]:
    """Hold what a host did under faults against what is declared. applied: for each agent, the decisions that were
    applied, by episode and step; longest_s: the longest step."""
    limit = host.deadline_s * (1 + STEP_SLACK)
    fallbacks, lost, late = (
        sum(getattr(tally, name) for tally in host.tallies) for name in ("fallbacks", "lost", "late")
    )
    damaged = sum(link.damaged + link.damaged_back for link in host.links)
    refused = sum(link.refused for link in host.links) + sum(tally.broken for tally in host.tallies)
    stale, doubles = (sum(getattr(tally, name) for tally in host.tallies) for name in ("stale", "duplicates"))
    wrong, compared = _wrong(host, applied)
    first = "; first: {agent} in episode {episode}, step {step}".format(**wrong[0]) if wrong else ""
    checks = [
        Check(
            name="fallbacks",
            status=judged(fallbacks == lost + late),
            sentence=f"{fallbacks:,} fallbacks = {lost:,} lost + {late:,} late",
        ),
        Check(
            name="decisions",
            status=judged(not wrong),
            sentence=f"{compared - len(wrong):,} of {compared:,} applied decisions are those of their own step, by an agent that "
            f"saw just the frames that arrived; {stale:,} stale and {doubles:,} double ones were refused{first}",
        ),
        Check(
            name="damage",
            status=judged(damaged == refused),
            sentence=f"{refused:,} of {damaged:,} damaged frames that arrived were refused",
        ),
        Check(
            name="step",
            status=judged(longest_s <= limit),
            sentence=f"longest {longest_s * 1e3:.1f} ms, at most {limit * 1e3:g} ms are allowed",
        ),
    ]
    if faults.incidents:
        checks.append(_incidents(host.events, faults, host.bundle.team.task.agents))
    return checks


def _wrong(host: Host, applied: list[dict[Key, np.ndarray]]) -> tuple[list[dict[str, Any]], int]:
    """Applied decisions that a replay of the agent's own frames does not make, and how many were compared."""
    wrong, compared = [], 0
    for agent, link, mine in zip(host.agents, host.links, applied, strict=True):
        files = agent.files
        expected = replay(files, link.delivered, agent.seed)
        compared += len(mine)
        for key, action in mine.items():
            if key not in expected or not _same(action, expected[key], host.bundle.team.tolerances):
                wrong.append({"agent": files.manifest.agent, "episode": key[0], "step": key[1]})
    return wrong, compared


def _same(action: np.ndarray, expected: np.ndarray, tolerances: Tolerances) -> bool:
    if action.dtype == np.int64:
        return bool(action == expected)
    return bool(is_close(action, expected, tolerances).all())


def replay(files: AgentFiles, delivered: Sequence[bytes | None], seed: int = 0) -> dict[Key, np.ndarray]:
    """What an agent decides that receives exactly these frames, by episode and step; None: it is started anew. seed: of its noise.

    It runs in this process, without link or host, and keeps the rule that a step is taken once and in order."""
    agent, last = Agent(files, seed), (-1, -1)
    decisions: dict[Key, np.ndarray] = {}
    for data in delivered:
        if data is None:
            agent.reset()
            last = (-1, -1)
            continue
        frame = unpack(data)
        key = (frame.episode, frame.step)
        if key > last:
            if key[0] != last[0]:
                agent.reset(key[0])
            last = key
            decisions[key] = agent.act(*observation(frame))
    return decisions


def _incidents(events: Sequence[Event], faults: Faults, agents: Sequence[str]) -> Check:
    """Every process fault happened; who was killed was noticed and came back in time, with its reset announced."""
    problems, noticed, rejoined = [], [], []
    for incident in faults.incidents:
        what = {"kill": "killed", "stop": "stopped"}[incident.kind]
        mine = [event for event in events if event.agent == agents[incident.agent]]
        at = next((n for n, e in enumerate(mine) if (e.what, e.step) == (what, incident.step)), None)
        label = f"{incident.kind}={agents[incident.agent]}@{incident.step}"
        if at is None:
            problems.append(f"{label} did not happen")
        elif incident.kind == "stop":
            if not any(e.what in ("continued", "lost") for e in mine[at:]):
                problems.append(f"{label}: it never continued")
        else:
            lost = next((e for e in mine[at:] if e.what == "lost"), None)
            back = next((e for e in mine[at:] if e.what.startswith("rejoined")), None)
            if not lost or not back:
                problems.append(f"{label}: {'not back' if lost else 'not noticed'}")
                continue
            noticed.append(lost.at_s - mine[at].at_s)
            rejoined.append(back.at_s - lost.at_s)
            if noticed[-1] > NOTICED_S or rejoined[-1] > REJOINED_S:
                problems.append(f"{label}: too slow")
    times = (
        f"noticed after {max(noticed) * 1e3:.1f} ms, back after {max(rejoined):.2f} s with recurrent state reset; "
        if noticed
        else ""
    )
    return Check(
        name="processes",
        status=judged(not problems),
        sentence=times + ("; ".join(problems) or f"{len(faults.incidents)} incidents as told"),
    )
