"""Equivalence within a margin, against numbers worked out by hand and another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import box_spec, tiny_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agentmixer import intervals
from agentmixer.errors import AgentMixerError
from agentmixer.validate.arms import Played
from agentmixer.validate.equivalence import Equivalence, equivalence, sentence, tost

differences = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=5, max_size=30).map(np.array)


def played(returns: list[float], won: list[bool] | None = None) -> Played:
    return Played(np.array(returns), np.array(won or [False] * len(returns)), [], [])


def test_five_pairs_by_hand() -> None:
    """Differences -2 .. 2: mean 0, variance 2.5, standard error sqrt(2.5 / 5) = 0.7071; Student's t with 4 degrees of
    freedom has its 95 % quantile at 2.131847 (any table)."""
    d = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    reach = 2.131847 * math.sqrt(0.5)
    found = tost(d, 1.6)
    assert (found.mean, found.n, found.margin) == (0.0, 5, 1.6)
    assert found.high == pytest.approx(reach, abs=1e-6)
    assert found.low == pytest.approx(-reach, abs=1e-6)
    assert found.equivalent
    assert not tost(d, 1.4).equivalent
    # With 4 degrees of freedom P(T > t) = 1/2 - s (3 - s^2) / 4 where s = t / sqrt(t^2 + 4); here t = 1.6 / 0.7071.
    t = 1.6 / math.sqrt(0.5)
    s = t / math.sqrt(t**2 + 4)
    assert found.p == pytest.approx(0.5 - s * (3 - s**2) / 4, abs=1e-12)


@given(differences, st.floats(0.01, 10))
@settings(max_examples=100, deadline=None)
def test_both_sides_are_scipys_one_sided_tests(d: np.ndarray, margin: float) -> None:
    if np.ptp(d) == 0:
        assert tost(d, margin).p is None
        return
    found = tost(d, margin)
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(d, margin, alternative="less").pvalue
    assert found.p == pytest.approx(max(above, below), rel=1e-9, abs=1e-300)


@given(differences, st.floats(0.01, 10))
@settings(max_examples=100, deadline=None)
def test_the_interval_lies_within_the_margin_just_where_the_test_is_passed(d: np.ndarray, margin: float) -> None:
    found = tost(d, margin)
    assert found.low is not None and found.high is not None
    gap = min(margin - found.high, margin + found.low)
    if abs(gap) > 1e-9:
        assert found.equivalent == (gap > 0)
    mirrored = tost(-d, margin)
    assert (mirrored.mean, mirrored.p is None) == (pytest.approx(-found.mean), found.p is None)
    if found.p is not None:
        assert mirrored.p == pytest.approx(found.p)


@pytest.mark.parametrize(
    ("value", "margin", "equivalent"),
    [(0.0, 0.05, True), (0.0, 0.0, True), (0.049, 0.05, True), (-0.05, 0.05, False), (0.1, 0.05, False)],
)
def test_equal_differences_are_judged_as_they_are(value: float, margin: float, equivalent: bool) -> None:
    """0.1 seven times over has a sum that is not 0.7: no rounding may leak into mean and interval."""
    found = tost(np.full(7, value), margin)
    assert found == Equivalence(value, value, value, None, margin, 7, equivalent)


def test_differences_too_close_for_a_variance_are_equal() -> None:
    assert tost(np.array([0.0] * 4 + [1e-300]), 0.05) == Equivalence(0.0, 0.0, 0.0, None, 0.05, 5, True)


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_few_pairs_show_nothing(pairs: int) -> None:
    found = tost(np.zeros(pairs), 0.05)
    assert (found.equivalent, found.p, found.low, found.high) == (False, None, None, None)
    assert f"{pairs} pairs of episodes are too few" in sentence(found, True)


def test_equal_pairs_say_what_they_leave_room_for() -> None:
    """32 pairs without a difference: 1 - 0.05^(1/32) = 8.9 %."""
    assert "all 32 pairs differ by the same; up to 9% of other pairs may not" in sentence(
        tost(np.zeros(32), 0.05), True
    )


def test_no_more_false_claims_than_alpha() -> None:
    """A true difference exactly at the margin is called equivalent in at most 5 % of 2,000 experiments of 12 pairs
    (three standard errors allowed); none at all is recognised in most."""
    generator = np.random.default_rng(0)
    at_margin = [tost(generator.normal(1.0, 1.0, 12), 1.0).equivalent for _ in range(2000)]
    assert np.mean(at_margin) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.mean([tost(generator.normal(0.0, 1.0, 12), 1.0).equivalent for _ in range(500)]) > 0.8


@pytest.mark.parametrize(
    ("values", "margin", "alpha", "words"),
    [
        ([], 0.05, 0.05, "one finite difference"),
        ([0.0, math.nan], 0.05, 0.05, "one finite difference"),
        ([0.0, 1.0], -0.1, 0.05, "margin is -0.1"),
        ([0.0, 1.0], math.inf, 0.05, "margin is inf"),
        ([0.0, 1.0], 0.1, 0.5, "alpha is 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(values: list[float], margin: float, alpha: float, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        tost(np.array(values), margin, alpha)


def test_the_margin_of_win_rates_is_absolute_and_that_of_returns_a_share() -> None:
    won = equivalence(played([9] * 5, [True] * 4 + [False]), played([1] * 5, [True] * 5), tiny_spec())
    assert (won.mean, won.margin, won.n) == (-0.2, 0.05, 5)
    assert "win rate, deployed - actors: -0.2," in sentence(won, True)
    returns = equivalence(played([-101.0, -99.0] * 3), played([-100.0] * 6), box_spec(), 0.1)
    assert (returns.mean, returns.margin) == (0.0, 10.0)
    assert "not shown to be within ±4" in sentence(tost(np.array([5.0, -9.0] * 3), 4.0), False)
    # Actors that earn nothing leave a margin of 0; the same episodes are still the same.
    assert equivalence(played([0.0] * 5), played([0.0] * 5), box_spec()).equivalent
    with pytest.raises(AgentMixerError, match="cannot be paired"):
        equivalence(played([1.0, 2.0]), played([1.0]), box_spec())


def test_a_paired_gap_is_as_sharp_as_the_differences() -> None:
    """Episodes differ by hundreds, pairs by 1 +- 1: mean 1, standard error sqrt(1 / 3), t(0.975, 2) = 4.302653."""
    hard = np.array([0.0, 500.0, 1000.0])
    found = intervals.paired(hard + np.array([0.0, 1.0, 2.0]), hard)
    assert found.value == pytest.approx(1.0)
    assert found.high - 1 == pytest.approx(4.302653 * math.sqrt(1 / 3), abs=1e-5)
    assert intervals.paired(np.array([True, True]), np.array([False, True])).value == 0.5
    with pytest.raises(ValueError, match="cannot be paired"):
        intervals.paired(np.zeros(2), np.zeros(3))
