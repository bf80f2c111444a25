"""A team whose Policy Modifier tells each agent what the agents before it do (`pm=causal`), so that agents can be random together
and still agree, which a product of policies cannot. Execution needs the actors alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.joint_policy import ILLEGAL, Categorical, GapJoint, Gaussian, GaussianJoint
from agentmixer.train.networks import Actor
from agentmixer.train.policy_modifiers.causal import CausalPM, Halves
from agentmixer.train.settings import AgentMixerTeamSettings
from agentmixer.train.team import ActorStep, Team


class CausalJoint(GapJoint):
    """While `free`: joint logits = the actor's logits + PM's output, so the joint policy can be any distribution. Else the gap.

    While it is free no gradient passes from the joint policy to the actor: each learns by a loss of its own (`causal_loss`). Under the
    gap an action's distance from the mode is multiplied by the more, the less PM says of it than of the mode, so that PM's output
    goes on meaning what it meant."""

    free = True

    def scores(self, policy: Tensor, score: Tensor) -> Tensor:
        if self.free:
            return policy.detach() + score
        return super().scores(policy, score.gather(-1, self.actor_mode(policy).unsqueeze(-1)) - score)

    def coded(self, policy: Tensor, action: Tensor) -> Tensor:
        """What agents are told of an action: [N, B] -> one-hot [N, B, A]."""
        return F.one_hot(action, policy.shape[-1]).to(policy.dtype)

    def own(self, policy: Tensor, joint: Categorical) -> Categorical:
        """Each actor's own policy."""
        return Categorical(policy, policy.log_softmax(-1))

    def divergence(self, first: Categorical, second: Categorical) -> Tensor:
        """KL(first ‖ second) in nats, [N, B]."""
        return (first.log_pi.exp() * (first.log_pi - second.log_pi)).sum(-1)

    def still(self, policy: Categorical) -> Categorical:
        """The same policy, without gradient."""
        return Categorical(policy.scores.detach(), policy.log_pi.detach())


class CausalGaussian(GaussianJoint):
    """Real-valued actions. PM's output is [N, B, 2 A]: A for standard deviations, as `GaussianJoint` has them, and A for how many of
    them the mean is moved while the joint policy is `free`."""

    free = True

    def joint(self, policy: Tensor, score: Tensor, mask: Tensor) -> Gaussian:
        spread, shift = score.chunk(2, -1)
        joint = super().joint(policy, spread, mask)
        if not self.free:
            return joint
        return joint._replace(mean=policy.detach() + joint.std.detach() * shift * joint.exists)

    def coded(self, policy: Tensor, action: Tensor) -> Tensor:
        """What agents are told of an action: how far it lies from the actor's mean, [N, B, A]."""
        return action - policy.detach()

    def own(self, policy: Tensor, joint: Gaussian) -> Gaussian:
        """Each actor's own policy: actors have no spread, so it is the joint policy's."""
        return Gaussian(policy, joint.std.detach(), joint.exists)

    def divergence(self, first: Gaussian, second: Gaussian) -> Tensor:
        """KL(first ‖ second) in nats, [N, B]."""
        z, ratio = (first.mean - second.mean) / second.std, first.std / second.std
        return ((0.5 * (z.square() + ratio.square() - 1) - ratio.log()) * first.exists).sum(-1)

    def still(self, policy: Gaussian) -> Gaussian:
        """The same policy, without gradient."""
        return Gaussian(policy.mean.detach(), policy.std.detach(), policy.exists)


def causal_joint(spec: TaskSpec, settings: AgentMixerTeamSettings) -> CausalJoint | CausalGaussian:
    """The kind of joint policy of `pm=causal`. Raises AgentMixerError if some of a team's actions are whole numbers and others not."""
    if spec.discrete:
        return CausalJoint(settings.reach)
    if spec.real_valued:
        return CausalGaussian(settings.std_low, settings.std_high, settings.sigmoid_gain)
    raise AgentMixerError(
        f"pm=causal wants agents that all have Discrete or all have Box actions, and those of {spec.name} {spec.scenario} have "
        "others; use pm=mixer"
    )


class CausalTeam(Team):
    """Teams whose joint policy is Π_i π_i(a_i | s, a_0 .. a_i-1), in the agents' order. Shapes as in `Team`.

    It acts in N turns, of which all but a small product is computed at once, and learns in one pass (`given`), for all actions are
    known by then. `score`, and so `joint`, gives each agent's policy where the agents before it take their most likely actions."""

    pm: CausalPM
    joint_policy: CausalJoint | CausalGaussian

    def __init__(
        self,
        spec: TaskSpec,
        actor: Actor,
        pm: CausalPM,
        joint_policy: CausalJoint | CausalGaussian,
        generators: Sequence[torch.Generator],
    ):
        super().__init__(spec, actor, pm, joint_policy, generators)
        sizes = torch.tensor([space.n for space in spec.action_spaces] * self.count, device=self.device)
        self._exists = (torch.arange(self.actions, device=self.device) < sizes.unsqueeze(1)).unsqueeze(1)

    def score(
        self, actors: ActorStep, state: Tensor, signal: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """PM's output [N, B, A] along the most likely actions, and the memory that it was given."""
        return self._turns(actors, state)[2], memory  # type: ignore[return-value]

    def given(self, actors: ActorStep, state: Tensor, action: Tensor) -> Tensor:
        """PM's output [N, B, A] for every agent given the actions [N, B] or [N, B, W] of the agents before it, in one pass.

        Actors and state may have one row, which then stands for all."""
        policy = actors.policy.detach().expand(-1, action.shape[1], -1)
        return self.pm.given(self._halves(actors, state), self.joint_policy.coded(policy, action))

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
        actors = self.step(obs, mask, memory["actor"])
        if not greedy and noise is None:
            noise = self.action_noise(obs.shape[1])
        action, log_prob, _ = self._turns(actors, state, None if greedy else noise)
        return action, log_prob, {"actor": actors.memory, "pm": memory["pm"]}

    def _halves(self, actors: ActorStep, state: Tensor) -> Halves:
        """What PM makes of state and policies alone. What it reads of the actors is detached."""
        return self.pm.begin(state, self.joint_policy.features(actors.policy).detach(), actors.features.detach())

    def _turns(self, actors: ActorStep, state: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """One agent after the other: actions [N, B] or [N, B, W], drawn by `noise` [N, B, A] or else the most likely ones, their
        log-probabilities [N, B], and PM's output [N, B, A]."""
        kind: Any = self.joint_policy
        seen, by_team = actors, state.unflatten(0, (self.count, -1))
        if all(bool((array == array[:, :1]).all()) for array in (by_team, actors.policy, actors.features)):
            # As in a matrix game: one row serves all.
            seen, state = ActorStep(actors.policy[:, :1], actors.features[:, :1], actors.memory), by_team[:, 0]
        halves = self._halves(seen, state)
        told = halves.inner.new_zeros(())
        turns = []
        for i in range(self.spec.num_agents):
            policy, exists = (array.unflatten(0, (self.count, -1))[:, i] for array in (actors.policy, self._exists))
            legal = policy > ILLEGAL / 2 if self.spec.discrete else exists.expand_as(policy)
            score = self.pm.turn(halves, i, told).expand(-1, policy.shape[1], -1)
            joint = kind.joint(policy, score, legal)
            own = None if noise is None else noise.unflatten(0, (self.count, -1))[:, i]
            action = kind.mode(joint) if own is None else kind.sample(joint, own)
            told = told + self.pm.telling(i, kind.coded(policy.detach(), action))
            turns.append((action, kind.log_prob(joint, action), score))
        action, log_prob, score = (torch.stack(part, 1).flatten(0, 1) for part in zip(*turns, strict=True))
        return action, log_prob, score
