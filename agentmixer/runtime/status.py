"""What is unusual about a decision, told while the agent runs: the observation against the profile, and the decision itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest
from agentmixer.runtime.named import check_finite
from agentmixer.runtime.profile import Profile

#: How far beyond the least and largest value that were seen an element may lie: this share of the range between them,
MARGIN = 0.1
#: and this share of its size, for an element that hardly varied.
RELATIVE = 1e-3
#: An element is stale that stayed the same for this many times as many decisions in a row as ever in the profile, and this
#: many more.
STALE_TIMES, STALE_MORE = 2, 8
NEVER = 1 << 60
LARGEST = float(np.finfo(np.float32).max)


class Outside(NamedTuple):
    """An element that lies beyond what was seen. by: how far, in units of the range that was seen (of the element's largest size where
    it never varied)."""

    name: str
    value: float
    by: float


class Status(NamedTuple):
    """One decision. `usual` says whether nothing of it is unusual; a near tie and the time taken are told, and are nothing unusual."""

    #: The decision took longer than the control period.
    late: bool
    #: Elements outside what was seen, the farthest first.
    outside: tuple[Outside, ...]
    #: The observation is an episode's first, and `outside` is held against first observations alone.
    first: bool
    #: Elements that have not changed for far longer than they ever stayed the same.
    stale: tuple[str, ...]
    #: Another action was as good to within the tolerance.
    near_tie: bool
    #: The action is the fallback action.
    fallback: bool
    #: How long the decision took, checks included.
    seconds: float

    @property
    def usual(self) -> bool:
        """Nothing is late, outside, stale or fallen back."""
        return not (self.late or self.outside or self.stale or self.fallback)


class Watch:
    """Holds an agent's observations against its profile. It remembers one episode; `reset` forgets it.

    A look takes three numpy calls, since each takes half a microsecond beside a decision of twenty. So the observation is written
    twice and held against both limits at once, and what is stale is worked out from the newest observations no sooner than an
    element can be."""

    def __init__(self, manifest: AgentManifest, profile: Profile):
        self.names, size = manifest.tensor("obs").elements, len(manifest.tensor("obs").elements)
        self._manifest = manifest
        self._usual = _envelope(profile.quantiles, profile.elements, size)
        self._start = _envelope(profile.first, profile.elements, size)
        # After how many looks without a change an element is stale. One that never varied cannot be.
        self._patience = np.full(size, NEVER)
        varies = profile.quantiles[:, 0] < profile.quantiles[:, -1]
        self._patience[profile.elements[varies]] = STALE_TIMES * profile.unchanged[varies] + STALE_MORE
        # Each written twice: the last observation that `_stale` has worked on, and those since.
        self._newest = np.zeros((STALE_MORE + 2, 2, size), np.float32)
        self._flat = list(self._newest.reshape(len(self._newest), -1))
        self._numbers = np.arange(1, len(self._newest))[:, None]
        self._in_limits = np.zeros(2 * size, bool)
        self._all_in_limits = b"\0" * size + b"\1" * size
        # The look at which each element changed last, as far as is known.
        self._changed = np.zeros(size, np.int64)
        self.reset()

    def reset(self) -> None:
        """A new episode begins."""
        self._looks = self._oldest = self._soonest = 0
        self._changed[:] = 0

    def look(self, obs: np.ndarray) -> tuple[bool, tuple[Outside, ...], tuple[str, ...]]:
        """Whether `obs`, [D] float32, is an episode's first, what of it is outside and what is stale.

        Raises AgentMixerError for an element that is not finite, and remembers nothing of that observation."""
        looks = self._looks
        row = looks - self._oldest
        envelope = self._usual if looks else self._start
        self._newest[row] = obs
        np.less(self._flat[row], envelope.limits, self._in_limits)
        outside: tuple[Outside, ...] = ()
        if self._in_limits.tobytes() != self._all_in_limits:
            check_finite(self._manifest, obs)
            outside = self._outside(obs, envelope)
        self._looks = looks + 1
        return not looks, outside, self._stale(looks) if looks > self._soonest else ()

    def _stale(self, looks: int) -> tuple[str, ...]:
        """The elements that are stale, and when to ask again: when the next one can be, or the room for observations is used up."""
        rows = self._newest[: looks - self._oldest + 1, 0]
        moved = (rows[1:] != rows[:-1]) * self._numbers[: len(rows) - 1]
        latest = moved.max(0)  # 0 where an element has not changed since the oldest row
        np.putmask(self._changed, latest, latest + self._oldest)
        due = self._changed + self._patience
        soonest = int(due[due.argmin()])
        self._newest[0], self._oldest = rows[-1], looks
        self._soonest = min(soonest, looks + STALE_MORE)
        return tuple(self.names[i] for i in np.flatnonzero(due < looks)) if soonest < looks else ()

    def usual(self, obs: np.ndarray) -> np.ndarray:
        """Which of T observations, [T, D] and none an episode's first, have nothing outside, [T] bool. It remembers none of them."""
        return np.asarray(((self._usual.low <= obs) & (obs <= self._usual.high)).all(1))

    def clamped(self, obs: np.ndarray, first: bool) -> np.ndarray:
        """The observation with every element moved to the nearest value that is not outside, [D] float32."""
        envelope = self._start if first else self._usual
        return np.clip(obs, envelope.low, envelope.high)

    def _outside(self, obs: np.ndarray, envelope: _Envelope) -> tuple[Outside, ...]:
        found = np.flatnonzero((obs < envelope.low) | (obs > envelope.high))
        by = np.maximum(envelope.low - obs, obs - envelope.high)[found] / envelope.unit[found]
        order = np.argsort(-by, kind="stable")
        return tuple(
            Outside(self.names[i], float(obs[i]), float(far)) for i, far in zip(found[order], by[order], strict=True)
        )


class _Envelope(NamedTuple):
    """Where an observation is usual, [D] float32 each: from `low` to `high`. unit: the range that was seen.
    limits: `low`, and what is next above `high`, [2 D]; an observation written twice is less than the second half alone."""

    low: np.ndarray
    high: np.ndarray
    unit: np.ndarray
    limits: np.ndarray


def _envelope(quantiles: np.ndarray, elements: np.ndarray, size: int) -> _Envelope:
    """Of all D elements; those without figures are usual while they are finite."""
    least, most = quantiles[:, 0].astype(np.float64), quantiles[:, -1].astype(np.float64)
    room, largest = most - least, np.maximum(np.abs(least), np.abs(most))
    low, high, unit = np.full(size, -LARGEST), np.full(size, LARGEST), np.ones(size)
    more = MARGIN * room + RELATIVE * largest + 1e-6
    low[elements], high[elements] = least - more, most + more
    unit[elements] = np.where(room > 0, room, np.maximum(largest, 1e-6))
    low, high, unit = (np.clip(array, -LARGEST, LARGEST) for array in (low, high, unit))
    above = np.nextafter(high.astype(np.float32), np.float32(np.inf))
    return _Envelope(*(array.astype(np.float32) for array in (low, high, unit, np.concatenate([low, above]))))
