"""AgentMixer on PPO, discrete and real-valued actions.

Read top to bottom: the settings, what acts, what is stored, the loss, the update. Presets are in `presets`.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by PPO (eq. 13) with
critics on the global state. The actors receive gradients only through the joint logits (eq. 12) or the
joint mean: what PM reads of them is detached. Execution needs the actors alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import Config, setting
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task
from agentmixer.train import rollout
from agentmixer.train.joint_policy import GapJoint, GaussianJoint, GumbelJoint, JointPolicy
from agentmixer.train.networks import Actor, Critic
from agentmixer.train.policy_modifiers import POLICY_MODIFIERS
from agentmixer.train.returns import ValueNorm, gae
from agentmixer.train.stack import clip_stack_grad_norm

#: Setting `joint` -> the kind of joint policy over discrete actions, made from the settings.
DISCRETE_JOINTS: dict[str, Callable[[Any], JointPolicy]] = {
    "gap": lambda config: GapJoint(),
    "gumbel": lambda config: GumbelJoint(config.tau),
}


@dataclass(frozen=True)
class AgentMixerPPOConfig(Config):
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
    joint: str = setting(
        "gap",
        "joint policy over discrete actions: gap keeps the actors' modes by construction, gumbel is eq. 12",
        choices=tuple(DISCRETE_JOINTS),
    )
    tau: float = setting(1.0, "temperature of joint=gumbel, at the start", 1e-3)
    tau_end: float = setting(1.0, "its temperature at the end", 1e-3)
    tau_schedule: str = setting(
        "constant", "how it gets there", choices=("constant", "linear", "cosine", "exponential")
    )
    signal: int = setting(
        0,
        "length of a random vector that PM sees beside the state, so that it can correlate agents; training only",
        0,
        64,
    )
    signal_per: str = setting("step", "how long a signal lasts", choices=("step", "episode"))
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
    std_low: float = setting(0.05, "least standard deviation of the joint policy, real-valued actions", 1e-4, 10.0)
    std_high: float = setting(1.0, "greatest one; both in units of half the action range", 1e-4, 10.0)
    share_parameters: bool = setting(True, "one actor network for all agents, who must then be alike")
    team_critic: bool = setting(True, "one critic for the team instead of one an agent")
    recurrent_actor: bool = setting(True, "give actors a GRU: memory that is carried along when deployed")
    recurrent_critic: bool = setting(False, "give critics a GRU of their own")
    input_norm: str = setting(
        "layer",
        "normalise observations and state by LayerNorm, or by running mean and deviation",
        choices=("layer", "running"),
    )
    hidden: int = setting(64, "width of actors and critics", 1, 4096)
    layers: int = setting(1, "hidden layers after the first", 0, 16)
    pm: str = setting("mixer", "kind of Policy Modifier", choices=tuple(POLICY_MODIFIERS))
    pm_width: int = setting(32, "width of PM's state and policy features", 1, 4096)
    pm_agent_hidden: int = setting(16, "hidden width of agent mixing", 1, 4096)
    pm_channel_hidden: int = setting(64, "hidden width of channel mixing", 1, 4096)
    eval_interval: int = setting(100_000, "steps between decentralised greedy evaluations; 0 for none", 0)
    eval_episodes: int = setting(128, "episodes of each such evaluation", 1)
    final_episodes: int = setting(200, "episodes of the two evaluations at the end, decentralised and joint", 1)
    checkpoint_interval: int = setting(100_000, "steps between checkpoints; 0 for one at the end", 0)

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
        if self.rollout_length % self.chunk_length:
            raise AgentMixerError(
                f"chunk_length {self.chunk_length} does not divide rollout_length {self.rollout_length}; "
                "gradients flow through whole chunks only"
            )
        if self.std_low >= self.std_high:
            raise AgentMixerError(f"std_low is {self.std_low}; it must be below std_high, {self.std_high}")
        chunks_a_rollout = self.num_envs * self.rollout_length // self.chunk_length
        if self.minibatches > chunks_a_rollout:
            raise AgentMixerError(
                f"minibatches is {self.minibatches}, but a rollout has only {chunks_a_rollout} chunks; raise num_envs or rollout_length"
            )


class AgentMixerPPO:
    """Actors, Policy Modifier and critics of one team, and how they learn.

    Shapes: N agents, E environments, T rollout steps, A actions or action elements, H hidden, M memory (H, or 0
    without a GRU), K critics (N, or 1 for the team). An action is [N, E] int64 or [N, E, A] float32, the latter
    in units of half the action range; `to_task` puts it into the task's own terms.
    """

    name = "agentmixer_ppo"
    Config = AgentMixerPPOConfig
    replay = None

    def __init__(self, spec: TaskSpec, config: AgentMixerPPOConfig, device: str, generator: torch.Generator):
        if config.share_parameters and (len(set(spec.action_spaces)) > 1 or len(set(spec.obs_sizes)) > 1):
            raise AgentMixerError(
                f"the agents of {spec.name} {spec.scenario} differ in observations or actions, so they cannot share "
                "one network; add --set share_parameters=false"
            )
        self.spec, self.config, self.device, self.generator = spec, config, device, generator
        agents, obs = spec.num_agents, max(spec.obs_sizes)
        actions = max(space.n for space in spec.action_spaces)
        self.joint_policy: JointPolicy = (
            DISCRETE_JOINTS[config.joint](config) if spec.discrete else GaussianJoint(config.std_low, config.std_high)
        )
        self._bounds = _bounds(spec, device)
        self.optimism = config.optimism
        #: Names of the optimisers that step.
        self.learning = {"actor", "critic", "pm"}
        # Weights come from the run's own seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            self.actor = Actor(
                agents, config.share_parameters, obs, actions, config.hidden, config.layers, config.recurrent_actor,
                config.input_norm, None if config.share_parameters else spec.obs_sizes,
            ).to(device)  # fmt: skip
            self.critic = Critic(
                1 if config.team_critic else agents,
                spec.state_size,
                config.hidden,
                config.layers,
                config.recurrent_critic,
                config.input_norm,
            ).to(device)
            self.pm = POLICY_MODIFIERS[config.pm](
                agents,
                spec.state_size + config.signal,
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
        """What is carried from step to step: actor [N, E, M], critic [K, E, M] and the signal [E, Z]."""
        return {
            "signal": torch.zeros(num_envs, self.config.signal, device=self.device),
            "actor": torch.zeros(self.spec.num_agents, num_envs, self.actor.body.memory, device=self.device),
            "critic": torch.zeros(self.critic.critics, num_envs, self.critic.body.memory, device=self.device),
        }

    def next_signal(self, signal: Tensor, fresh: Tensor) -> Tensor:
        """The shared random vector of the coming step, [E, Z]: standard normal, new at every step or where an
        episode begins (fresh [E], 1 there)."""
        new = torch.empty_like(signal).normal_(generator=self.generator) if signal.shape[1] else signal
        return new if self.config.signal_per == "step" else torch.where(fresh.unsqueeze(1) > 0, new, signal)

    def joint(self, state: Tensor, signal: Tensor, policy: Tensor, features: Tensor, mask: Tensor) -> Any:
        """Joint policy from the actors' policies [N, B, A], state [B, S] and signal [B, Z].

        What PM reads of the actors is detached."""
        score = self.pm(torch.cat([state, signal], -1), self.joint_policy.features(policy).detach(), features.detach())
        return self.joint_policy.joint(policy, score, mask)

    @torch.no_grad()
    def act_joint(
        self, obs: Tensor, state: Tensor, signal: Tensor, mask: Tensor, h: Tensor, greedy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, their joint log-probabilities [N, E] and the actors' next memory."""
        kind = self.joint_policy
        raw, features, h = self.actor(obs, h)
        joint = self.joint(state, signal, kind.policy(raw, mask), features, mask)
        action = kind.mode(joint) if greedy else kind.sample(joint, self.generator)
        return action, kind.log_prob(joint, action), h

    @torch.no_grad()
    def act_decentralised(self, obs: Tensor, mask: Tensor, h: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions from the actors alone, and their next memory."""
        kind = self.joint_policy
        raw, _, h = self.actor(obs, h)
        policy = kind.policy(raw, mask)
        return kind.actor_mode(policy) if greedy else kind.actor_sample(policy, self.generator), h

    def to_task(self, action: Tensor) -> Tensor:
        """Actions as the task takes them: [N, E] int32, or [N, E, A] float32 in its own units and bounds."""
        if self._bounds is None:
            return action.int()
        low, high = self._bounds
        return torch.clamp((low + high) / 2 + (high - low) / 2 * action, low, high)

    def collect(self, task: Task, stream: rollout.Stream) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `rollout.collect`."""
        return rollout.collect(self, task, stream)

    # ---- the update ------------------------------------------------------------------------------

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


def _bounds(spec: TaskSpec, device: str) -> tuple[Tensor, Tensor] | None:
    """Lowest and highest action of every element, [N, 1, A], zero where an agent has none; None if discrete."""
    if spec.discrete:
        return None
    widest = max(space.n for space in spec.action_spaces)
    bounds = torch.zeros(2, spec.num_agents, 1, widest)
    for i, space in enumerate(spec.action_spaces):
        assert isinstance(space, Box)
        bounds[0, i, 0, : space.n] = torch.tensor(space.low)
        bounds[1, i, 0, : space.n] = torch.tensor(space.high)
    low, high = bounds.to(device)
    return low, high
