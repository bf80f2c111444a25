"""Numbers that say how a team learns. Nothing here is descended, and nothing here draws from a team's generators."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from agentmixer.train.rollout import Rollout
from agentmixer.train.team import Team

#: Signals that `total_correlation` averages over.
SIGNALS = 16


def of_ratios(log_ratio: Tensor, clip: float, mean: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """How far the policy under training has left the one that collected, by the logarithms of probability ratios. mean: over
    what counts, [K]."""
    ratio = log_ratio.exp()
    clipped = ((ratio - 1).abs() > clip).to(ratio.dtype)
    return {"approx_kl": mean(ratio - 1 - log_ratio), "clip_fraction": mean(clipped)}


def of_rollout(team: Team, r: Rollout, returns: Tensor, value: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """What critics and joint policy were like that collected a rollout, [K] each. returns, value, counted: as in
    `explained_variance`."""
    found = {"explained_variance": explained_variance(returns, value, counted)}
    return found | ({"total_correlation": total_correlation(team, r)} if team.correlates else {})


def explained_variance(returns: Tensor, value: Tensor, counted: Tensor) -> Tensor:
    """1 - Var(returns - value) / Var(returns) over what counts, arrays [K, ...] -> [K]: 1 where critics foretell everything, 0
    where they say no more than the mean. 0 where returns do not vary, for then there is nothing to explain."""
    weight = counted.flatten(1).to(returns.dtype)
    count = weight.sum(1).clamp_min(1)

    def variance(array: Tensor) -> Tensor:
        array = array.flatten(1)
        mean = (array * weight).sum(1, keepdim=True) / count.unsqueeze(1)
        return ((array - mean).square() * weight).sum(1) / count

    whole = variance(returns)
    return torch.where(whole > 0, 1 - variance(returns - value) / whole.clamp_min(1e-30), 0.0)


@torch.no_grad()
def total_correlation(team: Team, r: Rollout) -> Tensor:
    """The total correlation of actions that the joint policy draws in the rollout's last states, nats, [K]: the divergence of
    their distribution, over signals, from the product of its agents' shares. Without a signal it is 0 by definition.

    Estimated from one joint action a state, drawn under a signal of its own, and SIGNALS other signals."""
    mask, memory, state = r.mask[:, -1], r.actor_memory[:, -1], r.state[:, -1].flatten(0, 1)
    generators = [torch.Generator(team.device).manual_seed(0) for _ in range(team.count)]
    actors = team.step(r.obs[:, -1], mask, memory)

    def joint() -> object:
        noise = torch.cat(
            [torch.randn(r.state.shape[2], team.signal, generator=g, device=team.device) for g in generators]
        )
        return team.joint(actors, state, noise, mask, r.pm_memory[:, -1])

    kind = team.joint_policy
    action = kind.sample(joint(), kind.noise((*mask.shape[:2], team.actions), generators))
    each = torch.stack([kind.log_prob(joint(), action) for _ in range(SIGNALS)])  # [signals, N, E]
    each = each.unflatten(1, (team.count, -1))
    together, alone = each.sum(2).logsumexp(0), each.logsumexp(0).sum(1)
    return (together - alone).mean(1) + (each.shape[2] - 1) * math.log(SIGNALS)
