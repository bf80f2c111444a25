"""What acts: actors, Policy Modifier, joint policy, and what they remember. How a team learns is an algorithm's business."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.action_ranges import team_ranges
from agentmixer.train.deployed import DeployedActor
from agentmixer.train.joint_policy import JointPolicy, drawn
from agentmixer.train.networks import Actor
from agentmixer.train.settings import TeamSettings


class ActorStep(NamedTuple):
    """What the actors make of one step. policy [N, B, A]: masked logits, or means; features [N, B, H]; memory [N, B, M]."""

    policy: Tensor
    features: Tensor
    memory: Tensor


class Modifier(nn.Module):
    """What a team needs of a Policy Modifier (PM); the kinds are in `policy_modifiers`.

    forward(state, policy, features, memory) -> the PM's output and its memory after the step; `PolicyModifier` has the shapes."""

    #: How many numbers it remembers of each environment from step to step, P.
    memory: int = 0

    def observe(self, state: Tensor) -> None:
        """Take states [K, B, S] into the moments that normalise them, where there are any."""

    def plays_a_part(self, agent: int) -> bool:
        """Whether it has a say in that agent's part of the joint policy."""
        return True


class Team:
    """The actors of K teams that act side by side and never meet (one team as a rule), with the Policy Modifier (PM) that
    turns their policies into a joint policy while they learn. Execution needs the actors alone.

    Every array leads with the team: where shapes say N, it is K * N, team after team, and E of a state is K * E.

    Shapes: K teams, N agents, E environments, B rows (environments, or steps of them), A actions or action elements, H
    hidden, M memory (H, or 0 without a GRU), P the PM's memory (0 but for `RecurrentPM`), Z signal, W elements of the longest action. An action is [N, E] int64, the
    number of a choice, where the whole team is Discrete; else [N, E, W] float32: numbers of choices, and real values in
    units of half the action range. `to_task` puts it into the task's own terms.
    """

    def __init__(
        self,
        spec: TaskSpec,
        actor: Actor,
        pm: Modifier,
        joint_policy: JointPolicy,
        generators: Sequence[torch.Generator],
        signal: int = 0,
        signal_per: str = "step",
    ):
        """generators: a source of randomness for each of the K teams. signal: length Z of the random vector that PM sees
        beside the state. signal_per: `step` or `episode`, how long such a vector lasts."""
        self.spec, self.actor, self.pm, self.joint_policy = spec, actor, pm, joint_policy
        self.generators, self.count, self.device = list(generators), len(generators), generators[0].device.type
        self.actions = most_actions(spec)
        self.signal, self.signal_per = signal, signal_per
        self._starts = _starts(spec, self.count, self.device)
        self._ranges = None if spec.discrete else team_ranges(spec, self.count, self.device)

    @property
    def correlates(self) -> bool:
        """Whether the joint policy correlates agents by the signal."""
        return self.signal > 0

    # ---- what is remembered from step to step ----------------------------------------------------

    def memory(self, num_envs: int) -> dict[str, Tensor]:
        """Nothing remembered yet: the actors' memory [N, E, M], the PM's [K, E, P] and the signal [E, Z]."""
        return {
            "signal": torch.zeros(self.count * num_envs, self.signal, device=self.device),
            "pm": torch.zeros(self.count, num_envs, self.pm.memory, device=self.device),
            "actor": torch.zeros(self.actor.body.agents, num_envs, self.actor.body.memory, device=self.device),
        }

    def next_signal(self, signal: Tensor, episode_start: Tensor, noise: Tensor | None = None) -> Tensor:
        """The signal of the coming step, [E, Z]: standard normal, new at every step, or where an episode starts.

        episode_start: [E], 1 where one does. noise: what `signal_noise` gave; drawn here unless given."""
        if not self.signal:
            return signal
        noise = self.signal_noise(len(signal) // self.count) if noise is None else noise
        return noise if self.signal_per == "step" else torch.where(episode_start.unsqueeze(1) > 0, noise, signal)

    def signal_noise(self, num_envs: int) -> Tensor:
        """Standard normal, [E, Z]."""
        return drawn(torch.Tensor.normal_, (self.count * num_envs, self.signal), self.generators)

    def action_noise(self, num_envs: int) -> Tensor:
        """The random numbers that actions are sampled by, [N, E, A]."""
        return self.joint_policy.noise((self.actor.body.agents, num_envs, self.actions), self.generators)

    def observe(self, obs: Tensor, state: Tensor) -> None:
        """Take obs [N, B, D] and state [K, B, S] into the moments that normalise them, if they are normalised so."""
        self.actor.body.observe(obs)
        self.pm.observe(state)

    # ---- the policies of observations ------------------------------------------------------------

    def step(self, obs: Tensor, mask: Tensor, memory: Tensor) -> ActorStep:
        """The actors' policies of one step. obs [N, B, D], mask [N, B, A] bool, memory [N, B, M]."""
        raw, features, memory = self.actor(obs, memory)
        return ActorStep(self.joint_policy.policy(raw, mask), features, memory)

    def unroll(
        self, obs: Tensor, mask: Tensor, memory: Tensor, episode_start: Tensor, action: Tensor | None = None
    ) -> ActorStep:
        """The actors' policies along chunks of L steps, as rows B = L * E.

        obs [N, L, E, D]; mask [N, B, A]; memory [N, E, M] at a chunk's first step; episode_start [K, L, E], 1 where
        memory starts from zero; action [N, L, E] or [N, L, E, W], for actors that are told of others' actions. The memory that is returned is the one that was given."""
        starts = episode_start.repeat_interleave(len(obs) // self.count, 0)
        features = self.actor.body.unroll(obs, memory, starts).flatten(1, 2)
        return ActorStep(self.joint_policy.policy(self.actor.output(features), mask), features, memory)

    def score(
        self, actors: ActorStep, state: Tensor, signal: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """PM's output [N, B, A] for state [B, S] and signal [B, Z], and the PM's memory [K, B, P] after the step; `memory` is
        that before, zero unless given. What PM reads of the actors is detached."""
        seen = torch.cat([state, signal], -1) if signal.shape[-1] else state
        read = self.joint_policy.features(actors.policy).detach(), actors.features.detach()
        score, memory = self.pm(seen, *read, memory)
        return score, memory

    def joint(
        self, actors: ActorStep, state: Tensor, signal: Tensor, mask: Tensor, memory: Tensor | None = None
    ) -> Any:
        """The joint policy: the actors' policies as PM modifies them in state [B, S] under signal [B, Z], with its memory
        [K, B, P] (zero unless given)."""
        return self.joint_policy.joint(actors.policy, self.score(actors, state, signal, memory)[0], mask)

    # ---- acting ----------------------------------------------------------------------------------

    @torch.no_grad()
    def act_jointly(
        self,
        obs: Tensor,
        state: Tensor,
        signal: Tensor,
        mask: Tensor,
        memory: dict[str, Tensor],
        greedy: bool,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Actions of the joint policy, their log-probabilities [N, E], and what actors and PM remember next. memory: theirs, as
        `memory` gives it; what else is in it is left alone.

        noise: what `action_noise` gave; drawn here unless given."""
        kind = self.joint_policy
        actors = self.step(obs, mask, memory["actor"])
        score, remembered = self.score(actors, state, signal, memory["pm"])
        joint = kind.joint(actors.policy, score, mask)
        if greedy:
            action = kind.mode(joint)
        else:
            action = kind.sample(joint, self.action_noise(obs.shape[1]) if noise is None else noise)
        return action, kind.log_prob(joint, action), {"actor": actors.memory, "pm": remembered}

    @torch.no_grad()
    def act_alone(self, obs: Tensor, mask: Tensor, memory: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions of the actors, each on its own, and their next memory."""
        kind = self.joint_policy
        actors = self.step(obs, mask, memory)
        if greedy:
            return kind.actor_mode(actors.policy), actors.memory
        return kind.actor_sample(actors.policy, self.action_noise(obs.shape[1])), actors.memory

    def to_task(self, action: Tensor) -> Tensor:
        """Actions as the task takes them: [N, E] int32, or [N, E, W] float32 in its own units and bounds."""
        if self._ranges is None:
            return action.int() if self._starts is None else (action + self._starts).int()
        return self._ranges.action(action)

    def deployed(self, index: int, sampled: bool = False) -> DeployedActor:
        """Agent `index` alone, as it is exported: its actor, on the processor, with nothing of PM or the others."""
        return DeployedActor(self.actor, self.spec, index, sampled).cpu()


def make_actor(
    spec: TaskSpec, settings: TeamSettings, teams: int, told: int = 0, obs: int = 0, actions: int = 0
) -> Actor:
    """The actors of `teams` teams, their weights drawn from torch's global generator. told: as in `Body`. obs, actions: how wide
    they are padded; as the team's widest unless given.

    Raises AgentMixerError if the agents are to share a network that they cannot share."""
    return Actor(
        spec.num_agents,
        settings.share_parameters,
        obs or max(spec.obs_sizes),
        actions or most_actions(spec),
        settings.hidden,
        settings.layers,
        settings.recurrent_actor,
        settings.input_norm,
        own_sizes(spec, settings),
        teams,
        told,
    )


def own_sizes(spec: TaskSpec, settings: TeamSettings) -> tuple[int, ...] | None:
    """The size of each agent's observation, for networks of their own; None where agents share one.

    Raises AgentMixerError if they are to share one and cannot."""
    if settings.share_parameters and (len(set(spec.action_spaces)) > 1 or len(set(spec.obs_sizes)) > 1):
        raise AgentMixerError(
            f"the agents of {spec.name} {spec.scenario} differ in observations or actions, so they cannot share "
            "one network; add --set share_parameters=false"
        )
    return None if settings.share_parameters else spec.obs_sizes


@contextlib.contextmanager
def weights_from(generator: torch.Generator) -> Iterator[None]:
    """Draw the weights of new networks from the seed of `generator`, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        yield


def most_actions(spec: TaskSpec) -> int:
    """A: the largest number of choices, or of real-valued action elements, that an agent has."""
    return max(space.n for space in spec.action_spaces)


def _starts(spec: TaskSpec, teams: int, device: str) -> Tensor | None:
    """The first action of every agent of a Discrete team, [K * N, 1]; None if all start at 0."""
    starts = [space.start for space in spec.action_spaces if isinstance(space, Discrete)]
    return torch.tensor(starts * teams, device=device).unsqueeze(1) if spec.discrete and any(starts) else None
