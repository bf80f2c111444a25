"""Multi-Agent MuJoCo (de Witt et al. 2020): one robot, its joints divided among a team.

The tasks are those of Gymnasium-Robotics' mamujoco_v1, named `<robot>-<factorisation>`, and five usual
factorisations that it leaves out. This file knows names and sizes only and imports no simulator.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from agentmixer.config import Settings
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import ScenarioInfo, Task, check_known


class Options(Settings, frozen=True):
    """Settings of the task, as in mamujoco_v1."""

    agent_obsk: Annotated[
        Literal["0", "1", "none"],
        Meta(
            description="How many joints away an agent sees: 0 its own joints, 1 the positions of their neighbours too, none makes one agent that sees and moves everything."
        ),
    ] = "0"


class Sizes(NamedTuple):
    """A team under agent_obsk=0: observation and action length of each agent, state length, step limit."""

    obs: tuple[int, ...]
    actions: tuple[int, ...]
    state: int
    limit: int = 1000


TEAMS: dict[str, Sizes] = {
    "Ant-2x4": Sizes((61,) * 2, (4,) * 2, 105),
    "Ant-2x4d": Sizes((61,) * 2, (4,) * 2, 105),
    "Ant-4x2": Sizes((39,) * 4, (2,) * 4, 105),
    "Ant-8x1": Sizes((25, 31) * 4, (1,) * 8, 105),
    "HalfCheetah-2x3": Sizes((11,) * 2, (3,) * 2, 17),
    "HalfCheetah-3x2": Sizes((9,) * 3, (2,) * 3, 17),
    "HalfCheetah-6x1": Sizes((7,) * 6, (1,) * 6, 17),
    "Hopper-3x1": Sizes((7,) * 3, (1,) * 3, 11),
    "Humanoid-9|8": Sizes((236, 167), (9, 8), 348),
    "Humanoid-17x1": Sizes((80,) * 5 + (36, 80, 80, 36) + (58,) * 8, (1,) * 17, 348),
    "HumanoidStandup-9|8": Sizes((236, 167), (9, 8), 348),
    "ManySegmentAnt-2x3": Sizes((161,) * 2, (12,) * 2, 311),
    "ManySegmentAnt-3x1": Sizes((61,) * 3, (4,) * 3, 161),
    "ManySegmentSwimmer-5x4": Sizes((8,) * 5, (4,) * 5, 44),
    "ManySegmentSwimmer-6x1": Sizes((2,) * 6, (1,) * 6, 16),
    "ManySegmentSwimmer-10x2": Sizes((4,) * 10, (2,) * 10, 44),
    "Pusher-3p": Sizes((15, 11, 15), (3, 1, 3), 23, limit=100),
    "Reacher-2x1": Sizes((5, 8), (1, 1), 10, limit=50),
    "Swimmer-2x1": Sizes((5, 5), (1, 1), 8),
    "Walker2d-2x3": Sizes((11,) * 2, (3,) * 2, 17),
    "Walker2d-3x2": Sizes((9,) * 3, (2,) * 3, 17),
    "Walker2d-6x1": Sizes((7,) * 6, (1,) * 6, 17),
}

#: Factorisations that mamujoco_v1 does not list: a factorisation that it does list, whose joints these
#: are, and what each agent moves. One joint an agent follows the order of that listed factorisation.
REGROUPED: dict[str, tuple[str, tuple[tuple[str, ...], ...] | None]] = {
    "Ant-8x1": ("4x2", None),
    "HalfCheetah-3x2": ("6x1", (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh"))),
    "Humanoid-17x1": ("9|8", None),
    "Walker2d-3x2": (
        "2x3",
        (("foot_joint", "leg_joint"), ("thigh_joint", "foot_left_joint"), ("leg_left_joint", "thigh_left_joint")),
    ),
    "Walker2d-6x1": ("2x3", None),
}

backends = ("mujoco",)
names_code = False
notes = (
    "Observations, rewards and terminations are those of Gymnasium-Robotics' mamujoco_v1, which drives the "
    "legs of Ant correctly: returns are not comparable with the original Multi-Agent MuJoCo's. Ant-8x1, "
    "HalfCheetah-3x2, Humanoid-17x1, Walker2d-3x2 and Walker2d-6x1 are not in mamujoco_v1 and are defined "
    "through its agent_factorization. Left out: CoupledHalfCheetah, which mamujoco_v1 cannot build with MuJoCo "
    "4 (it reads tendon Jacobians in their former layout), and InvertedPendulum and InvertedDoublePendulum, "
    "which have a single joint to move. The ManySegment robots take any number of segments in mamujoco_v1; "
    "the listed ones are offered here. In ManySegmentAnt all agents but the last are shown the wrong joints, as in "
    "mamujoco_v1, whose joint numbers run backwards there; the names of the observation's elements say what is "
    "really in them. Two of Pusher's joints share one label in mamujoco_v1, which puts "
    "them in no particular order; here the shoulder's pan comes before its lift. An episode that reaches its "
    "step limit as it terminates counts as terminated only."
)


def split(scenario: str) -> tuple[str, str]:
    """'Ant-4x2' -> ('Ant', '4x2')."""
    robot, _, factorisation = scenario.partition("-")
    return robot, factorisation


def scenarios() -> list[ScenarioInfo]:
    """Every scenario with its sizes under agent_obsk=0."""
    return [
        ScenarioInfo(
            scenario=name,
            agents=len(team.obs),
            obs_sizes=team.obs,
            state_size=team.state,
            actions=f"{' and '.join(map(str, dict.fromkeys(team.actions)))} continuous",
            episode_limit=team.limit,
            source="mamujoco_v1 joints, regrouped" if name in REGROUPED else "mamujoco_v1 (Gymnasium-Robotics)",
        )
        for name, team in TEAMS.items()
    ]


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError for an unknown scenario, and where MuJoCo or Gymnasium-Robotics is missing."""
    check_known(sys.modules[__name__], "mamujoco", scenario)
    for package in ("mujoco", "gymnasium_robotics"):
        if importlib.util.find_spec(package) is None:
            raise AgentMixerError(f"task 'mamujoco' needs the package {package}; pip install 'agentmixer[train]'")


def make(scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu") -> Task:
    """Build the task. MuJoCo runs on the processor, whatever the device."""
    from agentmixer.tasks.mujoco_team import MujocoTeam

    return MujocoTeam(scenario, num_envs, options.agent_obsk)
