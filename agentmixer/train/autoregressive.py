"""Teams whose agents act one after another, each told the actions of those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.train.joint_policy import JointPolicy
from agentmixer.train.networks import Actor
from agentmixer.train.team import ActorStep, Modifier, Team


class AutoregressiveTeam(Team):
    """A team whose joint policy is π(a | o) = Π_i π_i(a_i | o, a_0 .. a_{i-1}), in the agents' order. Shapes as in `Team`.

    It acts by N passes, one a turn, and learns by a single one, for all actions are known by then. Executed it acts the same way:
    `act_alone` differs from `act_jointly` as actors from joint policy, and each agent is told of the others in both."""

    def __init__(
        self,
        spec: TaskSpec,
        actor: Actor,
        pm: Modifier,
        joint_policy: JointPolicy,
        generators: Sequence[torch.Generator],
    ):
        if not (spec.discrete or spec.real_valued):
            raise AgentMixerError(
                "agents that are told of each other's actions must all have Discrete or all Box actions, and those of "
                f"{spec.name} {spec.scenario} have others; use agentmixer_ppo or mappo"
            )
        super().__init__(spec, actor, pm, joint_policy, generators)

    # ---- what a kind of such teams says ------------------------------------------------------------

    def look(self, obs: Tensor) -> Tensor:
        """What policies read of obs [N, B, D], whatever is done: [N, B, F]."""
        return obs

    def answer(self, seen: Tensor, mask: Tensor, memory: Tensor, action: Tensor) -> ActorStep:
        """The policies of one step, of agent i given the actions of agents 0 .. i - 1 and nothing of the others'. seen: what `look`
        gave; mask [N, B, A]; memory [N, B, M]; action [N, B] or [N, B, W]."""
        raise NotImplementedError

    # ---- acting ------------------------------------------------------------------------------------

    def step(self, obs: Tensor, mask: Tensor, memory: Tensor) -> ActorStep:
        """Raises AgentMixerError: there are no policies of observations alone."""
        raise AgentMixerError(
            "the agents of this team act one after another, each told what those before it do, so none has a policy of its "
            "observation alone; evaluate plays them as they act"
        )

    def in_turn(
        self, obs: Tensor, mask: Tensor, memory: Tensor, choose: Callable[[ActorStep], Tensor]
    ) -> tuple[Tensor, ActorStep]:
        """Let one agent after the other decide. choose: all agents' actions by policies, of which the one counts whose turn it is.

        Returns the actions, and each agent's policy as it was when it decided."""
        spec, envs, teams = self.spec, obs.shape[1], self.count
        shape = (len(obs), envs) if spec.discrete else (len(obs), envs, self.actions)
        action = torch.zeros(shape, dtype=torch.int64 if spec.discrete else torch.float32, device=obs.device)
        seen, actors = self.look(obs), None
        for turn in range(spec.num_agents):
            actors = self.answer(seen, mask, memory, action)
            action.unflatten(0, (teams, -1))[:, turn] = choose(actors).unflatten(0, (teams, -1))[:, turn]
        assert actors is not None
        return action, actors  # the last pass knew all actions that any agent is told of

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
        kind = self.joint_policy
        noise = self.action_noise(obs.shape[1]) if noise is None and not greedy else noise

        def choose(actors: ActorStep) -> Tensor:
            joint = self.joint(actors, state, signal, mask)
            return kind.mode(joint) if greedy or noise is None else kind.sample(joint, noise)

        action, actors = self.in_turn(obs, mask, memory["actor"], choose)
        log_prob = kind.log_prob(self.joint(actors, state, signal, mask), action)
        return action, log_prob, {"actor": actors.memory, "pm": memory["pm"]}

    @torch.no_grad()
    def act_alone(self, obs: Tensor, mask: Tensor, memory: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        kind, noise = self.joint_policy, None if greedy else self.action_noise(obs.shape[1])

        def choose(actors: ActorStep) -> Tensor:
            return kind.actor_mode(actors.policy) if noise is None else kind.actor_sample(actors.policy, noise)

        action, actors = self.in_turn(obs, mask, memory, choose)
        return action, actors.memory
