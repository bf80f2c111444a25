"""From the actors' policies and PM's output to the joint policy (paper, Section 4.2), one class a kind.

A kind says what an actor's output means, what PM reads of it, how both make the joint policy, and how that is
sampled and scored. Everything is batched over agents, those of all teams that train side by side: raw outputs, scores
and masks are [N, B, A]. Where agents have fewer than A actions (or action elements) the rest is masked out and counts
for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

#: Logit of an illegal action: finite, so that 0 * log 0 stays 0 in entropies and gradients.
ILLEGAL = -1e10
#: PM's outputs are clamped here; sigmoid(15) differs from 1 by 3e-7.
SCORE_LIMIT = 15.0


class JointPolicy(Protocol):
    """What every kind offers. `policy` is what the actors make of one step, `joint` what PM made of it."""

    def policy(self, raw: Tensor, mask: Tensor) -> Tensor:
        """The actors' policies [N, B, A] (masked logits, or means) from their raw outputs."""
        ...

    def features(self, policy: Tensor) -> Tensor:
        """What PM reads of a policy, [N, B, A]."""
        ...

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Any:
        """The joint policy from the actors' policies and PM's output."""
        ...

    def actor_mode(self, policy: Tensor) -> Tensor:
        """Each actor's most likely action: [N, B] int64, or [N, B, W] float32 (see `Team`)."""
        ...

    def noise(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
        """What `sample` and `actor_sample` turn into actions, [N, B, A]. The first dimension falls into equal parts, a
        team and its generator each."""
        ...

    def actor_sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        """An action drawn from each actor's own policy (a Gaussian actor has no spread of its own)."""
        ...

    def mode(self, joint: Any) -> Tensor:
        """The joint policy's most likely action."""
        ...

    def sample(self, joint: Any, noise: Tensor) -> Tensor:
        """An action drawn from the joint policy."""
        ...

    def log_prob(self, joint: Any, action: Tensor) -> Tensor:
        """Log-probability (density) of each agent's part of an action, [N, B]."""
        ...

    def entropy(self, joint: Any) -> Tensor:
        """Entropy of each agent's part in nats, [N, B]."""
        ...

    def agree(self, joint: Any, policy: Tensor) -> Tensor | None:
        """Whether joint policy and actor have the same mode (Definition 6), [N, B] bool. None where there is nothing to
        measure, because the joint policy's mode is the actor's by definition."""
        ...

    def against(self, joint: Any, policy: Tensor) -> dict[str, Tensor]:
        """Of each actor's own policy `actor_entropy`, and `actor_kl`, the Kullback-Leibler divergence of the joint policy from
        it, [N, B] each in nats. Nothing where actors have no spread of their own."""
        ...

    def anneal(self, start: float, end: float, schedule: str, progress: float) -> None:
        """Set the temperature, of a kind that has one (`GumbelJoint`)."""
        ...


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Illegal actions (mask False) get ILLEGAL. Shapes equal."""
    return logits.masked_fill(~mask, ILLEGAL)


class Categorical(NamedTuple):
    """A joint policy over discrete actions. scores [N, B, A], unnormalised; log_pi [N, B, A], log-probabilities.

    The mode is read from the scores: normalising could round two different ones to the same number."""

    scores: Tensor
    log_pi: Tensor


class DiscreteJoint:
    """What kinds for discrete actions share. A policy is the actor's masked logits [N, B, A]."""

    def policy(self, raw: Tensor, mask: Tensor) -> Tensor:
        return mask_logits(raw, mask)

    def features(self, policy: Tensor) -> Tensor:
        # Probabilities, because the logits of illegal actions would drown the others.
        return policy.softmax(-1)

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Categorical:
        scores = mask_logits(self.scores(policy, score), mask)
        return Categorical(scores, scores.log_softmax(-1))

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        """Joint logits [N, B, A] from the actors' masked logits and PM's output; illegal actions are masked after."""
        raise NotImplementedError

    def actor_mode(self, policy: Tensor) -> Tensor:
        return policy.argmax(-1)

    def noise(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
        return drawn(torch.Tensor.exponential_, shape, generators)

    def actor_sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        return sample(policy, noise)

    def mode(self, joint: Categorical) -> Tensor:
        return joint.scores.argmax(-1)

    def sample(self, joint: Categorical, noise: Tensor) -> Tensor:
        return sample(joint.scores, noise)

    def log_prob(self, joint: Categorical, action: Tensor) -> Tensor:
        return joint.log_pi.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, joint: Categorical) -> Tensor:
        return -(joint.log_pi.exp() * joint.log_pi).sum(-1)

    def agree(self, joint: Categorical, policy: Tensor) -> Tensor:
        return self.mode(joint) == self.actor_mode(policy)

    def against(self, joint: Categorical, policy: Tensor) -> dict[str, Tensor]:
        own = policy.log_softmax(-1)
        return {
            "actor_entropy": -(own.exp() * own).sum(-1),
            "actor_kl": (joint.log_pi.exp() * (joint.log_pi - own)).sum(-1),
        }

    def anneal(self, start: float, end: float, schedule: str, progress: float) -> None:
        """There is no temperature."""


def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """One action a policy by the Gumbel-max trick; logits need not be normalised, noise is exponential, both [..., A]
    -> [...] int64."""
    return (logits - noise.log()).argmax(-1)


def drawn(fill: Callable[..., Any], shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """Random numbers, `fill` being one of torch.Tensor's methods that make them. The first dimension falls into equal
    parts, a team and its generator each."""
    noise = torch.empty(shape, device=generators[0].device)
    for part, generator in zip(noise.chunk(len(generators)), generators, strict=True):
        fill(part, generator=generator)
    return noise


class GumbelJoint(DiscreteJoint):
    """Eq. 12: softmax((log pi + g) / tau), g = -log(-log u), u = u_scale * sigmoid(gain * score); u_scale 1 and gain 1 are
    the published form.

    -log sigmoid(x) = softplus(-x), so g = -log(softplus(-x) - log u_scale), which stays finite where u rounds to 1. What
    normalises pi cancels. Mode agreement (Definition 6) is not guaranteed by this form: argmax(log pi + g) may
    be another action than argmax(log pi), whatever tau is. It is measured."""

    def __init__(self, tau: float, u_scale: float = 1.0, gain: float = 1.0):
        self.tau, self.u_scale, self.gain = tau, u_scale, gain

    def anneal(self, start: float, end: float, schedule: str, progress: float) -> None:
        """Set tau for `progress` p in [0, 1]: `start` throughout (constant), or on its way to `end`; `late` has gone the
        share (e^5p - 1) / (e^5 - 1) of it, as the authors' code does on SMAC."""
        self.tau = start
        if schedule == "linear":
            self.tau = start + (end - start) * progress
        elif schedule == "cosine":
            self.tau = end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
        elif schedule == "exponential":
            self.tau = start * (end / start) ** progress
        elif schedule == "late":
            self.tau = start + (end - start) * math.expm1(5 * progress) / math.expm1(5)

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        x = (self.gain * score).clamp(-SCORE_LIMIT, SCORE_LIMIT)
        return (policy - torch.log(F.softplus(-x) - math.log(self.u_scale))) / self.tau


class GapJoint(DiscreteJoint):
    """PM scales every action's distance from the actor's mode: joint logit_a = -(max_b l_b - l_a) * f_a, f_a > 0.

    The mode has distance zero and all others less than none of it, so the joint policy's mode is the actor's for
    every state, mask and weight (docs/method.md has the proof). f_a = exp(reach * tanh(score_a / reach)) lies
    between e^-reach and e^reach: PM decides how much and where the team explores. With 3 that is 1/20 to 20, from
    nearly evenly to hardly at all."""

    def __init__(self, reach: float = 3.0):
        self.reach = reach

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        gap = policy.amax(-1, keepdim=True) - policy
        return -gap * torch.exp(self.reach * torch.tanh(score / self.reach))


class ProductJoint(DiscreteJoint):
    """The product of the actors' own policies. PM's output plays no part: what MAPPO trains."""

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        return policy


class Gaussian(NamedTuple):
    """Independent normal elements: mean, std [N, B, A], and which elements exist (float, 0 or 1)."""

    mean: Tensor
    std: Tensor
    exists: Tensor


class GaussianJoint:
    """Real-valued actions: the joint policy is Normal(the actors' means, PM's std), so that the mode of both is
    the mean by construction and PM shapes exploration alone. std = low + (high - low) * sigmoid(gain * score).

    A policy is its mean [N, B, A], in units of half the action range (-1 and 1 are the bounds; the environment
    meets the clamped action). Actors have no std: none is executed and none would get a gradient.
    """

    def __init__(self, std_low: float, std_high: float, gain: float = 1.0):
        self.low, self.high, self.gain = std_low, std_high, gain

    def policy(self, raw: Tensor, mask: Tensor) -> Tensor:
        return raw * mask

    def features(self, policy: Tensor) -> Tensor:
        return policy

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Gaussian:
        std = self.low + (self.high - self.low) * torch.sigmoid(self.gain * score)
        return Gaussian(policy, std, mask.to(policy.dtype))

    def actor_mode(self, policy: Tensor) -> Tensor:
        return policy

    def noise(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
        return drawn(torch.Tensor.normal_, shape, generators)

    def actor_sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        return policy

    def mode(self, joint: Gaussian) -> Tensor:
        return joint.mean

    def sample(self, joint: Gaussian, noise: Tensor) -> Tensor:
        return joint.mean + joint.std * noise * joint.exists

    def log_prob(self, joint: Gaussian, action: Tensor) -> Tensor:
        z = (action - joint.mean) / joint.std
        return ((-0.5 * z.square() - joint.std.log() - 0.5 * math.log(2 * math.pi)) * joint.exists).sum(-1)

    def entropy(self, joint: Gaussian) -> Tensor:
        return ((joint.std.log() + 0.5 * math.log(2 * math.pi * math.e)) * joint.exists).sum(-1)

    def agree(self, joint: Gaussian, policy: Tensor) -> None:
        """Nothing to measure: the joint policy's mean is the actors' means themselves."""

    def against(self, joint: Gaussian, policy: Tensor) -> dict[str, Tensor]:
        return {}

    def anneal(self, start: float, end: float, schedule: str, progress: float) -> None:
        """There is no temperature."""
