"""Running teams that are wrong in one thing: the bundle is right, and a link or the host changes what passes between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import AgentLost
from agentmixer.host.agent_process import AgentProcess
from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.frames import Kind, pack, unpack
from agentmixer.validate.arms import ActorsArm, DeployedArm, Played
from agentmixer.validate.bundle_checks import Context
from agentmixer.validate.deploy_sim import compare
from agentmixer.validate.moments import PATIENCE_S
from agentmixer.validate.mutation_check import MutationCheck, mutation_check, not_applicable

#: How long a step waits where decisions that are not accepted make it wait, and how many such steps, s.
WAIT_S, WAITED_STEPS = 0.5, 4


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

    def step(self, episode: int, step: int, obs: list[np.ndarray], masks: list[np.ndarray | None] | None) -> Any:
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


def check_parity(host: Host, context: Context) -> tuple[str, str] | None:
    """Deploy-sim's parity: what the running team does against the torch actors, on the same observations."""
    spec = context.bundle.team.task
    seeds = [0] * len(spec.agents) if context.bundle.sampled else None
    arm, shadow = DeployedArm(host, spec), ActorsArm(context.algorithm.team, seeds)
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
    parity = compare(played, shadow.policies, spec, context.bundle.team.tolerances)
    if parity.passed:
        return None
    return (
        "deploy-sim parity",
        parity.sentence,
    )


def tampered(context: Context, progress: Callable[[str], None] = lambda _: None) -> list[MutationCheck]:
    """Teams of real processes with a bundle that is right and a link or a host that is wrong. Calls `progress` with each."""
    bundle, checks = context.bundle, []
    for name, what, change in (
        ("step echo off by one", "decisions echo the step after the one that was asked", _echo(step=1)),
        ("episode echo off by one", "decisions echo the next episode", _echo(episode=1)),
    ):
        progress(f"wrong team: {name}")
        with Host(bundle, PATIENCE_S) as host:
            _tamper(host, 0, change)
            checks.append(mutation_check(name, what, _check_echo(host, context, 0)))

    name, what = "stale decision", "an agent answers with its last decision under the right echo"
    progress(f"wrong team: {name}")
    varies = [
        i for i in range(len(bundle.agents))
        if any(not np.array_equal(a.actions[i], b.actions[i]) for a, b in zip(context.moments, context.moments[1:], strict=False))
    ]  # fmt: skip
    if varies:
        with Host(bundle, PATIENCE_S) as host:
            _tamper(host, varies[0], _one_late())
            checks.append(mutation_check(name, what, check_parity(host, context)))
    else:
        why = f"every agent does the same at all {len(context.moments)} recorded steps"
        checks.append(not_applicable(name, what, why))

    name, what = "another seed", "the agents draw by another seed than they were started with"
    progress(f"wrong team: {name}")
    if not bundle.sampled:
        checks.append(not_applicable(name, what, "actions that are not drawn"))
    else:
        with Host(bundle, PATIENCE_S, seed=1) as host:
            checks.append(mutation_check(name, what, check_parity(host, context)))

    name, what = "observations permuted", "the host gives two agents each other's observation and mask"
    progress(f"wrong team: {name}")
    if len(bundle.agents) < 2:
        checks.append(not_applicable(name, what, "a team of one"))
    elif not _heeded(context):
        why = f"neither agent would do anything else at the {len(context.moments)} recorded steps"
        checks.append(not_applicable(name, what, why))
    else:
        with _SwappingHost(bundle, PATIENCE_S) as host:
            checks.append(mutation_check(name, what, check_parity(host, context)))
    return checks


def _tamper(host: Host, index: int, change: Callable[[bytes], bytes]) -> None:
    """Let `change` rewrite what comes from an agent."""
    agent = host.agents[index]
    assert isinstance(agent, AgentProcess)
    agent.link = _Link(agent.link, change)  # type: ignore[assignment]


def _heeded(context: Context) -> bool:
    """Whether the first two agents would do anything else with each other's observations; so say agents alone."""
    first, second, *_ = context.bundle.agents.values()
    for i, j in ((0, 1), (1, 0)):
        agent, last = Agent((first, second)[i], seed=0), None
        for moment in context.moments:
            if moment.episode != last:
                last = moment.episode
                agent.reset(last)
            try:
                action = agent.act(moment.obs[j], None if moment.masks is None else moment.masks[j])
            except AgentMixerError:
                return True
            if not np.array_equal(action, moment.actions[i]):
                return True
    return False
