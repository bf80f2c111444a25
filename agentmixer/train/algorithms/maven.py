"""MAVEN: monotonic value factorisation with a latent that a whole episode is played under (Mahajan et al. 2019).

Read top to bottom: the settings, what learns, what acts, what is stored, the update, the losses.

The team plays each episode under one latent z, which all agents know while they learn. z decides the last layer of every
agent's utilities, so it decides the whole episode's behaviour, and exploration is committed to one way of playing instead
of being redrawn at every step. Deployed agents hear no z: one is chosen for all, and its layer becomes part of each actor.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Annotated, Self

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from agentmixer.config import NonNegative, PositiveInt, Share, StepSize, Width, about
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task
from agentmixer.train import presets, sequences
from agentmixer.train.algorithms.base import Algorithm, check_discrete
from agentmixer.train.epsilon_greedy import EpsilonGreedyJoint
from agentmixer.train.joint_policy import ILLEGAL, mask_logits
from agentmixer.train.latent_utilities import LatentUtilities
from agentmixer.train.monotonic_mixer import MonotonicMixer, hypernetwork
from agentmixer.train.networks import Actor, Body
from agentmixer.train.replay import Replay
from agentmixer.train.settings import AlgorithmSettings, Config, RunSettings, TeamSettings
from agentmixer.train.stack import StackedRunningNorm
from agentmixer.train.stream import Stream
from agentmixer.train.team import Team, make_actor, most_actions, weights_from


class MAVENSettings(AlgorithmSettings, frozen=True):
    """Defaults are the preset `default`. noise_dim and target_update_interval are those of the AgentMixer paper's Table 7."""

    noise_dim: Annotated[int, Meta(ge=1, le=64), about("how many values the latent of an episode has")] = 2
    mi_coef: Annotated[
        NonNegative, about("weight of telling the latent from what the team does, beside the squared error of values")
    ] = 0.01
    replay_size: Annotated[PositiveInt, about("environment steps to draw from, in sequences of rollout_length")] = (
        100_000
    )
    batch_size: Annotated[int, Meta(ge=1, le=10**6), about("sequences a gradient step")] = 32
    updates: Annotated[int, Meta(ge=1, le=10**6), about("gradient steps after each rollout")] = 8
    learning_starts: Annotated[PositiveInt, about("environment steps to collect before the first gradient step")] = (
        2_000
    )
    actor_lr: Annotated[StepSize, about("Adam's step size, all networks")] = 5e-4
    max_grad_norm: Annotated[NonNegative, about("gradients are scaled down to this norm")] = 10.0
    gamma: Annotated[Share, about("discount")] = 0.99
    target_update_interval: Annotated[
        PositiveInt, about("gradient steps after which target networks become the learning ones")
    ] = 200
    epsilon_start: Annotated[Share, about("chance that an agent acts at random, at the start")] = 1.0
    epsilon_end: Annotated[
        Share,
        about("the same from epsilon_steps on; the paper prints 1, under which nothing but chance would ever act"),
    ] = 0.05
    epsilon_steps: Annotated[PositiveInt, about("environment steps over which that chance falls, in a line")] = 50_000
    mixer_hidden: Annotated[Width, about("width of the mixing layer")] = 32
    hyper_hidden: Annotated[
        Width, about("width of the networks that make the mixer's weights, and of the discriminator")
    ] = 64

    def fitted(self, team: TeamSettings, run: RunSettings, given: Collection[str]) -> Self:
        """Learning starts when the replay is full, at the latest; a replay holds what learning starts with."""
        if "learning_starts" not in given:
            return msgspec.structs.replace(self, learning_starts=min(self.learning_starts, self.replay_size))
        if "replay_size" not in given:
            return msgspec.structs.replace(self, replay_size=max(self.learning_starts, self.replay_size))
        return self

    def check(self, team: TeamSettings, run: RunSettings) -> None:
        if self.learning_starts > self.replay_size:
            raise AgentMixerError(
                f"learning_starts is {self.learning_starts}, more than replay_size, {self.replay_size}, can ever hold; "
                "raise replay_size"
            )
        if run.rollout_length > self.replay_size:
            raise AgentMixerError(
                f"replay_size is {self.replay_size}, less than one sequence of rollout_length, {run.rollout_length}; "
                "raise replay_size"
            )


class Learned(nn.Module):
    """What values are made of: the agents' bodies, their last layers and the mixer."""

    def __init__(self, body: Body, latent: LatentUtilities, mixer: MonotonicMixer):
        super().__init__()
        self.body, self.latent, self.mixer = body, latent, mixer

    def utilities(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Masked utilities [N, L * B, A] along sequences from the memory that was recorded at their first step, and the
        memory after every step [N, L * B, M]."""
        starts = batch["episode_start"].to(batch["memory"].dtype).expand(len(batch["obs"]), -1, -1)
        features, memory = (
            array.flatten(1, 2) for array in self.body.unroll_both(batch["obs"], batch["memory"], starts)
        )
        return mask_logits(self.latent.of(features, batch["latent"]), batch["mask"].flatten(1, 2)), memory

    def following(self, batch: dict[str, Tensor], memory: Tensor) -> Tensor:
        """Masked utilities [N, L * B, A] of what came after every step, under the z of that step."""
        features, _ = self.body(batch["next_obs"].flatten(1, 2), memory)
        return mask_logits(self.latent.of(features, batch["latent"]), batch["next_mask"].flatten(1, 2))


class MAVEN(Algorithm):
    """QMIX whose team plays each episode under one latent, and is made to play differently under each. Shapes as in `Team`;
    B sequences of L steps drawn, Z values of z. One team at a time: the replay is its own."""

    name, source = "maven", "Mahajan et al. 2019, arXiv 1910.07483"
    team_settings = TeamSettings
    own_settings = MAVENSettings
    stochastic = False
    defaults = {  # noqa: RUF012
        "total_steps": 300_000,
        "num_envs": 16,
        "eval_interval": 20_000,
        "eval_episodes": 32,
        "checkpoint_interval": 50_000,
    }
    presets = presets.MAVEN

    # ---- what acts -------------------------------------------------------------------------------

    def __init__(self, spec: TaskSpec, config: Config, generators: Sequence[torch.Generator]):
        self.config, settings, acting, run = config, config.algorithm, config.team, config.run
        (generator,) = generators
        device, actions = generator.device, most_actions(spec)
        check_discrete(spec, self.name)
        with weights_from(generator):
            self.actor: Actor = make_actor(spec, acting, 1).to(device)
            latent = LatentUtilities(self.actor.body.stack, acting.hidden, actions, settings.noise_dim).to(device)
            mixer = MonotonicMixer(spec.num_agents, spec.state_size, settings.mixer_hidden, settings.hyper_hidden)
            seen = spec.state_size + spec.num_agents * actions
            self.discriminator = hypernetwork(seen, settings.hyper_hidden, settings.noise_dim).to(device)
        self.actor.head.requires_grad_(False)  # a copy of the chosen latent's
        self.state_norm = (
            StackedRunningNorm(1, spec.state_size)
            if acting.input_norm == "running"
            else nn.LayerNorm(spec.state_size, elementwise_affine=False)
        ).to(device)
        self.learned = Learned(self.actor.body, latent, mixer.to(device))
        self.target = copy.deepcopy(self.learned).requires_grad_(False)
        #: Gradient steps that were taken.
        self.target.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.policy = EpsilonGreedyJoint(settings.epsilon_end)
        self.team = Team(spec, self.actor, latent, self.policy, generators, settings.noise_dim, "episode")
        length = run.rollout_length
        self._replay = Replay(
            sequences.fields(self.team, length),
            settings.replay_size // length,
            -(-run.checkpoint_interval // length) + run.num_envs,
        )
        self.modules = {
            "actor": self.actor,
            "latent": latent,
            "mixer": self.learned.mixer,
            "discriminator": self.discriminator,
            "state_norm": self.state_norm,
            "target": self.target,
            "replay": self._replay,
        }
        latent.fold_into(self.actor.head)

    def make_optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for all that learns."""
        return {"maven": torch.optim.Adam(self.parameters, lr=self.config.algorithm.actor_lr, fused=True)}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that gradients move."""
        return [*self.learned.parameters(), *self.discriminator.parameters()]

    @property
    def replay(self) -> Replay:
        """What was collected, beside the checkpoints."""
        return self._replay

    def schedule(self, progress: float) -> None:
        """Set epsilon, which follows the environment steps done."""
        settings = self.config.algorithm
        share = min(progress * self.config.run.total_steps / settings.epsilon_steps, 1.0)
        self.policy.epsilon = settings.epsilon_start + (settings.epsilon_end - settings.epsilon_start) * share

    # ---- what is stored --------------------------------------------------------------------------

    def memory(self, num_envs: int) -> dict[str, Tensor]:
        """See `sequences.memory`."""
        return sequences.memory(self.team, num_envs)

    def collect(
        self, tasks: Sequence[Task], streams: Sequence[Stream]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """See `sequences.collect`."""
        return sequences.collect(self.team, tasks, streams, self.config.run.rollout_length)

    def draw(self) -> dict[str, Tensor]:
        """A batch of sequences, as `sequences.draw` gives them; the states normalised, [L * B, S], and z as latent [L * B]."""
        batch = sequences.draw(self._replay, self.config.algorithm.batch_size, self.team)
        return self.prepared(batch)

    def prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with latent [L * B], and with state and next_state normalised, [L * B, S]."""
        states = {name: self.state_norm(batch[name].flatten(0, 1).unsqueeze(0))[0] for name in ("state", "next_state")}
        return batch | states | {"latent": batch["signal"].argmax(-1).flatten()}

    # ---- the update ------------------------------------------------------------------------------

    def update(self, experience: dict[str, Tensor]) -> list[dict[str, float]]:
        """Remember one rollout and take `updates` gradient steps on sequences drawn from all. Returns means."""
        settings, latent = self.config.algorithm, self.learned.latent
        sequences.remember(self._replay, experience)
        self.team.observe(experience["obs"].flatten(1, 2), experience["state"].flatten(0, 1).unsqueeze(0))
        if isinstance(self.state_norm, StackedRunningNorm):
            self.state_norm.update(experience["state"].flatten(0, 1).unsqueeze(0))
        for old, new in zip(self.target.body.buffers(), self.learned.body.buffers(), strict=True):
            old.copy_(new)  # what normalises is one for both
        ended = ~experience["returned"].isnan()
        latent.record(experience["signal"].argmax(-1)[ended], experience["returned"][ended])
        totals: dict[str, Tensor] = {}
        learns = int(self._replay.written) * self.config.run.rollout_length >= settings.learning_starts
        for _ in range(settings.updates * learns):
            for name, number in self._step(self.draw()).items():
                totals[name] = totals.get(name, torch.zeros((), device=self.team.device)) + number
        latent.fold_into(self.actor.head)
        means = {name: float(total) / settings.updates for name, total in totals.items()}
        return [means | {"epsilon": self.policy.epsilon, "latent": latent.best}]

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step; after every `target_update_interval` of them the target networks become the learning ones."""
        settings, parameters = self.config.algorithm, self.parameters
        self.optimisers["maven"].zero_grad(set_to_none=True)
        loss, numbers = self.loss(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        self.optimisers["maven"].step()
        steps = self.target.get_buffer("steps")
        steps += 1
        if int(steps) % settings.target_update_interval == 0:
            self.target.load_state_dict(self.learned.state_dict() | {"steps": steps.clone()})
        return numbers | {"grad_norm": norm}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the team's values plus `mi_coef` times the discriminator's cross-entropy, and numbers to log.

        Means over steps of which it is known what they led to. The utility of an agent that cannot act, or that may do
        nothing, counts as 0."""
        known = batch["known"].flatten().to(batch["reward"].dtype)
        utilities, memory = self.learned.utilities(batch)
        value = self.value(
            self.learned.mixer, utilities, batch["action"].flatten(1, 2), batch["active"], batch["state"]
        )
        target = self.targets(batch, memory.detach())
        count = known.sum().clamp_min(1)
        td = ((value - target).square() * known).sum() / count
        surprise = (
            F.cross_entropy(self.guess(batch, utilities), batch["latent"], reduction="none") * known
        ).sum() / count
        numbers = {"td_loss": td, "latent_loss": surprise, "q_total": (value * known).sum() / count}
        return td + self.config.algorithm.mi_coef * surprise, {name: x.detach() for name, x in numbers.items()}

    def value(self, mixer: MonotonicMixer, utilities: Tensor, action: Tensor, active: Tensor, state: Tensor) -> Tensor:
        """Q_tot [R] of actions [N, R] from utilities [N, R, A]; active [N, L, B]."""
        own = utilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        counts = active.flatten(1, 2) & (own > ILLEGAL)
        return mixer(torch.where(counts, own, 0.0), state)

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor], memory: Tensor) -> Tensor:
        """r + gamma Q_tot'(s', u'; z), [L * B], where every agent of u' takes the legal action that is best by the learning
        networks, and the target networks value it (van Hasselt et al. 2016). Nothing follows where the episode
        terminated; where it was cut off, what it was cut off at does. memory [N, L * B, M]: the learning networks'."""
        best = self.learned.following(batch, memory).argmax(-1)
        following = self.target.following(batch, self.target.utilities(batch)[1])
        value = self.value(self.target.mixer, following, best, batch["next_active"], batch["next_state"])
        return batch["reward"].flatten() + self.config.algorithm.gamma * (~batch["terminated"].flatten()) * value

    def guess(self, batch: dict[str, Tensor], utilities: Tensor) -> Tensor:
        """The discriminator's logits of z [L * B, Z] at every step, from the state and the Boltzmann policies of the agents'
        utilities at temperature 1 (Mahajan et al. 2019, Section 3). Its cross-entropy is, but for the entropy of z,
        which is drawn evenly, minus a lower bound of how much z and what the team does tell of each other. Gradients
        reach the utilities through the policies."""
        policies = utilities.softmax(-1) * batch["active"].flatten(1, 2).unsqueeze(-1)
        return self.discriminator(torch.cat([batch["state"], policies.transpose(0, 1).flatten(1)], -1))
