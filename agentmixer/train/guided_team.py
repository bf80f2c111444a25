"""A team that is led while it learns: a guider that sees everything acts for all agents, one after another.

The joint policy is g(a | s, o) = g_1(a_1 | s, o_1) g_2(a_2 | s, o_2, a_1) ... g_N(a_N | s, o_N, a_1 ... a_N-1): agents can be random
together and still agree, which the product of their own policies cannot. Execution needs the actors alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from agentmixer.contract.spec import TaskSpec
from agentmixer.train.joint_policy import ILLEGAL, DiscreteJoint, mask_logits, sample
from agentmixer.train.networks import Actor
from agentmixer.train.settings import TeamSettings
from agentmixer.train.team import ActorStep, Modifier, Team, most_actions


class Guider(Modifier):
    """The guider of one team of N Discrete agents, an auto-regressive MLP without memory. It stands where other teams have
    their Policy Modifier.

    One network serves all agents in turn. Its input for agent i is [state ‖ observation of i ‖ actions of the agents before i,
    one-hot, the others' places zero ‖ i, one-hot], under LayerNorm whatever `input_norm` is; width and depth are the actors'.
    """

    def __init__(self, spec: TaskSpec, settings: TeamSettings):
        super().__init__()
        self.agents, self.actions = spec.num_agents, most_actions(spec)
        inputs = spec.state_size + max(spec.obs_sizes) + self.agents * self.actions + self.agents
        self.network = Actor(1, False, inputs, self.actions, settings.hidden, settings.layers, recurrent=False)

    def forward(self, agents: slice, state: Tensor, obs: Tensor, taken: Tensor) -> Tensor:
        """Logits of some of the agents, [n, B, A], not masked. state [B, S]; obs [N, B, D]; taken [B, N, A], the actions one-hot,
        of which each agent is shown those of the agents before it."""
        rows, one = len(state), torch.eye(self.agents, device=state.device)
        before = torch.tril(torch.ones_like(one), -1)[agents].view(-1, 1, self.agents, 1)
        shown = (before * taken).flatten(2)
        own = one[agents].unsqueeze(1).expand(-1, rows, -1)
        x = torch.cat([state.expand(len(own), -1, -1), obs[agents], shown, own], -1)
        logits, _, _ = self.network(x.flatten(0, 1).unsqueeze(0), x.new_zeros(1, 0, 0))
        return logits.view(len(own), rows, -1)


class GuidedJoint(DiscreteJoint):
    """The guider's policies; the actors' play no part in them."""

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        return score


class GuidedTeam(Team):
    """One team whose joint policy is a `Guider`'s. Shapes as in `Team`; what is read of an actor beside its policy is its observation.

    `score`, and so `joint`, gives each agent's policy where the agents before it take their most likely actions; `given` is
    told what they take."""

    pm: Guider

    def step(self, obs: Tensor, mask: Tensor, memory: Tensor) -> ActorStep:
        return super().step(obs, mask, memory)._replace(features=obs)

    def unroll(
        self, obs: Tensor, mask: Tensor, memory: Tensor, episode_start: Tensor, action: Tensor | None = None
    ) -> ActorStep:
        return super().unroll(obs, mask, memory, episode_start)._replace(features=obs.flatten(1, 2))

    def score(
        self, actors: ActorStep, state: Tensor, signal: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The guider's logits [N, B, A] along its most likely actions, and the memory that it was given."""
        score: Tensor = self._turns(actors, state)[1]
        return score, memory  # type: ignore[return-value]

    def given(self, actors: ActorStep, state: Tensor, action: Tensor) -> Tensor:
        """The guider's logits [N, B, A] for every agent given the actions [N, B] of the agents before it, in one pass."""
        taken = F.one_hot(action, self.actions).to(state.dtype).transpose(0, 1)
        logits: Tensor = self.pm(slice(None), state, actors.features, taken)
        return logits

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
        """The guider's actions, drawn agent after agent, their log-probabilities [N, E], and what the actors remember next."""
        actors = self.step(obs, mask, memory["actor"])
        if not greedy and noise is None:
            noise = self.action_noise(obs.shape[1])
        action, logits = self._turns(actors, state, None if greedy else noise)
        joint = self.joint_policy.joint(actors.policy, logits, mask)
        return action, self.joint_policy.log_prob(joint, action), {"actor": actors.memory, "pm": memory["pm"]}

    def _turns(self, actors: ActorStep, state: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Actions [N, B], each agent's by `noise` [N, B, A] or else the most likely one, and the logits [N, B, A]."""
        agents, rows, size = actors.policy.shape
        taken = state.new_zeros(rows, agents, size)
        actions, logits = [], []
        for i in range(agents):
            mine = self.pm(slice(i, i + 1), state, actors.features, taken).squeeze(0)
            mine = mask_logits(mine, actors.policy[i] > ILLEGAL / 2)
            actions.append(mine.argmax(-1) if noise is None else sample(mine, noise[i]))
            logits.append(mine)
            taken[:, i] = F.one_hot(actions[-1], size).to(state.dtype)
        return torch.stack(actions), torch.stack(logits)
