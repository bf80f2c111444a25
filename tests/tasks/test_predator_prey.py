"""Predator and prey: the rules by hand, against a plain Python version, and over random play."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task, make, predator_prey
from agentmixer.tasks.base import TaskStep
from agentmixer.tasks.predator_prey.predator_prey_facts import MOVES, PREY_TRIES, Size, obs_names
from agentmixer.tasks.predator_prey.predator_prey_game import (
    State,
    capture,
    draw_tries,
    look,
    move_predators,
    move_preys,
    start,
)

ENVS = 64
DOWN, LEFT, UP, RIGHT, STAY = range(5)
Cell = tuple[int, ...]


@pytest.fixture(scope="module")
def task() -> Task:
    return make("predator_prey", "7x7", ENVS)


def state(predators: list[Cell], preys: list[Cell], alive: list[bool] | None = None, time: int = 0) -> State:
    living = jnp.array(alive or [True] * len(preys))
    return State(jnp.array(predators), jnp.array(preys), living, jnp.array(time, jnp.int32))


def cells(array: Any) -> list[Cell]:
    return [tuple(map(int, cell)) for cell in np.asarray(array)]


def legal_actions(step: TaskStep, generator: np.random.Generator) -> torch.Tensor:
    noise = generator.random(np.shape(step.action_mask)) * np.asarray(step.action_mask)
    return torch.from_numpy(noise.argmax(-1).astype(np.int32))


def walk(task: Task, seed: int, steps: int) -> list[TaskStep]:
    generator = np.random.default_rng(0)
    seen = [task.reset(seed)]
    for _ in range(steps):
        seen.append(task.step(legal_actions(seen[-1], generator)))
    return seen


@pytest.mark.parametrize(("scenario", "predators", "state_size"), [("5x5", 2, 8), ("7x7", 4, 15)])
def test_sizes(scenario: str, predators: int, state_size: int) -> None:
    """Own row and column, 25 cells and the time: 28. State: 2 a predator, 3 a prey and the time."""
    row = {info.scenario: info for info in predator_prey.scenarios()}[scenario]
    spec = make("predator_prey", scenario, 1).spec
    assert (row.agents, row.obs_sizes, row.state_size) == (predators, (28,) * predators, state_size)
    assert (spec.num_agents, spec.obs_sizes, spec.state_size) == (predators, (28,) * predators, state_size)
    assert spec.fallback_actions == (STAY,) * predators and spec.episode_limit == 128


def test_two_beside_a_prey_catch_it() -> None:
    after, reward = capture(state([(1, 1), (2, 2)], [(1, 2)]), -1.0)
    assert float(reward) == pytest.approx(-0.01 + 10) and not after.alive.any()


def test_one_beside_a_prey_costs_the_penalty_and_diagonals_do_not_count() -> None:
    after, reward = capture(state([(1, 1), (2, 2)], [(1, 0)]), -1.5)
    assert float(reward) == pytest.approx(-0.01 - 1.5) and after.alive.all()
    assert float(capture(state([(0, 0), (2, 2)], [(1, 1)]), -1.5)[1]) == pytest.approx(-0.01)


def test_each_prey_counts_for_itself_and_a_caught_one_no_more() -> None:
    """One prey between two predators is caught, another has one of them beside it: 10 and one penalty."""
    before = state([(0, 0), (0, 2), (6, 6)], [(0, 1), (1, 2)])
    after, reward = capture(before, -1.0)
    assert float(reward) == pytest.approx(-0.01 + 10 - 1) and after.alive.tolist() == [False, True]
    assert float(capture(after, -1.0)[1]) == pytest.approx(-0.01 - 1)


@pytest.mark.parametrize(
    ("predators", "actions", "arrived"),
    [
        ([(0, 0), (4, 4)], [DOWN, UP], [(1, 0), (3, 4)]),
        ([(0, 0), (4, 4)], [UP, RIGHT], [(0, 0), (4, 4)]),  # the edge
        ([(2, 1), (4, 4)], [RIGHT, STAY], [(2, 1), (4, 4)]),  # the prey at (2, 2)
        ([(0, 0), (0, 1)], [RIGHT, RIGHT], [(0, 0), (0, 2)]),  # predator 1 is still there when 0 moves
        ([(0, 1), (0, 0)], [RIGHT, RIGHT], [(0, 2), (0, 1)]),  # predator 0 has left when 1 moves
        ([(0, 0), (0, 2)], [RIGHT, LEFT], [(0, 1), (0, 2)]),  # both want the same cell
    ],
)
def test_predators_move_in_order_and_never_into_a_taken_cell(
    predators: list[Cell], actions: list[int], arrived: list[Cell]
) -> None:
    assert cells(move_predators(state(predators, [(2, 2)]), jnp.array(actions), 5).predators) == arrived


def test_the_cell_of_a_caught_prey_is_free() -> None:
    before = state([(2, 1), (4, 4)], [(2, 2)], [False])
    assert cells(move_predators(before, jnp.array([RIGHT, STAY]), 5).predators)[0] == (2, 2)


def prey_shares(predators: list[Cell], prey: Cell, draws: int = 20_000) -> dict[Cell, float]:
    before = state(predators, [prey])

    def moved(key: jax.Array) -> jax.Array:
        return move_preys(before, draw_tries(key, 1), 7).preys[0]

    ends = np.asarray(jax.jit(jax.vmap(moved))(jax.random.split(jax.random.PRNGKey(0), draws)))
    found, counts = np.unique(ends, axis=0, return_counts=True)
    return dict(zip(cells(found), counts / draws, strict=True))


def test_an_undisturbed_prey_moves_with_its_published_chances() -> None:
    shares = prey_shares([(0, 0), (0, 6)], (4, 3))
    want = {(5, 3): 0.175, (4, 2): 0.175, (3, 3): 0.175, (4, 4): 0.175, (4, 3): 0.3}
    assert shares == pytest.approx(want, abs=0.0098)  # three standard errors


def test_a_prey_beside_a_predator_gets_away_unless_five_tries_fail() -> None:
    """A predator above: moving up and staying (.175 + .3) would leave it there."""
    shares = prey_shares([(2, 3), (0, 6)], (3, 3))
    assert shares.pop((3, 3)) == pytest.approx(0.475**PREY_TRIES, abs=0.0033)
    assert set(shares) == {(4, 3), (3, 2), (3, 4)}


def test_a_prey_shut_in_stays() -> None:
    assert set(prey_shares([(0, 1), (1, 0)], (0, 0), 100)) == {(0, 0)}


def test_what_a_predator_sees() -> None:
    """Prey at (2, 3) is one column to the right of (2, 2) and two rows, three columns from (0, 0); (4, 4) is caught."""
    view = look(state([(2, 2), (0, 0), (4, 4)], [(2, 3), (4, 4)], [True, False], time=32), 5)
    obs = dict(zip(obs_names(), np.asarray(view.obs)[0], strict=True))
    assert (obs.pop("own.row"), obs.pop("own.col"), obs.pop("time")) == (0.5, 0.5, 0.25)
    assert {name for name, value in obs.items() if value} == {"prey.row+0.col+1"}
    assert obs["prey.row+0.col+1"] == 1.0
    assert np.asarray(view.obs)[1, 2:27].sum() == 0  # out of sight
    names = obs_names()
    assert np.asarray(view.obs)[2, names.index("prey.row-2.col-1")] == 1.0
    want = [0.5, 0.5, 0, 0, 1, 1, 0.5, 0.75, 0, 0, 1, 0, 0.25]
    np.testing.assert_array_equal(view.state, np.array(want, np.float32))


def test_only_moves_off_the_grid_are_illegal() -> None:
    mask = np.asarray(look(state([(0, 0), (4, 2), (0, 1)], [(3, 2)]), 5).action_mask)
    assert mask[0].tolist() == [True, False, False, True, True]
    assert mask[1].tolist() == [False, True, True, True, True]  # a prey is above, which the mask does not tell


def reference(
    predators: list[Cell], preys: list[Cell], alive: list[bool], actions: list[int], tries: np.ndarray, grid: int
) -> tuple[list[Cell], list[Cell], list[bool], float]:
    """One step in plain Python, penalty -1."""
    predators, preys, alive, moves = predators.copy(), preys.copy(), alive.copy(), list(MOVES.values())

    def target(cell: Cell, move: int) -> Cell:
        row, col = cell[0] + moves[move][0], cell[1] + moves[move][1]
        taken = predators + [prey for prey, lives in zip(preys, alive, strict=True) if lives]
        return (row, col) if 0 <= row < grid and 0 <= col < grid and (row, col) not in taken else cell

    def beside(cell: Cell) -> int:
        return sum(abs(cell[0] - row) + abs(cell[1] - col) == 1 for row, col in predators)

    reward = -0.01
    for i, action in enumerate(actions):
        predators[i] = target(predators[i], action)
    for i, prey in enumerate(preys):
        if alive[i] and beside(prey) >= 2:
            reward += 10
        elif alive[i] and beside(prey) == 1:
            reward -= 1
    alive = [lives and beside(prey) < 2 for prey, lives in zip(preys, alive, strict=True)]
    for i in range(len(preys)):
        for move in tries[i]:
            end = target(preys[i], int(move))
            if alive[i] and beside(end) == 0:
                preys[i] = end
                break
    return predators, preys, alive, reward


def test_a_step_is_what_plain_python_makes_of_it() -> None:
    size, count = Size(4, 4, 3), 300
    keys = jax.random.split(jax.random.PRNGKey(2), count)

    def one(key: jax.Array, alive: jax.Array, actions: jax.Array) -> tuple[State, jax.Array, State, jax.Array]:
        before = start(key, size)._replace(alive=alive)
        tries = draw_tries(key, size.preys)
        after, reward = capture(move_predators(before, actions, size.grid), -1.0)
        return before, tries, move_preys(after, tries, size.grid), reward

    generator = np.random.default_rng(0)
    alive, actions = generator.random((count, 3)) < 0.8, generator.integers(0, 5, (count, 4))
    before, tries, after, reward = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys, alive, actions))
    for i in range(count):
        want = reference(
            cells(before.predators[i]), cells(before.preys[i]), alive[i].tolist(), actions[i].tolist(), tries[i], 4
        )
        assert (cells(after.predators[i]), cells(after.preys[i]), after.alive[i].tolist()) == want[:3]
        assert reward[i] == pytest.approx(want[3], abs=1e-5)
    assert (reward > 5).sum() > 10 and (reward < -0.5).sum() > 10


def test_starts_are_apart_and_prey_start_away_from_predators() -> None:
    size, generate = Size(5, 2, 1), jax.jit(jax.vmap(lambda key: start(key, Size(5, 2, 1))))
    begun = generate(jax.random.split(jax.random.PRNGKey(0), 20_000))
    predators, preys = np.asarray(begun.predators), np.asarray(begun.preys)
    distance = np.abs(predators - preys).sum(-1)
    assert (distance >= 2).all() and (predators[:, 0] != predators[:, 1]).any(-1).all()
    share = np.bincount(predators[:, 0, 0] * 5 + predators[:, 0, 1], minlength=size.grid**2) / 20_000
    np.testing.assert_allclose(share, 0.04, atol=4 * np.sqrt(0.04 * 0.96 / 20_000))


def test_random_play_never_collides_and_keeps_its_books(task: Task) -> None:
    """Over whole episodes: nobody shares a cell, rewards are a sum of their parts, every end has its reason."""
    caught = ends = 0
    last_alive = np.ones((ENVS, 2))
    for step in walk(task, 4, 200)[1:]:
        final = np.asarray(step.final_state)
        rounded = np.rint(final[:, :12] * 6).astype(int).reshape(ENVS, 6, 2)
        alive = final[:, 12:14]
        assert (np.abs(final[:, :12] * 6 - rounded.reshape(ENVS, 12)) < 1e-5).all()
        place = rounded[..., 0] * 7 + rounded[..., 1]
        place[:, 4:] = np.where(alive > 0, place[:, 4:], -1 - np.arange(2))  # the caught are nowhere
        assert (np.diff(np.sort(place), axis=-1) > 0).all()
        gone = (last_alive - alive).sum(-1)
        np.testing.assert_allclose(step.reward, -0.01 + 10 * gone, atol=1e-6)  # this scenario's penalty is 0
        terminated, truncated = np.asarray(step.terminated), np.asarray(step.truncated)
        np.testing.assert_array_equal(terminated, ~alive.any(-1))
        np.testing.assert_array_equal(np.asarray(step.won)[terminated | truncated], terminated[terminated | truncated])
        np.testing.assert_array_equal(truncated, ~terminated & (final[:, 14] == 1.0))
        last_alive = np.asarray(step.state)[:, 12:14]
        assert (last_alive[terminated | truncated] == 1).all()
        caught, ends = caught + gone.sum(), ends + truncated.sum()
    assert caught > 20 and ends > 0


def test_the_limit_truncates_after_128_steps(task: Task) -> None:
    """Prey never come to predators by themselves, so predators that stay catch none and pay 0.01 a step."""
    step, total = task.reset(1), np.zeros(ENVS)
    for t in range(1, 129):
        step = task.step(torch.full((4, ENVS), STAY, dtype=torch.int32))
        total += np.asarray(step.reward)
        assert (np.asarray(step.truncated) == (t == 128)).all() and not np.asarray(step.terminated).any()
    np.testing.assert_allclose(total, -1.28, rtol=1e-5)
    assert (np.asarray(step.final_state)[:, -1] == 1).all() and (np.asarray(step.state)[:, -1] == 0).all()


def test_the_same_seed_is_the_same_episode_however_many_run(task: Task) -> None:
    """Environments 0 and 1 of two are episodes 5 and 9 of sixty-four, over several resets."""
    few = make("predator_prey", "7x7", 2)
    one, other = few.reset(3, np.array([5, 9])), task.reset(3)
    generator = np.random.default_rng(0)
    for _ in range(150):
        for name, a, b in zip(TaskStep._fields, one, other, strict=True):
            agents_lead = name in ("obs", "action_mask", "active", "final_obs")
            b = np.asarray(b)
            np.testing.assert_array_equal(a, b[:, [5, 9]] if agents_lead else b[[5, 9]])
        actions = legal_actions(other, generator)
        one, other = few.step(actions[:, [5, 9]].contiguous()), task.step(actions)
    assert not np.array_equal(task.reset(3).obs, task.reset(4).obs)


def test_a_snapshot_continues_exactly(task: Task) -> None:
    walk(task, 2, 10)
    kept = task.snapshot()
    generator = np.random.default_rng(1)
    actions = [torch.from_numpy(generator.integers(0, 5, (4, ENVS)).astype(np.int32)) for _ in range(150)]
    want = [task.step(a) for a in actions]
    fresh = make("predator_prey", "7x7", ENVS)
    fresh.restore(kept)
    for a, w in zip(actions, want, strict=True):
        for x, y in zip(fresh.step(a), w, strict=True):
            np.testing.assert_array_equal(x, y)


def test_options_change_the_game() -> None:
    options = {"grid": "6", "predators": "3", "preys": "2", "penalty": "-1"}
    task = make("predator_prey", "5x5", 2, options=options)
    assert task.spec.num_agents == 3 and task.spec.state_size == 13
    assert task.spec.options == {"grid": 6, "predators": 3, "preys": 2, "penalty": -1.0}
    assert np.asarray(task.reset(0).obs).shape == (3, 2, 28)


@pytest.mark.parametrize(
    ("scenario", "options", "words"),
    [
        ("5x6", {}, "no scenario '5x6'; did you mean"),
        ("5x5", {"predators": 1}, "at least 2 to catch"),
        ("5x5", {"grid": 2}, "option grid is 2"),
        ("5x5", {"grid": 3, "predators": 8, "preys": 2}, "8 predators and 2 prey do not fit on the 9 cells"),
        ("5x5", {"penalty": 1}, "option penalty must be a finite number between -10.0 and 0.0"),
        ("5x5", {"penalti": -1}, "unknown option 'penalti'; did you mean 'penalty'"),
    ],
)
def test_what_makes_no_game_is_refused(scenario: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        make("predator_prey", scenario, 1, options=options)
