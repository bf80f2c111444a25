"""How a team with `pm=causal` learns while its joint policy is free: the joint policy by PPO, the actors beside it.

With g, a and b the probabilities of an agent's action by the joint policy, by its actor, and by the joint policy that collected, A
the advantage, T the entropy weight, d the reach, ε the setting `clip`, and means taken over living agents:

    PM:     maximise min(g/b A_i, clip(clip(g/a, 1/d, d) a/b, 1 - ε, 1 + ε) A_i) + T H(g) - [g/a outside (1/d, d)] KL(g ‖ a)
    actors: maximise min(a/b A, clip(a/b, 1 - ε, 1 + ε) A) - KL(g ‖ a)

Each takes the other as it is. The double clip and the masked divergence are MAGPO's (arXiv 2507.18059). A_i is A and what comes of
agent i's action for the agents after it, less its mean:

    A_i = A + Σ_{j > i} (-T log b_j + p log a_j/b_j)

The first part pays agent i for leaving the others a choice, as a policy of maximum entropy over joint actions is: its value of a_0 is
T log Σ exp(r / T) over what the others may do, not the mean. The second pays for what the others' actors would do by themselves; p is the
share that the reach has fallen by. T falls first, d only then. Where two plans are worth the same, the joint policy may draw either
until then; once p has risen, the plan that the actors lean to is the better one, and they lean to it the more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def double_clip(g: Tensor, a: Tensor, b: Tensor, advantage: Tensor, clip: float, reach: float) -> Tensor:
    """The surrogate of a policy g that is to stay near a, min(g/b A, clip(clip(g/a, 1/d, d) a/b, 1 - ε, 1 + ε) A), d the reach. g, a,
    b: logarithms of probabilities."""
    limit = math.log(reach)
    near = ((g - a).clamp(-limit, limit) + a - b).exp().clamp(1 - clip, 1 + clip)
    return torch.min((g - b).exp() * advantage, near * advantage)


def outside(g: Tensor, a: Tensor, reach: float) -> Tensor:
    """Where g has left a: g/a is not within (1/d, d), d the reach. g, a: logarithms of probabilities."""
    return (g - a).abs() >= math.log(reach)


def of_later_agents(value: Tensor, living: Tensor) -> Tensor:
    """Σ_{j > i} value_j less its mean over `living`, [K, N, ...]. value [K, N, ...]; living the same shape, 0 or 1."""
    value = value * living
    later = value.sum(1, keepdim=True) - value.cumsum(1)
    count = living.flatten(2).sum(2).clamp_min(1)
    mean = (later * living).flatten(2).sum(2) / count
    return later - mean.view(*mean.shape, *[1] * (later.dim() - 2))
