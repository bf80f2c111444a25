"""AgentMixer on PPO, discrete actions.

Read top to bottom: the settings, the presets, what acts, what is stored, the loss, the update.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by PPO (eq. 13) with
critics on the global state. The actors receive gradients only through the joint logits (eq. 12): what
PM reads of them is detached. Execution needs the actors alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.config import Config, setting
from agentmixer.train.joint_policy import entropy, gumbel_joint, log_policy, log_prob, sample
from agentmixer.train.networks import Actor, Critic
from agentmixer.train.policy_modifier import MixerPM
from agentmixer.train.returns import ValueNorm, gae
from agentmixer.train.stack import clip_stack_grad_norm


@dataclass(frozen=True)
class AgentMixerPPOConfig(Config):
    """Defaults are the preset `default`: tuned for results per minute on a small machine."""

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
    tau: float = setting(1.0, "temperature of the joint policy (eq. 12)", 1e-3)
    share_parameters: bool = setting(True, "one actor network for all agents, and one critic for the team")
    recurrent_critic: bool = setting(False, "give critics a GRU of their own")
    hidden: int = setting(64, "width of actors and critics", 1, 4096)
    layers: int = setting(1, "hidden layers after the first", 0, 16)
    pm_width: int = setting(32, "width of PM's state and policy features", 1, 4096)
    pm_agent_hidden: int = setting(16, "hidden width of agent mixing", 1, 4096)
    pm_channel_hidden: int = setting(64, "hidden width of channel mixing", 1, 4096)
    eval_interval: int = setting(100_000, "steps between decentralised greedy evaluations; 0 for none", 0)
    checkpoint_interval: int = setting(100_000, "steps between checkpoints; 0 for one at the end", 0)

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
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


#: Tables 5, 8 and 10 of the paper. What they leave open (width of PM's encoders: the actors' 64; Huber
#: loss and value clipping) is as in MAPPO, on which the paper builds.
PAPER: dict[str, Any] = {
    "total_steps": 10_000_000,
    "num_envs": 50,
    "rollout_length": 200,
    "epochs": 5,
    "minibatches": 1,
    "chunk_length": 1,
    "actor_lr": 5e-4,
    "critic_lr": 5e-4,
    "pm_lr": 5e-5,
    "lr_decay": False,
    "adam_eps": 1e-5,
    "max_grad_norm": 10.0,
    "clip": 0.2,
    "ratio": "joint",
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 0.01,
    "tau": 1.0,
    "share_parameters": False,
    "recurrent_critic": True,
    "hidden": 64,
    "layers": 1,
    "pm_width": 64,
    "pm_agent_hidden": 32,
    "pm_channel_hidden": 256,
}


class AgentMixerPPO:
    """Actors, Policy Modifier and critics of one team, and how they learn.

    Shapes: N agents, E environments, T rollout steps, A actions, H hidden, K critics (N, or 1 when shared).
    """

    name = "agentmixer_ppo"
    Config = AgentMixerPPOConfig
    presets: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}  # noqa: RUF012

    def __init__(self, spec: TaskSpec, config: AgentMixerPPOConfig, device: str, generator: torch.Generator):
        spaces = {space.n for space in spec.action_spaces if isinstance(space, Discrete)}
        if (
            len(spaces) != 1
            or not all(isinstance(space, Discrete) for space in spec.action_spaces)
            or len(set(spec.obs_sizes)) != 1
        ):
            raise AgentMixerError(
                f"{self.name} needs one Discrete action space and one observation size for all agents of {spec.name}"
            )
        self.spec, self.config, self.device, self.generator = spec, config, device, generator
        agents, obs, actions, shared = spec.num_agents, spec.obs_sizes[0], spaces.pop(), config.share_parameters
        # Weights come from the run's own seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            self.actor = Actor(agents, shared, obs, actions, config.hidden, config.layers).to(device)
            self.critic = Critic(
                1 if shared else agents, spec.state_size, config.hidden, config.layers, config.recurrent_critic
            ).to(device)
            self.pm = MixerPM(
                agents,
                spec.state_size,
                actions,
                config.hidden,
                actions,
                config.pm_width,
                config.pm_agent_hidden,
                config.pm_channel_hidden,
            ).to(device)
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

    # ---- what acts -------------------------------------------------------------------------------

    def initial_memory(self, num_envs: int) -> dict[str, Tensor]:
        """Recurrent state before the first step: actor [N, E, H], critic [K, E, H]."""
        hidden = self.config.hidden
        return {
            "actor": torch.zeros(self.spec.num_agents, num_envs, hidden, device=self.device),
            "critic": torch.zeros(self.critic.critics, num_envs, hidden, device=self.device),
        }

    def joint_log_policy(self, state: Tensor, actor_log_pi: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """Joint policy of eq. 12. state [B, S], the rest [N, B, .] -> [N, B, A]. PM's inputs are detached."""
        score = self.pm(state, actor_log_pi.detach().exp(), features.detach())
        return gumbel_joint(actor_log_pi, score, mask, self.config.tau)

    @torch.no_grad()
    def act_joint(
        self, obs: Tensor, state: Tensor, mask: Tensor, h: Tensor, greedy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [N, E], their joint log-probabilities [N, E] and the actors' next state."""
        logits, features, h = self.actor(obs, h)
        joint = self.joint_log_policy(state, log_policy(logits, mask), features, mask)
        action = joint.argmax(-1) if greedy else sample(joint, self.generator)
        return action, log_prob(joint, action), h

    @torch.no_grad()
    def act_decentralised(self, obs: Tensor, mask: Tensor, h: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions [N, E] from the actors alone, and their next state."""
        logits, _, h = self.actor(obs, h)
        log_pi = log_policy(logits, mask)
        return log_pi.argmax(-1) if greedy else sample(log_pi, self.generator), h

    # ---- the update ------------------------------------------------------------------------------

    def update(self, rollout: dict[str, Tensor], progress: float) -> dict[str, float]:
        """Learn from one rollout (see `rollout.collect` for its arrays). progress in [0, 1). Returns means."""
        config = self.config
        for name, lr in (("actor", config.actor_lr), ("critic", config.critic_lr), ("pm", config.pm_lr)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = lr * (1.0 - progress) if config.lr_decay else lr

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
        mean = (advantage * alive).sum((1, 2), keepdim=True) / living
        variance = ((advantage - mean).square() * alive).sum((1, 2), keepdim=True) / living
        advantage = (advantage - mean) / (variance.sqrt() + 1e-5)

        batch = {
            name: rollout[name]
            for name in ("obs", "mask", "action", "log_prob", "active", "h_actor", "h_critic", "value")
        }
        batch |= {"advantage": advantage, "returns": self.value_norm.normalise(returns)}
        batch |= {"state": rollout["state"].unsqueeze(0), "fresh": rollout["fresh"].unsqueeze(0)}
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
        for optimiser in self.optimisers.values():
            optimiser.step()
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
        actor_log_pi = log_policy(self.actor.logits(features), mask)
        state = batch["state"].view(length * size, -1)
        joint = self.joint_log_policy(state, actor_log_pi, features, mask)

        action, active = batch["action"].view(agents, -1), batch["active"].view(agents, -1).to(joint.dtype)
        log_ratio = (log_prob(joint, action) - batch["log_prob"].view(agents, -1)) * active
        if config.ratio == "joint":
            log_ratio = log_ratio.sum(0, keepdim=True)
        ratio = log_ratio.exp()
        advantage = batch["advantage"].view(-1, length * size)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
        living = active.sum().clamp_min(1)
        gain = (surrogate * active).sum() / living
        spread = (entropy(joint) * active).sum() / living
        with torch.no_grad():
            agree = (joint.argmax(-1) == actor_log_pi.argmax(-1)).to(joint.dtype)
            numbers = {
                "entropy": spread.detach(),
                "approx_kl": (ratio - 1 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1).abs() > config.clip).to(joint.dtype).mean(),
                "mode_agreement": (agree * active).sum() / living,
            }
        return -gain - config.entropy_coef * spread, numbers

    def value_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Clipped Huber loss on normalised returns, a mean over living agents and critics."""
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
        return (loss * active).sum() / active.sum().clamp_min(1)


def chunks(array: Tensor, length: int) -> Tensor:
    """Cut time into chunks, keeping each chunk's steps together and in order.

    [G, T, E, ...] -> [G, L, (T / L) * E, ...]; entry [:, l, c * E + e] is step c * L + l of environment e.
    """
    groups, steps, envs = array.shape[:3]
    cut = array.view(groups, steps // length, length, envs, *array.shape[3:]).transpose(1, 2)
    return cut.reshape(groups, length, -1, *array.shape[3:])
