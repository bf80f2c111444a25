"""What a device really fed its agent, judged afterwards: which elements of the observation were wired wrong (`runtime.wiring_search`), whose
observation it is, and whether the agent decides on it as was logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentmixer.contract.manifest import Tolerances
from agentmixer.contract.results import Check, Report, judged
from agentmixer.contract.spec import Box
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import profile
from agentmixer.runtime.actions import as_array
from agentmixer.runtime.agent import Agent, InvalidDecision
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.golden import is_close
from agentmixer.runtime.log import Log
from agentmixer.runtime.relations import FEW
from agentmixer.runtime.wiring_search import Finding, Search

#: Least decisions that are judged.
LEAST_STEPS = 50

#: What is said where nothing was found: without and with models.
ORDER = (
    "the profile has no models of any element, for it is of too few decisions; export the team again",
    "every element is as it was in the team's own episodes, as far as the log tells",
)


@dataclass(frozen=True, kw_only=True)
class AuditReport(Report):
    """What an audit found. agent: its name; decisions: how many were judged; elements: how many of the observation have models; findings:
    the likeliest first; noticed: of each kind of fault, on how many of those elements this log would show it; counted if there are no findings."""

    agent: str
    decisions: int
    elements: int
    findings: tuple[Finding, ...]
    noticed: Mapping[str, int]


def audit(files: AgentFiles, log: Log, others: Sequence[AgentFiles] = ()) -> AuditReport:
    """Judge a log of this agent. others: the team's other agents, whose observations it may have been given.

    Raises AgentMixerError if the log is too short, or the files hold what an agent cannot be made of."""
    manifest, figures = files.manifest, profile.parse(files.profile, files.manifest)
    if len(log.obs) < LEAST_STEPS:
        raise AgentMixerError(
            f"the log holds {len(log.obs)} decisions; an audit needs {LEAST_STEPS} at least, and 200 or more are better"
        )
    search, modelled = Search(manifest, figures, log), int((figures.relations.kind >= FEW).sum())
    surprise = search.total
    findings = search.explain()
    swapped = _another(files, log, others, surprise, search.enough) if findings else None
    checks = [
        _replayed(files, log),
        Check(
            name="agent",
            subject=manifest.agent,
            status=judged(swapped is None),
            sentence=swapped or "the observations are this agent's, as far as the log tells",
        ),
        Check(
            name="wiring",
            subject=manifest.agent,
            status=judged(not findings) if modelled else "not run",
            sentence=findings[0].told + (f"; and {len(findings) - 1} more" if len(findings) > 1 else "")
            if findings
            else ORDER[modelled > 0],
        ),
    ]
    return AuditReport(
        bundle=str(manifest.agent),
        checks=tuple(checks),
        agent=manifest.agent,
        decisions=len(log.obs),
        elements=modelled,
        findings=tuple(findings),
        noticed={} if findings else search.noticed(),
    )


def _replayed(files: AgentFiles, log: Log) -> Check:
    """Whether the agent decides on the logged observations as was logged."""
    manifest = files.manifest
    if manifest.noise:
        return Check(
            name="decisions",
            subject=manifest.agent,
            status="does not apply",
            sentence="this agent draws its actions, and a log does not hold what they are drawn by",
        )
    agent = Agent(files)
    fallback = as_array(manifest.fallback_action, manifest.action_space)
    masked, real = manifest.mask_rule == "forbid", isinstance(manifest.action_space, Box)
    # What a recurrent agent remembers from before the log is not known.
    begin = int(log.fresh.argmax()) if manifest.state and log.fresh.any() else len(log.obs) if manifest.state else 0
    same, fallen = 0, 0
    for t in range(begin, len(log.obs)):
        if log.fresh[t]:
            agent.reset()
        try:
            action = agent.act(log.obs[t], log.mask[t] if masked else None)
        except InvalidDecision:
            action = fallback
        logged = log.actions[t]
        as_logged = bool((is_close(action, logged, Tolerances()) if real else action == logged).all())
        same += as_logged
        fallen += not as_logged and bool((logged == fallback).all())
    judged_on = len(log.obs) - begin
    if not judged_on:
        return Check(
            name="decisions",
            subject=manifest.agent,
            status="does not apply",
            sentence="no episode begins within the log",
        )
    return Check(
        name="decisions",
        subject=manifest.agent,
        status=judged(same + fallen == judged_on),
        sentence=f"{same:,} of {judged_on:,} logged actions are what the agent decides on the logged observations"
        + (f"; {fallen:,} are the fallback action" if fallen else ""),
    )


def _another(files: AgentFiles, log: Log, others: Sequence[AgentFiles], surprise: float, enough: float) -> str | None:
    """A sentence if the observations are more likely another agent's of the team. surprise: by this agent's models, nats; enough: by how
    much less it must be by the other's."""
    mine = files.manifest
    found: list[tuple[float, str]] = []
    for other in others:
        manifest = other.manifest
        same = manifest.tensor("obs").shape == mine.tensor("obs").shape and manifest.action_space == mine.action_space
        if same and manifest.agent != mine.agent:
            theirs = Search(manifest, profile.parse(other.profile, manifest), log).total
            found.append((surprise - theirs, manifest.agent))
    gain, whose = max(found, default=(0.0, ""), key=lambda one: one[0])
    return f"the observations are those of {whose}: feed each agent its own" if gain > enough else None
