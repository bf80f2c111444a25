"""AgentMixer on SAC, discrete and real-valued actions (paper, Figure 13).

Read top to bottom: the settings, the critic, what acts, what is stored, the loss, the update.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by soft actor-critic (Haarnoja et
al. 2019) with twin critics on the global state and all agents' actions. As in AgentMixer on PPO, what PM reads of
the actors is detached, and execution needs the actors alone. Actors and critics have no memory here: transitions
are drawn one at a time.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import setting
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task, to_torch
from agentmixer.train.algorithms.base import Algorithm, TeamConfig
from agentmixer.train.replay import Replay
from agentmixer.train.rollout import Stream, check_finite
from agentmixer.train.stack import StackedLayerNorm, StackedLinear, StackedRunningNorm


@dataclass(frozen=True)
class AgentMixerSACConfig(TeamConfig):
    """Defaults are the preset `default`; the paper's tables say nothing of SAC."""

    total_steps: int = setting(200_000, "environment steps to train for", 1, 10**12)
    num_envs: int = setting(16, "environments stepped together", 1, 100_000)
    rollout_length: int = setting(4, "steps of each environment between two updates", 1, 10_000)
    replay_size: int = setting(200_000, "transitions to draw from; what they take on disk is in docs/method.md", 1)
    batch_size: int = setting(256, "transitions a gradient step", 1, 10**6)
    updates: int = setting(16, "gradient steps after each rollout", 1, 10**6)
    learning_starts: int = setting(2_000, "transitions to collect before the first of them", 1)
    actor_lr: float = setting(3e-4, "Adam's step size, actors", 0.0, 1.0)
    critic_lr: float = setting(1e-3, "Adam's step size, critics", 0.0, 1.0)
    pm_lr: float = setting(3e-4, "Adam's step size, Policy Modifier", 0.0, 1.0)
    alpha_lr: float = setting(1e-3, "Adam's step size, entropy weight", 0.0, 1.0)
    gamma: float = setting(0.99, "discount", 0.0, 1.0)
    tau_target: float = setting(0.005, "share by which target critics move towards the critics", 0.0, 1.0)
    alpha: float = setting(0.1, "entropy weight, or where it starts if it is tuned", 1e-8, 1e6)
    tune_alpha: bool = setting(True, "tune the entropy weight towards target_entropy or target_std")
    target_entropy: float = setting(
        0.2, "entropy to hold, as a share of that of an even choice among legal actions; discrete actions", 0.0, 1.0
    )
    target_std: float = setting(
        0.15, "standard deviation whose entropy to hold, in units of half the action range; real-valued actions",
        1e-4, 10.0,
    )  # fmt: skip
    critic_hidden: int = setting(128, "width of critics", 1, 4096)
    eval_interval: int = setting(20_000, "steps between decentralised greedy evaluations; 0 for none", 0)
    eval_episodes: int = setting(32, "episodes of each such evaluation", 1, 10**6)
    checkpoint_interval: int = setting(50_000, "steps between checkpoints; 0 for one at the end", 0)

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
        super().check()
        if self.signal_per != "step":
            raise AgentMixerError("signal_per must be step for SAC, which draws a new signal for every transition")
        if self.learning_starts > self.replay_size:
            raise AgentMixerError(
                f"learning_starts is {self.learning_starts}, more than replay_size, {self.replay_size}, can ever hold; "
                "raise replay_size"
            )


class TwinCritic(nn.Module):
    """Two action-value networks side by side: MLPs over [normalised state ‖ what else is given].

    state [B, S], given [K, B, F] -> values [2, K, B, outputs]."""

    def __init__(self, state: int, given: int, outputs: int, hidden: int, layers: int, norm: str):
        super().__init__()
        self.norm = StackedRunningNorm(1, state) if norm == "running" else StackedLayerNorm(1, state)
        widths = [state + given] + [hidden] * (layers + 1)
        self.linears = nn.ModuleList(StackedLinear(2, i, o) for i, o in itertools.pairwise(widths))
        self.norms = nn.ModuleList(StackedLayerNorm(2, hidden) for _ in widths[1:])
        self.head = StackedLinear(2, hidden, outputs, gain=1.0)

    def forward(self, state: Tensor, given: Tensor) -> Tensor:
        groups, batch, _ = given.shape
        x = torch.cat([self.norm(state.unsqueeze(0)).expand(groups, -1, -1), given], -1)
        x = x.view(1, groups * batch, -1).expand(2, -1, -1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(torch.relu(linear(x)))
        return self.head(x).view(2, groups, batch, -1)


class AgentMixerSAC(Algorithm):
    """SAC on the joint policy. Shapes as in `Algorithm`; B transitions drawn, K values a transition (N for discrete
    actions, 1 for real-valued ones). Actors have no memory."""

    name = "agentmixer_sac"
    Config = AgentMixerSACConfig

    def __init__(self, spec: TaskSpec, config: AgentMixerSACConfig, device: str, generators: Sequence[torch.Generator]):
        super().__init__(spec, config, device, generators, recurrent=False)
        assert self.teams == 1
        agents, obs, actions = spec.num_agents, max(spec.obs_sizes), self.actions
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.entropy_weight = nn.ParameterDict({"log_alpha": torch.tensor(math.log(config.alpha))}).to(device)
        action_field = (np.int32, (agents,)) if spec.discrete else (np.float32, (agents, actions))
        looks = [
            ("obs", np.float32, (agents, obs)),
            ("state", np.float32, (spec.state_size,)),
            ("mask", np.bool_, (agents, actions)),
            ("active", np.bool_, (agents,)),
        ]
        self._replay = Replay(
            [*looks, *((f"next_{name}", kind, shape) for name, kind, shape in looks), ("action", *action_field),
             ("reward", np.float32, ()), ("terminated", np.bool_, ()), ("truncated", np.bool_, ())],
            config.replay_size,
            config.checkpoint_interval + config.num_envs * config.rollout_length,
        )  # fmt: skip
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=lr, fused=True)
            for name, module, lr in (
                ("actor", self.actor, config.actor_lr),
                ("critic", self.critic, config.critic_lr),
                ("pm", self.pm, config.pm_lr),
                ("alpha", self.entropy_weight, config.alpha_lr),
            )
        }
        self.modules: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "pm": self.pm,
            "target": self.target,
            "entropy_weight": self.entropy_weight,
            "replay": self._replay,
        }

    @property
    def replay(self) -> Replay:
        """What was collected, beside the checkpoints."""
        return self._replay

    def make_critic(self) -> TwinCritic:
        """Q over all agents' actions, twice."""
        spec, config = self.spec, self.config
        return TwinCritic(
            spec.state_size,
            spec.num_agents * self.actions + (spec.num_agents if spec.discrete else 0),
            self.actions if spec.discrete else 1,
            config.critic_hidden,
            config.layers,
            config.input_norm,
        )

    # ---- what is stored --------------------------------------------------------------------------

    @torch.no_grad()
    def collect(
        self, tasks: Sequence[Task], streams: Sequence[Stream]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Run the joint policy for T steps. Advances the stream of the one task.

        Returns transitions: obs [N,T,E,D], state [T,E,S], mask [N,T,E,A] and active [N,T,E], the same as next_obs
        and so on, action [N,T,E] or [N,T,E,A] within [-1, 1], reward, terminated, truncated [T,E]; and of the
        episodes that ended: return, won [episodes].

        What follows an episode's last step is what it ended with. Its mask is not known, nor who could still act:
        next_mask is the next episode's, next_active as before the step.

        Raises AgentMixerError naming environment and step if the task returned something that is not finite."""
        (task,), (stream,) = tasks, streams
        device, step = self.device, stream.step
        rows: list[dict[str, Tensor]] = []
        finished: dict[str, list[Tensor]] = {"return": [], "won": []}
        for _ in range(self.config.rollout_length):
            obs, state, mask, active = (
                to_torch(a, device) for a in (step.obs, step.state, step.action_mask, step.active)
            )
            signal = self.next_signal(stream.memory["signal"], stream.fresh)
            action, _, _ = self.act_joint(obs, state, signal, mask, stream.memory["actor"], greedy=False)
            # A task may reuse its arrays.
            row = {"obs": obs.clone(), "state": state.clone(), "mask": mask.clone(), "active": active.clone()}
            step = task.step(self.to_task(action))
            reward, terminated, truncated = (
                to_torch(a, device).clone() for a in (step.reward, step.terminated, step.truncated)
            )
            ended = terminated | truncated
            row |= {
                "next_obs": to_torch(step.final_obs, device).clone(),
                "next_state": to_torch(step.final_state, device).clone(),
                "next_mask": to_torch(step.action_mask, device).clone(),
                "next_active": torch.where(ended, row["active"], to_torch(step.active, device)),
                "action": action if self.spec.discrete else action.clamp(-1.0, 1.0),
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
            }
            rows.append(row)
            stream.episode_return += reward
            if ended.any():
                finished["return"].append(stream.episode_return[ended])
                finished["won"].append(to_torch(step.won, device)[ended])
            stream.episode_return.masked_fill_(ended, 0.0)
            stream.memory["signal"] = signal
            stream.fresh = ended.float()
            stream.step = step
        out = {name: torch.stack([row[name] for row in rows], self._env_axis(name)) for name in rows[0]}
        shared = {"state": out["state"], "next_state": out["next_state"], "reward": out["reward"]}
        shared = {name: array.unsqueeze(0) for name, array in shared.items()}
        check_finite({"obs": out["obs"], "state": shared["state"], "reward": shared["reward"]}, self.spec.agents)
        check_finite(
            {"obs": out["next_obs"], "state": shared["next_state"], "reward": shared["reward"]}, self.spec.agents
        )
        return out, [{name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in finished.items()}]

    @staticmethod
    def _env_axis(name: str) -> int:
        """Where environments (or transitions drawn) stand among a field's dimensions: behind agents, if it has any."""
        return 1 if name.removeprefix("next_") in ("obs", "mask", "active", "action") else 0

    def remember(self, rollout: dict[str, Tensor]) -> None:
        """Put what `collect` gave into the replay, step after step."""
        steps, envs = rollout["reward"].shape
        rows = np.empty(steps * envs, self._replay.record)
        for name, array in rollout.items():
            if self._env_axis(name):
                array = array.movedim(0, 2)
            rows[name] = array.reshape(steps * envs, *array.shape[2:]).cpu().numpy()
        self._replay.add(rows)

    def draw(self) -> dict[str, Tensor]:
        """A batch of transitions: obs [N, B, D], state [B, S] and so on, as `collect` names them without time."""
        rows = self._replay.sample(self.config.batch_size, self.generators[0])
        batch = {}
        for name, _, _ in self._replay.fields:
            array = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows[name], 0, self._env_axis(name))))
            batch[name] = array.to(self.device)
        if self.spec.discrete:
            batch["action"] = batch["action"].long()
        return batch

    # ---- the update ------------------------------------------------------------------------------

    @property
    def alpha(self) -> Tensor:
        """The entropy's weight, []."""
        return self.entropy_weight["log_alpha"].detach().exp()

    def schedule(self, progress: float) -> None:
        """Nothing but alpha changes along a run, and that is learned."""

    def policies(self, obs: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        """The actors' policies [N, B, A] and the joint policy, under a fresh signal."""
        raw, features, _ = self.actor(obs, obs[..., :0])
        policy = self.joint_policy.policy(raw, mask)
        signal = torch.empty(obs.shape[1], self.config.signal, device=self.device).normal_(generator=self.generators[0])
        return policy, self.joint(state, signal, policy, features, mask)

    def values(self, critic: TwinCritic, state: Tensor, action: Tensor) -> Tensor:
        """Both critics' action values.

        Discrete: agent i's critic reads the other agents' actions [N, B] and values each of its own: [2, N, B, A].
        Real-valued: one value of all actions [N, B, A] together, clamped as the task does it: [2, 1, B]."""
        agents, batch = action.shape[:2]
        if not self.spec.discrete:
            together = action.clamp(-1.0, 1.0).transpose(0, 1).reshape(1, batch, -1)
            return critic(state, together).squeeze(-1)
        taken = F.one_hot(action, self.actions).to(state.dtype).transpose(0, 1)  # [B, N, A]
        ids = torch.eye(agents, device=self.device)
        others = taken * (1.0 - ids).view(agents, 1, agents, 1)  # [N, B, N, A]
        return critic(state, torch.cat([others.flatten(2), ids.unsqueeze(1).expand(-1, batch, -1)], -1))

    def soft_value(self, critic: TwinCritic, joint: Any, state: Tensor, active: Tensor) -> Tensor:
        """What the joint policy is worth with its entropy, by the lower critic: E[Q - alpha log pi], [K, B].

        Discrete: exact over agent i's own actions, by one draw of the others'; its own entropy counts. Real-valued:
        by one reparameterised draw of all; the entropy of the whole team counts. That of dead agents never does."""
        kind, living = self.joint_policy, active.to(state.dtype)
        action = kind.sample(joint, self.action_noise(state.shape[0]))
        value = self.values(critic, state, action).amin(0)
        if not self.spec.discrete:
            return value - self.alpha * (kind.log_prob(joint, action) * living).sum(0)
        return (joint.log_pi.exp() * (value - self.alpha * joint.log_pi * living.unsqueeze(-1))).sum(-1)

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """r + gamma V(s'), [K, B]; V is nothing where the episode terminated, and goes on where it was cut off."""
        _, joint = self.policies(batch["next_obs"], batch["next_state"], batch["next_mask"])
        following = self.soft_value(self.target, joint, batch["next_state"], batch["next_active"])
        return batch["reward"] + self.config.gamma * (~batch["terminated"]) * following

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of both critics. Dead agents' critics learn too: what the others reach is theirs.

        Where actions are masked, a transition that was cut off counts for nothing: which actions its last
        observation allows is not known, so neither is what it is worth."""
        target = self.targets(batch)
        value = self.values(self.critic, batch["state"], batch["action"])
        if self.spec.discrete:
            value = value.gather(-1, batch["action"].expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
        known = torch.ones_like(batch["reward"])
        if self.spec.discrete and self.spec.has_action_mask:
            known = (batch["terminated"] | ~batch["truncated"]).to(target.dtype)
        return ((value - target).square() * known).mean(1).sum() / known.sum().clamp_min(1)

    def policy_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Minus the joint policy's soft value, how far its entropy is above what to hold [], and numbers to log."""
        kind, mask = self.joint_policy, batch["mask"]
        policy, joint = self.policies(batch["obs"], batch["state"], mask)
        active = batch["active"].to(policy.dtype)
        living = active.sum().clamp_min(1)
        value = self.soft_value(self.critic, joint, batch["state"], batch["active"])
        spread = kind.entropy(joint)
        if self.spec.discrete:
            loss = -(value * active).sum() / living
            hold = self.config.target_entropy * mask.sum(-1).clamp_min(1).log()
        else:
            # The critics see clamped actions, so beyond the bounds nothing else would hold the means.
            beyond = (policy.abs() - 1.0).clamp_min(0.0).square() * active.unsqueeze(-1)
            loss = -value.mean() + beyond.sum() / living
            element = math.log(self.config.target_std) + 0.5 * math.log(2 * math.pi * math.e)
            hold = element * mask.sum(-1)
        excess = ((spread - hold) * active).sum().detach() / living
        numbers = {
            "entropy": (spread * active).sum().detach() / living,
            "soft_value": value.mean().detach(),
            "mode_agreement": (kind.agree(joint, policy) * active).sum() / living,
        }
        return loss, excess, numbers

    def update(self, rollout: dict[str, Tensor]) -> list[dict[str, float]]:
        """Remember one rollout and take `updates` gradient steps on transitions drawn from all. Returns means."""
        config = self.config
        self.remember(rollout)
        self.actor.body.observe(rollout["obs"].flatten(1, 2))
        if isinstance(self.critic.norm, StackedRunningNorm):
            self.critic.norm.update(rollout["state"].flatten(0, 1).unsqueeze(0))
        if self._replay.written < config.learning_starts:
            return [{}]
        totals: dict[str, Tensor] = {}
        for _ in range(config.updates):
            for name, number in self._step(self.draw()).items():
                totals[name] = totals.get(name, torch.zeros((), device=self.device)) + number
        return [{name: float(total) / config.updates for name, total in totals.items()}]

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step of critics, policy, entropy weight and target critics, in this order."""
        critic_loss = self.critic_loss(batch)
        self._descend(critic_loss, "critic")
        self.critic.requires_grad_(False)
        policy_loss, excess, numbers = self.policy_loss(batch)
        self._descend(policy_loss, "actor", "pm")
        self.critic.requires_grad_(True)
        if self.config.tune_alpha:
            self._descend(self.entropy_weight["log_alpha"] * excess, "alpha")
        with torch.no_grad():
            torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), self.config.tau_target)
            for old, new in zip(self.target.buffers(), self.critic.buffers(), strict=True):
                old.copy_(new)
        losses = {"policy_loss": policy_loss.detach(), "critic_loss": critic_loss.detach()}
        return numbers | losses | {"alpha": self.alpha}

    def _descend(self, loss: Tensor, *names: str) -> None:
        for name in names:
            self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        for name in names:
            self.optimisers[name].step()
