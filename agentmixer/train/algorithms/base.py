"""What all algorithms have in common: a team that acts, jointly or each agent alone. How it learns is theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from agentmixer.config import Config, setting
from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task
from agentmixer.train.joint_policy import GapJoint, GaussianJoint, GumbelJoint, JointPolicy, drawn
from agentmixer.train.networks import Actor
from agentmixer.train.policy_modifiers import POLICY_MODIFIERS, NoPM
from agentmixer.train.replay import Replay

if TYPE_CHECKING:
    from agentmixer.train.rollout import Stream

#: Setting `joint` -> the kind of joint policy over discrete actions, made from the settings.
DISCRETE_JOINTS: dict[str, Callable[[Any], JointPolicy]] = {
    "gap": lambda config: GapJoint(config.reach),
    "gumbel": lambda config: GumbelJoint(config.tau),
}


@dataclass(frozen=True)
class TeamConfig(Config):
    """Settings of actors, Policy Modifier and joint policy, and of what a run writes along the way."""

    joint: str = setting(
        "gap",
        "joint policy over discrete actions: gap keeps the actors' modes by construction, gumbel is eq. 12",
        choices=tuple(DISCRETE_JOINTS),
    )
    reach: float = setting(
        3.0, "joint=gap: PM multiplies distances from the mode by e to the power of this at most", 1e-3, 10.0
    )
    tau: float = setting(1.0, "temperature of joint=gumbel, at the start", 1e-3)
    signal: int = setting(
        0,
        "length of a random vector that PM sees beside the state, so that it can correlate agents; training only",
        0,
        64,
    )
    signal_per: str = setting("step", "how long a signal lasts", choices=("step", "episode"))
    std_low: float = setting(0.05, "least standard deviation of the joint policy, real-valued actions", 1e-4, 10.0)
    std_high: float = setting(1.0, "greatest one; both in units of half the action range", 1e-4, 10.0)
    share_parameters: bool = setting(True, "one actor network for all agents, who must then be alike")
    input_norm: str = setting(
        "layer",
        "normalise observations and state by LayerNorm, or by running mean and deviation",
        choices=("layer", "running"),
    )
    hidden: int = setting(64, "width of actors", 1, 4096)
    layers: int = setting(1, "hidden layers after the first, actors and critics", 0, 16)
    pm: str = setting(
        "mixer", "kind of Policy Modifier; none is MAPPO, each actor on its own", choices=(*POLICY_MODIFIERS, "none")
    )
    pm_width: int = setting(32, "width of PM's state and policy features", 1, 4096)
    pm_agent_hidden: int = setting(16, "hidden width of agent mixing", 1, 4096)
    pm_channel_hidden: int = setting(64, "hidden width of channel mixing", 1, 4096)
    eval_interval: int = setting(100_000, "steps between decentralised greedy evaluations; 0 for none", 0)
    eval_episodes: int = setting(128, "episodes of each such evaluation", 1, 10**6)
    final_episodes: int = setting(200, "episodes of the two evaluations at the end, decentralised and joint", 1, 10**6)
    checkpoint_interval: int = setting(100_000, "steps between checkpoints; 0 for one at the end", 0)

    @property
    def lanes(self) -> int:
        """How many tasks share a run's environments."""
        return 1

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other."""
        if self.std_low >= self.std_high:
            raise AgentMixerError(f"std_low is {self.std_low}; it must be below std_high, {self.std_high}")


class Algorithm(ABC):
    """Actors, Policy Modifier and critics of K teams that train side by side and never meet, one as a rule. A subclass
    adds the critics and says how all of them learn.

    Every array leads with the team: where shapes say N, it is K * N, team after team, and E of a state is K * E.

    Shapes: K teams, N agents, E environments, T rollout steps, A actions or action elements, H hidden, M memory (H, or 0
    without a GRU), Z signal. An action is [N, E] int64 or [N, E, A] float32, the latter in units of half the action
    range; `to_task` puts it into the task's own terms. `modules` and `optimisers` are what a checkpoint holds.
    """

    name: str
    #: Class of the settings: TeamConfig, total_steps, num_envs, rollout_length, actor_lr and the algorithm's own.
    Config: type[Any]
    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]

    def __init__(
        self,
        spec: TaskSpec,
        config: Any,
        device: str,
        generators: Sequence[torch.Generator],
        recurrent: bool = True,
    ):
        """generators: a source of randomness for each team. recurrent: whether actors have a GRU. Raises
        AgentMixerError if the agents are to share a network that they cannot share."""
        if config.share_parameters and (len(set(spec.action_spaces)) > 1 or len(set(spec.obs_sizes)) > 1):
            raise AgentMixerError(
                f"the agents of {spec.name} {spec.scenario} differ in observations or actions, so they cannot share "
                "one network; add --set share_parameters=false"
            )
        self.spec, self.config, self.device, self.generators = spec, config, device, list(generators)
        teams = self.teams = len(self.generators)
        agents, obs = spec.num_agents, max(spec.obs_sizes)
        actions = self.actions = max(space.n for space in spec.action_spaces)
        self.joint_policy: JointPolicy = (
            DISCRETE_JOINTS[config.joint](config) if spec.discrete else GaussianJoint(config.std_low, config.std_high)
        )
        self._bounds = _bounds(spec, teams, device)
        # Weights come from a run's own seed, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generators[0].initial_seed())
            self.actor = Actor(
                agents, config.share_parameters, obs, actions, config.hidden, config.layers, recurrent,
                config.input_norm, None if config.share_parameters else spec.obs_sizes, teams,
            ).to(device)  # fmt: skip
            self.critic: Any = self.make_critic().to(device)
            self.pm: nn.Module = NoPM(agents, actions, spec.discrete, teams)
            if config.pm != "none":
                self.pm = POLICY_MODIFIERS[config.pm](
                    agents, spec.state_size + config.signal, actions, config.hidden, actions,
                    config.pm_width, config.pm_agent_hidden, config.pm_channel_hidden, teams,
                )  # fmt: skip
            self.pm.to(device)

    def team(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one team, as `modules` of an algorithm with that team alone would hold them."""
        return {
            f"{name}.{key}": value.chunk(self.teams)[index] if self.teams > 1 else value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def load(self, teams: Sequence[dict[str, Tensor]]) -> None:
        """Take over what `team` gave, one entry a team. Raises RuntimeError where it does not fit."""
        together = teams[0] if len(teams) == 1 else {key: torch.cat([team[key] for team in teams]) for key in teams[0]}
        for name, module in self.modules.items():
            own = f"{name}."
            module.load_state_dict({key.removeprefix(own): v for key, v in together.items() if key.startswith(own)})

    @property
    def replay(self) -> Replay | None:
        """Transitions kept beside the checkpoints, if the algorithm keeps any."""
        return None

    @abstractmethod
    def make_critic(self) -> nn.Module:
        """The critics, before they learned anything."""

    @abstractmethod
    def schedule(self, progress: float) -> None:
        """Set what changes along a run. progress: share of total_steps done, [0, 1]."""

    @abstractmethod
    def collect(
        self, tasks: Sequence[Task], streams: Sequence[Stream]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Let the joint policy act for rollout_length steps and advance `streams`, one a task; a task holds a share of
        the environments (`TeamConfig.lanes` says how many there are).

        Returns experience for `update`, and of each team's episodes that ended: return, won [episodes]."""

    @abstractmethod
    def update(self, rollout: dict[str, Tensor]) -> list[dict[str, float]]:
        """Learn from what `collect` gave. Returns numbers to log, one entry a team."""

    def initial_memory(self, num_envs: int) -> dict[str, Tensor]:
        """What is carried from step to step: actor [N, E, M] and the signal [E, Z]."""
        return {
            "signal": torch.zeros(self.teams * num_envs, self.config.signal, device=self.device),
            "actor": torch.zeros(self.actor.body.agents, num_envs, self.actor.body.memory, device=self.device),
        }

    def signal_noise(self, num_envs: int) -> Tensor:
        """Standard normal, [E, Z]."""
        return drawn(torch.Tensor.normal_, (self.teams * num_envs, self.config.signal), self.generators)

    def action_noise(self, num_envs: int) -> Tensor:
        """What actions are sampled by, [N, E, A]."""
        return self.joint_policy.noise((self.actor.body.agents, num_envs, self.actions), self.generators)

    def next_signal(self, signal: Tensor, fresh: Tensor, new: Tensor | None = None) -> Tensor:
        """The shared random vector of the coming step, [E, Z]: standard normal, new at every step or where an
        episode begins (fresh [E], 1 there). new: what `signal_noise` gave, drawn here unless given."""
        if not signal.shape[1]:
            return signal
        new = self.signal_noise(len(signal) // self.teams) if new is None else new
        return new if self.config.signal_per == "step" else torch.where(fresh.unsqueeze(1) > 0, new, signal)

    def joint(self, state: Tensor, signal: Tensor, policy: Tensor, features: Tensor, mask: Tensor) -> Any:
        """Joint policy from the actors' policies [N, B, A], state [B, S] and signal [B, Z]."""
        return self.joint_policy.joint(policy, self.score(state, signal, policy, features), mask)

    def score(self, state: Tensor, signal: Tensor, policy: Tensor, features: Tensor) -> Tensor:
        """PM's output, [N, B, A]. What it reads of the actors is detached."""
        seen = torch.cat([state, signal], -1) if signal.shape[-1] else state
        return self.pm(seen, self.joint_policy.features(policy).detach(), features.detach())

    @torch.no_grad()
    def act_joint(
        self,
        obs: Tensor,
        state: Tensor,
        signal: Tensor,
        mask: Tensor,
        h: Tensor,
        greedy: bool,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, their joint log-probabilities [N, E] and the actors' next memory.

        noise: what `action_noise` gave, drawn here unless given."""
        kind = self.joint_policy
        joint, h = self.look(obs, state, signal, mask, h)
        if greedy:
            action = kind.mode(joint)
        else:
            action = kind.sample(joint, self.action_noise(obs.shape[1]) if noise is None else noise)
        return action, kind.log_prob(joint, action), h

    def look(self, obs: Tensor, state: Tensor, signal: Tensor, mask: Tensor, h: Tensor) -> tuple[Any, Tensor]:
        """The joint policy and the actors' next memory."""
        raw, features, h = self.actor(obs, h)
        return self.joint(state, signal, self.joint_policy.policy(raw, mask), features, mask), h

    @torch.no_grad()
    def act_decentralised(self, obs: Tensor, mask: Tensor, h: Tensor, greedy: bool) -> tuple[Tensor, Tensor]:
        """Actions from the actors alone, and their next memory."""
        kind = self.joint_policy
        raw, _, h = self.actor(obs, h)
        policy = kind.policy(raw, mask)
        return kind.actor_mode(policy) if greedy else kind.actor_sample(policy, self.action_noise(obs.shape[1])), h

    def to_task(self, action: Tensor) -> Tensor:
        """Actions as the task takes them: [N, E] int32, or [N, E, A] float32 in its own units and bounds."""
        if self._bounds is None:
            return action.int()
        low, high = self._bounds
        return torch.clamp((low + high) / 2 + (high - low) / 2 * action, low, high)


def _bounds(spec: TaskSpec, teams: int, device: str) -> tuple[Tensor, Tensor] | None:
    """Lowest and highest action of every element, [K * N, 1, A], zero where an agent has none; None if discrete."""
    if spec.discrete:
        return None
    widest = max(space.n for space in spec.action_spaces)
    bounds = torch.zeros(2, spec.num_agents, 1, widest)
    for i, space in enumerate(spec.action_spaces):
        assert isinstance(space, Box)
        bounds[0, i, 0, : space.n] = torch.tensor(space.low)
        bounds[1, i, 0, : space.n] = torch.tensor(space.high)
    low, high = bounds.repeat(1, teams, 1, 1).to(device)
    return low, high
