"""Advantages and value normalisation: small functions with numbers one can check by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gae(
    reward: Tensor,
    value: Tensor,
    last_value: Tensor,
    final_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016), episodes that end told apart from those cut off.

    reward, terminated, truncated [..., T, E]; value [..., T, E]; last_value [..., E], of the observation after the
    last step; final_value [..., T, E], of the observation an episode was cut off at (read only where
    truncated). What leads is broadcast: rewards of a team against values of each of its critics. A terminated
    episode is worth nothing more; a truncated one is worth final_value; neither lets the next episode's advantage
    leak back. Returns advantages, shaped as `value`; add it for returns.
    """
    ended = (terminated | truncated).to(value.dtype)
    next_value = torch.cat([value[..., 1:, :], last_value.unsqueeze(-2)], -2) * (1.0 - ended)
    next_value = torch.where(truncated & ~terminated, final_value, next_value)
    advantage = reward + gamma * next_value - value
    decay = gamma * lam * (1.0 - ended)
    for t in range(reward.shape[-2] - 2, -1, -1):
        advantage[..., t, :].addcmul_(decay[..., t, :], advantage[..., t + 1, :])
    return advantage


class ValueNorm(nn.Module):
    """Running mean and standard deviation of K teams' returns, debiased exponential averages (as MAPPO does).

    Values and returns lead with the team, [K, ...]."""

    def __init__(self, teams: int = 1, beta: float = 0.999):
        super().__init__()
        self.beta = beta
        self.mean: Tensor
        self.square: Tensor
        self.weight: Tensor
        self.register_buffer("mean", torch.zeros(teams))
        self.register_buffer("square", torch.zeros(teams))
        self.register_buffer("weight", torch.zeros(teams))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, [K]; 0 and 1 before the first update."""
        weight = torch.where(self.weight > 0, self.weight, 1.0)
        mean = self.mean / weight
        std = (self.square / weight - mean.square()).clamp_min(1e-2).sqrt()
        return mean, torch.where(self.weight > 0, std, 1.0)

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in a batch of returns."""
        for average, new in (
            (self.mean, returns.flatten(1).mean(1)),
            (self.square, returns.square().flatten(1).mean(1)),
            (self.weight, torch.ones_like(self.weight)),
        ):
            average.mul_(self.beta).add_((1 - self.beta) * new)

    def normalise(self, returns: Tensor) -> Tensor:
        """(returns - mean) / std."""
        mean, std = (m.view(-1, *[1] * (returns.dim() - 1)) for m in self.moments())
        return (returns - mean) / std

    def denormalise(self, values: Tensor) -> Tensor:
        """values * std + mean."""
        mean, std = (m.view(-1, *[1] * (values.dim() - 1)) for m in self.moments())
        return values * std + mean


def standardised(advantage: Tensor, counted: Tensor, centring: float) -> Tensor:
    """Advantages [K, C / K, T, E] less the share `centring` of each critic's mean, divided by the root of what their mean square
    is then, both over what counts."""
    count = counted.sum((2, 3), keepdim=True).clamp_min(1)  # an agent may be dead all along a short rollout
    mean = (advantage * counted).sum((2, 3), keepdim=True) / count * centring
    variance = ((advantage - mean).square() * counted).sum((2, 3), keepdim=True) / count
    return (advantage - mean) / (variance.sqrt() + 1e-5)
