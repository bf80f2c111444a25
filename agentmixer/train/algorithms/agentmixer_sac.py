"""AgentMixer on SAC, discrete and real-valued actions (paper, Figure 13).

Read top to bottom: the settings, the critic, what acts, what is stored, the update, the losses.

The joint policy (actors + Policy Modifier) is treated as one agent and trained by soft actor-critic (Haarnoja et
al. 2019) with twin critics on the global state and all agents' actions. As in AgentMixer on PPO, what PM reads of
the actors is detached, and execution needs the actors alone. Actors and critics have no memory here: transitions
are drawn one at a time.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Self

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import PositiveInt, Share, StepSize, Width, about
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task
from agentmixer.train import presets, transitions
from agentmixer.train.algorithms.base import Algorithm, check_one_kind
from agentmixer.train.mixed_policy import make_joint
from agentmixer.train.policy_modifiers import make_pm
from agentmixer.train.replay import Replay
from agentmixer.train.settings import AgentMixerTeamSettings, AlgorithmSettings, Config, Deviation, RunSettings
from agentmixer.train.stack import StackedLayerNorm, StackedLinear, StackedRunningNorm
from agentmixer.train.stream import Stream
from agentmixer.train.team import Team, make_actor, most_actions, weights_from


class AgentMixerSACSettings(AlgorithmSettings, frozen=True):
    """Defaults are the preset `default`; the paper's tables say nothing of SAC."""

    replay_size: Annotated[
        PositiveInt, about("transitions to draw from; what they take on disk is in docs/method.md")
    ] = 200_000
    batch_size: Annotated[int, Meta(ge=1, le=10**6), about("transitions a gradient step")] = 256
    updates: Annotated[int, Meta(ge=1, le=10**6), about("gradient steps after each rollout")] = 16
    learning_starts: Annotated[PositiveInt, about("transitions to collect before the first gradient step")] = 2_000
    actor_lr: Annotated[StepSize, about("Adam's step size, actors")] = 3e-4
    critic_lr: Annotated[StepSize, about("Adam's step size, critics")] = 1e-3
    pm_lr: Annotated[StepSize, about("Adam's step size, Policy Modifier")] = 3e-4
    alpha_lr: Annotated[StepSize, about("Adam's step size, entropy weight")] = 1e-3
    gamma: Annotated[Share, about("discount")] = 0.99
    tau_target: Annotated[Share, about("share by which target critics move towards the critics")] = 0.005
    alpha: Annotated[float, Meta(ge=1e-8, le=1e6), about("entropy weight, or where it starts if it is tuned")] = 0.1
    tune_alpha: Annotated[bool, about("tune the entropy weight towards target_entropy or target_std")] = True
    target_entropy: Annotated[
        Share, about("entropy to hold, as a share of that of an even choice among legal actions; discrete actions")
    ] = 0.2
    target_std: Annotated[
        Deviation,
        about("standard deviation whose entropy to hold, in units of half the action range; real-valued actions"),
    ] = 0.15
    critic_hidden: Annotated[Width, about("width of critics")] = 128

    def fitted(self, team: AgentMixerTeamSettings, run: RunSettings, given: Collection[str]) -> Self:
        """Learning starts when the replay is full, at the latest; a replay holds what learning starts with."""
        if "learning_starts" not in given:
            return msgspec.structs.replace(self, learning_starts=min(self.learning_starts, self.replay_size))
        if "replay_size" not in given:
            return msgspec.structs.replace(self, replay_size=max(self.learning_starts, self.replay_size))
        return self

    def check(self, team: AgentMixerTeamSettings, run: RunSettings) -> None:
        if team.recurrent_actor:
            raise AgentMixerError("recurrent_actor must be false for SAC, which draws transitions one at a time")
        if team.pm == "recurrent":
            raise AgentMixerError("pm must not be recurrent for SAC, which draws transitions one at a time")
        if team.pm == "causal":
            raise AgentMixerError("pm must not be causal for SAC; agentmixer_ppo learns with it")
        if team.signal_per != "step":
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
    """SAC on the joint policy that actors and Policy Modifier make. Shapes as in `Team`; B transitions drawn, K values a transition (N for discrete actions, 1
    for real-valued ones). One team at a time: the replay is its own."""

    name, source = "agentmixer_sac", "Li et al. 2024, arXiv 2401.08728 (Figure 13)"
    team_settings = AgentMixerTeamSettings
    own_settings = AgentMixerSACSettings
    defaults = {  # noqa: RUF012
        "recurrent_actor": False,
        "total_steps": 200_000,
        "num_envs": 16,
        "rollout_length": 4,
        "eval_interval": 20_000,
        "eval_episodes": 32,
        "checkpoint_interval": 50_000,
    }
    presets = presets.AGENTMIXER_SAC

    # ---- what acts -------------------------------------------------------------------------------

    def __init__(self, spec: TaskSpec, config: Config, generators: Sequence[torch.Generator]):
        self.config, settings, acting, run = config, config.algorithm, config.team, config.run
        (generator,) = generators
        device = generator.device
        check_one_kind(spec, self.name)
        with weights_from(generator):
            actor = make_actor(spec, acting, 1).to(device)
            self.critic = self.make_critic(spec).to(device)
            pm = make_pm(spec, acting, 1).to(device)
        self.team = Team(spec, actor, pm, make_joint(spec, acting), generators, acting.signal)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.entropy_weight = nn.ParameterDict({"log_alpha": torch.tensor(math.log(settings.alpha))}).to(device)
        self._replay = Replay(
            transitions.fields(self.team),
            settings.replay_size,
            run.checkpoint_interval + run.num_envs * run.rollout_length,
        )
        self.modules = {
            "actor": actor,
            "critic": self.critic,
            "pm": pm,
            "target": self.target,
            "entropy_weight": self.entropy_weight,
            "replay": self._replay,
        }

    def make_optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for actors, critics, PM and the entropy's weight."""
        settings = self.config.algorithm
        return {
            name: torch.optim.Adam(self.modules[module].parameters(), lr=lr, fused=True)
            for name, module, lr in (
                ("actor", "actor", settings.actor_lr),
                ("critic", "critic", settings.critic_lr),
                ("pm", "pm", settings.pm_lr),
                ("alpha", "entropy_weight", settings.alpha_lr),
            )
        }

    @property
    def replay(self) -> Replay:
        """What was collected, beside the checkpoints."""
        return self._replay

    def make_critic(self, spec: TaskSpec) -> TwinCritic:
        """Q over all agents' actions, twice, before it learned anything."""
        acting, actions = self.config.team, most_actions(spec)
        return TwinCritic(
            spec.state_size,
            spec.num_agents * actions + (spec.num_agents if spec.discrete else 0),
            actions if spec.discrete else 1,
            self.config.algorithm.critic_hidden,
            acting.layers,
            acting.input_norm,
        )

    # ---- what is stored --------------------------------------------------------------------------

    def collect(
        self, tasks: Sequence[Task], streams: Sequence[Stream]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """See `transitions.collect`."""
        return transitions.collect(self.team, tasks, streams, self.config.run.rollout_length)

    def remember(self, collected: dict[str, Tensor]) -> None:
        """Put what `collect` gave into the replay, step after step."""
        steps, envs = collected["reward"].shape
        rows = np.empty(steps * envs, self._replay.record)
        for name, array in collected.items():
            if transitions.env_axis(name):
                array = array.movedim(0, 2)
            rows[name] = array.reshape(steps * envs, *array.shape[2:]).cpu().numpy()
        self._replay.add(rows)

    def draw(self) -> dict[str, Tensor]:
        """A batch of transitions: obs [N, B, D], state [B, S] and so on, as `collect` names them without time."""
        rows = self._replay.sample(self.config.algorithm.batch_size, self.team.generators[0])
        batch = {}
        for name, _, _ in self._replay.fields:
            array = torch.from_numpy(np.moveaxis(rows[name], 0, transitions.env_axis(name)).copy())
            batch[name] = array.to(self.team.device)
        if self.team.spec.discrete:
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
        """The actors' policies [N, B, A] and the joint policy, under a new signal."""
        actors = self.team.step(obs, mask, obs[..., :0])
        return actors.policy, self.team.joint(actors, state, self.team.signal_noise(obs.shape[1]), mask)

    def values(self, critic: TwinCritic, state: Tensor, action: Tensor) -> Tensor:
        """Both critics' action values.

        Discrete: agent i's critic reads the other agents' actions [N, B] and values each of its own: [2, N, B, A].
        Real-valued: one value of all actions [N, B, A] together, clamped as the task does it: [2, 1, B]."""
        agents, batch = action.shape[:2]
        if not self.team.spec.discrete:
            together = action.clamp(-1.0, 1.0).transpose(0, 1).reshape(1, batch, -1)
            return critic(state, together).squeeze(-1)
        taken = F.one_hot(action, self.team.actions).to(state.dtype).transpose(0, 1)  # [B, N, A]
        ids = torch.eye(agents, device=self.team.device)
        others = taken * (1.0 - ids).view(agents, 1, agents, 1)  # [N, B, N, A]
        return critic(state, torch.cat([others.flatten(2), ids.unsqueeze(1).expand(-1, batch, -1)], -1))

    def soft_value(self, critic: TwinCritic, joint: Any, state: Tensor, active: Tensor) -> Tensor:
        """What the joint policy is worth with its entropy, by the lower critic: E[Q - alpha log pi], [K, B].

        Discrete: exact over agent i's own actions, by one draw of the others'; its own entropy counts. Real-valued:
        by one reparameterised draw of all; the entropy of the whole team counts. That of dead agents never does."""
        kind, living = self.team.joint_policy, active.to(state.dtype)
        action = kind.sample(joint, self.team.action_noise(state.shape[0]))
        value = self.values(critic, state, action).amin(0)
        if not self.team.spec.discrete:
            return value - self.alpha * (kind.log_prob(joint, action) * living).sum(0)
        return (joint.log_pi.exp() * (value - self.alpha * joint.log_pi * living.unsqueeze(-1))).sum(-1)

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """r + gamma V(s'), [K, B]; V is nothing where the episode terminated, and goes on where it was cut off."""
        _, joint = self.policies(batch["next_obs"], batch["next_state"], batch["next_mask"])
        following = self.soft_value(self.target, joint, batch["next_state"], batch["next_active"])
        return batch["reward"] + self.config.algorithm.gamma * (~batch["terminated"]) * following

    def critic_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error of both critics. Dead agents' critics learn too: what the others reach is theirs.

        Where actions are masked, a transition that was cut off counts for nothing: which actions its last
        observation allows is not known, so neither is what it is worth."""
        target = self.targets(batch)
        value = self.values(self.critic, batch["state"], batch["action"])
        if self.team.spec.discrete:
            value = value.gather(-1, batch["action"].expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
        known = torch.ones_like(batch["reward"])
        if self.team.spec.discrete and self.team.spec.has_action_mask:
            known = (batch["terminated"] | ~batch["truncated"]).to(target.dtype)
        return ((value - target).square() * known).mean(1).sum() / known.sum().clamp_min(1)

    def policy_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Minus the joint policy's soft value, how far its entropy is above what to hold [], and numbers to log."""
        kind, mask = self.team.joint_policy, batch["mask"]
        policy, joint = self.policies(batch["obs"], batch["state"], mask)
        active = batch["active"].to(policy.dtype)
        living = active.sum().clamp_min(1)
        value = self.soft_value(self.critic, joint, batch["state"], batch["active"])
        entropy = kind.entropy(joint)
        if self.team.spec.discrete:
            loss = -(value * active).sum() / living
            hold = self.config.algorithm.target_entropy * mask.sum(-1).clamp_min(1).log()
        else:
            # The critics see clamped actions, so beyond the bounds nothing else would hold the means.
            beyond = (policy.abs() - 1.0).clamp_min(0.0).square() * active.unsqueeze(-1)
            loss = -value.mean() + beyond.sum() / living
            element = math.log(self.config.algorithm.target_std) + 0.5 * math.log(2 * math.pi * math.e)
            hold = element * mask.sum(-1)
        excess = ((entropy - hold) * active).sum().detach() / living
        numbers = {
            "entropy": (entropy * active).sum().detach() / living,
            "soft_value": value.mean().detach(),
        }
        if (agree := kind.agree(joint, policy)) is not None:
            numbers["mode_agreement"] = (agree * active).sum() / living
        with torch.no_grad():
            numbers |= {name: (array * active).sum() / living for name, array in kind.against(joint, policy).items()}
        return loss, excess, numbers

    def update(self, experience: dict[str, Tensor]) -> list[dict[str, float]]:
        """Remember one rollout and take `updates` gradient steps on transitions drawn from all. Returns means."""
        settings = self.config.algorithm
        self.remember(experience)
        state = experience["state"].flatten(0, 1).unsqueeze(0)
        self.team.observe(experience["obs"].flatten(1, 2), state)
        if isinstance(self.critic.norm, StackedRunningNorm):
            self.critic.norm.update(state)
        if self._replay.written < settings.learning_starts:
            return [{}]
        totals: dict[str, Tensor] = {}
        for _ in range(settings.updates):
            for name, number in self._step(self.draw()).items():
                totals[name] = totals.get(name, torch.zeros((), device=self.team.device)) + number
        return [{name: float(total) / settings.updates for name, total in totals.items()}]

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step of critics, policy, entropy weight and target critics, in this order."""
        critic_loss = self.critic_loss(batch)
        self._descend(critic_loss, "critic")
        self.critic.requires_grad_(False)
        policy_loss, excess, numbers = self.policy_loss(batch)
        self._descend(policy_loss, "actor", "pm")
        self.critic.requires_grad_(True)
        if self.config.algorithm.tune_alpha:
            self._descend(self.entropy_weight["log_alpha"] * excess, "alpha")
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.target.parameters()), list(self.critic.parameters()), self.config.algorithm.tau_target
            )
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
