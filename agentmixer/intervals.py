"""Intervals for win rates and returns, at 95 % unless told otherwise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A figure and the interval around it."""

    value: float
    low: float
    high: float


def rate(successes: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Share of True with its Wilson interval. successes [n] bool, n >= 1."""
    return share(int(np.sum(successes)), len(successes), confidence)


def share(part: int, whole: int, confidence: float = 0.95) -> Estimate:
    """`part` of `whole` with its Wilson interval, whole >= 1."""
    interval = stats.binomtest(part, whole).proportion_ci(confidence, method="wilson")
    return Estimate(part / whole, float(interval.low), float(interval.high))


def mean(values: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean with Student's interval. values [n]; with n = 1 or no spread the interval is the mean itself."""
    centre = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Estimate(centre, centre, centre)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=centre, scale=stats.sem(values))
    return Estimate(centre, float(low), float(high))


def paired(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean of a - b over pairs, with Student's interval. a, b [n], bool or numbers; entry i of both is the same
    episode, so that what makes episodes easy or hard cancels. Raises ValueError if they are not equally long."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} values cannot be paired with {second.shape}")
    return mean(first - second, confidence)
