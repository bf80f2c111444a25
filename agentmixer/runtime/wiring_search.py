"""The search for what is wrong with the observations of a log.

Every explanation is a change of the log: these two elements exchanged, that element divided by 57.3. An explanation is as good as the log,
changed so, is more likely by the models of `runtime.relations` than the log as it is: the gain, in nats. A log in order
becomes less likely by every change. The best explanation is made true, and the search goes on for what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agentmixer.contract.manifest import AgentManifest
from agentmixer.runtime.log import Log
from agentmixer.runtime.profile import Profile
from agentmixer.runtime.relations import (
    ALONE,
    BEFORE,
    FEW,
    MANY,
    OTHERS,
    OUTSIDE,
    OUTSIDE_WEIGHT,
    WINDOW,
    Models,
    action_features,
)

#: Factors that have a name, and what they are.
NAMED = {
    180 / math.pi: "degrees instead of radians", 1000.0: "thousandths of the unit", 255.0: "0 to 255 instead of 0 to 1",
    100.0: "percent, or hundredths of the unit", 10.0: "tenths of the unit",
}  # fmt: skip
#: Steps of delay that are tried.
LAGS = (1, 2, 3, 4, 5, 6, 8, 10)
#: Nats that an explanation of `WINDOW` decisions must gain, and of more decisions in proportion to the square root of their number. Two elements of many
#: values that behave alike, such as places, go better with each other's by chance: in 100 logs in order of protoss_5v5 by up to 132 nats, where no
#: other explanation gained more than 54.
ENOUGH, ENOUGH_OF_TWO = 60.0, 150.0
#: Nats that an explanation costs: two elements can be exchanged in more ways than one can be changed.
COST, COST_OF_TWO = 3.0, 4.0
#: Nats for an element that stays as it is: so many for as long as it ever did in the profile, and at most so many times what is enough.
STILL, MOST_STILL = 3.0, 1.5
#: It is not called frozen before it stays so many times as long as ever.
LONGER = 5
#: Whatever cannot be mended explains away much, so a mend that gains as large a share of it comes first; and how much excess is worth.
BEFORE_MENDS, UNKNOWN = {"freeze": 0.2, "unknown": 0.5}, 0.4
#: An element is suspected if its models, or those that look at it, are surprised by more than is usual; so many are tried.
SUSPECTS = 6
#: So many partners of a swap, and offsets, are tried: those that suit best whatever the other elements are.
PARTNERS = 10
#: Explanations that are made true one after the other.
MOST = 16
#: Surprise beyond this many spreads above what is usual is excess.
BEYOND = 2.5


class Finding(NamedTuple):
    """What is wrong with one element, or with two that are exchanged.

    kind: swap, scale, flip, offset, freeze, lag, or unknown. value: the factor, the offset in the element's unit, or the steps; 0
    for other kinds. gain: nats. told: what is wrong, and what mends it."""

    kind: str
    elements: tuple[str, ...]
    value: float
    gain: float
    told: str


class Search:
    """The best explanation of a log, again and again. K elements have models; T decisions."""

    def __init__(self, manifest: AgentManifest, figures: Profile, log: Log):
        self.figures, self.models = figures, Models(figures.relations)
        self.names = [manifest.tensor("obs").elements[i] for i in figures.elements]
        self.units = [manifest.obs_elements[i].unit if manifest.obs_elements else "" for i in figures.elements]
        self.obs = log.obs[:, figures.elements].astype(np.float64)
        self.fresh = log.fresh.copy()
        self.fresh[0] = True
        self.features = action_features(log.actions, manifest.action_space)
        relations = figures.relations
        self.weight = np.concatenate([relations.weight, np.full((len(self.names), 1), OUTSIDE_WEIGHT)], 1).astype(
            np.float64
        )
        self.limit = (relations.usual + BEYOND * relations.spread) * relations.weight
        self.varying = np.flatnonzero(relations.kind >= FEW)
        #: Nats that an explanation must gain.
        self.enough = ENOUGH * math.sqrt(max(1.0, len(self.obs) / WINDOW))
        #: Elements that are explained already, and cannot be mended: nothing that looks at them counts.
        self.lost: set[int] = set()
        self._judge()

    def explain(self, most: int = MOST) -> list[Finding]:
        """What is wrong with the observations, the first explanation that was made true first; nothing if all is in order. most: how many
        explanations are looked for."""
        found: list[Finding] = []
        while len(found) < most and (best := self.best()) is not None:
            found.append(best)
        return found

    def noticed(self) -> dict[str, int]:
        """On how many elements each kind of fault would be noticed in this log, were the log in order: the fault is put in, and what it costs is
        counted."""
        counts = dict.fromkeys(("scale", "flip", "offset", "freeze", "lag"), 0)
        for j in self.varying.tolist():
            column, room = self.obs[:, j], self.models.most[j] - self.models.least[j]
            faults = {"scale": column * 57.3, "flip": -column, "offset": column + room / 2, "lag": self._late(j, 3)}
            times = float((~self.fresh[1:]).sum() / (1 + self.figures.unchanged[j]))
            counts["freeze"] += times > LONGER and STILL * times >= self.enough
            for kind, wrong in faults.items():
                counts[kind] += bool(not np.array_equal(wrong, column) and -self.gain({j: wrong}) >= self.enough + COST)
        return counts

    def _judge(self) -> None:
        """How surprising the log is as it stands."""
        size = len(self.names)
        self.now = self._surprise(self.obs, np.arange(size))
        sums = self.now.sum(0) * self.weight
        self.excess = np.maximum(0, sums[:, :OUTSIDE] - len(self.obs) * self.limit)
        self.excess = np.concatenate([self.excess, sums[:, OUTSIDE:]], 1)
        #: How much more surprising the log is than usual, nats.
        self.total = float(self.excess.sum())

    def _suspects(self) -> list[int]:
        """The elements that are likeliest to be wrong."""
        size, sums = len(self.names), self.now.sum(0) * self.weight
        relations = self.figures.relations
        strain = (
            sums[:, :OUTSIDE] / len(self.obs) / np.maximum(relations.weight, 1e-9) - relations.usual
        ) / np.maximum(relations.spread, 1e-9)
        strain = (np.maximum(0, strain) ** 2).sum(1) * (relations.kind >= FEW)
        blame = (
            np.array([self.excess[mine].sum() + 0.01 * strain[mine].sum() for mine in self.models.dependents])
            + sums[:, OUTSIDE]
        )
        #: [K, K]: how surprising the values of element k (second) would be as those of j, whatever the others are.
        self.suits = np.zeros((size, size))
        for j in self.varying.tolist():
            self.suits[j, self.varying] = self._alone(self.obs[:, self.varying], j)
        known = [j for j in self.varying.tolist() if j not in self.lost]
        blamed = sorted((j for j in known if blame[j] > 0), key=lambda j: -blame[j])[:SUSPECTS]
        eased = {j: self._eased(j) for j in known}
        return list(dict.fromkeys([*blamed, *sorted(known, key=lambda j: -eased[j])[:SUSPECTS]]))

    def _surprise(self, obs: np.ndarray, elements: np.ndarray) -> np.ndarray:
        """Surprise [T, len(elements), 4] of observations [T, K]."""
        found = self.models.surprise(obs, self.fresh, self.features, elements)
        for place, j in enumerate(elements):
            if j in self.lost:
                found[:, place] = 0
            elif self.lost and any(j in self.models.dependents[k] for k in self.lost):
                found[:, place, OTHERS : BEFORE + 1] = 0
        return np.asarray(found)

    def _eased(self, j: int) -> float:
        """The most that a change of element j gains which no model of that element alone would ask for."""
        if self.obs[:, j].std() == 0:
            return 0.0
        partners = [{j: self.obs[:, k], k: self.obs[:, j]} for k in self._partners(j, ())[:3]]
        gains = [self.gain({j: -self.obs[:, j]}), *map(self.gain, partners)]
        return max(
            gains + [self.gain({j: early}, kept) for early, kept in (self._early(j, steps) for steps in (1, 3, 6))]
        )

    def gain(self, columns: Mapping[int, np.ndarray], kept: np.ndarray | None = None, factor: float = 1.0) -> float:
        """Nats that are gained by giving elements these columns [T]. kept [T] bool: decisions that count; factor: what the element's values
        were multiplied by, which a density must know."""
        obs = self.obs.copy()
        for j, column in columns.items():
            obs[:, j] = column
        rows = np.unique(np.concatenate([self.models.dependents[j] for j in columns]))
        gained = self.now[:, rows] - self._surprise(obs, rows)
        weight = self.weight[rows]
        # Of elements that are exchanged one may gain what the other loses, so neither may count for more.
        own = np.isin(rows, list(columns))
        weight[own] = np.exp(np.log(np.maximum(weight[own], 1e-9)).mean(0))
        total = float(((gained.sum(0) if kept is None else gained[kept].sum(0)) * weight).sum())
        for j in columns if factor != 1.0 else ():
            if self.figures.relations.kind[j] == MANY:
                total -= (self.obs[:, j] != 0).sum() * math.log(abs(factor)) * self.weight[j, :OUTSIDE].sum()
        return total

    def best(self) -> Finding | None:
        """The best explanation, which is then made true; None if nothing gains enough."""
        found: list[tuple[float, Finding, Callable[[], None]]] = []
        suspects = self._suspects()
        for place, j in enumerate(suspects):
            found.append(broken := self._broken(j))
            changes = () if broken[1].kind == "freeze" else self._changes(j)
            for kind, value, column, kept, factor in changes:
                gained = self.gain({j: column}, kept, factor) - COST
                found.append((gained, self._finding(kind, (j,), value, gained), self._mend({j: column})))
            for k in self._partners(j, suspects[:place]):
                pair = {j: self.obs[:, k], k: self.obs[:, j]}
                gained = self.gain(pair) - COST_OF_TWO
                found.append((gained, self._finding("swap", (min(j, k), max(j, k)), 0.0, gained), self._mend(pair)))
        found = [one for one in found if one[0] >= self._enough(one[1])]
        if not found:
            return None
        _, best, mend = max(found, key=lambda one: one[0] * BEFORE_MENDS.get(one[1].kind, 1.0))
        mend()
        self._judge()
        return best

    def _enough(self, finding: Finding) -> float:
        """Nats that this explanation must gain."""
        many = [self.figures.relations.kind[self.names.index(name)] == MANY for name in finding.elements]
        return self.enough * (ENOUGH_OF_TWO / ENOUGH if finding.kind == "swap" and all(many) else 1)

    def _alone(self, columns: np.ndarray, j: int) -> np.ndarray:
        """Weighed surprise if element j is a column, whatever the others are. columns [T] or [T, C]."""
        alone, outside = self.models.alone(columns, j)
        return np.asarray(alone.sum(0) * self.weight[j, ALONE] + outside.sum(0) * self.weight[j, OUTSIDE])

    def _partners(self, j: int, tried: Sequence[int]) -> list[int]:
        """The elements that j may have been exchanged with: those whose values suit it, as its own suit them."""
        cost = self.suits[j] + self.suits[:, j] - np.diag(self.suits)
        others = [k for k in self.varying.tolist() if k != j and k not in self.lost and k not in tried]
        return sorted(others, key=lambda k: float(cost[k]))[:PARTNERS]

    def _mend(self, columns: Mapping[int, np.ndarray]) -> Callable[[], None]:
        columns = {j: column.copy() for j, column in columns.items()}

        def mend() -> None:
            for j, column in columns.items():
                self.obs[:, j] = column

        return mend

    def _broken(self, j: int) -> tuple[float, Finding, Callable[[], None]]:
        """An element that cannot be mended: frozen, or wrong in a way that is not known."""
        mine = self.models.dependents[j]
        rest = mine[mine != j]
        excess = float(self.excess[rest, OTHERS : BEFORE + 1].sum() + self.excess[j].sum())
        if (times := self._still(j)) > LONGER:
            gained, kind = min(STILL * times, MOST_STILL * self.enough) + excess, "freeze"
        else:
            gained, kind = UNKNOWN * excess, "unknown"
        return gained, self._finding(kind, (j,), 0.0, gained), lambda: self.lost.add(j)

    def _still(self, j: int) -> float:
        """For how long element j stays as it is in stretches longer than any in the profile, in units of the longest one there. An
        element that comes late repeats an episode's first value too, though not for so long."""
        breaks = np.flatnonzero(np.append(True, np.diff(self.obs[:, j]) != 0) | self.fresh)
        stretches, longest = np.diff(np.append(breaks, len(self.obs))) - 1, int(self.figures.unchanged[j])
        more = LAGS[-1] if len(breaks) > self.fresh.sum() else 0
        return float(stretches[stretches > longest + more].sum() / (1 + longest))

    def _changes(self, j: int) -> Iterator[tuple[str, float, np.ndarray, np.ndarray | None, float]]:
        """What could be wrong with element j alone: kind, value, the column [T] that mends it, which decisions count, by what it was multiplied."""
        column = self.obs[:, j]
        spread = float(column.std())
        if spread > 0:
            yield "flip", 0.0, -column, None, 1.0
            factors = [factor for named in NAMED for factor in (named, 1 / named)]
            free = spread / self.models.unit[j]
            if not 0.5 < free < 2 and min(abs(math.log(free / factor)) for factor in factors) > 0.3:
                factors.append(free)
            for factor in factors:
                yield "scale", factor, column / factor, None, factor
        for offset in self._offsets(j):
            yield "offset", offset, column - offset, None, 1.0
        if spread > 0:
            for steps in LAGS:
                early, kept = self._early(j, steps)
                if kept.mean() > 0.25:
                    yield "lag", float(steps), early, kept, 1.0

    def _offsets(self, j: int) -> list[float]:
        """What may have been added to element j."""
        column, unit = self.obs[:, j], self.models.unit[j]
        if self.figures.relations.kind[j] == FEW:
            tried = [b - a for a in self.models.values(j) for b in np.unique(column)[:8]]
        else:
            least, most = self.models.least[j], self.models.most[j]
            tried = [
                float(np.median(column - self.models.predicted(self.obs, j))), (column.min() + column.max() - least - most) / 2,
                column.min() - least, column.max() - most, float(column.mean() - self.models.centre[j]),
            ]  # fmt: skip
        kept: list[float] = []
        for offset in tried:
            if abs(offset) > 0.1 * unit and all(abs(offset - other) > 0.03 * unit for other in kept):
                kept.append(float(offset))
        return sorted(kept, key=lambda offset: float(self._alone(column - offset, j)))[:PARTNERS]

    def _early(self, j: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Element j, each value so many steps earlier, [T], and which decisions have one, [T] bool."""
        at = np.arange(len(self.obs)) + steps
        episode = np.cumsum(self.fresh)
        inside = np.minimum(at, len(self.obs) - 1)
        kept = (at < len(self.obs)) & (episode[inside] == episode)
        return np.where(kept, self.obs[inside, j], self.obs[:, j]), kept

    def _late(self, j: int, steps: int) -> np.ndarray:
        """Element j as it was so many steps before, or at the episode's start, [T]."""
        every = np.arange(len(self.obs))
        return np.asarray(self.obs[np.maximum(every - steps, np.maximum.accumulate(np.where(self.fresh, every, 0))), j])

    def _finding(self, kind: str, elements: tuple[int, ...], value: float, gain: float) -> Finding:
        names = tuple(self.names[j] for j in elements)
        return Finding(kind, names, value, round(gain, 1), told(kind, names, value, self.units[elements[0]]))


def told(kind: str, names: Sequence[str], value: float, unit: str = "") -> str:
    """What is wrong, and what mends it."""
    name = names[0]
    if kind == "swap":
        return f"{name} and {names[1]} are swapped: exchange them"
    if kind == "scale":
        near = next((what for factor, what in NAMED.items() if abs(math.log(value / factor)) < 0.05), "")
        under = next((what for factor, what in NAMED.items() if abs(math.log(value * factor)) < 0.05), "")
        what = f" ({near})" if near else f" (the other way round: {under})" if under else ""
        return f"{name} is {value:.4g} times too large{what}: divide it by {value:.4g}"
    if kind == "flip":
        return f"{name} has the wrong sign: multiply it by -1"
    if kind == "offset":
        return f"{name} is off by {value:+.4g}{f' {unit}' if unit else ''}: subtract {value:.4g}"
    if kind == "freeze":
        return f"{name} is frozen: it never changes, so look for a sensor or a variable that is not read again"
    if kind == "lag":
        return f"{name} is {value:.0f} step{'s' if value > 1 else ''} late: take its newest value"
    return f"{name} does not go with the others, in a way that has no name here: look at where it comes from"
