"""Intervals for win rates and returns, at 95 % unless told otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

#: With fewer values nothing is shown by their being alike: even a sign test of n pairs, whose p is at least 1 / 2^n, does
#: not come below 0.05.
FEWEST = 5
#: What a team may differ by and count as equally good. Of win rates: 5 wins in 100 episodes. Of returns: 5 % of the mean return.
MARGIN = 0.05


class Estimate(NamedTuple):
    """A figure and the interval around it; low and high are None where the data give no interval."""

    value: float
    low: float | None
    high: float | None

    def told(self, form: str = ".3f") -> str:
        """'0.280 [0.210, 0.350]', or '0.280 (no interval)'. form: how a number is formatted."""
        if self.low is None or self.high is None:
            return f"{self.value:{form}} (no interval)"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def measure(numbers: Collection[str]) -> str:
    """The figure that runs are judged by: win_rate if that is among `numbers`, as where the task reports wins, else
    return."""
    return "win_rate" if "win_rate" in numbers else "return"


def headline(numbers: Mapping[str, Any], prefix: str = "") -> str:
    """The figures of `figures.report` in one line: the win rate where there is one, and the return, with their intervals.

    prefix: what leads the keys, "eval_" in metrics.jsonl."""
    parts = []
    for name, form in (("win_rate", ".3f"), ("return", ".2f")):
        if f"{prefix}{name}" in numbers:
            found = Estimate(*(numbers[f"{prefix}{name}{end}"] for end in ("", "_low", "_high")))
            parts.append(f"{name.replace('_', ' ')} {found.told(form)}")
    return ", ".join(parts)


def rate(successes: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Share of True with its Wilson interval. successes [n] bool, n >= 1."""
    return share(int(np.sum(successes)), len(successes), confidence)


def share(part: int, whole: int, confidence: float = 0.95) -> Estimate:
    """`part` of `whole` with its Wilson interval, whole >= 1."""
    from scipy import stats  # here, so that what is written can be told where scipy is not installed

    interval = stats.binomtest(part, whole).proportion_ci(confidence, method="wilson")
    return Estimate(part / whole, float(interval.low), float(interval.high))


def mean(values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf), confidence: float = 0.95) -> Estimate:
    """Mean with Student's interval. values [n]; one value has no interval, nor have fewer than FEWEST values that are all
    equal, for they do not show how values differ. More of them have that value as their interval.

    bounds: least and greatest value that a mean can have, (0, 1) for win rates of seeds; the interval ends there."""
    centre = float(np.mean(values))
    equal = np.ptp(values) == 0
    if len(values) < 2 or (equal and len(values) < FEWEST):
        return Estimate(centre, None, None)
    if equal:
        return Estimate(centre, centre, centre)
    from scipy import stats

    low, high = stats.t.interval(confidence, len(values) - 1, loc=centre, scale=stats.sem(values))
    return Estimate(centre, max(float(low), bounds[0]), min(float(high), bounds[1]))


def mean_of(measure: str, values: np.ndarray) -> Estimate:
    """Mean over seeds of a measure, "win_rate" or "return". values [n], one a seed."""
    return mean(values, (0.0, 1.0)) if measure == "win_rate" else mean(values)


def paired(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean of a - b over pairs, with Student's interval. a, b [n], bool or numbers; entry i of both is the same
    episode or seed, so that what makes it easy or hard cancels. Too few pairs have no interval (`mean`). Raises ValueError
    if a and b are not equally long."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} values cannot be paired with {second.shape}")
    return mean(first - second, confidence=confidence)
