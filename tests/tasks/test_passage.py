"""The two passages: what seeing everything is worth, and what copying the one who sees it costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.passage import passage_payoffs
from agentmixer.tasks.passage.passage_payoffs import BIG, LONG, SHORT, SMALL, decentralised, payoff

ENVS = 4000


def seen_sizes(step: TaskStep) -> np.ndarray:
    """[ENVS, 2], from the state's (is small, is big) of each agent."""
    state = np.asarray(step.state).reshape(ENVS, 2, 2)
    assert (state.sum(-1) == 1).all()
    return state.argmax(-1)


def test_payoffs_by_hand() -> None:
    table = payoff()
    assert table[SMALL, SMALL, SHORT, SHORT] == 10
    assert table[SMALL, SMALL, LONG, LONG] == 0  # two detours, 8 and 2
    assert table[SMALL, BIG, SHORT, LONG] == 9
    assert table[BIG, SMALL, SHORT, LONG] == 8
    assert table[SMALL, BIG, LONG, SHORT] == 2
    assert table[BIG, SMALL, LONG, LONG] == table[SMALL, BIG, SHORT, SHORT] == 0  # jammed
    assert table[BIG, BIG, SHORT, SHORT] == table[BIG, BIG, LONG, LONG] == -10


def test_the_documented_returns() -> None:
    """Joint: (10 + 9 + 9 + 9) / 4. Decentralised: 10 minus agent 1's mean detour, (2 + 1) / 2. Distilled: the big
    ones both take the long passage, (10 + 9 + 9 - 10) / 4."""
    assert passage_payoffs.best_joint() == 9.25
    assert passage_payoffs.best_decentralised() == 8.5
    assert passage_payoffs.distilled() == 4.5


def test_the_best_decentralised_policies_are_unique_and_the_runner_up_is_well_behind() -> None:
    policies = list(itertools.product((SHORT, LONG), repeat=2))
    returns = {(f, s): decentralised(f, s) for f in policies for s in policies}
    ranked = sorted(returns, key=lambda pair: -returns[pair])
    assert ranked[0] == ((SHORT, SHORT), (LONG, LONG))
    assert returns[ranked[0]] - returns[ranked[1]] == 1.5


def test_the_teachers_mode_sends_big_agents_into_the_same_passage() -> None:
    table = payoff()
    for size_0, size_1 in ((SMALL, SMALL), (SMALL, BIG), (BIG, SMALL)):
        assert (table[size_0, size_1] == table[size_0, size_1].max()).sum() == 1
    assert table[SMALL, SMALL].argmax() == 0  # both short
    assert table[SMALL, BIG].argmax() == 1 and table[BIG, SMALL].argmax() == 2  # the big one goes round
    assert table[BIG, BIG, SHORT, LONG] == table[BIG, BIG, LONG, SHORT] == table[BIG, BIG].max()
    assert decentralised((SHORT, LONG), (SHORT, LONG)) == passage_payoffs.distilled()


def test_exact_gradient_ascent_of_independent_agents_finds_the_best() -> None:
    """From nearly even policies, 20 starts."""
    table, logits = payoff(), np.random.default_rng(0).normal(0, 0.1, (20, 2, 2))  # [start, agent, size], of long
    for _ in range(1500):
        long = 1 / (1 + np.exp(-logits))
        both = np.stack([1 - long, long], -1)
        q_0 = np.einsum("stab,ntb->nsa", table, both[:, 1]) / 4
        q_1 = np.einsum("stab,nsa->ntb", table, both[:, 0]) / 4
        gain = np.stack([q_0[..., 1] - q_0[..., 0], q_1[..., 1] - q_1[..., 0]], 1)
        logits += 0.1 * gain * long * (1 - long)
    assert (logits[:, 0] < 0).all() and (logits[:, 1] > 0).all()


def test_the_task_pays_the_table_and_shows_each_agent_only_its_own_size() -> None:
    task = make("passage", "two_agents", ENVS)
    step = task.reset(0)
    sizes = seen_sizes(step)
    np.testing.assert_array_equal(np.asarray(step.obs).transpose(1, 0, 2).reshape(ENVS, 4), step.state)
    actions = np.random.default_rng(0).integers(0, 2, (2, ENVS))
    after = task.step(torch.from_numpy(actions.astype(np.int32)))
    np.testing.assert_array_equal(after.reward, payoff()[sizes[:, 0], sizes[:, 1], actions[0], actions[1]])
    np.testing.assert_array_equal(after.final_state, step.state)
    assert np.asarray(after.terminated).all() and not np.asarray(after.truncated).any()
    assert not np.array_equal(after.state, step.state)


def test_sizes_are_even_and_independent() -> None:
    sizes = seen_sizes(make("passage", "two_agents", ENVS).reset(3))
    share = np.bincount(2 * sizes[:, 0] + sizes[:, 1], minlength=4) / ENVS
    np.testing.assert_allclose(share, 0.25, atol=0.0206)  # three standard errors


def test_the_best_decentralised_return_is_what_its_policies_get() -> None:
    task = make("passage", "two_agents", ENVS)
    task.reset(1)
    actions = torch.tensor([[SHORT], [LONG]], dtype=torch.int32).repeat(1, ENVS)
    rewards = np.asarray(task.step(actions).reward)
    assert set(rewards.tolist()) == {8.0, 9.0}
    assert abs(rewards.mean() - passage_payoffs.best_decentralised()) < 0.0238  # three standard errors


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(AgentMixerError, match="no scenario 'two_agent'; did you mean 'two_agents'"):
        make("passage", "two_agent", 1)
