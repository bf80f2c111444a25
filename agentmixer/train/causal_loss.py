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
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from agentmixer.errors import AgentMixerError
from agentmixer.train import diagnostics
from agentmixer.train.causal_team import CausalTeam
from agentmixer.train.rollout import Batch

#: Where the entropy weight ends if that is to be less, and the reach.
COOLEST, NEAREST = 0.01, 1.05


class Freedom(NamedTuple):
    """How free the joint policy is at some point of a run: entropy weight T, share p that the reach has fallen by, reach d."""

    heat: float
    pull: float
    reach: float

    @classmethod
    def at(cls, progress: float, settings: Any) -> Self:
        """After the share `progress` of a run, by the settings of `agentmixer_ppo`. The entropy weight falls evenly in its logarithm
        until `cooled`, then the reach, until `pulled`."""
        done = min(1.0, progress / max(settings.cooled, 1e-9))
        pull = min(1.0, max(0.0, (progress - settings.cooled) / max(settings.pulled - settings.cooled, 1e-9)))
        heat = settings.first_entropy ** (1.0 - done) * max(settings.entropy_coef, COOLEST) ** done
        return cls(heat, pull, settings.first_reach + (NEAREST - settings.first_reach) * pull)


def check(settings: Any) -> None:
    """Raise AgentMixerError if settings of `agentmixer_ppo` do not fit `pm=causal`."""
    if settings.ratio != "agent":
        raise AgentMixerError(
            f"pm=causal needs ratio=agent, and ratio is {settings.ratio}; add --set pm=mixer to train with that"
        )
    if not 0 < settings.cooled < settings.pulled:
        raise AgentMixerError(
            f"cooled is {settings.cooled:g} and pulled {settings.pulled:g}; with pm=causal cooled must lie between 0 and pulled"
        )


def free_loss(
    team: CausalTeam, batch: Batch, living: Tensor, policy: Tensor, joint: Any, freedom: Freedom, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of a free joint policy and of the actors beside it, [K], and numbers to log, [K] each.

    living: [K], what means are over. policy [K * N, B, A]: the actors'. joint: what PM made of it."""
    kind: Any = team.joint_policy
    shape = team.count, -1, batch.active[0].numel()
    action, own = batch.action.flatten(1, 2), kind.own(policy, joint)
    active = batch.active.reshape(shape).to(batch.log_prob.dtype)

    def shaped(array: Tensor) -> Tensor:
        return array.reshape(shape) * active

    def mean(array: Tensor) -> Tensor:
        """Over living agents, [K]."""
        return shaped(array).flatten(1).sum(1) / living

    logarithms = kind.log_prob(joint, action), kind.log_prob(own, action), batch.log_prob
    g, a, b = (shaped(array) for array in logarithms)
    advantage = batch.advantage.reshape(shape)
    paid = advantage + of_later_agents(freedom.pull * (a.detach() - b) - freedom.heat * b, active)
    strayed = outside(g, a, freedom.reach).to(g.dtype)
    back = strayed * kind.divergence(joint, kind.still(own)).view(shape)
    entropy, imitation = (array.view(shape) for array in (kind.entropy(joint), kind.divergence(kind.still(joint), own)))
    ratio = (a - b).exp()
    alone = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    surrogate = double_clip(g, a.detach(), b, paid, clip, freedom.reach)
    loss = mean(back - surrogate - freedom.heat * entropy + imitation - alone)
    with torch.no_grad():
        numbers = diagnostics.of_ratios(g - b, clip, mean) | {"entropy": mean(entropy)}
        if (agree := kind.agree(joint, policy)) is not None:
            numbers["mode_agreement"] = mean(agree.to(g.dtype))
        numbers |= {"actor_entropy": mean(kind.entropy(own)), "actor_kl": mean(imitation)}
    return loss, numbers


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
