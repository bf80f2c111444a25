"""MAT (Wen et al. 2022, arXiv 2205.14953): a transformer over the agents of a team, trained by PPO.

What differs from `mappo`: the critics are an encoder over all agents' observations, which gives every agent a value of its own
(so that advantages are an agent's own, too), and the actors are a decoder, by which agents act one after another. Gradients of
the policy reach the encoder through its representations. The state is not read. There is no memory.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task
from agentmixer.train import presets
from agentmixer.train.algorithms.base import Sees
from agentmixer.train.algorithms.mappo import MAPPO
from agentmixer.train.autoregressive import AutoregressiveTeam
from agentmixer.train.networks import Actor, Critic
from agentmixer.train.ppo_settings import PPOSettings
from agentmixer.train.settings import RunSettings, TeamSettings
from agentmixer.train.shown_state import ShownObservations
from agentmixer.train.team import ActorStep, Team, most_actions, own_sizes
from agentmixer.train.transformer import Decoder, Encoder, TransformerSettings, coded

#: What the transformer settles: nothing is remembered, and every agent has a value.
SETTLED: dict[str, Any] = {
    "recurrent_actor": False,
    "recurrent_critic": False,
    "team_critic": False,
    "chunk_length": 1,
}


class MATSettings(PPOSettings, frozen=True):
    """PPO for a team with an encoder."""

    def check(self, team: TeamSettings, run: RunSettings) -> None:
        super().check(team, run)
        if team.recurrent_actor or self.recurrent_critic:
            raise AgentMixerError("recurrent_actor and recurrent_critic must be false for MAT, which has no memory")
        if self.team_critic:
            raise AgentMixerError(
                "team_critic must be false for MAT, whose encoder gives each agent a value of its own"
            )


class MATTeam(AutoregressiveTeam):
    """A decoder's agents, with the encoder by which they see."""

    actor: Decoder
    encoder: Encoder

    def look(self, obs: Tensor) -> Tensor:
        """The encoder's representations [N, B, H]."""
        return self.encoder.body.embed(obs)

    def answer(self, seen: Tensor, mask: Tensor, memory: Tensor, action: Tensor) -> ActorStep:
        features = self.actor.features(coded(action, self.actions), seen)
        return ActorStep(self.joint_policy.policy(self.actor.output(features), mask), features, memory)

    def unroll(
        self, obs: Tensor, mask: Tensor, memory: Tensor, episode_start: Tensor, action: Tensor | None = None
    ) -> ActorStep:
        assert action is not None
        return self.answer(self.look(obs.flatten(1, 2)), mask, memory, action.flatten(1, 2))


class MAT(MAPPO):
    """A transformer whose agents see all observations and act one after another."""

    name, source = "mat", "Wen et al. 2022, arXiv 2205.14953"
    team_settings: ClassVar[type[TeamSettings]] = TransformerSettings
    own_settings = MATSettings
    execution_sees = Sees.OTHERS_ACTIONS
    several_teams = False
    kind_of_team: ClassVar[type[Team]] = MATTeam
    defaults: ClassVar[dict[str, Any]] = SETTLED
    #: AgentMixer's, but for what the transformer settles.
    presets = presets.shared(
        presets.ON_PPO, {*TeamSettings.names(), *PPOSettings.names(), *RunSettings.names()} - set(SETTLED)
    )

    @classmethod
    def shown(cls, task: Task) -> Task:
        """The state is all agents' observations."""
        return ShownObservations(task)

    def make_actor(self, spec: TaskSpec, teams: int) -> Actor:
        """The decoder."""
        return Decoder(spec.num_agents, most_actions(spec), self.config.team)

    def make_critic(self, spec: TaskSpec, teams: int) -> Critic:
        """The encoder."""
        acting = self.config.team
        return Encoder(spec.num_agents, max(spec.obs_sizes), acting, own_sizes(spec, acting))

    def make_team(self, *arguments: Any) -> Team:
        """See `MAPPO.make_team`."""
        team = super().make_team(*arguments)
        team.encoder = self.critic  # type: ignore[attr-defined]
        return team
