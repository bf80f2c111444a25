"""From the actors' policies and PM's output to the joint policy (paper, eq. 11-12), discrete actions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Logit of an illegal action: finite, so that 0 * log 0 stays 0 in entropies and gradients.
ILLEGAL = -1e10
#: PM's outputs are clamped here; sigmoid(15) differs from 1 by 3e-7.
SCORE_LIMIT = 15.0


def mask_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Illegal actions (mask False) get ILLEGAL. Shapes equal."""
    return logits if mask is None else logits.masked_fill(~mask, ILLEGAL)


def log_policy(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probabilities of a masked categorical policy, [..., A]."""
    return torch.log_softmax(mask_logits(logits, mask), -1)


def gumbel_joint(actor_log_policy: Tensor, score: Tensor, mask: Tensor | None, tau: float) -> Tensor:
    """Joint log-policy of eq. 12: softmax((log pi + g) / tau), g = -log(-log u), u = sigmoid(score).

    -log sigmoid(x) = softplus(-x), so g = -log softplus(-x), which stays finite where u rounds to 1.
    All shapes [..., A]. tau -> 0 makes the joint policy the actors' argmax only if g is flat: mode
    agreement (Definition 6) is not guaranteed by this form and is measured.
    """
    g = -torch.log(F.softplus(-score.clamp(-SCORE_LIMIT, SCORE_LIMIT)))
    return log_policy((actor_log_policy + g) / tau, mask)


def entropy(log_pi: Tensor) -> Tensor:
    """Entropy of categorical policies, [..., A] -> [...], in nats."""
    return -(log_pi.exp() * log_pi).sum(-1)


def sample(log_pi: Tensor, generator: torch.Generator) -> Tensor:
    """One action a policy by the Gumbel-max trick, [..., A] -> [...] int64."""
    noise = torch.empty_like(log_pi).exponential_(generator=generator)
    return (log_pi - noise.log()).argmax(-1)


def log_prob(log_pi: Tensor, action: Tensor) -> Tensor:
    """log_pi [..., A], action [...] int64 -> [...]."""
    return log_pi.gather(-1, action.unsqueeze(-1)).squeeze(-1)
