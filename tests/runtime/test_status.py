"""What an agent says of its own decisions while it runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hostile import reseal
from made_bundle import made_bundle

from agentmixer.contract.manifest import AgentManifest, encode
from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import Agent, profile
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.status import STALE_MORE, STALE_TIMES

MASK = np.ones(4, bool)
#: Element 0 was seen from 0 to 10 and first from 0 to 1, element 1 always as 3, element 2 changes every step from -1 to 1.
SEEN = np.float32([[0, 3, -1], [4, 3, 1], [4, 3, -1], [4, 3, 1], [10, 3, -1]])


def agent(folder: Path, when_unusual: str = "report") -> Agent:
    """An agent of three elements that saw `SEEN`, and what it does about the unusual."""
    made_bundle(folder, ("a",), obs=3, actions=4)
    place = folder / "agents/a"
    files = read_agent(place)
    first = np.float32([[0, 3, -1], [1, 3, 1]])
    figures = profile.measure(SEEN, np.arange(5) == 0, first, np.array([0, 1, 2, 3, 0]), Discrete(4))
    (place / "profile.npz").write_bytes(profile.dump(figures))
    manifest: AgentManifest = msgspec.structs.replace(files.manifest, when_unusual=when_unusual)  # type: ignore[arg-type]
    (place / "agent.json").write_bytes(encode(manifest))
    reseal(folder)
    return Agent.load(place)


def test_what_lies_outside_is_named_the_farthest_first(tmp_path: Path) -> None:
    own = agent(tmp_path / "b")
    action, status = own.step(np.float32([0.5, 3, 0]), MASK)
    assert status.usual and status.first and not status.fallback and 0 < status.seconds < 60
    assert action == own.act(np.float32([0.5, 3, 0]), MASK)
    own.reset()
    _, status = own.step(
        np.float32([5, 3, 0]), MASK
    )  # usual later on, but not at the start: 1 + a tenth + 1/1000 is the limit
    assert status.first and not status.usual
    (outside,) = status.outside
    name, by = own.manifest.tensor("obs").elements[0], 5 - 1.1 - 0.001
    assert (outside.name, outside.value) == (name, 5.0) and outside.by == pytest.approx(by, rel=1e-4)
    _, status = own.step(np.float32([10.9, 3, 0.5]), MASK)  # a tenth of the range beyond 10
    assert status.usual and not status.first
    _, status = own.step(np.float32([12, 3.1, -4]), MASK)
    assert [found.name for found in status.outside] == [own.manifest.tensor("obs").elements[i] for i in (2, 0, 1)]
    far = [found.by for found in status.outside]
    assert far == pytest.approx([(4 - 1.2 - 0.001) / 2, (12 - 11 - 0.01) / 10, (0.1 - 0.003) / 3], rel=1e-3)


def test_an_element_that_stays_too_long_is_stale(tmp_path: Path) -> None:
    """Element 0 stayed for two steps at most, element 2 never; element 1 never varies, so it cannot be stale."""
    own = agent(tmp_path / "b")
    names = own.manifest.tensor("obs").elements
    patience = {0: STALE_TIMES * 2 + STALE_MORE, 2: STALE_MORE}
    first_told: dict[str, int] = {}
    for t in range(30):
        _, status = own.step(np.float32([1, 3, 0.5]), MASK)
        for name in status.stale:
            first_told.setdefault(name, t)
    assert first_told == {names[i]: steps + 1 for i, steps in patience.items()}
    own.step(np.float32([2, 3, 0.4]), MASK)  # it moved
    assert own.step(np.float32([2, 3, 0.5]), MASK)[1].usual
    own.reset()
    assert own.step(np.float32([1, 3, 0.5]), MASK)[1].stale == ()


def test_staleness_in_long_episodes_is_what_counting_gives(tmp_path: Path) -> None:
    """Elements that keep their value for as long as it comes, over episodes of hundreds of decisions."""
    own, rng = agent(tmp_path / "b"), np.random.default_rng(0)
    names = own.manifest.tensor("obs").elements
    patience = {0: STALE_TIMES * 2 + STALE_MORE, 2: STALE_MORE}
    told = 0
    for _ in range(3):
        own.reset()
        obs, unchanged = np.float32([1, 3, 0.5]), np.full(3, -1)
        for _ in range(300):
            moves = rng.random(3) < (0.1, 0.5, 0.2)
            obs = np.where(moves, rng.random(3), obs).astype(np.float32)
            unchanged = np.where(moves & (unchanged >= 0), 0, unchanged + 1)
            stale = own.step(obs, MASK)[1].stale
            assert stale == tuple(names[i] for i, most in patience.items() if unchanged[i] > most)
            told += len(stale)
    assert 50 < told < 900


def test_clamping_falling_back_and_refusing(tmp_path: Path) -> None:
    far, near = np.float32([500, 3, 0]), np.float32([11.01, 3, 0])
    clamps = agent(tmp_path / "clamp", "clamp")
    clamps.step(np.float32([0.5, 3, 0]), MASK)
    action, status = clamps.step(far, MASK)
    assert status.outside and not status.fallback
    clamped = clamps.policy
    clamps.act(near, MASK)
    assert clamped is not None and clamps.policy is not None
    np.testing.assert_allclose(clamped, clamps.policy, rtol=1e-5)  # 10 + a tenth of 10 + 10/1000
    falls = agent(tmp_path / "fall", "fall back")
    action, status = falls.step(far, MASK)
    assert status.fallback and action == falls.manifest.fallback_action
    with pytest.raises(AgentMixerError, match="action_mask must be a numpy array"):
        falls.step(far)  # what falls back needs a mask as well
    refuses = agent(tmp_path / "refuse", "refuse")
    with pytest.raises(
        AgentMixerError, match=r"refuses to start: .* is 500, outside what first observations were .* by 5e\+02"
    ):
        refuses.step(far, MASK)
    assert refuses.step(np.float32([0.5, 3, 0]), MASK)[1].first  # what was refused began nothing
    assert refuses.step(far, MASK)[1].outside


def test_a_step_by_name_and_what_act_refuses(tmp_path: Path) -> None:
    own = agent(tmp_path / "b")
    names = own.manifest.tensor("obs").elements
    obs = own.observation()
    obs.update(dict(zip(names, (0.5, 3.0, 0.0), strict=True)))
    assert own.step(obs, MASK)[1].usual and len(obs.unset()) == 3
    obs[names[0]] = 0.5
    with pytest.raises(AgentMixerError, match="is nan"):
        own.step(obs, MASK)
    assert obs[names[0]] == 0.5
    for refused in (np.nan, np.inf, -np.inf):
        with pytest.raises(AgentMixerError, match=r"obs\[1\] .* is -?(nan|inf)"):
            own.step(np.float32([0.5, refused, 0]), MASK)
    with pytest.raises(AgentMixerError, match="obs must be a numpy array"):
        own.step([0.5, 3, 0], MASK)  # type: ignore[arg-type]
    _, status = own.step(np.float32([3e38, 3, 0]), MASK)  # the policy overflows: no decision, so the fallback action
    assert status.outside[0].name == names[0]


def test_near_ties_are_told(tmp_path: Path) -> None:
    own = agent(tmp_path / "b")
    _, status = own.step(np.zeros(3, np.float32), MASK)
    assert own.policy is not None
    gap = np.diff(np.sort(own.policy)[-2:])[0]
    assert status.near_tie == bool(gap <= 1e-5)
