"""AIL (Warrington et al. 2021; the paper's Appendix E): actors imitate a teacher that sees the global state.

The teacher is learned by PPO and its actors by eq. 6, the occupancy-weighted divergence of the teacher's policy from theirs, both
on what a mixture of both collects: at the start of an episode a coin says who plays it, the teacher with chance beta, which falls
from 1 to 0. Where a teacher knows what an actor cannot see, the imitation is the average of what the teacher would do (eq. 7), which
may be worth nothing: `train passage two_agents` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from agentmixer.config import about
from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.base import Task
from agentmixer.train import diagnostics, presets, rollout
from agentmixer.train.algorithms.agentmixer_ppo import AgentMixerPPO, Counts
from agentmixer.train.algorithms.base import check_one_kind
from agentmixer.train.joint_policy import Gaussian, GaussianJoint, ProductJoint
from agentmixer.train.mixed_policy import joint_for
from agentmixer.train.networks import Actor
from agentmixer.train.policy_modifiers import NoPM
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.rollout import Batch, Rollout
from agentmixer.train.settings import RunSettings, TeamSettings
from agentmixer.train.stream import Stream
from agentmixer.train.team import Modifier, Team, most_actions


class AILSettings(PPOSettings, frozen=True):
    """What AIL adds to PPO."""

    beta_end: Annotated[
        float,
        Meta(gt=0.0, le=1.0),
        about(
            "share of total_steps after which actors play every episode; until then the teacher's share falls to none"
        ),
    ] = 0.5


class Teacher(Modifier):
    """A policy of every agent that sees the state alone: [K * B, S] -> raw outputs [K * N, B, A]. It stands where a Policy
    Modifier would, reads nothing of the actors, and remembers nothing.

    spread: the standard deviations of real-valued actions, one learned number an element; actors are sampled with them too."""

    def __init__(self, spec: TaskSpec, settings: TeamSettings, teams: int):
        super().__init__()
        self.state_size, self.teams = spec.state_size, teams
        self.policy = Actor(
            spec.num_agents, settings.share_parameters, spec.state_size, most_actions(spec), settings.hidden,
            settings.layers, False, settings.input_norm, None, teams,
        )  # fmt: skip
        self.spread = NoPM(spec, teams)

    def each(self, state: Tensor) -> Tensor:
        """What every agent's policy sees, [K, B, S] -> [K * N, B, S]."""
        return state.repeat_interleave(self.policy.body.agents // self.teams, 0)

    def observe(self, state: Tensor) -> None:
        self.policy.body.observe(self.each(state))

    def forward(
        self, state: Tensor, policy: Tensor, features: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        seen = self.each(state[..., : self.state_size].reshape(self.teams, -1, self.state_size))
        raw, _, _ = self.policy(seen, seen[..., :0])
        return raw, memory


class TaughtTeam(Team):
    """Actors and their teacher. Jointly the teacher acts; while experience is collected, the teacher in a share `beta` of all
    episodes and the actors in the others. The coin is the signal, standard normal, which lasts an episode."""

    pm: Teacher
    beta = 1.0

    @property
    def correlates(self) -> bool:
        """The signal says who plays, not what is played."""
        return False

    def taught(self, signal: Tensor, beta: float) -> Tensor:
        """Which of signals [B, 1] say that the teacher plays, [B] bool."""
        return torch.special.ndtr(signal.squeeze(-1)) < beta

    def own(self, policy: Tensor, mask: Tensor) -> Any:
        """The policies of teacher or actors [N, B, A] as a joint policy, each agent's independent of the others'."""
        return self.joint_policy.joint(policy, self.pm.spread(policy, policy, policy)[0], mask)

    def joint(self, actors: Any, state: Tensor, signal: Tensor, mask: Tensor, memory: Tensor | None = None) -> Any:
        """The teacher's policy."""
        return self.own(self.joint_policy.policy(self.score(actors, state, signal, memory)[0], mask), mask)

    @torch.no_grad()
    def act_jointly(
        self, obs: Tensor, state: Tensor, signal: Tensor, mask: Tensor, memory: dict[str, Tensor], greedy: bool,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
        kind = self.joint_policy
        actors = self.step(obs, mask, memory["actor"])
        both = self.joint(actors, state, signal, mask), self.own(actors.policy, mask)
        if greedy:
            action = kind.mode(both[0])
            return action, kind.log_prob(both[0], action), {"actor": actors.memory, "pm": memory["pm"]}
        noise = self.action_noise(obs.shape[1]) if noise is None else noise
        drawn = [kind.sample(policy, noise) for policy in both]
        scored = [kind.log_prob(policy, action) for policy, action in zip(both, drawn, strict=True)]
        # signal [K * E, 1], team after team, for agents [K * N, E]
        taught = (
            self.taught(signal, self.beta).view(self.count, 1, -1).expand(-1, len(obs) // self.count, -1).flatten(0, 1)
        )
        action = torch.where(taught.unsqueeze(-1) if drawn[0].dim() > 2 else taught, drawn[0], drawn[1])
        log_prob = torch.where(taught, scored[0], scored[1])
        return action, log_prob, {"actor": actors.memory, "pm": memory["pm"]}


class AIL(AgentMixerPPO):
    """Actors that imitate a teacher who sees the global state and learns by PPO."""

    name, source = "ail", "Warrington et al. 2021, arXiv 2012.15566; Li et al. 2024, Appendix E"
    team_settings = TeamSettings
    own_settings = AILSettings
    presets = presets.shared(presets.ON_PPO, TeamSettings.names() + PPOSettings.names() + RunSettings.names())
    team: TaughtTeam
    #: The teacher's share of episodes now.
    beta = 1.0

    def make_team(self, spec: TaskSpec, actor: Actor, generators: Sequence[torch.Generator]) -> Team:
        """The actors, and a teacher that has learned nothing."""
        check_one_kind(spec, self.name)
        acting = self.config.team
        teacher = Teacher(spec, acting, len(generators)).to(generators[0].device)
        joint = joint_for(spec, ProductJoint(), GaussianJoint(acting.std_low, acting.std_high))
        return TaughtTeam(spec, actor, teacher, joint, generators, 1, "episode")

    def step_sizes(self) -> dict[str, float]:
        """The teacher learns at the actors' rate."""
        settings = self.config.algorithm
        return {"actor": settings.actor_lr, "critic": settings.critic_lr, "pm": settings.actor_lr}

    def schedule(self, progress: float) -> None:
        """Set the teacher's share of episodes, and what the step sizes follow."""
        self.progress = progress
        self.beta = max(0.0, 1.0 - progress / self.config.algorithm.beta_end)

    def collect(self, tasks: Sequence[Task], streams: Sequence[Stream]) -> tuple[Rollout, list[dict[str, Tensor]]]:
        """See `rollout.collect`; the mixture acts."""
        self.team.beta = self.beta
        try:
            return rollout.collect(self.team, self.critic, tasks, streams, self.config.run.rollout_length)
        finally:
            self.team.beta = 1.0

    def policy_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO on the teacher where the teacher played, and everywhere the divergence of the teacher's policy from the actors' (eq.
        6), which teaches the actors alone; [K], and numbers to log, [K] each."""
        settings, team, kind = self.config.algorithm, self.team, self.team.joint_policy
        mask, rows = batch.mask.flatten(1, 2), batch.active[0].numel()
        actors = team.unroll(batch.obs, mask, batch.actor_memory[:, 0], batch.episode_start)
        state, signal, memory = batch.central()
        teacher, own = team.joint(actors, state, signal, mask, memory), team.own(actors.policy, mask)
        active = batch.active.reshape(team.count, -1, rows).to(batch.log_prob.dtype)
        taught = active * team.taught(signal, self.beta).view(team.count, 1, rows)
        log_ratio = kind.log_prob(teacher, batch.action.flatten(1, 2)) - batch.log_prob.flatten(1, 2)
        log_ratio = log_ratio.view_as(active) * taught
        ratio, advantage = log_ratio.exp(), batch.advantage.reshape(team.count, -1, rows)
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)

        def mean(array: Tensor, weight: Tensor = taught) -> Tensor:
            """Over living agents, [K]; those whom the teacher did not play for count as nothing, unless weight says otherwise."""
            return (array.view_as(active) * weight).flatten(1).sum(1) / counts.living

        surrogate, entropy = mean(torch.min(ratio * advantage, clipped * advantage)), mean(kind.entropy(teacher))
        imitation = mean(divergence(teacher, own), active)
        with torch.no_grad():
            numbers = diagnostics.of_ratios(log_ratio, settings.clip, mean) | {"entropy": entropy.detach()}
            numbers |= {"imitation_kl": imitation.detach()}
            if team.spec.discrete:
                agree = torch.eq(kind.mode(teacher), kind.mode(own)).to(active.dtype)
                numbers["mode_agreement"] = mean(agree, active)
        return imitation - surrogate - settings.entropy_coef * entropy, numbers


def divergence(teacher: Any, own: Any) -> Tensor:
    """Kullback-Leibler divergence of each agent's part of the teacher's policy, which is held constant, from the actor's, [N, B] in
    nats. Of normal distributions of one spread it is half the squared distance of the means in standard deviations."""
    if isinstance(teacher, Gaussian):
        apart = (teacher.mean.detach() - own.mean) / teacher.std.detach()
        return 0.5 * (apart.square() * teacher.exists).sum(-1)
    log_pi = teacher.log_pi.detach()
    return (log_pi.exp() * (log_pi - own.log_pi)).sum(-1)
