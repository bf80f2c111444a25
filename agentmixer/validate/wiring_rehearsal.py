"""What a deployed team does when an observation is put together wrongly: what it costs, and whether the status says so.

The agents play in this process, each by `Agent.step`, as a device's own loop calls it: links and processes have no part in wiring.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agentmixer import intervals
from agentmixer.contract.manifest import AgentManifest
from agentmixer.contract.results import Check, Report, judged
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import profile
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.audit import LEAST_STEPS
from agentmixer.runtime.bundle import AgentFiles, Bundle
from agentmixer.runtime.log import Log, Logger
from agentmixer.runtime.named import Observation
from agentmixer.runtime.probe import probe
from agentmixer.runtime.status import Status
from agentmixer.runtime.wiring_search import Finding, Search
from agentmixer.tasks import Task
from agentmixer.tasks.base import TaskStep
from agentmixer.train.run import Run
from agentmixer.validate.arms import Played, joined, of_each, play
from agentmixer.validate.faults import figures, playing, task_of
from agentmixer.validate.wiring import Wiring, parse_wiring

#: A return has fallen that is lower by this share.
FALL = 0.1
#: Of how many elements the matrix has a column of faults, at or by how many steps it freezes and delays them, and on how many recorded
#: observations it finds the elements.
MATRIX_ELEMENTS, MATRIX_STEPS, PROBED = 3, 5, 64
#: Newest decisions of a log that are audited.
AUDITED = 1000
#: How many explanations an audit looks for there.
EXPLAINED = 3


@dataclass(frozen=True)
class Flags:
    """When one agent's status said that its observation is unusual: an element outside, or stale (`runtime.status`).

    episodes: of each episode the first step in which it said so, None where it never did; first: the first of all, with what it said;
    calm: how many of the same episodes, played without a fault, it flags; audit: what an audit of the agent's log finds."""

    agent: str
    episodes: tuple[int | None, ...]
    first: dict[str, Any] | None
    calm: int
    audit: tuple[Finding, ...] = ()

    @property
    def flagged(self) -> int:
        """How many episodes it flags."""
        return sum(step is not None for step in self.episodes)

    @property
    def told(self) -> str:
        """What it said, in a sentence."""
        of = f"{self.flagged} of {len(self.episodes)} episodes (without the fault {self.calm})"
        if self.first is None:
            return f"the status says nothing in {of}"
        return "the status flags {of}, first in episode {episode}, step {step}: {why}".format(of=of, **self.first)


@dataclass(frozen=True, kw_only=True)
class WiringReport(Report):
    """Episodes of a team whose observations were put together wrongly, against the same episodes without the fault.

    Its checks: each fault changed something, and the agents did with the unusual what their `when_unusual` declares. What the fault
    costs is reported and not judged. figures, calm: return, and win rate where the task knows one, with and without the fault;
    difference: with minus without, paired; fallen: see there; flags: of each agent that has a fault; named: whether the first thing that
    an audit of its log says is of the first fault: "fault" if it names element and kind, "element", or "no"."""

    task: str
    scenario: str
    seed: int
    faults: tuple[str, ...]
    episodes: int
    steps: int
    figures: dict[str, Any]
    calm: dict[str, Any]
    difference: dict[str, Any]
    fallen: int | None
    flags: tuple[Flags, ...]
    named: str

    @property
    def told(self) -> str:
        """Which faults, as they are typed."""
        return ", ".join(self.faults)

    @property
    def step(self) -> int | None:
        """The median, over the episodes that are flagged, of the first step in which a status flags the observation; None if none is."""
        steps = sorted(step for flags in self.flags for step in flags.episodes if step is not None)
        return steps[(len(steps) - 1) // 2] if steps else None

    @property
    def in_time(self) -> bool | None:
        """Whether the status flags the observation, as a rule, no later than the return has fallen; None if it never falls."""
        return None if self.fallen is None else self.step is not None and self.step <= self.fallen


@dataclass(frozen=True, kw_only=True)
class WiringMatrixReport(Report):
    """Several faults of one agent, each by itself on the same episodes: a check and a report for each. agent: whose observation is put
    together wrongly; elements: those that it heeds most, the most heeded first."""

    agent: str
    elements: tuple[str, ...]
    reports: tuple[WiringReport, ...]


class SteppedArm:
    """The exported agents in this process, by `Agent.step`. An agent that refuses an observation does its fallback action.

    wirings: what is wrong on the way; loggers: one an agent, or none."""

    def __init__(self, bundle: Bundle, wirings: Sequence[Wiring] = (), loggers: Sequence[Logger] = ()):
        self.spec = bundle.team.task
        self.agents = [Agent(files, seed=0) for files in bundle.agents.values()]
        self.wirings, self.loggers = wirings, loggers
        #: Of each episode and agent the first step whose status flags the observation, and what it says.
        self.flags: list[list[tuple[int, str] | None]] = []
        #: How many observations each fault was applied to, and how many it changed.
        self.steps, self.changed = 0, [0] * len(wirings)
        #: Decisions on unusual observations, and those of them that `when_unusual` does not declare.
        self.unusual = self.undeclared = 0
        self._step = 0

    def reset(self, episode: int) -> None:
        for agent in self.agents:
            agent.reset(episode)
        for logger in self.loggers:
            logger.reset()
        self.flags.append([None] * len(self.agents))
        self._step = 0

    def act(self, step: TaskStep) -> np.ndarray:
        obs, masks = of_each(self.spec, step)
        for number, wiring in enumerate(self.wirings):
            right = obs[wiring.agent]
            obs[wiring.agent] = wiring.apply(right, self._step == 0)
            self.changed[number] += not np.array_equal(obs[wiring.agent], right)
        actions = [self._act(i, obs[i], masks[i] if masks else None) for i in range(len(obs))]
        self._step += 1
        self.steps += 1
        return joined(self.spec, actions)

    def _act(self, index: int, obs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """One agent's action, after its status was taken note of."""
        agent, status, said = self.agents[index], None, ""
        try:
            action, status = agent.step(obs, mask)
            said = told(status)
        except AgentMixerError as error:
            action, said = as_array(agent.manifest.fallback_action, agent.manifest.action_space), str(error)
        if said:
            self.unusual += 1
            self.undeclared += status is not None and not declared(status, agent.manifest.when_unusual)
            self.flags[-1][index] = self.flags[-1][index] or (self._step, said)
        if self.loggers and status:
            self.loggers[index].add(obs, mask, action)
        return action


def told(status: Status) -> str:
    """What a status says of the observation; "" if nothing is unusual about it. How long the decision took is left out."""
    if status.outside:
        far = status.outside[0]
        return f"{far.name} is {far.value:.3g}, outside what was seen by {far.by:.2g} of its range"
    return f"{status.stale[0]} is stale" if status.stale else ""


def declared(status: Status, when_unusual: str) -> bool:
    """Whether a decision on an unusual observation was one that `when_unusual` allows."""
    if when_unusual == "fall back":
        return status.fallback
    return not (when_unusual == "refuse" and status.first and status.outside)


def rehearse_wiring(
    bundle: Bundle, wirings: Sequence[Wiring], episodes: int, seed: int, run: Run | None = None,
    progress: Callable[[str], None] = lambda _: None, loggers: Sequence[Logger] = (),
) -> WiringReport:  # fmt: skip
    """Play `episodes` episodes without and with `wirings`. Calls `progress` with what is played, and how far. loggers: one an agent,
    of what is played with them. Raises AgentMixerError if the run is gone."""
    with task_of(bundle, run) as (task, longest):
        calm = _play(bundle, task, longest, (), episodes, seed, playing(progress, "without faults"))
        return _rehearse(
            bundle, task, longest, wirings, calm, episodes, seed, playing(progress, "with faults"), loggers
        )


def wiring_matrix(
    bundle: Bundle, episodes: int, seed: int, run: Run | None = None, progress: Callable[[str], None] = lambda _: None
) -> WiringMatrixReport:
    """Play each kind of fault by itself on the elements that are heeded most, of the agent that heeds one most (`runtime.probe`).
    Each cell is the same episodes. `progress` and errors as in `rehearse_wiring`; AgentMixerError if no agent heeds anything."""
    progress("trying which elements are heeded")
    probes = [probe(files, most=PROBED) for files in bundle.agents.values()]
    most = max(probes, key=lambda one: (one.elements[0].changed, one.elements[0].slope))
    names = [heed.name for heed in most.elements if heed.heeded]
    if not names:
        raise AgentMixerError(
            "no agent of this team heeds anything that it sees, so that no fault of wiring could show"
        )
    manifests = {name: files.manifest for name, files in bundle.agents.items()}
    cells = matrix_faults(bundle.agents[most.agent], names)
    reports: list[WiringReport] = []
    with task_of(bundle, run) as (task, longest):
        calm = _play(bundle, task, longest, (), episodes, seed, playing(progress, "without faults"))
        for number, text in enumerate(cells, 1):
            saying = playing(progress, f"rehearsal {number} of {len(cells)}, {text}")
            wirings = [parse_wiring(text, manifests)]
            reports.append(_rehearse(bundle, task, longest, wirings, calm, episodes, seed, saying))
    return WiringMatrixReport(
        bundle=str(bundle.path),
        checks=tuple(map(_cell, reports)),
        agent=most.agent,
        elements=tuple(names[:MATRIX_ELEMENTS]),
        reports=tuple(reports),
    )


def matrix_faults(files: AgentFiles, names: Sequence[str]) -> list[str]:
    """The matrix's faults, as they are typed. names: the elements that an agent heeds, the most heeded first; at least one."""
    manifest, figures = files.manifest, profile.parse(files.profile, files.manifest)
    agent, elements = manifest.agent, manifest.tensor("obs").elements
    rooms = dict(
        zip(figures.elements.tolist(), (figures.quantiles[:, -1] - figures.quantiles[:, 0]).tolist(), strict=True)
    )
    first, some = list(names[:MATRIX_ELEMENTS]), list(names[: MATRIX_ELEMENTS + 1])
    groups = [
        group for group, members in Observation(manifest).groups.items() if len(members) > 1 and {*members} & {*first}
    ]
    half = {name: rooms.get(elements.index(name), 0.0) / 2 or 1.0 for name in first}
    return [
        *(f"swap={agent}:{one},{other}" for one, other in itertools.pairwise(some)),
        *(f"permute={agent}:{group}" for group in groups[:MATRIX_ELEMENTS]),
        *(f"scale={agent}:{name}:57.2958" for name in first),
        *(f"flip={agent}:{name}" for name in first),
        *(f"offset={agent}:{name}:{half[name]:.4g}" for name in first),
        *(f"freeze={agent}:{name}@{MATRIX_STEPS}" for name in first),
        *(f"lag={agent}:{name}:{MATRIX_STEPS}" for name in first),
    ]


class _Done(NamedTuple):
    """A rehearsal: the arm that has played, and what came of it."""

    arm: SteppedArm
    played: Played


def _play(
    bundle: Bundle, task: Task, longest: int, wirings: Sequence[Wiring], episodes: int, seed: int,
    progress: Callable[[str], None], loggers: Sequence[Logger] = (),
) -> _Done:  # fmt: skip
    arm = SteppedArm(bundle, wirings, loggers)
    return _Done(arm, play(arm, task, episodes, seed, longest=longest, progress=progress))


def _rehearse(
    bundle: Bundle, task: Task, longest: int, wirings: Sequence[Wiring], calm: _Done, episodes: int, seed: int,
    progress: Callable[[str], None], loggers: Sequence[Logger] = (),
) -> WiringReport:  # fmt: skip
    """calm: the same episodes without a fault."""
    kept = loggers or [Logger(files.manifest, AUDITED) for files in bundle.agents.values()]
    arm, played = _play(bundle, task, longest, wirings, episodes, seed, progress, kept)
    spec, agents = task.spec, list(bundle.agents.values())
    faulty = sorted({wiring.agent for wiring in wirings}, key=lambda i: (i != wirings[0].agent, i))
    flags = tuple(
        dataclasses.replace(_flags(spec.agents[i], i, arm, calm.arm), audit=_audited(agents[i], kept[i].log()))
        for i in faulty
    )
    manifests = [files.manifest for files in agents]
    measures = {"return": "returns"} | ({"win_rate": "won"} if spec.reports_wins else {})
    changes = zip(wirings, arm.changed, strict=True)
    return WiringReport(
        bundle=str(bundle.path),
        checks=(*(_changed(wiring, changed, arm.steps) for wiring, changed in changes), _declared(arm, bundle)),
        task=spec.name,
        scenario=spec.scenario,
        seed=seed,
        faults=tuple(wiring.told for wiring in wirings),
        episodes=episodes,
        steps=arm.steps,
        figures=figures(played, spec.reports_wins),
        calm=figures(calm.played, spec.reports_wins),
        difference={
            name: intervals.paired(getattr(played, field), getattr(calm.played, field))._asdict()
            for name, field in measures.items()
        },
        fallen=fallen(calm.played.rewards, played.rewards),
        flags=flags,
        named=_named(wirings[0], manifests[wirings[0].agent], flags[0].audit),
    )


def _audited(files: AgentFiles, log: Log) -> tuple[Finding, ...]:
    """What an audit of the newest decisions of a log finds; nothing in a log that is too short."""
    new = slice(-AUDITED, None)
    newest = log._replace(obs=log.obs[new], mask=log.mask[new], fresh=log.fresh[new], actions=log.actions[new])
    if len(newest.obs) < LEAST_STEPS:
        return ()
    figures = profile.parse(files.profile, files.manifest)
    return tuple(Search(files.manifest, figures, newest).explain(EXPLAINED))


def _named(wiring: Wiring, manifest: AgentManifest, found: Sequence[Finding]) -> str:
    """See `WiringReport`."""
    names = {manifest.tensor("obs").elements[i] for i in wiring.elements}
    if not found or not names & set(found[0].elements):
        return "no"
    return "fault" if found[0].kind == {"permute": "swap"}.get(wiring.kind, wiring.kind) else "element"


def fallen(calm: Sequence[np.ndarray], faulty: Sequence[np.ndarray]) -> int | None:
    """The first step at which the mean of what the faulty episodes have brought so far lies below that of the calm ones by a tenth of the
    whole calm return, without its sign; None if there is none. calm, faulty: each episode's rewards, [T]."""
    steps = max(map(len, (*calm, *faulty)))
    means = [np.mean([np.pad(one, (0, steps - len(one))).cumsum() for one in some], 0) for some in (calm, faulty)]
    below = np.flatnonzero(means[0] - means[1] > FALL * abs(means[0][-1]) + 1e-9)
    return int(below[0]) if len(below) else None


def _cell(report: WiringReport) -> Check:
    """The matrix's check of one fault. A fault that changes nothing shows nothing there, and does not apply."""
    fault, declared = report.checks
    if not fault.passed:
        return Check(name=report.told, status="does not apply", sentence=fault.sentence)
    return Check(name=report.told, status=declared.status, sentence=declared.sentence)


def _changed(wiring: Wiring, changed: int, steps: int) -> Check:
    """A fault that changes nothing shows nothing."""
    return Check(
        name="fault",
        status=judged(changed > 0),
        sentence=f"{wiring.told} changed {changed:,} of {steps:,} observations"
        + ("" if changed else "; choose other elements, or more --episodes"),
        control=True,
    )


def _declared(arm: SteppedArm, bundle: Bundle) -> Check:
    rules = sorted({files.manifest.when_unusual for files in bundle.agents.values()})
    return Check(
        name="when unusual",
        status=judged(not arm.undeclared),
        sentence=f"{arm.unusual - arm.undeclared:,} of {arm.unusual:,} unusual observations were answered as the agents declare "
        f"({', '.join(rules)})",
    )


def _flags(name: str, index: int, arm: SteppedArm, calm: SteppedArm) -> Flags:
    mine = [episode[index] for episode in arm.flags]
    first = next(((number, *flag) for number, flag in enumerate(mine) if flag), None)
    return Flags(
        agent=name,
        episodes=tuple(flag and flag[0] for flag in mine),
        first=None if first is None else dict(zip(("episode", "step", "why"), first, strict=True)),
        calm=sum(episode[index] is not None for episode in calm.flags),
    )
