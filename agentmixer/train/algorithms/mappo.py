"""MAPPO (Yu et al. 2022): PPO for actors that learn and act each on its own, with a critic on the global state.

The baseline that AgentMixer is held against. What differs from `agentmixer_ppo` is all that this file says: there is no
Policy Modifier, so the joint policy is the product of the actors' own; every agent's ratio is clipped by itself; the
standard deviation of real-valued actions is one learned number an element and belongs to the actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.train import diagnostics, presets
from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO, Counts
from agentmixer.train.joint_policy import GaussianJoint, ProductJoint
from agentmixer.train.mixed_policy import joint_for
from agentmixer.train.networks import Actor
from agentmixer.train.policy_modifiers import NoPM
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.rollout import Batch
from agentmixer.train.settings import RunSettings, TeamSettings
from agentmixer.train.team import Team


class MAPPO(AgentMixerPPO):
    """PPO on every actor's own policy, with a critic on the state."""

    name, source = "mappo", "Yu et al. 2022, arXiv 2103.01955"
    team_settings = TeamSettings
    own_settings = PPOSettings
    kind_of_team: ClassVar[type[Team]] = Team
    #: AgentMixer's, for as fair a comparison as there can be, but for what a Policy Modifier adds.
    presets = presets.shared(presets.ON_PPO, TeamSettings.names() + PPOSettings.names() + RunSettings.names())

    def make_team(self, spec: TaskSpec, actor: Actor, generators: Sequence[torch.Generator]) -> Team:
        """The actors; for real-valued actions with learned standard deviations that depend on nothing."""
        acting = self.config.team
        deviation = NoPM(spec, len(generators)).to(generators[0].device)
        joint = joint_for(spec, ProductJoint(), GaussianJoint(acting.std_low, acting.std_high))
        return self.kind_of_team(spec, actor, deviation, joint, generators)

    def step_sizes(self) -> dict[str, float]:
        """The standard deviation learns at the actors' rate."""
        settings = self.config.algorithm
        return {"actor": settings.actor_lr, "critic": settings.critic_lr, "pm": settings.actor_lr}

    def schedule(self, progress: float) -> None:
        """Set what the step sizes follow; nothing else changes along a run."""
        self.progress = progress

    def policy_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate of every living agent and its entropy bonus, [K], and numbers to log, [K] each."""
        settings, kind, teams = self.config.algorithm, self.team.joint_policy, self.team.count
        mask, rows = batch.mask.flatten(1, 2), batch.active[0].numel()
        actors = self.team.unroll(batch.obs, mask, batch.actor_memory[:, 0], batch.episode_start, batch.action)
        policy = kind.joint(actors.policy, self.team.score(actors, *batch.central())[0], mask)
        active = batch.active.reshape(teams, -1, rows).to(batch.log_prob.dtype)
        log_ratio = kind.log_prob(policy, batch.action.flatten(1, 2)) - batch.log_prob.flatten(1, 2)
        log_ratio = log_ratio.view_as(active) * active
        ratio, advantage = log_ratio.exp(), batch.advantage.reshape(teams, -1, rows)
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)

        def mean(array: Tensor) -> Tensor:
            """Over living agents, [K]."""
            return (array.view_as(active) * active).flatten(1).sum(1) / counts.living

        surrogate, entropy = mean(torch.min(ratio * advantage, clipped * advantage)), mean(kind.entropy(policy))
        with torch.no_grad():
            numbers = diagnostics.of_ratios(log_ratio, settings.clip, mean) | {"entropy": entropy.detach()}
        return -surrogate - settings.entropy_coef * entropy, numbers
