"""How far a policy is from an equilibrium of a matrix game, exactly (paper, Definitions 1 to 3).

A game is one shared payoff for all agents, [A_0, ..., A_(N-1)], or one payoff an agent, [N, A_0, ..., A_(N-1)];
axis i of an agent's payoffs is agent i's action. A joint policy is the probability of every joint action,
[A_0, ..., A_(N-1)]; a product policy is one distribution [A_i] an agent.

A gap is the most that any one agent gains by a strategy modification, a map of its own actions, while all others
do as recommended. So it is the smallest epsilon for which the policy is an epsilon-approximate equilibrium.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agentmixer.errors import AgentMixerError


class Gap(NamedTuple):
    """The largest gain, in the payoffs' unit, and who makes it: `agent` plays `deviation[a]` where `a` is what the
    policy would have it play. A fixed deviation names the same action everywhere."""

    value: float
    agent: int
    deviation: tuple[int, ...]


def product(policies: Sequence[ArrayLike]) -> np.ndarray:
    """The joint policy [A_0, ..., A_(N-1)] of agents that act independently; policies: one [A_i] an agent.

    Raises AgentMixerError if one of them is not a distribution."""
    parts = [np.asarray(policy, np.float64) for policy in policies]
    if not parts:
        raise AgentMixerError("a product policy needs at least one agent's policy, got none")
    for i, part in enumerate(parts):
        if part.ndim != 1:
            raise AgentMixerError(f"the policy of agent {i} has shape {part.shape}; give one probability an action")
        _check_distribution(part, f"the policy of agent {i}")
    return functools.reduce(np.multiply.outer, parts)


def values(payoffs: ArrayLike, joint: ArrayLike) -> np.ndarray:
    """Each agent's expected payoff, [N] (eq. 1 for one step). Errors as in `ce_gap`."""
    return np.array([(recommended * payoff).sum() for payoff, recommended in _by_agent(payoffs, joint)])


def ce_gap(payoffs: ArrayLike, joint: ArrayLike) -> Gap:
    """Definition 3: the most an agent gains by any map of the actions recommended to it, never below 0.

    An agent's best map takes each recommendation to the best reply to what it says about the others. Raises
    AgentMixerError if `joint` is not a distribution or the payoffs do not fit it."""
    gaps = []
    for i, (payoff, recommended) in enumerate(_by_agent(payoffs, joint)):
        gain, swap = 0.0, list(range(len(payoff)))
        for action, others in enumerate(recommended):
            earned = payoff @ others
            best = int(earned.argmax())
            if earned[best] > earned[action]:
                gain += float(earned[best] - earned[action])
                swap[action] = best
        gaps.append(Gap(gain, i, tuple(swap)))
    return max(gaps, key=lambda gap: gap.value)


def cce_gap(payoffs: ArrayLike, joint: ArrayLike) -> Gap:
    """Definition 2: the most an agent gains by one fixed action, chosen before it hears its recommendation.

    Below 0 where every agent loses by not listening. Errors as in `ce_gap`."""
    gaps = []
    for i, (payoff, recommended) in enumerate(_by_agent(payoffs, joint)):
        earned = payoff @ recommended.sum(0)
        best = int(earned.argmax())
        gain = float(earned[best] - (recommended * payoff).sum())
        gaps.append(Gap(gain, i, (best,) * len(payoff)))
    return max(gaps, key=lambda gap: gap.value)


def ne_gap(payoffs: ArrayLike, policies: Sequence[ArrayLike]) -> Gap:
    """Definition 1: the most an agent gains by deviating alone from a product policy; never below 0 but by rounding.

    It is Definition 2 on a product policy, and there the CE gap is the same number: a recommendation says nothing
    about the others. policies: one [A_i] an agent. Errors as in `ce_gap` and `product`."""
    return cce_gap(payoffs, product(policies))


def _by_agent(payoffs: ArrayLike, joint: ArrayLike) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each agent's payoffs and the joint policy, both as [A_i, joint actions of the others]."""
    table, policy = np.asarray(payoffs, np.float64), np.asarray(joint, np.float64)
    agents = policy.ndim
    if table.shape == policy.shape:
        table = np.broadcast_to(table, (agents, *table.shape))
    if agents == 0 or table.shape != (agents, *policy.shape):
        raise AgentMixerError(
            f"payoffs of shape {np.shape(payoffs)} do not fit a joint policy of shape {policy.shape}; give one shared "
            "payoff a joint action, or such an array for each agent"
        )
    if not np.isfinite(table).all():
        raise AgentMixerError("the payoffs hold a number that is not finite; replace it")
    _check_distribution(policy, "the joint policy")
    return [(_rows(table[i], i), _rows(policy, i)) for i in range(agents)]


def _rows(array: np.ndarray, agent: int) -> np.ndarray:
    return np.moveaxis(array, agent, 0).reshape(array.shape[agent], -1)


def _check_distribution(array: np.ndarray, name: str) -> None:
    if not (array >= 0).all() or not abs(array.sum() - 1) < 1e-6:
        raise AgentMixerError(f"{name} is not a distribution; its probabilities must be at least 0 and add up to 1")
