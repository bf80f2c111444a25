"""The contract of every algorithm: how a team learns. What acts is a `Team`."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Task
from agentmixer.train.presets import Presets, resolve
from agentmixer.train.replay import Replay
from agentmixer.train.settings import AlgorithmSettings, Config, RunSettings, TeamSettings
from agentmixer.train.stream import Stream
from agentmixer.train.team import Team


class Sees(Enum):
    """What an agent must be given to act when it is deployed (paper, Table 2)."""

    OWN_OBSERVATION = "its own observation"
    STATE = "the global state"
    ALL_OBSERVATIONS = "all agents' observations"
    OTHERS_ACTIONS = "the actions of other agents"

    @property
    def alone(self) -> bool:
        """Whether agents can be taken apart and run each on its own."""
        return self is Sees.OWN_OBSERVATION

    @property
    def arm(self) -> str:
        """What figures of agents that act by it are called."""
        return "decentralised" if self.alone else "as executed"


def check_one_kind(spec: TaskSpec, name: str) -> None:
    """Raise AgentMixerError if a team's actions are neither all Discrete nor all Box, and algorithm `name` cannot learn others."""
    if not (spec.discrete or spec.real_valued):
        raise AgentMixerError(
            f"{name} learns teams whose agents all have Discrete or all have Box actions, and {spec.name} "
            f"{spec.scenario} is another; use agentmixer_ppo or mappo"
        )


def check_discrete(spec: TaskSpec, name: str) -> None:
    """Raise AgentMixerError if a team's actions are not all Discrete, and algorithm `name` cannot learn others."""
    if not spec.discrete:
        raise AgentMixerError(
            f"{name} learns teams whose agents all have Discrete actions, and {spec.name} {spec.scenario} is another; use "
            "agentmixer_ppo or mappo"
        )


class Algorithm(ABC):
    """How K teams learn side by side, one team as a rule. Every array leads with the team, as in `Team`.

    A subclass makes its networks in __init__, and sets `config`, `team` and `modules`. Beside the streams and the random
    state, a checkpoint holds the modules and the optimisers."""

    #: Its name on the command line and in `runs/`.
    name: ClassVar[str]
    #: Where it is published.
    source: ClassVar[str]
    #: Classes of the settings that say what acts, and of its own.
    team_settings: ClassVar[type[TeamSettings]] = TeamSettings
    own_settings: ClassVar[type[AlgorithmSettings]]
    #: What every preset starts from, where it is not the settings' own default.
    defaults: ClassVar[dict[str, Any]] = {}
    presets: ClassVar[Presets]
    #: What its deployed agents need. Only those that act on their own observations can be exported one by one.
    execution_sees: ClassVar[Sees] = Sees.OWN_OBSERVATION
    #: Whether its actors' outputs for whole numbers are log-probabilities, which actions can be drawn by.
    stochastic: ClassVar[bool] = True
    #: Whether several teams can learn in one stack (`train --seeds`).
    several_teams: ClassVar[bool] = False
    #: Whether updates give every core work of their own, so that torch should use one thread.
    own_threads: ClassVar[bool] = False

    config: Config
    team: Team
    modules: dict[str, nn.Module]

    @abstractmethod
    def __init__(self, spec: TaskSpec, config: Config, generators: Sequence[torch.Generator]):
        """generators: a source of randomness for each team, on the device that the team is to live on.

        Raises AgentMixerError if the settings do not fit the task."""

    @classmethod
    def configure(cls, preset: str | None = None, task: str = "", backend: str = "") -> Config:
        """The settings that a preset gives on a task in a backend; without a preset, those that every preset starts from.

        Raises AgentMixerError naming the nearest preset."""
        start = Config(cls.team_settings(), cls.own_settings(), RunSettings()).replace(cls.defaults)
        return start if preset is None else start.replace(resolve(cls.presets, preset, task, backend))

    @classmethod
    def about(cls) -> str:
        """What it is: the first sentence of its class's docstring."""
        return (cls.__doc__ or "").partition(". ")[0].partition("\n")[0].rstrip(".")

    @classmethod
    def shown(cls, task: Task) -> Task:
        """What this algorithm's agents are shown of a task: the task itself, but where agents see more than their own."""
        return task

    def share(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one of K teams, as `modules` of an algorithm with that team alone would hold them."""
        teams = self.team.count
        return {
            f"{name}.{key}": value.chunk(teams)[index] if teams > 1 else value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def load(self, shares: Sequence[dict[str, Tensor]]) -> None:
        """Take over what `share` gave, one entry a team. Raises RuntimeError where it does not fit."""
        together = shares[0]
        if len(shares) > 1:
            together = {key: torch.cat([share[key] for share in shares]) for key in together}
        for name, module in self.modules.items():
            own = f"{name}."
            module.load_state_dict({key.removeprefix(own): v for key, v in together.items() if key.startswith(own)})

    @property
    def replay(self) -> Replay | None:
        """Transitions kept beside the checkpoints, if the algorithm keeps any."""
        return None

    @functools.cached_property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers by name, made when first asked for: a team that acts and does not learn needs none, and the first
        optimiser costs a process 1 to 2 s, in which torch imports its compiler."""
        return self.make_optimisers()

    @abstractmethod
    def make_optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers by name, before their first step."""

    def memory(self, num_envs: int) -> dict[str, Tensor]:
        """Nothing remembered yet: what is carried from step to step while experience is collected."""
        return self.team.memory(num_envs)

    @abstractmethod
    def schedule(self, progress: float) -> None:
        """Set what changes along a run. progress: share of total_steps done, [0, 1]."""

    @abstractmethod
    def collect(self, tasks: Sequence[Task], streams: Sequence[Stream]) -> tuple[Any, list[dict[str, Tensor]]]:
        """Let the joint policy act for rollout_length steps and advance `streams`, one a task; a task holds a share of
        the environments (`RunSettings.lanes` says how many tasks there are).

        Returns experience for `update`, and of each team's episodes that ended: return, won [episodes]."""

    @abstractmethod
    def update(self, experience: Any) -> list[dict[str, float]]:
        """Learn from what `collect` gave. Returns numbers to log, one entry a team."""
