"""The host's side: a team of processes or devices, each sent its own observation and asked for its decision.

Lock-step: all agents get their frames, then all decisions are awaited until the deadline. Who has not decided by then
contributes its fallback. Time is the monotonic clock's alone: setting the machine's clock changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.host.agent_link import AgentLink, HungUp
from agentmixer.host.agent_process import AgentProcess
from agentmixer.host.device_link import DeviceLink
from agentmixer.host.devices import Devices
from agentmixer.host.faulty_link import Faults, FaultyLink, Key
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.frames import NOWHERE, Kind, action_of, pack, reason_of, unpack

#: How often in a row a lost agent is started before it is given up.
START_ATTEMPTS = 3
#: Frames taken from one agent before the others get their turn.
_BURST = 64
#: poll() takes no more; whoever waits longer polls again.
_LONGEST_POLL_MS = 1e6
#: Why a step was missed whose decision came after all.
LATE = "late"


class Decision(NamedTuple):
    """What came back for one agent in one step."""

    #: As `Agent.act` returned it: [] int64 or [A] float32.
    action: np.ndarray
    #: Host's clock from sending the frame to holding the decision, ns; 0 if none came.
    round_trip_ns: int
    #: The agent's own clock for unpacking, deciding and packing, ns; 0 if none came.
    deciding_ns: int
    #: False: no decision before the deadline, or none that is valid; `action` is the manifest's fallback.
    in_time: bool
    #: Why the agent itself fell back; None unless it did.
    invalid: str | None = None


@dataclass
class Tally:
    """What became of one agent's steps and frames."""

    #: Steps that fell back: (episode, step) -> why no decision came, "late" if it did come, None as long as nobody knows.
    missed: dict[Key, str | None] = field(default_factory=dict)
    #: Decisions for another step than the one being played: not applied.
    stale: int = 0
    #: Further decisions for a step already decided: not applied.
    duplicates: int = 0
    #: Frames from the agent that were damaged.
    broken: int = 0
    #: Refusals by the agent.
    refused: int = 0
    #: Steps in which the agent's policy gave no valid decision, and it fell back and said so.
    invalid: int = 0
    restarts: int = 0

    @property
    def fallbacks(self) -> int:
        """Steps that fell back."""
        return len(self.missed)

    @property
    def late(self) -> int:
        """Fallbacks whose decision came after the deadline."""
        return sum(why == LATE for why in self.missed.values())

    @property
    def lost(self) -> int:
        """Fallbacks whose decision never came, for a reason that is known."""
        return sum(why not in (None, LATE) for why in self.missed.values())


class Event(NamedTuple):
    """Something that happened to an agent's process. step: counted from 0 over all that the host has played."""

    step: int
    agent: str
    #: "killed", "stopped", "continued" (all three on purpose), "lost", "rejoined, recurrent state reset", or "gone".
    what: str
    #: Host's monotonic clock, s.
    at_s: float


class Host:
    """The whole team, one process or device an agent. Use as a context manager.

    deadline_s: how long a step waits for decisions; the manifest's control period unless given. faults: what is to
    go wrong on purpose; with faults, damaged and refused frames are counted, where they would otherwise end the team.
    seed: of what is drawn for faults, and of the noise of agents on this machine that draw their actions. restart: an agent whose process is gone is started anew, with its recurrent state reset, instead of ending
    the team; until it is back it contributes its fallback. After START_ATTEMPTS starts in vain it is left alone.
    require_isolation: refuse to start unless every agent's isolation is full. devices: which agents run on other machines,
    and where; a device that goes away is called until it is back, and contributes its fallback meanwhile, whatever
    `restart` says.
    """

    def __init__(
        self, bundle: Bundle, deadline_s: float | None = None,
        faults: Faults | None = None, seed: int = 0, restart: bool = False, require_isolation: bool = False,
        devices: Devices | None = None,
    ):  # fmt: skip
        self.bundle = bundle
        self.deadline_s = bundle.team.task.control_period_s if deadline_s is None else deadline_s
        self.require_isolation = require_isolation
        self.agents: list[AgentLink] = []
        self.start_seconds: list[float] = []
        self.tallies = [Tally() for _ in bundle.team.task.agents]
        self.events: list[Event] = []
        #: One an agent where there are faults, none otherwise.
        self.links: list[FaultyLink] = []
        #: Episode and step played last.
        self.last: Key = (-1, -1)
        self._faults, self._seed, self._restarting, self._devices = faults, seed, restart, devices
        #: Whether frames that are damaged or refused are counted; otherwise they end the team.
        self._counting = bool(faults or devices)
        self._poll = select.poll()
        self._index: dict[int, int] = {}
        self._played = 0
        self._playing: Key | None = None
        #: Why each agent has not decided in the step being played, as far as is known.
        self._why: list[str | None] = []
        #: What each agent may do in that step, if the task masks.
        self._masks: list[np.ndarray | None] | None = None
        #: Agents that do not answer yet, and how often they were started in vain.
        self._starting: dict[int, int] = {}
        self._gone: set[int] = set()
        self._ended: list[AgentLink] = []
        #: When which stopped agent continues.
        self._stopped: list[tuple[int, int]] = []

    def __enter__(self) -> Host:
        try:
            for name in self.bundle.team.task.agents:
                self.agents.append(self._start(name))
            self.start_seconds = [agent.await_ready() for agent in self.agents]
            for agent in self.agents:
                self._listen(agent)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        if self._faults:
            self.links = [
                FaultyLink(agent, self._faults, self._seed, agent.index, functools.partial(self._note, agent.index))
                for agent in self.agents
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, index in self._stopped:
            self.agents[index].signal(signal.SIGCONT)
        for agent in (*self.agents, *self._ended):
            agent.close()

    def _start(self, name: str) -> AgentLink:
        files = self.bundle.agents[name]
        if self._devices and name in self._devices.addresses:
            return DeviceLink(files, self._devices.addresses[name], self._devices.context, self.require_isolation)
        return AgentProcess(files, self.bundle.folder(name), self.require_isolation, self._seed)

    def _listen(self, agent: AgentLink) -> None:
        self._index[agent.fileno()] = agent.index
        self._poll.register(agent.fileno(), select.POLLIN)

    def step(
        self, episode: int, step: int, obs: list[np.ndarray], masks: list[np.ndarray | None] | None
    ) -> list[Decision]:
        """One lock-step. obs: one [D] float32 an agent; masks, if the task masks: one [A] bool an agent, None for agents
        that take none.

        A later episode than the last one's makes every agent forget its recurrent state first. Raises
        AgentMixerError for a step that is not later than the last one, AgentLost if an agent ends the team."""
        key = (episode, step)
        if key <= self.last:
            raise AgentMixerError(
                f"step {step} of episode {episode} cannot follow step {self.last[1]} of episode {self.last[0]}; "
                "episodes must grow, and steps within one"
            )
        self.last = self._playing = key
        self._why, self._masks = [None] * len(self.agents), masks
        self._hurt("stop")
        deadline_ns = time.monotonic_ns() + int(self.deadline_s * 1e9)
        deadline_us = min(int(self.deadline_s * 1e6), 2**32 - 1)  # all that its field in the frame can say
        sent: dict[int, int] = {}
        for i, agent in enumerate(self.agents):
            if i in self._starting:
                agent.starting()
                self._rejoin(i)  # calls that nobody answers end by the clock, and no poll tells of that
            if i in self._starting or i in self._gone:
                self._why[i] = "not running"
                continue
            agent = self.agents[i]
            seen = obs[i].tobytes()
            allowed = None if masks is None else masks[i]
            mask = b"" if allowed is None else allowed.tobytes()
            now = time.monotonic_ns()
            sizes = (len(seen), len(mask))
            frame = pack(Kind.OBSERVE, i, agent.digest, seen + mask, episode, step, now, deadline_us, *sizes)
            with self._mending(i):
                if self.links:
                    self.links[i].send(frame, now)
                    sent[i] = now
                elif agent.send(frame):
                    sent[i] = now
                else:
                    self._why[i] = "queue full"
        self._hurt("kill")
        decisions = self._await(sent, deadline_ns)
        for tally, decision, why in zip(self.tallies, decisions, self._why, strict=True):
            if not decision.in_time:
                tally.missed[key] = why
        self._playing = None
        self._played += 1
        return decisions

    def settle(self, within_s: float) -> bool:
        """After the last step: take what is still on its way, until every fallback is accounted for, all frames have
        arrived and lost agents are back. Returns whether that came about within the time."""
        until_ns = time.monotonic_ns() + int(within_s * 1e9)
        while not self._settled():
            now = time.monotonic_ns()
            if now >= until_ns:
                return False
            for index in self._ready(min(until_ns, now + 10_000_000)):
                for data in self._arrived(index):
                    self._judge(index, data, 0)
        return True

    def _settled(self) -> bool:
        for link in self.links:
            link.release()
        return (
            all(link.settled() for link in self.links)
            and not (self._starting or self._stopped)
            and all(why is not None for tally in self.tallies for why in tally.missed.values())
        )

    def _await(self, sent: dict[int, int], deadline_ns: int) -> list[Decision]:
        """Decisions of all agents as they arrive; the fallback for those still out at the deadline.

        One agent's silence must not cost the others: what has arrived by then is taken."""
        decisions = [Decision(agent.fallback, 0, 0, False) for agent in self.agents]
        missing = set(sent).difference(self._starting, self._gone)
        expired = False
        while missing and not expired:
            expired = time.monotonic_ns() >= deadline_ns
            for index in self._ready(deadline_ns):
                for data in self._arrived(index):
                    decided = self._judge(index, data, deadline_ns)
                    if decided is None:
                        continue
                    if index in missing:
                        missing.remove(index)
                        self.tallies[index].invalid += decided.invalid is not None
                        decisions[index] = decided._replace(round_trip_ns=time.monotonic_ns() - sent[index])
                    else:
                        self.tallies[index].duplicates += 1
            missing.difference_update(self._starting, self._gone)
        return decisions

    def _ready(self, until_ns: int) -> list[int]:
        """Agents that something has come from, or whose frames are due; waits for one no longer than until then."""
        timers = [until_ns, *(due for due, _ in self._stopped), *(link.due_ns() for link in self.links)]
        held = [index for index, agent in enumerate(self.agents) if agent.holds_frame] if self._devices else []
        wait_ms = 0 if held else min(max(min(timers) - time.monotonic_ns(), 0) / 1e6, _LONGEST_POLL_MS)
        ready = [*held, *(index for fd, _ in self._poll.poll(wait_ms) if (index := self._index[fd]) not in held)]
        now = time.monotonic_ns()
        for due, index in [entry for entry in self._stopped if entry[0] <= now]:
            self._stopped.remove((due, index))
            self.agents[index].signal(signal.SIGCONT)
            self._happened(index, "continued")
        for index, link in enumerate(self.links):
            if link.due_ns() <= now:
                with self._mending(index):
                    link.move(now)
                if index not in ready:
                    ready.append(index)
        return ready

    def _arrived(self, index: int) -> Iterator[bytes]:
        """Frames that have come from an agent. One that was started anew is heard as soon as it is ready."""
        if index in self._starting:
            self._rejoin(index)
            return
        with self._mending(index):
            if not self.links:
                data = self.agents[index].receive()
                if data is not None:
                    yield data
                return
            for _ in range(_BURST):
                try:
                    data = self.links[index].receive(time.monotonic_ns())
                except AgentMixerError as error:
                    raise self.agents[index].lost(f"sent a broken frame ({error})") from error
                if data is None:
                    return
                yield data

    def _judge(self, index: int, data: bytes, deadline_ns: int) -> Decision | None:
        """What a frame from an agent decides for the step being played; None if nothing.

        Decisions that echo another episode or step are stale, those sent after the deadline late; neither is applied.
        An agent of this machine shares the monotonic clock. A device does not: its decision is late unless the host holds it
        when the deadline is over."""
        agent, tally = self.agents[index], self.tallies[index]
        try:
            frame = unpack(data)
        except AgentMixerError as error:
            if not self._counting:
                raise agent.lost(f"sent a broken frame ({error})") from error
            tally.broken += 1
            return None
        if frame.digest != agent.digest or frame.agent != index:
            raise agent.lost(f"speaks for agent {frame.agent}")
        key = (frame.episode, frame.step)
        if frame.kind == Kind.REFUSE:
            reason = reason_of(frame, agent.space)
            if not self._counting and key in (self._playing, NOWHERE):
                raise agent.lost(f"refused step {self.last[1]}: {reason}")
            tally.refused += 1
            self._note(index, key, f"refused: {reason}")
        elif frame.kind in (Kind.ACT, Kind.FALLBACK):
            if key != self._playing:
                tally.stale += 1
                self._note(index, key, LATE)
            elif agent.shares_clock and frame.sent_ns > deadline_ns:
                self._note(index, key, LATE)
            else:
                if frame.kind == Kind.FALLBACK:
                    why = f"invalid: {reason_of(frame, agent.space)}"
                    self._note(index, key, why)
                    return Decision(agent.fallback, 0, 0, False, why)
                try:
                    action, deciding_ns = action_of(frame, agent.space, self._masks[index] if self._masks else None)
                    return Decision(action, 0, deciding_ns, True)
                except AgentMixerError as error:
                    raise agent.lost(f"sent a broken decision ({error})") from error
        return None

    def _note(self, index: int, key: Key, why: str) -> None:
        """Why no decision came for a step, should it fall back. A decision that came late outweighs a copy that was lost."""
        missed = self.tallies[index].missed
        if key == self._playing:
            if self._why[index] != LATE:
                self._why[index] = why
        elif key in missed and (missed[key] is None or why == LATE):
            missed[key] = why

    def _happened(self, index: int, what: str) -> None:
        self.events.append(Event(self._played, self.agents[index].name, what, time.monotonic_ns() / 1e9))

    def _hurt(self, kind: str) -> None:
        """Kill or stop who is to be killed or stopped in this step."""
        for incident in self._faults.incidents if self._faults else ():
            if (incident.kind, incident.step) == (kind, self._played) and incident.agent not in self._gone:
                self.agents[incident.agent].signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
                if kind == "kill":
                    self._happened(incident.agent, "killed")
                else:
                    self._stopped.append((time.monotonic_ns() + int(incident.for_s * 1e9), incident.agent))
                    self._happened(incident.agent, "stopped")

    @contextlib.contextmanager
    def _mending(self, index: int) -> Iterator[None]:
        """Whoever hangs up meanwhile is started anew, or ends the team."""
        try:
            yield
        except HungUp as error:
            if not (self._restarting or isinstance(self.agents[index], DeviceLink)):
                raise self.agents[index].lost(str(error)) from error
            self._happened(index, "lost")
            self._replace(index, 0)

    def _replace(self, index: int, attempts: int) -> None:
        """Start an agent anew, without waiting for it, unless that was tried often enough."""
        old = self.agents[index]
        del self._index[old.fileno()]
        self._poll.unregister(old.fileno())
        old.kill()
        self._ended.append(old)  # its last moments would cost the others milliseconds of this step
        if self._playing:
            self._note(index, self._playing, "agent lost")
        missed = self.tallies[index].missed
        missed.update({key: "agent lost" for key, why in missed.items() if why is None})
        self._starting.pop(index, None)
        if attempts == START_ATTEMPTS:
            self._gone.add(index)
            self._happened(index, "gone")
            return
        self._starting[index] = attempts + 1
        self.agents[index] = self._start(old.name)
        self._listen(self.agents[index])
        if self.links:
            self.links[index].restarted(self.agents[index])

    def _rejoin(self, index: int) -> None:
        try:
            data = self.agents[index].first()
            if data is None:
                return
            self.agents[index].announced(data)
        except AgentMixerError:
            self._replace(index, self._starting[index])
            return
        while self._ended:
            self._ended.pop().close()
        del self._starting[index]
        self.tallies[index].restarts += 1
        self._happened(index, "rejoined, recurrent state reset")
