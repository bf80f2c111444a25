"""Numbers that add up: who earns what, what the opponent remembers, and what a fixed plan comes to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import coordsum, make
from agentmixer.tasks.coordsum.coordsum_facts import EPISODE_LIMIT, SIZES, Size
from agentmixer.tasks.coordsum.coordsum_game import State, game, reward
from agentmixer.validate.task_locality import PROBED_ENVS, environmental

SMALL = "3x10-30"


def earned(counts: list[int], target: int, *actions: int) -> float:
    table = jnp.zeros((30, len(counts)), jnp.int32).at[target].set(jnp.array(counts)).at[target - 1, 3].set(50)
    return float(reward(State(jnp.int32(target), jnp.int32(0), table), jnp.array(actions)))


def test_rewards_by_hand() -> None:
    none = [0] * 10
    assert earned(none, 7, 3, 3, 1) == 2
    assert earned(none, 7, 3, 3, 2) == earned(none, 7, 1, 3, 2) == 0  # one more, one less
    assert earned(none, 7, 0, 6, 1) == 1  # the first guess is 0
    assert earned(none, 0, 0, 0, 0) == 1
    played = [1, 0, 0, 4, 0, 4, 0, 0, 0, 0]
    assert earned(played, 7, 3, 3, 1) == 1  # of 3 and 5, played as often, 3 is guessed
    assert earned(played, 7, 5, 1, 1) == earned(played, 7, 0, 6, 1) == 2
    assert earned(played, 7, 3, 3, 2) == 0  # guessed and wrong


def test_counts_are_of_agent_0_and_of_the_target_that_was_met() -> None:
    rules, key = game(Size(2, 3, 4)), jax.random.PRNGKey(0)
    state = rules.reset(key)
    wanted = np.zeros((4, 3), int)
    assert not np.asarray(state.counts).any()
    for t in range(20):
        actions = jnp.array([t % 3, (t + 1) % 3])
        wanted[int(state.target), t % 3] += 1
        state = rules.step(jax.random.fold_in(key, t), state, actions).state
        np.testing.assert_array_equal(state.counts, wanted)
        seen = rules.look(state)
        target, step, counts = np.split(np.asarray(seen.state), [4, 5])
        assert target.argmax() == int(state.target) and target.sum() == 1
        np.testing.assert_allclose(step, (t + 1) / EPISODE_LIMIT, rtol=1e-6)
        np.testing.assert_allclose(counts, wanted[int(state.target)] * 0.1, rtol=1e-6)
        np.testing.assert_array_equal(seen.obs, np.tile(np.asarray(seen.state)[:5], (2, 1)))


def test_an_episode_is_cut_off_after_its_steps_and_the_next_counts_anew() -> None:
    envs = PROBED_ENVS
    task = make("coordsum", SMALL, envs)
    task.reset(0)
    for t in range(EPISODE_LIMIT):
        before = task.state()  # type: ignore[attr-defined]
        assert (np.asarray(before.counts).sum((1, 2)) == t).all()
        step = task.step(torch.full((3, envs), 4, dtype=torch.int32))
        assert not np.asarray(step.terminated).any() and not np.asarray(step.won).any()
        assert (np.asarray(step.truncated) == (t == EPISODE_LIMIT - 1)).all()
    assert not np.asarray(task.state().counts).any()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(step.state)[:, 30:], 0)
    np.testing.assert_allclose(np.asarray(step.final_state)[:, 30], 1.0)


def test_the_same_seed_gives_the_same_episodes_however_many_are_played_together() -> None:
    many, few = make("coordsum", SMALL, PROBED_ENVS), make("coordsum", SMALL, 2)
    chosen = np.array([44, 1])
    seen = many.reset(9), few.reset(9, chosen)
    actions = torch.randint(10, (EPISODE_LIMIT + 3, 3, PROBED_ENVS), dtype=torch.int32)
    targets = set()
    for now in actions:
        for name in ("obs", "state", "reward", "truncated"):
            whole, part = (np.asarray(getattr(step, name)) for step in seen)
            np.testing.assert_array_equal(whole[:, chosen] if name == "obs" else whole[chosen], part)
        targets.add(int(np.asarray(seen[1].state)[0, :30].argmax()))
        seen = many.step(now), few.step(now[:, chosen])
    assert len(targets) > 20
    assert not np.array_equal(np.asarray(many.reset(10).state), np.asarray(many.reset(9).state))


def played(rule: str, envs: int = PROBED_ENVS) -> float:
    """The mean return of 3x10-30 where agents answer a target in one way, or agent_0 in two by turns of the step."""
    task = make("coordsum", SMALL, envs)
    step, total = task.reset(3), np.zeros(envs)
    for t in range(EPISODE_LIMIT):
        target = np.asarray(step.obs)[0, :, :30].argmax(-1)
        first = np.minimum(target, 9) - (t % 2 if rule == "two" else 0) * (target < 27) * (target > 0)
        second = np.minimum(target - first, 9)
        actions = np.stack([first, second, np.minimum(target - first - second, 9)])
        step = task.step(torch.from_numpy(actions.astype(np.int32)))
        total += np.asarray(step.reward)
    return float(total.mean())


def test_a_fixed_plan_earns_what_is_documented_and_one_with_two_answers_more() -> None:
    """One answer: 1 whenever a target from 0 to 27 comes, and 1 more the first time that 1 to 27 do; 28 and 29 are out of
    reach of 3 x 9."""
    expected = EPISODE_LIMIT * 28 / 30 + 27 * (1 - (29 / 30) ** EPISODE_LIMIT)
    assert abs(expected - 119.4) < 0.05
    # Its standard deviation is below 5 an episode, so that 1.9 is more than three standard errors.
    assert abs(played("one") - expected) < 1.9
    assert played("two") > expected + 15


@pytest.mark.parametrize("scenario", SIZES)
def test_sizes(scenario: str) -> None:
    """What is listed is what is made."""
    (info,) = [one for one in coordsum.scenarios() if one.scenario == scenario]
    task = make("coordsum", scenario, 2)
    step, spec = task.reset(0), task.spec
    agents, numbers = scenario.split("x")
    actions, targets = numbers.split("-")
    assert [space.n for space in spec.action_spaces] == [int(actions)] * int(agents)
    assert info.obs_sizes == spec.obs_sizes == (int(targets) + 1,) * int(agents)
    assert info.state_size == spec.state_size == np.asarray(step.state).shape[1] == int(targets) + 1 + int(actions)
    assert spec.obs_names[0][-2:] == (f"target.is_{int(targets) - 1}", "step") and not spec.reports_wins


def test_no_agent_sees_what_agent_0_has_played() -> None:
    _, checks = environmental(make("coordsum", SMALL, PROBED_ENVS))
    assert {one.control for one in checks} == {True, False}
    assert all(one.passed for one in checks)


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(AgentMixerError, match="no scenario '3x10-31'; did you mean '3x10-30'"):
        make("coordsum", "3x10-31", 1)
