"""Equilibrium gaps: games whose equilibria are known, an enumeration, a linear program, and a run's own policies."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agentmixer_cli import main
from conftest import TINY, quiet
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from agentmixer.errors import AgentMixerError
from agentmixer.study.analysis import joint_distribution
from agentmixer.study.equilibrium import Gap, cce_gap, ce_gap, ne_gap, product, values
from agentmixer.tasks.base import to_torch
from agentmixer.tasks.matrix import payoffs
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.train.team import Modifier

#: One payoff matrix an agent; rows are agent 0's actions.
CHICKEN = np.array([[[6, 2], [7, 0]], [[6, 7], [2, 0]]])  # Aumann (1974)
DILEMMA = np.array([[[3, 0], [5, 1]], [[3, 5], [0, 1]]])
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]])
SHAPLEY = np.array([np.eye(3), np.roll(np.eye(3), 1, 1)])
ROCK_PAPER_SCISSORS = np.array([[[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]])
CLIMBING = payoffs.payoff("climbing")


def pure(*actions: int, of: int) -> list[np.ndarray]:
    return [np.eye(of)[action] for action in actions]


def gain(payoffs: np.ndarray, joint: np.ndarray, agent: int, deviation: tuple[int, ...]) -> float:
    """What `agent` gains by its deviation, one joint action at a time."""
    table = payoffs if payoffs.ndim > joint.ndim else np.stack([payoffs] * joint.ndim)
    total = 0.0
    for actions in np.ndindex(joint.shape):
        changed = (*actions[:agent], deviation[actions[agent]], *actions[agent + 1 :])
        total += joint[actions] * (table[agent][changed] - table[agent][actions])
    return total


@st.composite
def games(draw: st.DrawFn, agents: int = 3) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Payoffs, shared or not, a product policy, and two correlated ones with some impossible joint actions."""
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=agents))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    payoffs = generator.normal(size=(len(shape), *shape) if draw(st.booleans()) else shape)
    joints = generator.random((2, *shape)) * (generator.random((2, *shape)) < 0.7)
    joints.reshape(2, -1)[:, 0] += 0.1
    first, second = (joint / joint.sum() for joint in joints)
    return payoffs, [generator.dirichlet(np.ones(n)) for n in shape], first, second


# ---- games whose equilibria are known ---------------------------------------------------------------


def test_dilemma_by_hand() -> None:
    assert ne_gap(DILEMMA, pure(1, 1, of=2)).value == 0
    assert ne_gap(DILEMMA, pure(0, 0, of=2)) == Gap(2, 0, (1, 1))  # 5 instead of 3
    assert ne_gap(DILEMMA, pure(1, 0, of=2)) == Gap(1, 1, (1, 1))  # the one betrayed: 1 instead of 0
    assert ce_gap(DILEMMA, product(pure(0, 0, of=2))) == Gap(2, 0, (1, 1))


def test_pennies_have_one_equilibrium() -> None:
    even, heads = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert ne_gap(PENNIES, [even, even]).value == 0
    assert ne_gap(PENNIES, [heads, heads]) == Gap(2, 1, (1, 1))
    assert ne_gap(PENNIES, [np.array([0.75, 0.25]), even]) == Gap(0.5, 1, (1, 1))  # plays against the bias


def test_chickens_traffic_light_is_a_correlated_equilibrium_worth_more_than_the_mixed_one() -> None:
    light = np.array([[1, 1], [1, 0]]) / 3
    assert ce_gap(CHICKEN, light) == Gap(0, 0, (0, 1))  # obeying is best
    np.testing.assert_allclose(values(CHICKEN, light), (5, 5))
    # Not listening earns 14 / 3 either way, a third less: the coarse gap is below zero.
    assert cce_gap(CHICKEN, light).value == pytest.approx(-1 / 3)
    mixed = np.array([2 / 3, 1 / 3])
    assert ne_gap(CHICKEN, [mixed, mixed]).value == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(values(CHICKEN, product([mixed, mixed])), 14 / 3)
    # Independent agents with the light's marginals are at that mixed equilibrium: the light's worth is correlation.
    np.testing.assert_allclose(light.sum(1), mixed)
    assert ne_gap(CHICKEN, [np.array([0.5, 0.5])] * 2).value == pytest.approx(0.25)  # 4 instead of 3.75


def test_an_even_mixture_of_pure_equilibria_is_a_correlated_one_but_no_product() -> None:
    turns = np.array([[0, 1], [1, 0]]) / 2
    assert ce_gap(CHICKEN, turns).value == 0
    assert ne_gap(CHICKEN, [turns.sum(1), turns.sum(0)]).value > 0


def test_shapleys_game() -> None:
    third = np.ones(3) / 3
    assert ne_gap(SHAPLEY, [third, third]).value == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(values(SHAPLEY, product([third, third])), 1 / 3)
    # The six joint actions that pay somebody, evenly: a correlated equilibrium worth 1 / 2 to both.
    six = SHAPLEY.sum(0) / 6
    assert ce_gap(SHAPLEY, six).value == 0
    np.testing.assert_allclose(values(SHAPLEY, six), 1 / 2)
    for actions in itertools.product(range(3), repeat=2):
        assert ne_gap(SHAPLEY, pure(*actions, of=3)).value == 1  # no pure equilibrium


def test_a_coarse_equilibrium_that_is_not_a_correlated_one() -> None:
    """Both always do the same: no fixed action is better than a draw, but a told agent knows what beats the other."""
    same = np.eye(3) / 3
    assert cce_gap(ROCK_PAPER_SCISSORS, same).value == pytest.approx(0)
    found = ce_gap(ROCK_PAPER_SCISSORS, same)
    assert found.value == pytest.approx(1)
    assert found.deviation == (1, 2, 0)


def test_climbing_has_two_pure_equilibria_and_the_deviation_is_named() -> None:
    gaps = {cell: ne_gap(CLIMBING, pure(*cell, of=3)) for cell in itertools.product(range(3), repeat=2)}
    assert {cell for cell, gap in gaps.items() if gap.value == 0} == {(2, 0), (1, 1)}
    assert gaps[0, 2] == Gap(1, 1, (1, 1, 1))  # agent 1 turns 5 into 6
    assert gaps[1, 0] == Gap(41, 0, (2, 2, 2))  # agent 0 turns -30 into 11
    assert ce_gap(CLIMBING, product(pure(1, 0, of=3))) == Gap(41, 0, (0, 2, 2))


def test_three_agents_by_hand() -> None:
    """The team gets 1 where an odd number of agents plays 1."""
    odd = np.indices((2, 2, 2)).sum(0) % 2
    assert ne_gap(odd, pure(1, 0, 0, of=2)).value == 0
    assert ne_gap(odd, pure(1, 1, 0, of=2)).value == 1
    assert ce_gap(odd, np.full((2, 2, 2), 1 / 8)).value == 0
    assert ce_gap(odd, odd / 4) == Gap(0, 0, (0, 1))
    # Always even: a told agent turns it round for certain, one that is not told half of the time.
    assert ce_gap(odd, (1 - odd) / 4) == Gap(1, 0, (1, 0))
    assert cce_gap(odd, (1 - odd) / 4).value == 0.5
    # All play alike, which pays with three 1s: whoever always plays 1 makes it pay with one as well.
    alike = np.zeros((2, 2, 2))
    alike[0, 0, 0] = alike[1, 1, 1] = 0.5
    assert values(odd, alike).tolist() == [0.5] * 3
    assert ce_gap(odd, alike).value == 0.5
    assert cce_gap(odd, alike).value == 0.5


# ---- other implementations --------------------------------------------------------------------------


@given(games())
@settings(max_examples=40, deadline=None)
def test_gaps_are_the_best_of_all_deviations_tried_one_by_one(game: Any) -> None:
    payoffs, policies, joint, _ = game
    swaps = [
        (i, swap) for i, n in enumerate(joint.shape) for swap in itertools.product(range(n), repeat=n)
    ]  # the identity among them
    fixed = [(i, (action,) * n) for i, n in enumerate(joint.shape) for action in range(n)]
    for found, tried, policy in (
        (ce_gap(payoffs, joint), swaps, joint),
        (cce_gap(payoffs, joint), fixed, joint),
        (ne_gap(payoffs, policies), fixed, product(policies)),
    ):
        assert found.value == pytest.approx(max(gain(payoffs, policy, *each) for each in tried), abs=1e-12)
        assert found.value == pytest.approx(gain(payoffs, policy, found.agent, found.deviation), abs=1e-12)


@pytest.mark.parametrize("payoffs", [CHICKEN, SHAPLEY, PENNIES, np.stack([CLIMBING] * 2)])
def test_a_linear_program_finds_the_same_correlated_equilibria(payoffs: np.ndarray) -> None:
    """The joint policy of highest total payoff under Definition 3's constraints has no gap; one that breaks a
    constraint by d has a gap of at least d."""
    size, cells = payoffs.shape[1], payoffs[0].size
    constraints = []
    for agent, told, played in itertools.product(range(2), range(size), range(size)):
        row = np.zeros((size, size))
        mine = payoffs[agent] if agent == 0 else payoffs[agent].T
        row[told] = mine[played] - mine[told]
        constraints.append((row if agent == 0 else row.T).ravel())
    a_ub = np.array(constraints)
    best = optimize.linprog(-payoffs.sum(0).ravel(), a_ub, np.zeros(len(a_ub)), np.ones((1, cells)), [1])
    joint = best.x.reshape(size, size)
    assert ce_gap(payoffs, joint / joint.sum()).value == pytest.approx(0, abs=1e-9)
    other = np.random.default_rng(0).dirichlet(np.ones(cells))
    assert ce_gap(payoffs, other.reshape(size, size)).value >= (a_ub @ other).max() - 1e-12


# ---- what holds for every game ----------------------------------------------------------------------


@given(games())
@settings(max_examples=80, deadline=None)
def test_an_equilibrium_is_a_coarse_one(game: Any) -> None:
    """A fixed deviation is one of the swaps, and so is obeying."""
    payoffs, _, joint, _ = game
    assert ce_gap(payoffs, joint).value >= cce_gap(payoffs, joint).value - 1e-12
    assert ce_gap(payoffs, joint).value >= 0


@given(games())
@settings(max_examples=80, deadline=None)
def test_the_three_gaps_of_a_product_policy_are_one_number(game: Any) -> None:
    payoffs, policies, _, _ = game
    gap = ne_gap(payoffs, policies).value
    assert gap >= -1e-12
    assert cce_gap(payoffs, product(policies)).value == gap
    assert ce_gap(payoffs, product(policies)).value == pytest.approx(gap, abs=1e-12)


@given(games(), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_gaps_are_convex_so_equilibria_may_be_mixed(game: Any, share: float) -> None:
    payoffs, _, first, second = game
    for gap in (ce_gap, cce_gap):
        mixed = gap(payoffs, share * first + (1 - share) * second).value
        assert mixed <= share * gap(payoffs, first).value + (1 - share) * gap(payoffs, second).value + 1e-12


@given(games(), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_gaps_scale_with_the_payoffs_and_ignore_their_zero(game: Any, scale: float, shift: float) -> None:
    payoffs, _, joint, _ = game
    assert ce_gap(payoffs * scale + shift, joint).value == pytest.approx(ce_gap(payoffs, joint).value * scale)


@given(games())
@settings(max_examples=40, deadline=None)
def test_a_shared_payoffs_maximum_is_an_equilibrium_and_bounds_every_gap(game: Any) -> None:
    payoffs, _, joint, _ = game
    shared = payoffs[0] if payoffs.ndim > joint.ndim else payoffs
    best = np.unravel_index(shared.argmax(), shared.shape)
    assert ne_gap(shared, [np.eye(n)[action] for n, action in zip(shared.shape, best, strict=True)]).value == 0
    assert ce_gap(shared, joint).value <= shared.max() - values(shared, joint)[0] + 1e-12


@given(games())
@settings(max_examples=40, deadline=None)
def test_a_shared_payoff_is_one_given_to_each_agent(game: Any) -> None:
    payoffs, _, joint, _ = game
    shared = payoffs[0] if payoffs.ndim > joint.ndim else payoffs
    each = np.stack([shared] * joint.ndim)
    assert ce_gap(shared, joint) == ce_gap(each, joint)
    assert cce_gap(shared, joint) == cce_gap(each, joint)


def test_a_product_is_every_probability_times_every_other() -> None:
    parts = [np.array([0.2, 0.8]), np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.1])]
    joint = product(parts)
    assert joint.shape == (2, 3, 2)
    assert joint[1, 2, 0] == pytest.approx(0.8 * 0.2 * 0.9)
    for i, part in enumerate(parts):
        np.testing.assert_allclose(joint.sum(tuple(k for k in range(3) if k != i)), part)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ce_gap(CLIMBING, np.ones((3, 3))), "the joint policy is not a distribution"),
        (lambda: cce_gap(CLIMBING, np.array([[1.5, -0.5, 0]] + [[0.0] * 3] * 2)), "must be at least 0"),
        (lambda: ce_gap(CLIMBING, np.full((3, 3), np.nan)), "not a distribution"),
        (
            lambda: ce_gap(CLIMBING, np.full((2, 2), 0.25)),
            r"shape \(3, 3\) do not fit a joint policy of shape \(2, 2\)",
        ),
        (lambda: ce_gap(np.full((2, 2), np.inf), np.full((2, 2), 0.25)), "not finite"),
        (lambda: ne_gap(CLIMBING, [np.ones(3) / 3, np.ones(3)]), "the policy of agent 1 is not a distribution"),
        (lambda: product([np.ones((1, 1))]), r"agent 0 has shape \(1, 1\)"),
        (lambda: product([]), "at least one agent"),
    ],
)
def test_what_is_no_game_or_no_policy_is_refused(call: Any, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        call()


# ---- a run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run with a signal on a game from a file, whose agents differ in their number of actions."""
    folder = tmp_path_factory.mktemp("matrix")
    game = folder / "game.json"
    game.write_text("[[1, 0, 4], [2, 3, -1]]")
    config = AgentMixerPPO.configure().replace(
        {**TINY, "share_parameters": False, "total_steps": 256, "joint": "gumbel", "signal": 2, "eval_interval": 0,
         "final_episodes": 8}
    )  # fmt: skip
    made = runs.create("matrix", str(game), "jax", "agentmixer_ppo", "default", 0, "cpu", {}, config, folder / "run")
    assert trainer.train(made, quiet())
    return made


def analyze(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["agentmixer", "analyze", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main.main()
    out, error = capsys.readouterr()
    return int(ended.value.code or 0), out, error


class Coin(Modifier):
    """A PM that tosses a coin with the signal's last element and tells everybody: heads action 0, tails action 1."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(
        self, state: torch.Tensor, policy: torch.Tensor, features: torch.Tensor, memory: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        told = (state[:, -1] < 0).long().expand(policy.shape[:2])
        return self.strength * (2 * torch.nn.functional.one_hot(told, policy.shape[-1]) - 1).float(), memory


def test_a_coin_correlates_the_agents(run: Run) -> None:
    """By hand: half of the time both play 0, half of the time both play 1."""
    task = run.make_task(1)
    algorithm, _ = checkpoint.load_weights(run, task, checkpoint.latest(run))
    algorithm.team.pm = Coin(15.0)
    np.testing.assert_allclose(joint_distribution(algorithm.team, task), [[0.5, 0, 0], [0, 0.5, 0]], atol=1e-5)


def test_the_joint_distribution_is_what_the_joint_policy_plays(run: Run) -> None:
    """40,000 joint actions drawn as in training, by a PM that makes itself heard but not obeyed."""
    draws = 40_000
    task = run.make_task(draws)
    algorithm, _ = checkpoint.load_weights(run, task, checkpoint.latest(run))
    algorithm.team.pm = Coin(1.0)
    want = joint_distribution(algorithm.team, task)
    assert want.sum() == pytest.approx(1)
    step, memory = task.reset(5), algorithm.team.memory(draws)
    signal = algorithm.team.next_signal(memory["signal"], torch.ones(draws))
    obs, state, mask = (to_torch(array) for array in (step.obs, step.state, step.action_mask))
    actions, _, _ = algorithm.team.act_jointly(obs, state, signal, mask, memory, greedy=False)
    got = np.bincount(np.ravel_multi_index(tuple(actions.numpy()), (2, 3)), minlength=6).reshape(2, 3) / draws
    np.testing.assert_allclose(got, want, atol=4 * np.sqrt(0.25 / draws))
    assert np.abs(want - np.multiply.outer(want.sum(1), want.sum(0))).max() > 0.05


def test_analyze_reports_what_the_definitions_give(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    payoff = payoffs.payoff(run.scenario)
    code, out, _ = analyze(monkeypatch, capsys, str(run.path), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["step"], found["maximum"]) == (256, 4)
    task = run.make_task(1)
    algorithm, _ = checkpoint.load_weights(run, task, checkpoint.latest(run))
    joint = joint_distribution(algorithm.team, task)
    policies = found["policies"]
    assert policies["joint"]["return"] == pytest.approx(float((joint * payoff).sum()))
    assert policies["joint"]["ce"]["value"] == pytest.approx(ce_gap(payoff, joint).value)
    assert policies["joint"]["ne"] is None
    assert policies["actors"]["ne"]["value"] == pytest.approx(policies["actors"]["ce"]["value"])
    # The greedy actors earn one of the payoffs, and it is what they were last seen to earn.
    summary = run.summary
    assert summary is not None
    assert policies["actors_greedy"]["return"] == summary["decentralised_greedy"]["return"]

    code, out, _ = analyze(monkeypatch, capsys, str(run.path))
    assert code == 0
    assert "game.json: highest payoff 4" in out
    for name, label in (
        ("joint", "joint, sampled"),
        ("actors", "actors, sampled"),
        ("actors_greedy", "actors, greedy"),
    ):
        line = next(line for line in out.splitlines() if label in line)
        assert f"{policies[name]['return']:.6f}" in line
        assert f"{policies[name]['ce']['value']:.6f}" in line


def test_a_files_name_is_printed_as_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    game = tmp_path / "game[bold].json"
    game.write_text(Path(run.scenario).read_text())
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(run.scenario, str(game)))
    code, out, _ = analyze(monkeypatch, capsys, str(copy))
    assert code == 0
    assert "game[bold].json: highest payoff 4" in out


def test_analyze_refuses_another_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AgentMixerPPO.configure().replace(TINY)
    other = runs.create(
        "passage", "two_agents", "jax", "agentmixer_ppo", "default", 0, "cpu", {}, config, tmp_path / "r"
    )
    code, out, error = analyze(monkeypatch, capsys, str(other.path))
    assert (code, out) == (2, "")
    assert error.startswith(
        f"error: {other.path} is a run of passage, but equilibrium gaps are computed for matrix games"
    )
    assert len(error.splitlines()) == 1
