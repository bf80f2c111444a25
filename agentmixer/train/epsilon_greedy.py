"""Acting by values: the best action, and now and then any other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agentmixer.train.joint_policy import ILLEGAL, Categorical, DiscreteJoint, mask_logits, sample


class EpsilonGreedyJoint(DiscreteJoint):
    """Agents' actions by the utilities that PM's place in the team gives: every agent takes its best legal action, or with
    probability `epsilon` any legal one, each as likely.

    A policy is an actor's masked utilities [N, B, A], and its mode the action of the greatest one. The scores of the joint
    policy are the other utilities, masked; its mode does not depend on epsilon."""

    def __init__(self, epsilon: float):
        self.epsilon = epsilon

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        return score

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Categorical:
        scores = mask_logits(score, mask)
        return Categorical(scores, self.log_choices(scores))

    def actor_sample(self, policy: Tensor, noise: Tensor) -> Tensor:
        return sample(self.log_choices(policy), noise)

    def sample(self, joint: Categorical, noise: Tensor) -> Tensor:
        return sample(joint.log_pi, noise)

    def log_choices(self, utilities: Tensor) -> Tensor:
        """Log-probabilities of every action, ILLEGAL where there is no chance of it. Masked utilities [N, B, A]."""
        legal = (utilities > ILLEGAL).to(utilities.dtype)
        best = F.one_hot(utilities.argmax(-1), utilities.shape[-1])
        chance = (1.0 - self.epsilon) * best + self.epsilon * legal / legal.sum(-1, keepdim=True).clamp_min(1.0)
        return torch.log(chance).clamp_min(ILLEGAL)
