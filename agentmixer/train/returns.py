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

    reward, terminated, truncated [T, E]; value [K, T, E]; last_value [K, E], of the observation after the
    last step; final_value [K, T, E], of the observation an episode was cut off at (read only where
    truncated). A terminated episode is worth nothing more; a truncated one is worth final_value; neither
    lets the next episode's advantage leak back. Returns advantages [K, T, E]; add `value` for returns.
    """
    ended = (terminated | truncated).to(value.dtype)
    next_value = torch.cat([value[:, 1:], last_value.unsqueeze(1)], 1) * (1.0 - ended)
    next_value = torch.where(truncated & ~terminated, final_value, next_value)
    delta = reward + gamma * next_value - value
    advantage = torch.empty_like(value)
    carry = torch.zeros_like(last_value)
    for t in range(reward.shape[0] - 1, -1, -1):
        carry = delta[:, t] + gamma * lam * (1.0 - ended[t]) * carry
        advantage[:, t] = carry
    return advantage


class ValueNorm(nn.Module):
    """Running mean and standard deviation of returns, debiased exponential averages (as MAPPO does)."""

    def __init__(self, beta: float = 0.999):
        super().__init__()
        self.beta = beta
        self.mean: Tensor
        self.square: Tensor
        self.weight: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation; 0 and 1 before the first update."""
        if self.weight == 0:
            return self.mean, torch.ones_like(self.mean)
        mean = self.mean / self.weight
        variance = (self.square / self.weight - mean.square()).clamp_min(1e-2)
        return mean, variance.sqrt()

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in a batch of returns."""
        self.mean.mul_(self.beta).add_((1 - self.beta) * returns.mean())
        self.square.mul_(self.beta).add_((1 - self.beta) * returns.square().mean())
        self.weight.mul_(self.beta).add_(1 - self.beta)

    def normalise(self, returns: Tensor) -> Tensor:
        """(returns - mean) / std."""
        mean, std = self.moments()
        return (returns - mean) / std

    def denormalise(self, values: Tensor) -> Tensor:
        """values * std + mean."""
        mean, std = self.moments()
        return values * std + mean
