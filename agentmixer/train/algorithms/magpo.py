"""MAGPO (arXiv 2507.18059): a guider that sees everything collects and learns, actors imitate it and learn beside it.

The guider (`guided_team.Guider`, an auto-regressive MLP) draws the agents' actions one after another, so that the team can be
random and agree. It is held to what the actors can follow; the actors, each from its own observation, follow it and descend PPO's
loss too. Constants are those of the authors' code but for `num_envs` and `chunk_length`; docs/method.md says what else is otherwise.
There, an agent's number is part of its observation; here, every agent has a network or a learned bias of its own, which says as
much.

What differs from `mappo` is all that these two files say. The guider stands where other algorithms have the Policy Modifier:
`pm` in checkpoints and in numbers that are logged means the guider.

With g, a and b the probabilities of an agent's action by the guider, by its actor, and by the guider that collected, A the
advantage (GAE; one critic on the state), ε the setting `clip`, δ `delta`, KL(p ‖ q) a sum over the agent's actions, and means taken over
living agents:

    guider: maximise min(g/b A, clip(clip(g/a, 1/δ, δ) a/b, 1 - ε, 1 + ε) A) - [g/a outside (1/δ, δ)] KL(g ‖ a) + entropy_coef H(g)
    actors: maximise alpha min(a/b A, clip(a/b, 1 - ε, 1 + ε) A) - KL(g ‖ a)

Each takes the other as it is: no gradient passes between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from agentmixer.config import NonNegative, StepSize, about
from agentmixer.contract.spec import TaskSpec
from agentmixer.train import diagnostics, presets
from agentmixer.train.algorithms.agentmixer_ppo import Counts
from agentmixer.train.algorithms.base import check_discrete
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.causal_loss import double_clip, outside
from agentmixer.train.guided_team import GuidedJoint, GuidedTeam, Guider
from agentmixer.train.joint_policy import Categorical
from agentmixer.train.networks import Actor
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.rollout import Batch
from agentmixer.train.team import Team


class MAGPOSettings(PPOSettings, frozen=True):
    """What MAGPO adds to PPO."""

    guider_lr: Annotated[StepSize, about("Adam's step size, guider")] = 2.5e-4
    delta: Annotated[
        float,
        Meta(gt=1.0, le=1e6),
        about(
            "the guider's probability of an action may be this many times its actor's, or the actor's this many times its"
        ),
    ] = 1.5
    alpha: Annotated[NonNegative, about("weight of PPO's loss beside imitation, actors")] = 1.0
    value_coef: Annotated[NonNegative, about("weight of the critics' loss")] = 0.5


class MAGPO(MAPPO):
    """PPO on a guider that sees everything and draws the actions one after another; actors imitate it and keep it near. Discrete actions."""

    name, source = "magpo", "arXiv 2507.18059"
    own_settings = MAGPOSettings
    defaults = {  # noqa: RUF012
        "num_envs": 32,
        "rollout_length": 128,
        "epochs": 4,
        "minibatches": 2,
        "actor_lr": 2.5e-4,
        "critic_lr": 2.5e-4,
        "lr_decay": False,
        "max_grad_norm": 0.5,
    }
    presets = presets.MAGPO
    several_teams = False

    def make_team(self, spec: TaskSpec, actor: Actor, generators: Sequence[torch.Generator]) -> Team:
        """The actors and a guider that has learned nothing. Raises AgentMixerError if actions are not all Discrete."""
        check_discrete(spec, self.name)
        guider = Guider(spec, self.config.team).to(generators[0].device)
        return GuidedTeam(spec, actor, guider, GuidedJoint(), generators)

    def step_sizes(self) -> dict[str, float]:
        """Adam's step size of every network."""
        settings = self.config.algorithm
        return {"actor": settings.actor_lr, "critic": settings.critic_lr, "pm": settings.guider_lr}

    def policy_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of guider and actors, [1], and numbers to log, [1] each."""
        settings, kind, team = self.config.algorithm, self.team.joint_policy, self.team
        assert isinstance(team, GuidedTeam)
        mask, action, old = (array.flatten(1, 2) for array in (batch.mask, batch.action, batch.log_prob))
        actors = team.unroll(batch.obs, mask, batch.actor_memory[:, 0], batch.episode_start)
        guider = kind.joint(actors.policy, team.given(actors, batch.state.flatten(0, 2), action), mask)
        learner = Categorical(actors.policy, actors.policy.log_softmax(-1))
        active, advantage = batch.active.flatten(1).to(old.dtype), batch.advantage.flatten(1)
        g, a, b = kind.log_prob(guider, action) * active, kind.log_prob(learner, action) * active, old * active

        def mean(array: Tensor) -> Tensor:
            """Over living agents, [1]."""
            return (array * active).sum().view(1) / counts.living

        entropy, imitation = mean(kind.entropy(guider)), mean(divergence(guider.log_pi.detach(), learner.log_pi))
        surrogate = mean(double_clip(g, a.detach(), b, advantage, settings.clip, settings.delta))
        strayed = outside(g, a, settings.delta).to(old.dtype)
        back = mean(strayed * divergence(guider.log_pi, learner.log_pi.detach()))
        ratio = (a - b).exp()
        own = mean(torch.min(ratio * advantage, ratio.clamp(1 - settings.clip, 1 + settings.clip) * advantage))
        loss = back - surrogate - settings.entropy_coef * entropy + imitation - settings.alpha * own
        with torch.no_grad():
            numbers = diagnostics.of_ratios(g - b, settings.clip, mean) | {
                "entropy": entropy.detach(),
                "mode_agreement": mean((kind.mode(guider) == kind.actor_mode(actors.policy)).to(old.dtype)),
                "actor_entropy": mean(kind.entropy(learner)),
                "actor_kl": imitation.detach(),
            }
        return loss, numbers

    def value_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> Tensor:
        """`value_coef` times the clipped Huber loss of PPO, [1]."""
        return self.config.algorithm.value_coef * super().value_loss(batch, counts, alike)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first ‖ second) in nats, [N, B], of logarithms of probabilities [N, B, A]."""
    return (first.exp() * (first - second)).sum(-1)
