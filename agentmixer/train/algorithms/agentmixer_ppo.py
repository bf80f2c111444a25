"""AgentMixer on PPO, discrete and real-valued actions.

Read top to bottom: the settings, what acts, what is stored, the loss, the update. Presets are in `presets`.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by PPO (eq. 13) with
critics on the global state. The actors receive gradients only through the joint logits (eq. 12) or the
joint mean: what PM reads of them is detached. Execution needs the actors alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import setting
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task
from agentmixer.train import rollout
from agentmixer.train.algorithms.base import Algorithm, TeamConfig
from agentmixer.train.joint_policy import GumbelJoint
from agentmixer.train.networks import Critic
from agentmixer.train.returns import ValueNorm, gae
from agentmixer.train.stack import clip_stack_grad_norm


@dataclass(frozen=True)
class AgentMixerPPOConfig(TeamConfig):
    """Defaults are the preset `default` as tuned on SMACv2: results per minute on a small machine."""

    total_steps: int = setting(1_000_000, "environment steps to train for", 1, 10**12)
    num_envs: int = setting(128, "environments stepped together", 1, 100_000)
    rollout_length: int = setting(16, "steps of each environment between two updates", 1, 10_000)
    epochs: int = setting(4, "passes over each rollout", 1)
    minibatches: int = setting(4, "parts a pass is cut into", 1)
    chunk_length: int = setting(16, "steps that gradients flow back through the GRU; divides rollout_length", 1)
    actor_lr: float = setting(7e-4, "Adam's step size, actors", 0.0, 1.0)
    critic_lr: float = setting(7e-4, "Adam's step size, critics", 0.0, 1.0)
    pm_lr: float = setting(5e-5, "Adam's step size, Policy Modifier", 0.0, 1.0)
    lr_decay: bool = setting(True, "let all step sizes fall linearly to zero over total_steps")
    adam_eps: float = setting(1e-5, "Adam's epsilon", 0.0, 1.0)
    max_grad_norm: float = setting(10.0, "gradient norm of each network is clipped here", 0.0)
    clip: float = setting(0.2, "PPO's clipping of the probability ratio", 0.0, 10.0)
    ratio: str = setting(
        "agent", "clip each agent's ratio, or the joint one (product over agents)", choices=("agent", "joint")
    )
    gamma: float = setting(0.99, "discount", 0.0, 1.0)
    gae_lambda: float = setting(0.95, "GAE's lambda", 0.0, 1.0)
    entropy_coef: float = setting(0.01, "weight of the joint policy's entropy", 0.0)
    huber_delta: float = setting(10.0, "where the value loss turns from square to linear, in standard deviations", 1e-6)
    tau_end: float = setting(1.0, "its temperature at the end", 1e-3)
    tau_schedule: str = setting(
        "constant", "how it gets there", choices=("constant", "linear", "cosine", "exponential")
    )
    optimism: float = setting(
        0.0,
        "share of every negative surprise, in advantages and in the critics' errors, that is forgiven in the first half "
        "of a run; falls linearly to none in the second",
        0.0,
        0.999,
    )
    critic_first: float = setting(
        0.0, "share of total_steps, at the start, in which the critic learns alone; what optimism needs", 0.0, 0.5
    )
    team_critic: bool = setting(True, "one critic for the team instead of one an agent")
    recurrent_actor: bool = setting(True, "give actors a GRU: memory that is carried along when deployed")
    recurrent_critic: bool = setting(False, "give critics a GRU of their own")

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
        super().check()
        if self.rollout_length % self.chunk_length:
            raise AgentMixerError(
                f"chunk_length {self.chunk_length} does not divide rollout_length {self.rollout_length}; "
                "gradients flow through whole chunks only"
            )
        chunks_a_rollout = self.num_envs * self.rollout_length // self.chunk_length
        if self.minibatches > chunks_a_rollout:
            raise AgentMixerError(
                f"minibatches is {self.minibatches}, but a rollout has only {chunks_a_rollout} chunks; raise num_envs or rollout_length"
            )


class AgentMixerPPO(Algorithm):
    """PPO on the joint policy. Shapes as in `Algorithm`; K critics (N, or 1 for the team)."""

    name = "agentmixer_ppo"
    Config = AgentMixerPPOConfig

    def __init__(self, spec: TaskSpec, config: AgentMixerPPOConfig, device: str, generator: torch.Generator):
        super().__init__(spec, config, device, generator, config.recurrent_actor)
        self.optimism = config.optimism
        #: Names of the optimisers that step.
        self.learning = {"actor", "critic", "pm"}
        self.value_norm = ValueNorm().to(device)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=lr, eps=config.adam_eps, fused=True)
            for name, module, lr in (
                ("actor", self.actor, config.actor_lr),
                ("critic", self.critic, config.critic_lr),
                ("pm", self.pm, config.pm_lr),
            )
        }
        self.modules: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "pm": self.pm,
            "value_norm": self.value_norm,
        }

    def make_critic(self) -> Critic:
        """Values of the global state."""
        config = self.config
        return Critic(
            1 if config.team_critic else self.spec.num_agents,
            self.spec.state_size,
            config.hidden,
            config.layers,
            config.recurrent_critic,
            config.input_norm,
        )

    def initial_memory(self, num_envs: int) -> dict[str, Tensor]:
        """Beside actor and signal, the critics' memory [K, E, M]."""
        critic = torch.zeros(self.critic.critics, num_envs, self.critic.body.memory, device=self.device)
        return super().initial_memory(num_envs) | {"critic": critic}

    def collect(self, task: Task, stream: rollout.Stream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `rollout.collect`."""
        return rollout.collect(self, task, stream)

    def schedule(self, progress: float) -> None:
        """Set what changes along a run: step sizes and temperature. progress: share of total_steps done, [0, 1]."""
        config = self.config
        for name, lr in (("actor", config.actor_lr), ("critic", config.critic_lr), ("pm", config.pm_lr)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = lr * (1.0 - progress) if config.lr_decay else lr
        self.optimism = config.optimism * min(1.0, 2.0 * (1.0 - progress))
        self.learning = {"critic"} if progress < config.critic_first else set(self.optimisers)
        if isinstance(self.joint_policy, GumbelJoint):
            self.joint_policy.tau = temperature(config.tau, config.tau_end, config.tau_schedule, progress)

    def update(self, rollout: dict[str, Tensor]) -> dict[str, float]:
        """Learn from one rollout (see `rollout.collect` for its arrays). Returns means."""
        config = self.config
        value = self.value_norm.denormalise(rollout["value"])
        advantage = gae(
            rollout["reward"],
            value,
            self.value_norm.denormalise(rollout["last_value"]),
            self.value_norm.denormalise(rollout["final_value"]),
            rollout["terminated"],
            rollout["truncated"],
            config.gamma,
            config.gae_lambda,
        )
        returns = advantage + value
        self.value_norm.update(returns)
        active = rollout["active"]
        alive = active if advantage.shape[0] > 1 else active.any(0, keepdim=True)
        living = alive.sum((1, 2), keepdim=True).clamp_min(1)  # an agent may be dead all along a short rollout
        advantage = torch.where(advantage < 0, advantage * (1.0 - self.optimism), advantage)
        # An optimistic baseline lies above the mean on purpose; centring would put it back there.
        mean = 0.0 if config.optimism else (advantage * alive).sum((1, 2), keepdim=True) / living
        variance = ((advantage - mean).square() * alive).sum((1, 2), keepdim=True) / living
        advantage = (advantage - mean) / (variance.sqrt() + 1e-5)

        batch = {
            name: rollout[name]
            for name in ("obs", "mask", "action", "log_prob", "active", "h_actor", "h_critic", "value")
        }
        batch |= {"advantage": advantage, "returns": self.value_norm.normalise(returns)}
        batch |= {name: rollout[name].unsqueeze(0) for name in ("state", "signal", "fresh")}
        batch = {name: chunks(array, config.chunk_length) for name, array in batch.items()}

        size = batch["state"].shape[2]
        totals: dict[str, Tensor] = {}
        for _ in range(config.epochs):
            order = (
                torch.randperm(size, generator=self.generator, device=self.device) if config.minibatches > 1 else None
            )
            for part in order.tensor_split(config.minibatches) if order is not None else [None]:
                picked = batch if part is None else {name: array.index_select(2, part) for name, array in batch.items()}
                for name, number in self._step(picked).items():
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + number
        # Only now, so that everything above saw the function that acted.
        self.actor.body.observe(rollout["obs"].flatten(1, 2))
        self.critic.body.observe(rollout["state"].flatten(0, 1).expand(self.critic.critics, -1, -1))
        count = config.epochs * config.minibatches
        return {name: float(total) / count for name, total in totals.items()}

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step on arrays shaped [N | K | 1, L, B, ...]."""
        policy_loss, numbers = self.policy_loss(batch)
        value_loss = self.value_loss(batch)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        (policy_loss + value_loss).backward()
        limit = self.config.max_grad_norm
        # A network of the stack is clipped by its own norm; agent_bias belongs to the one shared network.
        if self.config.share_parameters:
            numbers["actor_grad_norm"] = nn.utils.clip_grad_norm_(self.actor.parameters(), limit)
        else:
            numbers["actor_grad_norm"] = clip_stack_grad_norm(list(self.actor.parameters()), limit).mean()
        numbers["critic_grad_norm"] = clip_stack_grad_norm(list(self.critic.parameters()), limit).mean()
        numbers["pm_grad_norm"] = nn.utils.clip_grad_norm_(self.pm.parameters(), limit)
        for name in self.learning:
            self.optimisers[name].step()
        return numbers | {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}

    def policy_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO on the joint policy.

        ratio `agent`: every agent's ratio is clipped on its own. ratio `joint`: the product over agents is
        clipped once and meets each agent's advantage. Either way the loss is a mean over living agents,
        so that the effective step does not grow with the size of the team.
        """
        config = self.config
        agents, length, size, _ = batch["obs"].shape
        features = self.actor.body.unroll(batch["obs"], batch["h_actor"][:, 0], batch["fresh"][0])
        features = features.view(agents, length * size, -1)
        mask = batch["mask"].view(agents, length * size, -1)
        kind = self.joint_policy
        policy = kind.policy(self.actor.output(features), mask)
        state, signal = batch["state"].view(length * size, -1), batch["signal"].view(length * size, self.config.signal)
        joint = self.joint(state, signal, policy, features, mask)

        active = batch["active"].view(agents, -1).to(features.dtype)
        action = batch["action"].view(agents, length * size, *batch["action"].shape[3:])
        log_ratio = (kind.log_prob(joint, action) - batch["log_prob"].view(agents, -1)) * active
        if config.ratio == "joint":
            log_ratio = log_ratio.sum(0, keepdim=True)
        ratio = log_ratio.exp()
        advantage = batch["advantage"].view(-1, length * size)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
        living = active.sum().clamp_min(1)
        gain = (surrogate * active).sum() / living
        spread = (kind.entropy(joint) * active).sum() / living
        with torch.no_grad():
            agree = kind.agree(joint, policy).to(active.dtype)
            numbers = {
                "entropy": spread.detach(),
                "approx_kl": (ratio - 1 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1).abs() > config.clip).to(active.dtype).mean(),
                "mode_agreement": (agree * active).sum() / living,
            }
        return -gain - config.entropy_coef * spread, numbers

    def value_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Clipped Huber loss on normalised returns, a mean over living agents and critics.

        Where the target lies below the value, optimism takes its share of the weight away: the critic then learns
        an upper expectile of the returns (Newey and Powell 1987) instead of their mean."""
        config = self.config
        state = batch["state"]
        features = self.critic.body.unroll(
            state.expand(self.critic.critics, *state.shape[1:]), batch["h_critic"][:, 0], batch["fresh"][0]
        )
        critics, length, size, _ = features.shape
        value = self.critic.value(features.view(critics, length * size, -1))
        old, target = batch["value"].view(critics, -1), batch["returns"].view(critics, -1)
        active = batch["active"].view(batch["active"].shape[0], -1)
        active = (active if critics > 1 else active.any(0, keepdim=True)).to(value.dtype)
        clipped = old + (value - old).clamp(-config.clip, config.clip)
        loss = torch.max(
            F.huber_loss(value, target, reduction="none", delta=config.huber_delta),
            F.huber_loss(clipped, target, reduction="none", delta=config.huber_delta),
        )
        loss = torch.where(target < value, loss * (1.0 - self.optimism), loss)
        return (loss * active).sum() / active.sum().clamp_min(1)


def chunks(array: Tensor, length: int) -> Tensor:
    """Cut time into chunks, keeping each chunk's steps together and in order.

    [G, T, E, ...] -> [G, L, (T / L) * E, ...]; entry [:, l, c * E + e] is step c * L + l of environment e.
    """
    groups, steps, envs = array.shape[:3]
    cut = array.view(groups, steps // length, length, envs, *array.shape[3:]).transpose(1, 2)
    return cut.reshape(groups, length, steps // length * envs, *array.shape[3:])


def temperature(start: float, end: float, schedule: str, progress: float) -> float:
    """tau at `progress` in [0, 1]: `start` throughout, or on its way to `end`."""
    if schedule == "linear":
        return start + (end - start) * progress
    if schedule == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "exponential":
        return start * (end / start) ** progress
    return start
