"""Faults on purpose: frames that are lost, held up, doubled or damaged between host and agent, and processes that are
killed or stopped at a given step. One seed decides all of it.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from agentmixer.errors import AgentMixerError, nearest
from agentmixer.runtime.frames import NOWHERE, Kind, unpack

#: What may happen to a frame, each with a rate of its own.
FRAME_FAULTS = ("drop", "delay", "duplicate", "reorder", "corrupt", "truncate", "oversize")
#: Those after which the bytes are no longer what was sent.
DAMAGE = ("corrupt", "truncate", "oversize")
#: What may happen to an agent's process.
PROCESS_FAULTS = ("kill", "stop")
#: How long a stopped process stays stopped unless told, s.
STOP_S = 1.0
#: Bytes that `oversize` adds at most.
EXCESS = 1 << 16

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

#: Episode and step that a frame is about.
Key = tuple[int, int]


class Incident(NamedTuple):
    """A process fault. kind: `kill` or `stop`; agent: its index; step: counted from 0 over all that the host plays;
    for_s: how long a stop lasts."""

    kind: str
    agent: int
    step: int
    for_s: float


@dataclass(frozen=True)
class Faults:
    """What goes wrong. rates: probability a frame, by kind, in each direction; delay_s: how long a delayed frame is held."""

    rates: dict[str, float] = field(default_factory=dict)
    delay_s: float = 0.0
    incidents: tuple[Incident, ...] = ()


def parse_faults(texts: Sequence[str], agents: Sequence[str], others: Sequence[str] = ()) -> Faults:
    """Faults as typed: `drop=0.05` (so also duplicate, reorder, corrupt, truncate, oversize), `delay=20ms:p=0.1`,
    `kill=agent_2@100`, `stop=agent_2@100:for=500ms`. agents: the team's names; others: kinds of faults that are not of the
    link, and that an unknown kind may have meant.

    Raises AgentMixerError naming the text that means nothing, and what it may be."""
    rates: dict[str, float] = {}
    delay_s, incidents = 0.0, []
    for text in texts:
        kind, _, value = text.partition("=")
        if kind not in FRAME_FAULTS + PROCESS_FAULTS:
            known = (*FRAME_FAULTS, *PROCESS_FAULTS, *others)
            raise AgentMixerError(f"unknown fault '{kind}'{nearest(kind, known)}")
        if kind in rates:
            raise AgentMixerError(f"fault {kind} is given twice; give it once")
        if kind in PROCESS_FAULTS:
            incidents.append(_incident(kind, value, text, agents))
        elif kind == "delay":
            length, colon, chance = value.partition(":p=")
            delay_s = _seconds(length, text, "delay=20ms:p=0.1")
            rates[kind] = _rate(chance, text, "delay=20ms:p=0.1") if colon else 1.0
        else:
            rates[kind] = _rate(value, text, f"{kind}=0.05")
    return Faults(rates, delay_s, tuple(incidents))


def _rate(value: str, text: str, example: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        raise AgentMixerError(f"fault '{text}' has no rate; write it like {example}") from None
    if not 0 <= rate <= 1:
        raise AgentMixerError(f"fault '{text}' has a rate outside 0 to 1; write it like {example}")
    return rate


def _seconds(value: str, text: str, example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", value)
    if not found:
        raise AgentMixerError(f"fault '{text}' has no duration in us, ms or s; write it like {example}")
    return float(found[1]) * _SECONDS[found[2]]


def _incident(kind: str, value: str, text: str, agents: Sequence[str]) -> Incident:
    example = f"{kind}={agents[0]}@100" + (":for=500ms" if kind == "stop" else "")
    found = re.fullmatch(r"([A-Za-z0-9_-]+)@(\d+)(?::for=(.+))?", value)
    if not found or (kind == "kill" and found[3]):
        raise AgentMixerError(f"fault '{text}' names no agent and step; write it like {example}")
    if found[1] not in agents:
        raise AgentMixerError(f"fault '{text}' names an agent that this team lacks{nearest(found[1], agents)}")
    for_s = _seconds(found[3], text, example) if found[3] else STOP_S
    return Incident(kind, list(agents).index(found[1]), int(found[2]), for_s)


class Link(Protocol):
    """What carries frames to one agent and back."""

    def send(self, data: bytes) -> bool:
        """Returns False if the agent has stopped reading and its queue is full."""
        ...

    def receive(self) -> bytes | None:
        """The next frame, None if none has arrived."""
        ...


class _Passing(NamedTuple):
    due_ns: int
    order: int
    data: bytes
    intact: bool
    key: Key


class _Way:
    """One direction. Frames go in as sent and come out, when they are due, as the network would leave them."""

    def __init__(self, faults: Faults, generator: np.random.Generator, lost: Callable[[Key, str], None]):
        self._faults, self._generator, self._lost = faults, generator, lost
        self._queue: list[_Passing] = []
        self._overtaken: _Passing | None = None
        self._order = 0
        self.injected: Counter[str] = Counter()

    def put(self, data: bytes, now_ns: int) -> None:
        frame = unpack(data)
        key = (frame.episode, frame.step)
        draws = self._generator.random(len(FRAME_FAULTS))
        happens = {
            kind for kind, draw in zip(FRAME_FAULTS, draws, strict=True) if draw < self._faults.rates.get(kind, 0)
        }
        self.injected.update(happens)
        if "drop" in happens:
            self._lost(key, "dropped")
            return
        due = now_ns + int(self._faults.delay_s * 1e9) * ("delay" in happens)
        damage = [kind for kind in DAMAGE if kind in happens]
        sent = data
        for kind in damage:
            sent = self._damaged(kind, sent)
        if damage:
            self._lost(key, "damaged")
        passing = _Passing(due, self._next(), sent, not damage, key)
        if "reorder" in happens and self._overtaken is None:
            self._overtaken = passing
        else:
            heapq.heappush(self._queue, passing)
            self.release(due)
        if "duplicate" in happens:
            heapq.heappush(self._queue, _Passing(due, self._next(), data, True, key))

    def release(self, due_ns: int) -> None:
        """Let the overtaken frame go, behind whatever overtook it."""
        if self._overtaken:
            late = self._overtaken._replace(due_ns=max(due_ns, self._overtaken.due_ns), order=self._next())
            self._overtaken = None
            heapq.heappush(self._queue, late)

    def take(self, now_ns: int) -> _Passing | None:
        """The next frame that is due."""
        return heapq.heappop(self._queue) if self._queue and self._queue[0].due_ns <= now_ns else None

    def due_ns(self) -> float:
        """When the next one is due; infinity if nothing is on its way."""
        return self._queue[0].due_ns if self._queue else math.inf

    def holds(self) -> bool:
        return bool(self._queue) or self._overtaken is not None

    def clear(self) -> None:
        self._queue.clear()
        self._overtaken = None

    def _next(self) -> int:
        self._order += 1
        return self._order

    def _damaged(self, kind: str, data: bytes) -> bytes:
        draw = self._generator
        if kind == "truncate":
            return data[: draw.integers(1, len(data))]  # an empty message would read as the end of the link
        if kind == "oversize":
            return data + draw.bytes(int(draw.integers(1, EXCESS + 1)))
        changed = bytearray(data)
        for where in draw.choice(len(data), min(len(data), int(draw.integers(1, 5))), replace=False):
            changed[where] ^= int(draw.integers(1, 256))
        return bytes(changed)


class FaultyLink:
    """A link on which frames meet their faults, in both directions.

    lost: told of each frame that is destroyed, with what it was about and why. `delivered` holds, in order, every frame
    that reached the agent's link undamaged, and None where its process was started anew."""

    def __init__(self, link: Link, faults: Faults, seed: int, agent: int, lost: Callable[[Key, str], None]):
        self._link, self._lost = link, lost
        ways = [_Way(faults, np.random.default_rng([seed, agent, way]), lost) for way in range(2)]
        self._there, self._back = ways
        self.delivered: list[bytes | None] = []
        #: Damaged frames that reached the agent, and its refusals of frames that it could not read.
        self.damaged = self.refused = 0
        #: Damaged frames that reached the host.
        self.damaged_back = 0

    @property
    def injected(self) -> dict[str, int]:
        """Frames that each kind of fault happened to, both directions together."""
        both = self._there.injected + self._back.injected
        return {kind: both[kind] for kind in FRAME_FAULTS}

    def send(self, data: bytes, now_ns: int) -> None:
        self._there.put(data, now_ns)
        self.move(now_ns)

    def move(self, now_ns: int) -> None:
        """Hand over to the agent what is due. Raises what `Link.send` raises."""
        while passing := self._there.take(now_ns):
            if not self._link.send(passing.data):
                self._lost(passing.key, "queue full")
            elif passing.intact:
                self.delivered.append(passing.data)
            else:
                self.damaged += 1

    def receive(self, now_ns: int) -> bytes | None:
        """The next frame from the agent that is due, None if there is none. Raises what `Link.receive` raises."""
        while (passing := self._back.take(now_ns)) is None:
            data = self._link.receive()
            if data is None:
                return None
            frame = unpack(data)
            self.refused += frame.kind == Kind.REFUSE and (frame.episode, frame.step) == NOWHERE
            self._back.put(data, now_ns)
        self.damaged_back += not passing.intact
        return passing.data

    def due_ns(self) -> float:
        """When the next frame that is held up will be due; infinity if there is none."""
        return min(self._there.due_ns(), self._back.due_ns())

    def release(self) -> None:
        """Let frames go that wait to be overtaken: nothing follows them."""
        self._there.release(0)
        self._back.release(0)

    def settled(self) -> bool:
        """Whether nothing is on its way any more, and every damaged frame that reached the agent was refused."""
        return not (self._there.holds() or self._back.holds() or self.damaged > self.refused)

    def restarted(self, link: Link) -> None:
        """The agent runs in another process now; what was on its way to and from the old one is gone."""
        self._link = link
        self._there.clear()
        self._back.clear()
        self.damaged = self.refused
        self.delivered.append(None)
