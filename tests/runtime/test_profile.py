"""Figures of what agents came to see: worked by hand, and held against numpy and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_bundle import made_bundle
from scipy import stats

from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.export import episodes as played
from agentmixer.export.exporter import Exported
from agentmixer.runtime import profile
from agentmixer.runtime.bundle import read_agent

FRESH = np.array([True, False, False, True, False, False])


def of(obs: np.ndarray, actions: np.ndarray, space: Discrete | MultiDiscrete | Box) -> profile.Profile:
    return profile.measure(obs.astype(np.float32), FRESH, obs[FRESH].astype(np.float32), actions, space)


def test_figures_by_hand() -> None:
    """Two episodes of three decisions: an element that rises, one that stays, and the first with its sign turned."""
    rises = np.array([0.0, 1.0, 3.0, 10.0, 10.0, 10.0])
    found = of(np.stack([rises, np.full(6, 7.0), -rises], 1), np.array([2, 2, 1, 2, 1, 2]), Discrete(3, start=1))
    assert found.counts.tolist() == [6, 2, 2]
    assert found.quantiles[0, [0, 4, 8]].tolist() == [0.0, 6.5, 10.0]  # the median of 0 1 3 10 10 10
    assert found.first[0, [0, 4, 8]].tolist() == [0.0, 5.0, 10.0]
    assert found.change.tolist() == [
        [0.75, 2.0],
        [0.0, 0.0],
        [0.75, 2.0],
    ]  # 1, 2, 0, 0: the jump to 10 is a new episode
    assert found.unchanged.tolist() == [2, 2, 2]
    assert found.partners[0, 0] == 2 and found.correlation[0, 0] == pytest.approx(-1)
    assert found.correlation[1].tolist() == [0, 0, 0] and found.autocorrelation[1] == 0
    before, after = [0.0, 1.0, 10.0, 10.0], [1.0, 3.0, 10.0, 10.0]
    assert found.autocorrelation[0] == pytest.approx(stats.pearsonr(before, after).statistic)
    np.testing.assert_allclose(found.actions, [2 / 6, 4 / 6, 0])


def test_actions_of_other_spaces() -> None:
    obs = np.zeros((6, 1))
    rows = np.array([[0, 5], [0, 5], [1, 6], [1, 6], [1, 6], [0, 6]])
    assert of(obs, rows, MultiDiscrete((2, 3), (0, 5))).actions.tolist() == pytest.approx(
        [1 / 2, 1 / 2, 1 / 3, 2 / 3, 0]
    )
    real = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
    found = of(obs, real, Box((-1.0, -1.0), (1.0, 1.0))).actions
    np.testing.assert_allclose(found, np.quantile(real, profile.LEVELS, axis=0).T, rtol=1e-6)


def test_correlations_are_scipys() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4)) @ np.random.default_rng(1).normal(size=(4, 5))
    found = profile.correlations(rows)
    for i in range(5):
        for j in range(5):
            assert found[i, j] == pytest.approx(stats.pearsonr(rows[:, i], rows[:, j]).statistic)


def test_an_observation_of_many_elements_keeps_those_that_vary_most(tmp_path: Path) -> None:
    size = profile.MAX_ELEMENTS + 100
    obs = np.random.default_rng(0).normal(size=(6, size)) * np.linspace(0, 1, size)
    obs[:, :50] *= 1e6
    found = of(obs, np.zeros(6, np.int64), Discrete(2))
    expected = np.sort(np.argsort(-obs.astype(np.float32).var(0), kind="stable")[: profile.MAX_ELEMENTS])
    assert found.elements.tolist() == expected.tolist()
    assert len(profile.dump(found)) <= profile.MAX_FILE


def test_the_largest_profile_fits_its_file_and_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made_bundle(tmp_path / "bundle", ("a",), obs=600, actions=4)
    manifest = read_agent(tmp_path / "bundle/agents/a").manifest
    fresh = np.arange(1000) % 100 == 0
    obs = rng.normal(size=(1000, 600)).astype(np.float32)
    found = profile.measure(obs, fresh, obs[fresh], rng.integers(0, 4, 1000), Discrete(4))
    data = profile.dump(found)
    assert len(data) <= profile.MAX_FILE
    for name, array in profile.parse(data, manifest)._asdict().items():
        if name != "relations":  # some of them were left out: test_relations.py
            np.testing.assert_array_equal(array, getattr(found, name))


def test_export_measures_the_teams_own_episodes(exported: Exported) -> None:
    files = read_agent(exported.path / "agents/agent_1")
    found = profile.parse(files.profile, files.manifest)
    names = files.manifest.tensor("obs").elements
    steps, episodes, starts = found.counts
    assert steps >= played.PROFILE_STEPS and starts >= played.PROFILE_STARTS + episodes and episodes >= 8
    own = found.quantiles[names.index("own.health")]
    assert own[0] == 0 and own[-1] == 1  # full health at first, and zeros of the dead
    assert found.first[names.index("own.health")].tolist() == [1.0] * 9
    told = dict(zip(names, files.manifest.obs_elements, strict=True))
    for element, row in zip(names, found.quantiles, strict=True):
        low, high = told[element].low, told[element].high
        assert low is None or low - 1e-6 <= row[0] <= row[-1] <= high + 1e-6, (
            element
        )  # what the task says of its elements holds
    assert found.actions.sum() == pytest.approx(1)
    assert len(files.profile) <= profile.MAX_FILE
