"""AgentMixer on PPO, discrete and real-valued actions.

Read top to bottom: the settings, what acts, what is stored, the loss, the update. Presets are in `presets`.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by PPO (eq. 13) with
critics on the global state. The actors receive gradients only through the joint logits (eq. 12) or the
joint mean: what PM reads of them is detached. Execution needs the actors alone.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import setting
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task
from agentmixer.tasks.base import cores
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
    pipelined: bool = setting(
        False,
        "decide for one half of the environments while the other is simulated (an odd number is not halved); pays where "
        "JAX simulates and takes long",
    )
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

    @property
    def lanes(self) -> int:
        """Two if pipelined and if there are two halves."""
        return 2 if self.pipelined and self.num_envs % 2 == 0 else 1

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
    """PPO on the joint policy. Shapes as in `Algorithm`; C critics a team (N, or 1 for all its agents)."""

    name = "agentmixer_ppo"
    Config = AgentMixerPPOConfig
    #: Rows of a team's agents whose gradient is taken at once: what lies between the layers fits a processor's cache.
    BLOCK_ROWS = 2500
    #: Whether all that the networks see in the current rollout is the same in every row, as in a matrix game.
    _same = False

    def __init__(self, spec: TaskSpec, config: AgentMixerPPOConfig, device: str, generators: Sequence[torch.Generator]):
        super().__init__(spec, config, device, generators, config.recurrent_actor)
        self.optimism = config.optimism
        #: Names of the optimisers that step.
        self.learning = {"actor", "critic", "pm"}
        self.value_norm = ValueNorm(self.teams).to(device)
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
        if self.teams > 1:  # every team starts as it would alone
            self.load([AgentMixerPPO(spec, config, device, [generator]).team(0) for generator in self.generators])

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
            self.teams,
        )

    def initial_memory(self, num_envs: int) -> dict[str, Tensor]:
        """Beside actor and signal, the critics' memory [K * C, E, M]."""
        critic = torch.zeros(self.critic.critics, num_envs, self.critic.body.memory, device=self.device)
        return super().initial_memory(num_envs) | {"critic": critic}

    def collect(
        self, tasks: Sequence[Task], streams: Sequence[rollout.Stream]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """See `rollout.collect`."""
        return rollout.collect(self, tasks, streams)

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

    def update(self, rollout: dict[str, Tensor]) -> list[dict[str, float]]:
        """Learn from one rollout (see `rollout.collect` for its arrays). Returns means, one entry a team."""
        config, teams = self.config, self.teams

        def by_team(array: Tensor) -> Tensor:
            return array.view(teams, -1, *array.shape[1:])

        value, last, final = (
            self.value_norm.denormalise(by_team(rollout[name])) for name in ("value", "last_value", "final_value")
        )
        reward, terminated, truncated = (by_team(rollout[name]) for name in ("reward", "terminated", "truncated"))
        advantage = gae(reward, value, last, final, terminated, truncated, config.gamma, config.gae_lambda)
        returns = advantage + value
        self.value_norm.update(returns)
        alive = self.alive(by_team(rollout["active"]))
        living = alive.sum((2, 3), keepdim=True).clamp_min(1)  # an agent may be dead all along a short rollout
        advantage = torch.where(advantage < 0, advantage * (1.0 - self.optimism), advantage)
        # An optimistic baseline lies above the mean on purpose; centring would put it back there.
        mean = 0.0 if config.optimism else (advantage * alive).sum((2, 3), keepdim=True) / living
        variance = ((advantage - mean).square() * alive).sum((2, 3), keepdim=True) / living
        advantage = (advantage - mean) / (variance.sqrt() + 1e-5)

        batch = {
            name: rollout[name]
            for name in (
                "obs", "mask", "action", "log_prob", "active", "h_actor", "h_critic", "value", "state", "signal", "fresh",
            )
        }  # fmt: skip
        batch |= {"advantage": advantage.flatten(0, 1), "returns": self.value_norm.normalise(returns).flatten(0, 1)}
        batch = {name: chunks(array, config.chunk_length) for name, array in batch.items()}
        batch |= {
            name: batch[name][:, :1] for name in ("h_actor", "h_critic")
        }  # a chunk begins with what was remembered

        size = batch["state"].shape[2]
        self._same = config.chunk_length == 1 and all(
            bool((batch[name] == batch[name][:, :, :1]).all())
            for name in ("state", "signal", "obs", "mask", "h_actor", "h_critic")
        )
        totals: dict[str, Tensor] = {}
        for _ in range(config.epochs):
            for part in self._parts(size):
                for name, number in self._step(batch, part).items():
                    totals[name] = totals.get(name, torch.zeros(teams, device=self.device)) + number
        # Only now, so that everything above saw the function that acted.
        self.actor.body.observe(rollout["obs"].flatten(1, 2))
        self.critic.body.observe(self.critic.each(rollout["state"]).flatten(1, 2))
        count = config.epochs * config.minibatches
        means = {name: (total / count).tolist() for name, total in totals.items()}
        return [{name: numbers[team] for name, numbers in means.items()} for team in range(teams)]

    def alive(self, active: Tensor) -> Tensor:
        """Whose value counts, [K, C, ...]: that of living agents [K, N, ...], or of a team in which one lives."""
        return active if active.shape[1] * self.teams == self.critic.critics else active.any(1, keepdim=True)

    def _parts(self, size: int) -> list[Tensor | None]:
        """The mini-batches of one epoch: which of `size` chunks each team takes, [K, B]; None for all in order."""
        if self.config.minibatches == 1:
            return [None]
        order = [torch.randperm(size, generator=g, device=self.device) for g in self.generators]
        return list(torch.stack(order).tensor_split(self.config.minibatches, 1))

    def _step(self, batch: dict[str, Tensor], part: Tensor | None) -> dict[str, Tensor]:
        """One gradient step on a part of arrays shaped [K * N | K * C | K, L, B, ...]. Returns numbers, [K] each.

        The gradient is summed over blocks small enough for what lies between the layers to stay in a processor's
        cache; that a loss is a mean over the whole part is seen to before."""
        size = batch["state"].shape[2] if part is None else part.shape[1]
        rows = batch["obs"].shape[0] * batch["obs"].shape[1]
        at_once = rows * size if self._same or self.device != "cpu" else self.BLOCK_ROWS * self.teams
        count = min(size, -(-rows * size // at_once))
        active = pick(batch["active"], part)
        by_team = active.view(self.teams, -1, *active.shape[1:])
        living = active.view(self.teams, -1).sum(1).clamp_min(1)
        valued = self.alive(by_team).flatten(1).sum(1).clamp_min(1)
        parameters = [
            p for module in (self.actor, self.critic, self.pm) for p in module.parameters() if p.requires_grad
        ]

        def descend(block: int) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
            chosen = slice(size * block // count, size * (block + 1) // count)
            if part is None:
                picked = {name: array[:, :, chosen] for name, array in batch.items()}
            else:
                picked = {name: pick(array, part[:, chosen]) for name, array in batch.items()}
            loss, seen = self.loss(picked, living, valued)
            return seen, torch.autograd.grad(loss, parameters, allow_unused=True)

        numbers: dict[str, Tensor] = {}
        for p in parameters:
            p.grad = None
        # In the blocks' order, whichever thread is done first.
        side_by_side = workers().map if count > 1 else map
        for seen, gradients in side_by_side(descend, range(count)):
            for p, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    p.grad = gradient.contiguous() if p.grad is None else p.grad + gradient
            for name, number in seen.items():
                numbers[name] = numbers[name] + number if name in numbers else number
        # Every network is clipped by its own norm.
        limit, teams = self.config.max_grad_norm, self.teams
        for name, module, stack in (
            ("actor", self.actor, self.actor.body.stack), ("critic", self.critic, self.critic.critics), ("pm", self.pm, teams),
        ):  # fmt: skip
            norms = clip_stack_grad_norm(list(module.parameters()), stack, limit)
            numbers[f"{name}_grad_norm"] = norms.view(teams, -1).mean(1)
        for name in self.learning:
            self.optimisers[name].step()
        return numbers

    def compile(self, backend: str = "inductor") -> None:
        """Let torch.compile fuse what lies between two environment steps, and the loss of a block."""
        self.look = torch.compile(self.look, backend=backend)  # type: ignore[method-assign]
        self.loss = torch.compile(self.loss, backend=backend)  # type: ignore[method-assign]

    def loss(self, batch: dict[str, Tensor], living: Tensor, valued: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """All that is descended, of all teams and networks, [], and numbers to log, [K] each."""
        policy_loss, seen = self.policy_loss(batch, living)
        value_loss = self.value_loss(batch, valued)
        seen |= {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        return (policy_loss + value_loss).sum(), seen

    def policy_loss(self, batch: dict[str, Tensor], living: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO on the joint policy, [K], and numbers to log, [K] each.

        ratio `agent`: every agent's ratio is clipped on its own. ratio `joint`: the product over agents is
        clipped once and meets each agent's advantage. Either way the loss is a mean over living agents,
        so that the effective step does not grow with the size of the team.

        living [K]: how many agents live in what `batch` is a block of; those in `batch` itself unless given.
        """
        config, kind, teams = self.config, self.joint_policy, self.teams
        rows, length, size = batch["active"].shape
        count = length * size
        seen = {name: batch[name] for name in ("obs", "mask", "h_actor", "fresh", "state", "signal")}
        if self._same:  # computed once, and counted for all
            seen = {name: array[:, :, :1] for name, array in seen.items()}
        fresh = seen["fresh"].repeat_interleave(rows // teams, 0)
        features = self.actor.body.unroll(seen["obs"], seen["h_actor"][:, 0], fresh).flatten(1, 2)
        mask = seen["mask"].flatten(1, 2)
        policy = kind.policy(self.actor.output(features), mask)
        score = self.score(seen["state"].flatten(0, 2), seen["signal"].flatten(0, 2), policy, features)
        if self._same:
            policy, score, mask = (array.expand(-1, count, -1) for array in (policy, score, mask))
        joint = kind.joint(policy, score, mask)

        def of_team(array: Tensor) -> Tensor:
            return array.reshape(teams, -1).sum(1)

        active = batch["active"].reshape(teams, -1, count).to(features.dtype)
        living = of_team(active).clamp_min(1) if living is None else living
        action, before = batch["action"].flatten(1, 2), batch["log_prob"].flatten(1, 2)
        log_ratio = (kind.log_prob(joint, action) - before).view_as(active) * active
        if config.ratio == "joint":
            log_ratio = log_ratio.sum(1, keepdim=True)
        ratio = log_ratio.exp()
        advantage = batch["advantage"].reshape(teams, -1, count)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
        gain = of_team(surrogate * active) / living
        spread = of_team(kind.entropy(joint).view_as(active) * active) / living
        with torch.no_grad():
            shares = {
                "approx_kl": ratio - 1 - log_ratio,
                "clip_fraction": ((ratio - 1).abs() > config.clip).to(active.dtype),
                "mode_agreement": kind.agree(joint, policy).view_as(active).to(active.dtype),
            }
            numbers = {name: of_team(share * active) / living for name, share in shares.items()}
            numbers["entropy"] = spread.detach()
        return -gain - config.entropy_coef * spread, numbers

    def value_loss(self, batch: dict[str, Tensor], valued: Tensor | None = None) -> Tensor:
        """Clipped Huber loss on normalised returns, a mean over living agents and critics, [K].

        Where the target lies below the value, optimism takes its share of the weight away: the critic then learns
        an upper expectile of the returns (Newey and Powell 1987) instead of their mean.

        valued [K]: how many values count in what `batch` is a block of; those in `batch` itself unless given."""
        config, teams = self.config, self.teams
        state, h, fresh = batch["state"], batch["h_critic"], batch["fresh"]
        if self._same:
            state, h, fresh = (array[:, :, :1] for array in (state, h, fresh))
        features = self.critic.body.unroll(self.critic.each(state), h[:, 0], self.critic.each(fresh))
        old, target = batch["value"].flatten(1), batch["returns"].flatten(1)
        value = self.critic.value(features.flatten(1, 2)).expand_as(old)
        active = batch["active"].reshape(teams, -1, old.shape[1])
        active = self.alive(active).to(value.dtype)
        clipped = old + (value - old).clamp(-config.clip, config.clip)
        loss = torch.max(
            F.huber_loss(value, target, reduction="none", delta=config.huber_delta),
            F.huber_loss(clipped, target, reduction="none", delta=config.huber_delta),
        )
        loss = torch.where(target < value, loss * (1.0 - self.optimism), loss)
        valued = active.flatten(1).sum(1).clamp_min(1) if valued is None else valued
        return (loss.view_as(active) * active).flatten(1).sum(1) / valued


def threads() -> int:
    """How many blocks have their gradients taken side by side: one a core, or as many as OMP_NUM_THREADS says."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(told)) if told.isdigit() and int(told) else cores()


@functools.cache
def workers() -> ThreadPoolExecutor:
    """The threads that take the gradients of blocks."""
    return ThreadPoolExecutor(threads(), "gradient", torch.set_num_threads, (1,))


def pick(array: Tensor, part: Tensor | None) -> Tensor:
    """Each team's chunks `part` [K, B] of an array [K * G, L, all, ...] -> [K * G, L, B, ...]; None for all."""
    if part is None:
        return array
    if len(part) == 1:
        return array.index_select(2, part[0])
    return torch.cat([own.index_select(2, which) for own, which in zip(array.chunk(len(part)), part, strict=True)])


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
