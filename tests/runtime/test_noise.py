"""Noise: what it follows from, and that an agent that adds it draws actions as often as its policy says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_spec, unlike_spec
from scipy import stats
from traced_agents import Traced, traced

from agentmixer.contract.spec import MultiDiscrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.export.graph_step import graph_step
from agentmixer.runtime import profile
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.golden import dump
from agentmixer.runtime.noise import Noise, drawn_seed


def seeded(spec: TaskSpec, index: int, sampled: bool, **settings: object) -> Traced:
    """The same weights every time, sampled or not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return traced(spec, index, sampled, **settings)


DRAWN = seeded(tiny_spec(), 0, True)


def files_of(agent: Traced) -> AgentFiles:
    """The agent's folder, as if it had been read."""
    trace = agent.golden
    seen = profile.measure(trace.obs, trace.reset, trace.obs, trace.action, agent.manifest.action_space)
    return AgentFiles(agent.manifest, agent.model, dump(trace), profile.dump(seen), "0" * 64)


def decisions(agent: Agent, trace: Traced, count: int = 40) -> list[int]:
    rows = zip(trace.golden.obs[:count], trace.golden.action_mask[:count], strict=True)
    return [int(agent.act(obs, mask)) for obs, mask in rows]


def test_noise_follows_from_seed_index_and_episode_alone() -> None:
    def first(seed: int, index: int, episode: int) -> list[float]:
        noise = Noise(5, seed, index)
        noise.begin(episode)
        return noise.draw().tolist()

    assert first(1, 2, 3) == first(1, 2, 3)
    assert len({tuple(first(*key)) for key in ((1, 2, 3), (2, 1, 3), (1, 3, 2), (3, 2, 1), (0, 0, 0))}) == 5
    noise = Noise(5, 1, 2)
    noise.begin(2)
    noise.begin()  # one more than the last one's
    assert noise.draw().tolist() == first(1, 2, 3) != noise.draw().tolist()


def test_noise_is_standard_gumbel() -> None:
    noise = Noise(4, 0, 0)
    drawn = np.concatenate([noise.draw() for _ in range(20_000)])
    assert drawn.dtype == np.float32 and np.isfinite(drawn).all()
    assert stats.kstest(drawn, "gumbel_r").pvalue > 0.01


def test_a_seed_that_is_not_given_is_another_each_time_and_below_2_to_the_62() -> None:
    seeds = {Noise(1, None, 0).seed for _ in range(50)} | {drawn_seed() for _ in range(50)}
    assert len(seeds) == 100 and min(seeds) >= 0 and max(seeds) < 1 << 62
    for wrong in (-1, 1 << 62):
        with pytest.raises(AgentMixerError, match=r"a seed is a whole number from 0 to 2\^62 - 1"):
            Noise(1, wrong, 0)
    assert Noise(0, None, 0).seed == 0  # nothing is drawn, so nothing is asked of the system


def test_actions_come_up_as_often_as_the_policy_says() -> None:
    """Pearson's test of 40,000 draws against softmax of the logits, which zeros as noise give; what is masked never comes up."""
    step, rows = graph_step(DRAWN.model), 40_000
    obs = np.repeat(DRAWN.golden.obs[:1] * 0.1, rows, 0)
    mask = np.repeat(np.array([[True, False, True, True]]), rows, 0)
    state, silent = np.zeros((rows, DRAWN.manifest.memory), np.float32), np.zeros((rows, 4), np.float32)
    noise = Noise(4, 5, 0)
    draws = np.stack([noise.draw() for _ in range(rows)])
    logits = step(obs[:1], mask[:1], state[:1], silent[:1])[1][0].astype(np.float64)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    counts = np.bincount(step(obs, mask, state, draws)[0], minlength=4)
    assert counts[1] == 0 and expected[1] == 0
    legal = [0, 2, 3]
    assert stats.chisquare(counts[legal], expected[legal] * rows).pvalue > 0.01
    assert expected[legal].max() < 0.95  # or nothing was tested


@pytest.mark.parametrize("case", [(tiny_spec(), 0, {}), (unlike_spec(), 1, {"share_parameters": False})])
def test_zeros_as_noise_give_the_greedy_graph_bit_for_bit(case: tuple) -> None:
    spec, index, settings = case
    greedy, drawn = (seeded(spec, index, sampled, **settings) for sampled in (False, True))
    ours, theirs = graph_step(drawn.model), graph_step(greedy.model)
    trace = greedy.golden
    silent = np.zeros_like(trace.policy)
    found = ours(trace.obs, trace.action_mask, trace.state_out, silent)
    for a, b in zip(found, theirs(trace.obs, trace.action_mask, trace.state_out, trace.noise), strict=True):
        assert a.tobytes() == b.tobytes()
    assert isinstance(greedy.manifest.action_space, MultiDiscrete) == (index == 1)


def test_an_agent_repeats_with_its_seed_and_an_episode_with_its_number() -> None:
    files = files_of(DRAWN)
    first, same, other = (Agent(files, seed) for seed in (7, 7, 8))
    done = decisions(first, DRAWN)
    assert done == decisions(same, DRAWN) != decisions(other, DRAWN)
    first.reset()
    second = decisions(first, DRAWN)
    first.reset(0)
    assert decisions(first, DRAWN) == done != second
    same.reset(1)
    assert decisions(same, DRAWN) == second
    assert first.noise.seed == 7 and Agent(files).noise.seed != Agent(files).noise.seed


def test_a_greedy_agent_draws_nothing() -> None:
    files = files_of(DRAWN)
    one, two = Agent(files, 1, greedy=True), Agent(files, 2, greedy=True)
    modes = decisions(one, DRAWN)
    assert modes == decisions(two, DRAWN)
    step, state = graph_step(DRAWN.model), np.zeros((1, DRAWN.manifest.memory), np.float32)
    for t, mode in enumerate(modes):
        row = slice(t, t + 1)
        silent = np.zeros((1, 4), np.float32)
        action, _, state = step(DRAWN.golden.obs[row], DRAWN.golden.action_mask[row], state, silent)
        assert action[0] == mode


def test_what_decided_has_the_noise_in_it_and_is_greatest_at_the_action() -> None:
    agent, trace = Agent(files_of(DRAWN), 3), DRAWN.golden
    again = Noise(4, 3, 0)
    silent = Agent(files_of(DRAWN), greedy=True)
    for obs, mask in zip(trace.obs[:20], trace.action_mask[:20], strict=True):
        action = agent.act(obs, mask)
        silent.act(obs, mask)
        assert agent.policy is not None and silent.policy is not None
        assert agent.policy.argmax() == action
        np.testing.assert_allclose(agent.policy[mask], (silent.policy + again.draw())[mask], rtol=1e-5, atol=1e-5)


def test_an_agent_that_does_not_draw_takes_a_seed_and_heeds_none() -> None:
    greedy = seeded(tiny_spec(), 0, False)
    files = files_of(greedy)
    assert Agent(files, 4).noise.seed == 4
    assert decisions(Agent(files, 4), greedy) == decisions(Agent(files, 5), greedy) == decisions(Agent(files), greedy)
