"""The paper's Lemma 1 and Theorem 1 on problems small enough to enumerate every state and history.

What is distilled is a joint policy that sees the state, pi(a | s); into a product of policies that see an agent's own
history, pi_i(a_i | h_i). A history alternates observations and actions: (o, a, o, a, o).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from agentmixer.tasks.passage import passage_payoffs
from agentmixer.train.networks import Actor
from agentmixer.train.stack import StackedLinear

GAMMA = 0.9
History = tuple[int, ...]
#: An agent's policy: its distribution over actions [2] after each history.
Policy = dict[History, np.ndarray]
#: Weight of a state and both histories.
Occupancy = dict[tuple[int, History, History], float]


class Game(NamedTuple):
    """Two agents, two actions, two observations. start [S]; see [2, S, 2] probability of each observation;
    move [S, 2, 2, S]; reward [S, 2, 2]."""

    start: np.ndarray
    see: np.ndarray
    move: np.ndarray
    reward: np.ndarray
    horizon: int


def random_game(seed: int, horizon: int = 3) -> Game:
    """Three states, noisy observations; nothing is so rare that its weight would vanish."""
    generator = np.random.default_rng(seed)
    return Game(
        generator.dirichlet(np.full(3, 5.0)),
        generator.dirichlet(np.full(2, 5.0), (2, 3)),
        generator.dirichlet(np.full(3, 5.0), (3, 2, 2)),
        generator.normal(size=(3, 2, 2)),
        horizon,
    )


def signs_game(blind: bool = False) -> Game:
    """Agent 0 sees whether the state is 0, agent 1 whether it is 2; both must play what they see, every time.

    blind: agent 0 sees nothing, so that no policy of its own can do what the joint policy does."""
    signs = np.array([[1, 0, 0], [0, 0, 1]])
    see = np.stack([1 - signs, signs], -1).astype(float)
    if blind:
        see[0] = (1, 0)
    reward = np.zeros((3, 2, 2))
    reward[range(3), signs[0], signs[1]] = 1
    generator = np.random.default_rng(5)
    move = np.where(reward[..., None] > 0, generator.dirichlet(np.ones(3)), generator.dirichlet(np.ones(3)))
    return Game(np.ones(3) / 3, see, move, reward, 3)


def passage_game() -> Game:
    """agentmixer.tasks.passage, its four states [size_0, size_1] in a row."""
    sizes = np.array(list(itertools.product((0, 1), repeat=2))).T
    see = np.stack([1 - sizes, sizes], -1).astype(float)
    return Game(np.ones(4) / 4, see, np.full((4, 2, 2, 4), 0.25), passage_payoffs.payoff().reshape(4, 2, 2), 1)


def occupancy(game: Game, behaviour: Callable[[int, History, History], np.ndarray]) -> Occupancy:
    """Discounted weight of every state with both histories while `behaviour` acts, enumerated."""
    now: Occupancy = defaultdict(float)
    for state, chance in enumerate(game.start):
        for first, second in itertools.product((0, 1), repeat=2):
            now[state, (first,), (second,)] += chance * game.see[0, state, first] * game.see[1, state, second]
    total: Occupancy = {}
    for t in range(game.horizon):
        now = {key: weight for key, weight in now.items() if weight > 0}
        total |= {key: GAMMA**t * weight for key, weight in now.items()}
        if t + 1 == game.horizon:
            break
        then: Occupancy = defaultdict(float)
        for (state, *histories), weight in now.items():
            acts = behaviour(state, *histories)
            for a, b, new, first, second in itertools.product((0, 1), (0, 1), range(len(game.start)), (0, 1), (0, 1)):
                chance = acts[a, b] * game.move[state, a, b, new] * game.see[0, new, first] * game.see[1, new, second]
                then[new, (*histories[0], a, first), (*histories[1], b, second)] += weight * chance
        now = then
    return total


def acting(policies: tuple[Policy, Policy]) -> Callable[[int, History, History], np.ndarray]:
    """Two policies as behaviour; they act evenly after a history that they do not know."""
    even = np.array([0.5, 0.5])
    return lambda state, first, second: np.outer(policies[0].get(first, even), policies[1].get(second, even))


def at(joint: np.ndarray, state: int, history: History) -> np.ndarray:
    """The joint policy [horizon, S, 2, 2] of one state; a history's length tells the time."""
    return joint[len(history) // 2, state]


def implicit(weights: Occupancy, joint: np.ndarray) -> tuple[Policy, Policy]:
    """Eq. 7: each agent's part of the joint policy, averaged over the states that its history leaves possible."""
    policies: tuple[Policy, Policy] = ({}, {})
    for agent, policy in enumerate(policies):
        sums: dict[History, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for (state, *histories), weight in weights.items():
            sums[histories[agent]] += weight * at(joint, state, histories[agent]).sum(1 - agent)
        policy.update({history: both / both.sum() for history, both in sums.items()})
    return policies


def divergence(weights: Occupancy, joint: np.ndarray, policies: tuple[Policy, Policy]) -> float:
    """Eq. 6: the expected KL divergence from the joint to the product policy. Zero: an identifiable pair (Def. 5)."""
    total = 0.0
    for (state, first, second), weight in weights.items():
        wanted, got = at(joint, state, first), np.outer(policies[0][first], policies[1][second])
        some = wanted > 0
        total += weight * float((wanted[some] * np.log(wanted[some] / got[some])).sum())
    return total / sum(weights.values())


def value(game: Game, behaviour: Callable[[int, History, History], np.ndarray]) -> float:
    """Expected discounted return."""
    weights = occupancy(game, behaviour)
    return sum(weight * float((behaviour(*key) * game.reward[key[0]]).sum()) for key, weight in weights.items())


def optimal(game: Game) -> tuple[np.ndarray, float]:
    """The best joint policy [horizon, S, 2, 2] and its expected return, by backward induction."""
    joint, future = np.zeros((game.horizon, *game.reward.shape)), np.zeros(len(game.start))
    for t in reversed(range(game.horizon)):
        q = game.reward + GAMMA * game.move @ future
        future = q.max((1, 2))
        best = np.isclose(q, future[:, None, None])
        joint[t] = best / best.sum((1, 2), keepdims=True)
    return joint, float(game.start @ future)


def even(state: int, first: History, second: History) -> np.ndarray:
    return np.full((2, 2), 0.25)


def random_joint(game: Game, seed: int) -> np.ndarray:
    """Correlated and different in every state and step."""
    parts = np.random.default_rng(seed).dirichlet(np.full(4, 0.7), (game.horizon, len(game.start)))
    return parts.reshape(game.horizon, -1, 2, 2)


def random_policies(game: Game, seed: int) -> tuple[Policy, Policy]:
    generator = np.random.default_rng(seed)
    weights = occupancy(game, even)
    first, second = ({key[1:][agent]: generator.dirichlet((5.0, 5.0)) for key in weights} for agent in (0, 1))
    return first, second


# ---- Lemma 1 ----------------------------------------------------------------------------------------


def distil(weights: Occupancy, joint: np.ndarray, logits: Callable[[], Tensor], module: torch.nn.Module) -> Tensor:
    """Minimise eq. 6 over `module`, whose `logits()` are [2, histories, 2] in the order of `histories`, by L-BFGS.

    Returns the policies found, [2, histories, 2]."""
    order = [{h: i for i, h in enumerate(histories(weights, agent))} for agent in (0, 1)]
    weight = torch.tensor(list(weights.values()), dtype=torch.float64)
    wanted = torch.from_numpy(np.stack([at(joint, key[0], key[1]) for key in weights]))
    first, second = (torch.tensor([order[agent][key[1:][agent]] for key in weights]) for agent in (0, 1))
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        log_pi = logits().log_softmax(-1)
        log_product = log_pi[0, first].unsqueeze(2) + log_pi[1, second].unsqueeze(1)
        total = (weight.view(-1, 1, 1) * wanted * (wanted.log() - log_product)).sum() / weight.sum()
        total.backward()
        return total

    optimiser.step(loss)
    return logits().softmax(-1).detach()


def histories(weights: Occupancy, agent: int) -> list[History]:
    return sorted({key[1:][agent] for key in weights})


def as_rows(weights: Occupancy, policies: tuple[Policy, Policy]) -> np.ndarray:
    return np.array([[policies[agent][h] for h in histories(weights, agent)] for agent in (0, 1)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lemma_1_the_minimiser_is_the_average_of_equation_7(seed: int) -> None:
    """One logit an action and history: nothing but the objective decides what is found."""
    game = random_game(seed)
    joint, weights = random_joint(game, seed), occupancy(game, acting(random_policies(game, seed + 10)))
    count = len(histories(weights, 0))
    assert count == 2 + 8 + 32
    net = StackedLinear(2, count, 2).double()
    found = distil(weights, joint, lambda: net(torch.eye(count, dtype=torch.float64).expand(2, -1, -1)), net)
    np.testing.assert_allclose(found, as_rows(weights, implicit(weights, joint)), atol=1e-6)


def test_lemma_1_holds_for_the_recurrent_actors_that_are_trained_here() -> None:
    """Each actor sees one observation and its own last action a step, and must carry the first one in its memory."""
    game = random_game(3, horizon=2)
    joint, weights = random_joint(game, 3), occupancy(game, acting(random_policies(game, 13)))
    whole = [h for h in histories(weights, 0) if len(h) == 3]
    inputs = torch.zeros(2, 2, len(whole), 4, dtype=torch.float64)
    for i, (before, action, after) in enumerate(whole):
        inputs[:, 0, i, before] = inputs[:, 1, i, after] = inputs[:, 1, i, 2 + action] = 1
    # Where every history stands among the whole ones: at which step of which.
    where = [(len(h) // 2, next(i for i, w in enumerate(whole) if w[: len(h)] == h)) for h in histories(weights, 0)]
    steps, rows = (torch.tensor(x) for x in zip(*where, strict=True))
    torch.manual_seed(0)
    actor = Actor(2, False, obs=4, actions=2, hidden=16, layers=1).double()
    memory, fresh = (torch.zeros(*size, dtype=torch.float64) for size in ((2, len(whole), 16), (2, 2, len(whole))))

    def logits() -> Tensor:
        features = actor.body.unroll(inputs, memory, fresh)
        return actor.output(features.flatten(1, 2)).view(2, 2, len(whole), 2)[:, steps, rows]

    found = distil(weights, joint, logits, actor)
    np.testing.assert_allclose(found, as_rows(weights, implicit(weights, joint)), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_product_policy_is_as_close(seed: int) -> None:
    game = random_game(seed, horizon=2)
    joint, weights = random_joint(game, seed), occupancy(game, even)
    best = implicit(weights, joint)
    least = divergence(weights, joint, best)
    for share in (0.5, 0.1, 0.01):
        for other in range(5):
            moved = random_policies(game, other)
            mixed = tuple(
                {h: (1 - share) * best[agent][h] + share * moved[agent][h] for h in best[agent]} for agent in (0, 1)
            )
            assert divergence(weights, joint, (mixed[0], mixed[1])) > least


# ---- Theorem 1 --------------------------------------------------------------------------------------


def iterate(game: Game, joint: np.ndarray, policies: tuple[Policy, Policy], times: int = 4) -> tuple[Policy, Policy]:
    """Eq. 9: distil under the occupancy of the policies found last."""
    for _ in range(times):
        policies = implicit(occupancy(game, acting(policies)), joint)
    return policies


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_theorem_1_an_identifiable_optimum_is_recovered_exactly(seed: int) -> None:
    game = signs_game()
    joint, best = optimal(game)
    assert best == pytest.approx(1 + GAMMA + GAMMA**2)
    policies = iterate(game, joint, random_policies(game, seed))
    weights = occupancy(game, acting(policies))
    assert divergence(weights, joint, policies) == pytest.approx(0, abs=1e-12)
    assert value(game, acting(policies)) == pytest.approx(best, abs=1e-12)
    for agent in (0, 1):
        for history, policy in policies[agent].items():
            assert policy[history[-1]] == pytest.approx(1)  # plays what it sees


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_identifiable_pair_need_not_be_deterministic_or_optimal(seed: int) -> None:
    """A joint policy put together from what each agent sees and the time is found again in one step."""
    game, generator = signs_game(), np.random.default_rng(seed)
    seen = game.see.argmax(-1)
    parts = generator.dirichlet((1.0, 1.0), (2, game.horizon, 2))  # [agent, time, observation]
    joint = np.einsum("tsa,tsb->tsab", parts[0][:, seen[0]], parts[1][:, seen[1]])
    policies = iterate(game, joint, random_policies(game, seed), times=1)
    for agent in (0, 1):
        for history, policy in policies[agent].items():
            np.testing.assert_allclose(policy, parts[agent, len(history) // 2, history[-1]], atol=1e-12)
    # A difference between two states that an agent cannot tell apart ends it: agent 0 sees the same in 1 and 2.
    joint[:, 1] = joint[:, 1, ::-1]
    policies = iterate(game, joint, random_policies(game, seed))
    assert divergence(occupancy(game, acting(policies)), joint, policies) > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_optimum_that_is_not_identifiable_is_not_recovered(seed: int) -> None:
    game = signs_game(blind=True)
    joint, best = optimal(game)
    assert best == pytest.approx(1 + GAMMA + GAMMA**2)  # the joint policy still sees all
    for times in (1, 4):
        policies = iterate(game, joint, random_policies(game, seed), times)
        assert divergence(occupancy(game, acting(policies)), joint, policies) > 0.1
        assert value(game, acting(policies)) < best - 0.1


def test_correlation_alone_is_not_identifiable_either() -> None:
    """A fair coin that both obey, the same in every state: each agent's part never varies, and ln 2 is lost."""
    game = random_game(0)
    joint = np.broadcast_to(np.eye(2) / 2, (game.horizon, 3, 2, 2))
    policies = iterate(game, joint, random_policies(game, 0))
    weights = occupancy(game, acting(policies))
    assert divergence(weights, joint, policies) == pytest.approx(math.log(2))


# ---- the two passages -------------------------------------------------------------------------------


def test_the_passages_optimum_is_not_identifiable_and_copying_it_jams() -> None:
    """By hand: a big agent goes the long way with probability 3/4, for sure if the other one is small and half of
    the time if it is big. Small and small: certain, 10. Big and small, either way: 9 with 3/4, else jammed. Big and
    big: they part with 2 * 3/4 * 1/4 and get 9, else jammed."""
    game = passage_game()
    joint, best = optimal(game)
    assert best == passage_payoffs.best_joint()
    policies = iterate(game, joint, random_policies(game, 0))
    for policy in policies:
        np.testing.assert_allclose(np.stack([policy[0,], policy[1,]]), [[1.0, 0.0], [0.25, 0.75]], atol=1e-12)
    assert divergence(occupancy(game, acting(policies)), joint, policies) == pytest.approx(
        (2 * math.log(4 / 3) + math.log(8 / 3)) / 4
    )
    jammed = passage_payoffs.JAMMED
    sampled = (10 + 2 * (3 / 4 * 9 + 1 / 4 * jammed[1]) + (3 / 8 * 9 + 5 / 8 * jammed[2])) / 4
    assert value(game, acting(policies)) == pytest.approx(sampled)
    modes = tuple({h: np.eye(2)[p.argmax()] for h, p in policy.items()} for policy in policies)
    assert value(game, acting((modes[0], modes[1]))) == pytest.approx(passage_payoffs.distilled())
    assert passage_payoffs.distilled() < sampled < passage_payoffs.best_decentralised() < passage_payoffs.best_joint()


def test_the_passages_best_decentralised_policies_are_an_identifiable_pair_with_another_teacher() -> None:
    """What a teacher would have to do for copying to be right: send agent 0 the short way, agent 1 the long way."""
    game = passage_game()
    joint = np.zeros((1, 4, 2, 2))
    joint[..., passage_payoffs.SHORT, passage_payoffs.LONG] = 1
    policies = iterate(game, joint, random_policies(game, 0))
    assert divergence(occupancy(game, acting(policies)), joint, policies) == 0
    assert value(game, acting(policies)) == pytest.approx(passage_payoffs.best_decentralised())
