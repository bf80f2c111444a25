"""What two agents get in two passages, and the best that teams of several kinds can get there.

This file imports no simulator.
"""

from __future__ import annotations

import itertools

import numpy as np

SMALL, BIG = 0, 1
SHORT, LONG = 0, 1
CROSSED = 10.0
#: What the long passage costs: DETOUR[agent][size]. A big agent hardly notices it, agent 1 starts nearer to it.
DETOUR = ((8.0, 1.0), (2.0, 1.0))
#: What the team gets when both are in one passage that has no room for them, by the number of big agents.
JAMMED = {1: 0.0, 2: -10.0}


def payoff() -> np.ndarray:
    """The team's reward, float64 [2, 2, 2, 2], indexed [size_0, size_1, action_0, action_1]."""
    table = np.empty((2, 2, 2, 2))
    for size_0, size_1, action_0, action_1 in itertools.product((0, 1), repeat=4):
        big = (size_0 == BIG) + (size_1 == BIG)
        if action_0 == action_1 and big:
            reward = JAMMED[big]
        else:
            reward = CROSSED - DETOUR[0][size_0] * (action_0 == LONG) - DETOUR[1][size_1] * (action_1 == LONG)
        table[size_0, size_1, action_0, action_1] = reward
    return table


def decentralised(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Expected return of two policies, each given as its action when small and its action when big."""
    table = payoff()
    return float(np.mean([table[s, t, first[s], second[t]] for s in (SMALL, BIG) for t in (SMALL, BIG)]))


def best_decentralised() -> float:
    """The highest expected return of agents that see only their own size, by trying all 4 x 4 policies.

    Mixing policies cannot add to it: the return is linear in each agent's policy."""
    policies = [(small, big) for small in (SHORT, LONG) for big in (SHORT, LONG)]
    return max(decentralised(first, second) for first in policies for second in policies)


def best_joint() -> float:
    """The highest expected return of a policy that sees both sizes."""
    return float(payoff().max((2, 3)).mean())


def distilled() -> float:
    """Expected return of agents that copy the all-seeing policy: each takes the action which that policy chooses
    most often for the agent's own size. Where two joint actions are best the policy chooses each half of the time.
    """
    table = payoff()
    teacher = (table == table.max((2, 3), keepdims=True)).astype(float)
    teacher /= teacher.sum((2, 3), keepdims=True)
    first = teacher.sum(3).mean(1).argmax(-1)
    second = teacher.sum(2).mean(0).argmax(-1)
    return decentralised((first[SMALL], first[BIG]), (second[SMALL], second[BIG]))
