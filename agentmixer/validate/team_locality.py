"""Locality of a deployed team: an agent's decisions while the other agents see something else, die, or are asked in another
order."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import AgentLink, HungUp
from agentmixer.host.lock_step import Host
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.frames import Kind, action_of, pack, unpack
from agentmixer.validate.bit_tally import REPLACEMENTS, BitCheck, Tally, replaced
from agentmixer.validate.moments import PATIENCE_S, Moment

#: Where something was changed.
TEAM, PROCESS = "running team", "one process"


class Inputs(NamedTuple):
    """What a team is given in one step, and the order in which its agents get it."""

    obs: list[np.ndarray]
    masks: list[np.ndarray | None] | None
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
            masks = [
                mine if mine is None or j == index else _random_mask(mine, generator) for j, mine in enumerate(masks)
            ]
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


def _random_mask(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    drawn = generator.random(mask.size) < 0.5
    drawn[generator.integers(mask.size)] = True
    return drawn


class _Team:
    """A running team that is asked for single steps, whether or not all of it lives and answers. Use as a context manager.

    A team that draws its actions is started anew for every replay: its noise follows from the episodes' numbers, and they must be
    the same again."""

    def __init__(self, bundle: Bundle):
        self.bundle, self._running = bundle, contextlib.ExitStack()

    def __enter__(self) -> _Team:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self) -> None:
        self._running.close()
        self.host = self._running.enter_context(Host(self.bundle, PATIENCE_S))
        self.episode = -1

    def replay(
        self, moments: list[Moment], index: int, change: Change, killed: bool = False
    ) -> list[np.ndarray | None]:
        """What agent `index` does at each moment; None where it refuses or is silent. killed: all others are, with
        SIGKILL, before the second half."""
        answers: list[np.ndarray | None] = []
        last = None
        if self.bundle.sampled and self.episode >= 0:
            self._start()
        for t, moment in enumerate(moments):
            if moment.episode != last:
                last, self.episode = moment.episode, self.episode + 1  # so that all agents forget the last one
            if killed and t == len(moments) // 2:
                for agent in self.host.agents:
                    if agent.index != index:
                        agent.kill()
            given = change(moment)
            asked = [j for j in given.order if self._ask(self.host.agents[j], t, given)]
            replies = {j: self._answer(self.host.agents[j], t) for j in asked}
            answers.append(replies.get(index))
        return answers

    def _ask(self, agent: AgentLink, step: int, given: Inputs) -> bool:
        seen = given.obs[agent.index].tobytes()
        legal = None if given.masks is None else given.masks[agent.index]
        mask = b"" if legal is None else legal.tobytes()
        sizes = (len(seen), len(mask))
        now, patience_us = time.monotonic_ns(), int(PATIENCE_S * 1e6)
        frame = pack(Kind.OBSERVE, agent.index, agent.digest, seen + mask, self.episode, step, now, patience_us, *sizes)
        try:
            return agent.send(frame)
        except HungUp:
            return False

    def _answer(self, agent: AgentLink, step: int) -> np.ndarray | None:
        end = time.monotonic() + PATIENCE_S
        while select.select([agent], [], [], max(end - time.monotonic(), 0.0))[0]:
            try:
                data = agent.receive()
            except HungUp:
                return None
            if data is None:
                continue
            frame = unpack(data)
            if (frame.episode, frame.step) == (self.episode, step):
                return np.asarray(action_of(frame, agent.space)[0]) if frame.kind == Kind.ACT else None
        return None


def running_team(bundle: Bundle, moments: list[Moment], index: int) -> list[BitCheck]:
    """Agent `index`'s actions in a team of real processes, while the others see something else, die or are asked in
    another order, against what it did when the moments were recorded."""
    name = bundle.team.task.agents[index]
    recorded: list[np.ndarray | None] = [moment.actions[index] for moment in moments]
    checks = []

    def judge(change: str, reference: list[np.ndarray | None], found: list[np.ndarray | None]) -> None:
        checks.append(_compared(reference, found).check(TEAM, change, name))

    with _Team(bundle) as team:
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
    checks.append(control.check(TEAM, "control: a host that mixes observations", name, control=True))
    return checks


def _compared(reference: list[np.ndarray | None], found: list[np.ndarray | None], tally: Tally | None = None) -> Tally:
    tally = tally or Tally()
    for ours, theirs in zip(reference, found, strict=True):
        if ours is not None:
            tally.compare(ours, theirs)
    return tally


def one_process(bundle: Bundle, moments: list[Moment], index: int) -> list[BitCheck]:
    """The same with all agents in one process, where an agent's logits or means and its recurrent state can be
    compared too. The actions are held against those of its own process."""
    name = bundle.team.task.agents[index]
    agents = [Agent(files, seed=0) for files in bundle.agents.values()]
    reference = _decide(agents, moments, index, _unchanged)
    apart = _compared([moment.actions[index] for moment in moments], [rows[0] if rows else None for rows in reference])
    checks = [apart.check(PROCESS, "one process for all", name)]
    changes = {f"others' observations: {kind}": _replacing(kind, index) for kind in REPLACEMENTS}
    for change, how in (*changes.items(), ("order of deciding", _shuffling(index))):
        checks.append(_rows(reference, _decide(agents, moments, index, how)).check(PROCESS, change, name))
    leaky = _decide(agents, moments, index, _leaking(_unchanged, index))
    control = Tally()
    for kind in REPLACEMENTS:
        if not control.differing:
            _rows(leaky, _decide(agents, moments, index, _leaking(_replacing(kind, index), index)), control)
    checks.append(control.check(PROCESS, "control: observations mixed on the way", name, control=True))
    return checks


#: An agent's action, policy output and recurrent state; None where it refused.
Rows = list[tuple[np.ndarray, ...] | None]


def _decide(agents: list[Agent], moments: list[Moment], index: int, change: Change) -> Rows:
    rows: Rows = []
    last = None
    for moment in moments:
        if moment.episode != last:
            last = moment.episode
            for agent in agents:
                agent.reset(last)
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
