"""HAPPO (Kuba et al. 2022): actors learn one after the other, each from the advantage that the ones before it have left.

What differs from `mappo`: every update draws an order of the agents; agent i_m takes its PPO steps on M A, where

    M = product over the agents j that learned before it of pi_j,new(a_j | o_j) / pi_j,old(a_j | o_j),

and each actor has a network and an optimiser of its own. Critics learn as in `mappo`. With one agent it is PPO.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train import blocks
from agentmixer.train.algorithms.base import check_one_kind
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.policy_modifiers import NoPM
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.presets import apart
from agentmixer.train.rollout import Batch, Rollout
from agentmixer.train.settings import Config, RunSettings, TeamSettings
from agentmixer.train.stack import clip_stack_grad_norm
from agentmixer.train.team import Team, make_actor, weights_from


class HAPPOSettings(PPOSettings, frozen=True):
    """Those of PPO."""

    def check(self, team: TeamSettings, run: RunSettings) -> None:
        super().check(team, run)
        if team.share_parameters:
            raise AgentMixerError("share_parameters must be false for happo, whose actors learn one after the other")


class HAPPO(MAPPO):
    """PPO for one actor after the other, each on the advantage that those before it have left."""

    name, source = "happo", "Kuba et al. 2022, arXiv 2109.11251"
    own_settings = HAPPOSettings
    presets = apart(MAPPO.presets)
    several_teams = False

    def __init__(self, spec: TaskSpec, config: Config, generators: Sequence[torch.Generator]):
        check_one_kind(spec, self.name)
        super().__init__(spec, config, generators)
        self.singles = [self._single(spec, agent) for agent in range(spec.num_agents)]

    def _single(self, spec: TaskSpec, agent: int) -> Team:
        """A team of one agent, whose networks are that agent's part of the whole team's, in the same memory."""
        whole = self.team
        alone = msgspec.structs.replace(
            spec,
            agents=spec.agents[agent : agent + 1],
            obs_names=spec.obs_names[agent : agent + 1],
            action_spaces=spec.action_spaces[agent : agent + 1],
            fallback_actions=spec.fallback_actions[agent : agent + 1],
        )
        with weights_from(whole.generators[0]):
            actor = make_actor(alone, self.config.team, 1, obs=max(spec.obs_sizes), actions=whole.actions)
            actor = actor.to(whole.device)
        spread = NoPM(alone, 1, whole.actions).to(whole.device)
        for own, of_all in ((actor, whole.actor), (spread, whole.pm)):
            theirs = dict(of_all.named_parameters()) | dict(of_all.named_buffers())
            for name, array in (*own.named_parameters(), *own.named_buffers()):
                if name in theirs:
                    array.data = theirs[name].data[agent : agent + 1]
        return Team(alone, actor, spread, whole.joint_policy, whole.generators)

    def make_optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for every agent's actor, and for the critics."""
        settings = self.config.algorithm
        networks: dict[str, tuple[list[nn.Parameter], float]] = {
            f"actor_{agent}": ([*single.actor.parameters(), *single.pm.parameters()], settings.actor_lr)
            for agent, single in enumerate(self.singles)
        }
        networks["critic"] = list(self.critic.parameters()), settings.critic_lr
        return {
            name: torch.optim.Adam(parameters, lr=lr, eps=settings.adam_eps, fused=True)
            for name, (parameters, lr) in networks.items()
        }

    # ---- the update ----------------------------------------------------------------------------------

    def update(self, experience: Rollout) -> list[dict[str, float]]:
        """Learn from one rollout. Returns means over gradient steps, and over agents where they have one each."""
        settings, team = self.config.algorithm, self.team
        batch = Batch.cut(experience, *self.advantages(experience), settings.chunk_length)
        numbers: dict[str, Tensor] = {}
        compound = torch.ones_like(batch.log_prob[:1])
        for agent in torch.randperm(len(self.singles), generator=team.generators[0], device=team.device).tolist():
            part = self.of_agent(batch, agent, compound)
            self.team = self.singles[agent]
            try:
                blocks.add(numbers, self.descend(part, f"actor_{agent}"))
                compound = compound * self.ratio(part)
            finally:
                self.team = team
        own = {name: total / len(self.singles) for name, total in numbers.items()}
        own |= self.descend(batch, "critic")
        team.observe(experience.obs.flatten(1, 2), experience.state.flatten(1, 2))
        self.critic.body.observe(self.critic.each(experience.state).flatten(1, 2))
        return [{name: float(number) for name, number in (own | self.watched).items()}]

    def of_agent(self, batch: Batch, agent: int, compound: Tensor) -> Batch:
        """What one agent learns from: its own rows, and advantages times `compound` [1, L, B]. A positive factor may as well be
        multiplied into the advantage: it leaves PPO's minimum where it is."""
        rows = slice(agent, agent + 1)
        own = {
            name: getattr(batch, name)[rows] for name in ("obs", "mask", "active", "action", "log_prob", "actor_memory")
        }
        advantage = batch.advantage[rows if len(batch.advantage) > 1 else slice(None)]
        return batch._replace(**own, advantage=advantage * compound)

    @torch.no_grad()
    def ratio(self, part: Batch) -> Tensor:
        """pi_new / pi_old of one agent's actions, [1, L, B]; 1 where the agent is dead."""
        mask = part.mask.flatten(1, 2)
        actors = self.team.unroll(part.obs, mask, part.actor_memory[:, 0], part.episode_start)
        joint = self.team.joint(actors, *part.central()[:2], mask)
        log_ratio = (
            self.team.joint_policy.log_prob(joint, part.action.flatten(1, 2)).view_as(part.log_prob) - part.log_prob
        )
        return (log_ratio * part.active).exp()

    def descend(self, batch: Batch, name: str) -> dict[str, Tensor]:
        """All gradient steps of one network: an agent's actor (`self.team` is then that agent's), or the critics. Returns means over
        the steps."""
        settings, totals = self.config.algorithm, dict[str, Tensor]()
        parameters = [p for group in self.optimisers[name].param_groups for p in group["params"] if p.requires_grad]
        stack, told = (self.critic.critics, "critic") if name == "critic" else (1, "actor")
        for _ in range(settings.epochs):
            for part in self.parts(batch.state.shape[2]):
                counts = self.counts(blocks.pick(batch.active, part))
                size = batch.state.shape[2] if part is None else part.shape[1]
                cut = blocks.blocks(size, len(batch.obs) * batch.obs.shape[1], blocks.ROWS)

                def loss(block: slice) -> tuple[Tensor, dict[str, Tensor]]:
                    piece = batch.part(part, block)  # noqa: B023
                    if name == "critic":
                        value = self.value_loss(piece, counts).sum()  # noqa: B023
                        return value, {"value_loss": value.detach()}
                    policy, numbers = self.policy_loss(piece, counts)  # noqa: B023
                    return policy.sum(), {key: number.sum() for key, number in numbers.items()} | {
                        "policy_loss": policy.sum().detach()
                    }

                blocks.add(totals, blocks.descend(loss, cut, parameters))
                norm = clip_stack_grad_norm(parameters, stack, settings.max_grad_norm).mean()
                blocks.add(totals, {f"{told}_grad_norm": norm})
                for group in self.optimisers[name].param_groups:
                    rate = settings.critic_lr if name == "critic" else settings.actor_lr
                    group["lr"] = rate * (1.0 - self.progress if settings.lr_decay else 1.0)
                self.optimisers[name].step()
        return {key: total / (settings.epochs * settings.minibatches) for key, total in totals.items()}
