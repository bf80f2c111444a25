"""AgentMixer on PPO, discrete and real-valued actions.

Read top to bottom: the settings, what acts, what changes along a run, what is stored, the update, the loss. Shapes are
those of `Team` (what acts) and of `Rollout` and `Batch` (what is stored).

The joint policy (actors + Policy Modifier) is treated as one agent and trained by PPO (paper, eq. 13) with critics on
the global state. The actors receive gradients only through the joint logits (eq. 12) or the joint mean: what PM reads
of them is detached. Execution needs the actors alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from agentmixer.config import Share, StepSize, about
from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.base import Task
from agentmixer.train import blocks, causal_loss, diagnostics, presets, rollout
from agentmixer.train.algorithms.base import Algorithm
from agentmixer.train.causal_team import CausalTeam, causal_joint
from agentmixer.train.mixed_policy import make_joint
from agentmixer.train.networks import Actor, Critic
from agentmixer.train.policy_modifiers import CausalPM, make_pm
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.returns import ValueNorm, gae, standardised
from agentmixer.train.rollout import Batch, Rollout
from agentmixer.train.settings import AgentMixerTeamSettings, AlgorithmSettings, Config, RunSettings, TeamSettings
from agentmixer.train.stack import clip_stack_grad_norm
from agentmixer.train.stream import Stream
from agentmixer.train.team import Team, make_actor, weights_from

# ---- the settings ------------------------------------------------------------------------------------


class AgentMixerPPOSettings(PPOSettings, frozen=True):
    """What AgentMixer adds to PPO."""

    pm_lr: Annotated[StepSize, about("Adam's step size, Policy Modifier")] = 5e-5
    ratio: Annotated[
        Literal["agent", "joint"], about("clip each agent's ratio, or the joint one (product over agents)")
    ] = "agent"
    tau_end: Annotated[float, Meta(ge=1e-3), about("temperature of joint=gumbel, at the end")] = 1.0
    tau_schedule: Annotated[
        Literal["constant", "linear", "cosine", "exponential", "late"], about("how the temperature gets there")
    ] = "constant"
    optimism: Annotated[
        float,
        Meta(ge=0.0, le=0.999),
        about(
            "share of every negative surprise, in advantages and in the critics' errors, that is forgiven in the first "
            "half of a run; falls linearly to none in the second"
        ),
    ] = 0.0
    critic_first: Annotated[
        float,
        Meta(ge=0.0, le=0.5),
        about("share of total_steps, at the start, in which the critic learns alone; what optimism needs"),
    ] = 0.0
    first_entropy: Annotated[
        float,
        Meta(ge=1e-3, le=1e3),
        about(
            "pm=causal: weight of the joint policy's entropy at the start, which falls to entropy_coef (0.01 where that is less) by cooled"
        ),
    ] = 3.0
    cooled: Annotated[Share, about("pm=causal: share of total_steps after which the entropy's weight has fallen")] = 0.7
    first_reach: Annotated[
        float,
        Meta(ge=1.05, le=1e6),
        about(
            "pm=causal: the joint policy's probability of an action is this many times its actor's at most, until cooled"
        ),
    ] = 1000.0
    pulled: Annotated[
        Share,
        about(
            "pm=causal: share of total_steps after which that has fallen to 1.05, and the joint policy is that of joint=gap"
        ),
    ] = 0.9

    def check(self, team: TeamSettings, run: RunSettings) -> None:
        super().check(team, run)
        if isinstance(team, AgentMixerTeamSettings) and team.pm == "causal":
            causal_loss.check(self)


class Counts(NamedTuple):
    """What losses are means over, [K] each: agents that live, and values that count."""

    living: Tensor
    valued: Tensor


class AgentMixerPPO(Algorithm):
    """PPO on the joint policy that actors and Policy Modifier make. Shapes as in `Team` and `Rollout`; C critics (N, or 1 for all agents of a team)."""

    name, source = "agentmixer_ppo", "Li et al. 2024, arXiv 2401.08728"
    team_settings: ClassVar[type[TeamSettings]] = AgentMixerTeamSettings
    own_settings: ClassVar[type[AlgorithmSettings]] = AgentMixerPPOSettings
    presets = presets.AGENTMIXER_PPO
    several_teams = own_threads = True
    #: Share of negative surprises that is forgiven now.
    optimism = 0.0
    #: Share of their mean that is taken from advantages. An optimistic baseline lies above it on purpose; centring would undo that.
    centring = 1.0
    freedom: causal_loss.Freedom  #: Of a joint policy with `pm=causal`, now.
    watched: dict[str, Tensor]  #: Diagnostics of the newest rollout, [K] each.

    # ---- what acts -----------------------------------------------------------------------------------

    def __init__(self, spec: TaskSpec, config: Config, generators: Sequence[torch.Generator]):
        self.config, teams, device = config, len(generators), generators[0].device
        with weights_from(generators[0]):
            actor = self.make_actor(spec, teams).to(device)
            self.critic = self.make_critic(spec, teams).to(device)
            self.team = self.make_team(spec, actor, generators)
        self.value_norm = ValueNorm(teams).to(device)
        self.modules = {"actor": actor, "critic": self.critic, "pm": self.team.pm, "value_norm": self.value_norm}
        self.learning = set(self.step_sizes())  #: Names of the optimisers that step.
        self.schedule(0.0)
        if teams > 1:  # every team starts as it would alone
            self.load([type(self)(spec, config, [generator]).share(0) for generator in generators])

    def make_actor(self, spec: TaskSpec, teams: int) -> Actor:
        """The actors of `teams` teams, their weights drawn from torch's global generator."""
        return make_actor(spec, self.config.team, teams)

    def make_critic(self, spec: TaskSpec, teams: int) -> Critic:
        """The critics of `teams` teams, their weights drawn from torch's global generator."""
        settings, acting = self.config.algorithm, self.config.team
        n, state, recurrent = 1 if settings.team_critic else spec.num_agents, spec.state_size, settings.recurrent_critic
        return Critic(n, state, acting.hidden, acting.layers, recurrent, acting.input_norm, teams)

    def make_team(self, spec: TaskSpec, actor: Actor, generators: Sequence[torch.Generator]) -> Team:
        """The actors with a Policy Modifier that has learned nothing, and the joint policy that both make."""
        acting, device = self.config.team, generators[0].device
        pm = make_pm(spec, acting, len(generators)).to(device)
        if isinstance(pm, CausalPM):
            return CausalTeam(spec, actor, pm, causal_joint(spec, acting), generators)
        return Team(spec, actor, pm, make_joint(spec, acting), generators, acting.signal, acting.signal_per)

    def memory(self, num_envs: int) -> dict[str, Tensor]:
        """Beside actor and signal, the critics' memory [C, E, M]."""
        critic = torch.zeros(self.critic.critics, num_envs, self.critic.body.memory, device=self.team.device)
        return self.team.memory(num_envs) | {"critic": critic}

    # ---- what changes along a run --------------------------------------------------------------------

    def make_optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for every network; `gradient_step` sets the step sizes."""
        return {
            name: torch.optim.Adam(
                self.modules[name].parameters(), lr=lr, eps=self.config.algorithm.adam_eps, fused=True
            )
            for name, lr in self.step_sizes().items()
        }

    def step_sizes(self) -> dict[str, float]:
        """Adam's step size of every network, at the start."""
        settings = self.config.algorithm
        return {"actor": settings.actor_lr, "critic": settings.critic_lr, "pm": settings.pm_lr}

    def schedule(self, progress: float) -> None:
        """Set optimism, temperature and what the step sizes follow. progress: share of total_steps done, [0, 1]."""
        self.progress, settings = progress, self.config.algorithm
        self.optimism = settings.optimism * min(1.0, 2.0 * (1.0 - progress))
        self.centring = 1.0 - self.optimism / settings.optimism if settings.optimism else 1.0
        self.learning = {"critic"} if progress < settings.critic_first else set(self.step_sizes())
        self.team.joint_policy.anneal(self.config.team.tau, settings.tau_end, settings.tau_schedule, progress)
        if isinstance(self.team, CausalTeam):
            self.team.joint_policy.free = progress < settings.pulled
            self.freedom = causal_loss.Freedom.at(progress, settings)

    # ---- what is stored ------------------------------------------------------------------------------

    def collect(self, tasks: Sequence[Task], streams: Sequence[Stream]) -> tuple[Rollout, list[dict[str, Tensor]]]:
        """See `rollout.collect`."""
        return rollout.collect(self.team, self.critic, tasks, streams, self.config.run.rollout_length)

    def advantages(self, r: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages, of variance 1 over what counts, and normalised returns; both [C, T, E]. Takes the returns into
        their running moments."""
        settings = self.config.algorithm

        def by_team(array: Tensor) -> Tensor:
            return array.view(self.team.count, -1, *array.shape[1:])

        value, last, final = (
            self.value_norm.denormalise(by_team(array)) for array in (r.value, r.last_value, r.final_value)
        )
        reward, terminated, truncated = (by_team(array) for array in (r.reward, r.terminated, r.truncated))
        advantage = gae(reward, value, last, final, terminated, truncated, settings.gamma, settings.gae_lambda)
        returns = advantage + value
        self.value_norm.update(returns)
        counted = self.counted(by_team(r.active))
        self.watched = diagnostics.of_rollout(self.team, r, returns, value, counted)
        advantage = torch.where(advantage < 0, advantage * (1.0 - self.optimism), advantage)
        returns = self.value_norm.normalise(returns)
        return standardised(advantage, counted, self.centring).flatten(0, 1), returns.flatten(0, 1)

    def counted(self, active: Tensor) -> Tensor:
        """Whose advantages count, [K, C / K, ...]: those of living agents [K, N / K, ...], or of a team in which an agent
        lives."""
        return active if active.shape[1] * self.team.count == self.critic.critics else self.valued(active)

    def valued(self, active: Tensor) -> Tensor:
        """Which values are learned, [K, C / K, ...]: also those of agents that are dead, for what their team earns then is
        part of what their death is worth, and returns before it reach over the values after it."""
        return active.any(1, keepdim=True).expand(-1, self.critic.critics // self.team.count, *active.shape[2:])

    # ---- the update ----------------------------------------------------------------------------------

    def update(self, experience: Rollout) -> list[dict[str, float]]:
        """Learn from one rollout. Returns means over all gradient steps, one entry a team."""
        settings, teams = self.config.algorithm, self.team.count
        batch = Batch.cut(experience, *self.advantages(experience), settings.chunk_length)
        alike = settings.chunk_length == 1 and batch.all_alike()
        totals: dict[str, Tensor] = {}
        for _ in range(settings.epochs):
            for part in self.parts(batch.state.shape[2]):
                blocks.add(totals, self.gradient_step(batch, part, alike))
        # Only now, so that everything above saw the function that acted.
        self.team.observe(experience.obs.flatten(1, 2), experience.state.flatten(1, 2))
        self.critic.body.observe(self.critic.inputs(experience.state).flatten(1, 2))
        steps = settings.epochs * settings.minibatches
        means = {name: (total / steps).tolist() for name, total in totals.items()}
        means |= {name: numbers.tolist() for name, numbers in self.watched.items()}
        return [{name: numbers[team] for name, numbers in means.items()} for team in range(teams)]

    def parts(self, size: int) -> list[Tensor | None]:
        """The mini-batches of one epoch: which of `size` chunks each team takes, [K, B]; None for all in order."""
        count, generators = self.config.algorithm.minibatches, self.team.generators
        if count == 1:
            return [None]
        order = [torch.randperm(size, generator=g, device=self.team.device) for g in generators]
        return list(torch.stack(order).tensor_split(count, 1))

    def gradient_step(self, batch: Batch, part: Tensor | None, alike: bool) -> dict[str, Tensor]:
        """One gradient step on a part of the batch (see `parts`), taken in blocks. Returns numbers, [K] each.

        alike: whether all rows are alike in what the networks see (`Batch.all_alike`)."""
        settings, counts = self.config.algorithm, self.counts(blocks.pick(batch.active, part))
        size, rows = batch.state.shape[2] if part is None else part.shape[1], batch.obs.shape[0] * batch.obs.shape[1]
        whole = alike or self.team.device != "cpu"
        cut = blocks.blocks(size, rows, rows * size if whole else blocks.ROWS * self.team.count)
        stacks = {"actor": self.team.actor.networks, "critic": self.critic.networks, "pm": self.team.count}
        parameters = [p for name in stacks for p in self.modules[name].parameters() if p.requires_grad]

        def loss(block: slice) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss(batch.part(part, block), counts, alike)

        numbers = blocks.descend(loss, cut, parameters)
        for name, stack in stacks.items():  # every network is clipped by its own norm
            norms = clip_stack_grad_norm(list(self.modules[name].parameters()), stack, settings.max_grad_norm)
            numbers[f"{name}_grad_norm"] = norms.view(self.team.count, -1).mean(1)
        for name in self.learning:
            for group in self.optimisers[name].param_groups:
                group["lr"] = self.step_sizes()[name] * (1.0 - self.progress if settings.lr_decay else 1.0)
            self.optimisers[name].step()
        return numbers

    def counts(self, active: Tensor) -> Counts:
        """What the losses of a batch are means over; active [N, L, B]."""
        by_team = active.view(self.team.count, -1, *active.shape[1:])
        valued = self.valued(by_team).flatten(1).sum(1)
        return Counts(by_team.flatten(1).sum(1).clamp_min(1), valued.clamp_min(1))

    # ---- the loss ------------------------------------------------------------------------------------

    def loss(self, batch: Batch, counts: Counts, alike: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """All that is descended, of all teams and networks, [], and numbers to log, [K] each."""
        policy_loss, numbers = self.policy_loss(batch, counts, alike)
        value_loss = self.value_loss(batch, counts, alike)
        numbers |= {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        return (policy_loss + value_loss).sum(), numbers

    def policy_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO on the joint policy, [K], and numbers to log, [K] each.

        ratio `agent`: every agent's ratio is clipped on its own. ratio `joint`: the product over agents is clipped once
        and meets each agent's advantage. Either way the loss is a mean over living agents, so that the effective step
        does not grow with the size of the team.

        counts: of all that `batch` is a block of. alike: the networks are asked once, and the answer serves all rows."""
        settings, kind, teams = self.config.algorithm, self.team.joint_policy, self.team.count
        rows = batch.active[0].numel()
        seen = batch.first() if alike else batch
        mask = seen.mask.flatten(1, 2)
        actors = self.team.unroll(seen.obs, mask, seen.actor_memory[:, 0], seen.episode_start)
        policy = actors.policy
        if isinstance(self.team, CausalTeam):
            score = self.team.given(actors, seen.state.flatten(0, 2), batch.action.flatten(1, 2))
        else:
            score = self.team.score(actors, *seen.central())[0]
        if alike:
            policy, score, mask = (array.expand(-1, rows, -1) for array in (policy, score, mask))
        joint = kind.joint(policy, score, mask)
        if isinstance(self.team, CausalTeam) and self.team.joint_policy.free:
            return causal_loss.free_loss(self.team, batch, counts.living, policy, joint, self.freedom, settings.clip)

        active = batch.active.reshape(teams, -1, rows).to(score.dtype)
        log_ratio = kind.log_prob(joint, batch.action.flatten(1, 2)) - batch.log_prob.flatten(1, 2)
        log_ratio = log_ratio.view_as(active) * active
        if settings.ratio == "joint":
            log_ratio = log_ratio.sum(1, keepdim=True)
        ratio, advantage = log_ratio.exp(), batch.advantage.reshape(teams, -1, rows)
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)

        def mean(array: Tensor) -> Tensor:
            """Over living agents, [K]."""
            return (array * active).reshape(teams, -1).sum(1) / counts.living

        surrogate = mean(torch.min(ratio * advantage, clipped * advantage))
        entropy = mean(kind.entropy(joint).view_as(active))
        with torch.no_grad():
            numbers = diagnostics.of_ratios(log_ratio, settings.clip, mean) | {"entropy": entropy.detach()}
            if (agree := kind.agree(joint, policy)) is not None:
                numbers["mode_agreement"] = mean(agree.view_as(active).to(active.dtype))
            numbers |= {name: mean(array.view_as(active)) for name, array in kind.against(joint, policy).items()}
        return -surrogate - settings.entropy_coef * entropy, numbers

    def value_loss(self, batch: Batch, counts: Counts, alike: bool = False) -> Tensor:
        """Clipped Huber loss on normalised returns, a mean over critics and `valued` rows, [K].

        Where the target lies below the value, optimism takes its share of the weight away: the critic then learns an
        upper expectile of the returns (Newey and Powell 1987) instead of their mean."""
        settings, teams, critic = self.config.algorithm, self.team.count, self.critic
        seen = batch.first() if alike else batch
        features = critic.body.unroll(
            critic.inputs(seen.state), seen.critic_memory[:, 0], critic.each(seen.episode_start)
        )
        old, target = batch.value.flatten(1), batch.returns.flatten(1)
        value = critic.value(features.flatten(1, 2)).expand_as(old)
        clipped = old + (value - old).clamp(-settings.clip, settings.clip)
        loss = torch.max(
            F.huber_loss(value, target, reduction="none", delta=settings.huber_delta),
            F.huber_loss(clipped, target, reduction="none", delta=settings.huber_delta),
        )
        loss = torch.where(target < value, loss * (1.0 - self.optimism), loss)
        valued = self.valued(batch.active.reshape(teams, -1, old.shape[1])).to(value.dtype)
        return (loss.view_as(valued) * valued).flatten(1).sum(1) / counts.valued
