"""Models of how elements go together, where what they must find is known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_bundle import linear_bundle

from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import profile, relations
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.relations import ALONE, BEFORE, CONSTANT, FEW, MANY, NOTHING, OTHERS, OUTSIDE, Models

STEPS = 4000
FRESH = np.arange(STEPS) % 50 == 0


def made(seed: int = 0) -> np.ndarray:
    """[T, 6]: a bit that is 1 in a quarter of decisions; the same bit one decision later; a constant; two of many values; and their sum."""
    rng = np.random.default_rng(seed)
    bit = (rng.random(STEPS) < 0.25).astype(float)
    late = np.where(FRESH, 0, np.roll(bit, 1))
    one, other = rng.normal(3, 2, (2, STEPS))
    return np.stack([bit, late, np.full(STEPS, 7.0), one, other, one + other], 1)


@pytest.fixture(scope="module")
def measured() -> relations.Relations:
    return relations.measure(made(), FRESH, np.zeros((STEPS, 2)))


def test_kinds_and_what_is_looked_at(measured: relations.Relations) -> None:
    assert measured.kind.tolist() == [FEW, FEW, CONSTANT, MANY, MANY, MANY]
    assert measured.values.tolist()[:2] == [2, 2] and measured.atoms[0, :2].tolist() == [0, 1]
    assert measured.tests[1, 1, 0] == 6 + 0  # the later bit asks for the bit of the decision before
    assert set(measured.terms[5, 0, :2].tolist()) == {3, 4} and (measured.terms[5, 0, 2:] == -1).all()
    np.testing.assert_allclose(
        measured.weights[5, 0, :2], 2**-0.5, rtol=0.05
    )  # standard: each has half of the variance
    assert Models(measured).dependents[0].tolist() == [0, 1]


def test_surprise_by_hand(measured: relations.Relations) -> None:
    """A share of 1/4 is a surprise of ln 4, one of 3/4 of ln 4/3; what is certain is no surprise, and what cannot be is a great one."""
    models, obs = Models(measured), made(1)
    found = models.surprise(obs, FRESH, np.zeros((STEPS, 2)), range(6))
    share = made()[:, 0].mean()
    assert found[obs[:, 0] == 1, 0, ALONE] == pytest.approx(-np.log(share), abs=1 / 16)
    assert found[obs[:, 0] == 0, 0, ALONE] == pytest.approx(-np.log(1 - share), abs=1 / 16)
    assert found[~FRESH, 1, BEFORE].max() < 0.1 and (found[FRESH, 1, BEFORE] == 0).all()
    wrong = obs.copy()
    wrong[:, 1] = 1 - wrong[:, 1]
    assert models.surprise(wrong, FRESH, np.zeros((STEPS, 2)), [1])[~FRESH, 0, BEFORE].min() > 4.5
    # The sum without its noise is predicted to a hundredth of its size, so it is likelier by ln 100 and more than alone.
    assert (found[:, 5, ALONE] - found[:, 5, OTHERS]).mean() > np.log(100)
    assert found[:, 3:, OUTSIDE].max() < 10 and found[:, 2].max() == 0


def test_densities_are_densities(measured: relations.Relations) -> None:
    """Over the values that were seen, exp(-surprise) is 1 in all."""
    models = Models(measured)
    values = np.linspace(models.least[3], models.most[3], 200_001)
    alone, _ = models.alone(values, 3)
    width = (values[1] - values[0]) / models.unit[3]
    assert (np.exp(-alone) * width).sum() == pytest.approx(1, abs=0.01)


def test_a_value_that_was_never_seen_is_outside(measured: relations.Relations) -> None:
    models = Models(measured)
    for j, usual, never in ((0, 1.0, 57.3), (0, 1.0, -1.0), (3, 3.0, 300.0)):
        column = np.array([usual, never, never])
        _, outside = models.alone(column, j)
        assert outside[0] == 0 and outside[1] > 100 > outside[2] > 0  # the first costs more


def test_too_few_decisions_give_no_models() -> None:
    few = relations.measure(made()[:300], FRESH[:300], np.zeros((300, 2)))
    assert few.kind.tolist() == [NOTHING, NOTHING, CONSTANT, NOTHING, NOTHING, NOTHING]


def test_actions_as_numbers() -> None:
    assert relations.action_features(np.array([5, 7]), Discrete(3, 5)).tolist() == [[1, 0, 0], [0, 0, 1]]
    rows = np.array([[0, 1], [1, 2]])
    assert relations.action_features(rows, MultiDiscrete((2, 2), (0, 1))).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    assert relations.action_features(np.array([[0.0], [4.0]], np.float32), Box((0.0,), (4.0,))).tolist() == [[-1], [1]]


def test_relations_are_read_back_and_wrong_ones_refused(tmp_path: Path, measured: relations.Relations) -> None:
    files = read_agent(linear_bundle(tmp_path / "bundle", np.ones((6, 2)), made()[:500]) / "agents/a")
    figures = profile.parse(files.profile, files.manifest)._replace(relations=measured)
    back = profile.parse(profile.dump(figures), files.manifest).relations
    for name, array in measured._asdict().items():
        np.testing.assert_array_equal(getattr(back, name), array, err_msg=name)
    changes = {
        "tests": 6 * 2 + 2,
        "terms": -2,
        "kind": 4,
        "values": 9,
        "weight": 2.0,
        "standard": np.nan,
        "cells": -np.arange(17),
    }
    for name, value in changes.items():
        wrong = getattr(measured, name).copy()
        wrong[3:5] = value
        with pytest.raises(AgentMixerError, match="cannot be used"):
            profile.parse(profile.dump(figures._replace(relations=measured._replace(**{name: wrong}))), files.manifest)


def test_a_file_that_would_be_too_large_leaves_out_what_varies_least(tmp_path: Path) -> None:
    rng, size = np.random.default_rng(0), profile.MAX_ELEMENTS
    obs = (rng.normal(size=(1000, size)) * np.linspace(1, 2, size)).astype(np.float32)
    fresh = np.arange(1000) % 100 == 0
    found = profile.measure(obs, fresh, obs[fresh], rng.integers(0, 2, 1000), Discrete(2))
    files = read_agent(linear_bundle(tmp_path / "bundle", np.ones((size, 2)), obs[:10]) / "agents/a")
    data = profile.dump(found)
    assert len(data) <= profile.MAX_FILE
    kept = np.flatnonzero(profile.parse(data, files.manifest).relations.kind == MANY)
    assert 50 < len(kept) < size and kept.min() >= size - 1.3 * len(kept)
