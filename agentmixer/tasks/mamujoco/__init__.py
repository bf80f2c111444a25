"""Multi-Agent MuJoCo (de Witt et al. 2020): one robot, its joints divided among a team.

The tasks are those of Gymnasium-Robotics' mamujoco_v1, named `<robot>-<factorisation>`, and five usual
factorisations that it leaves out.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from agentmixer.config import Settings
from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import ScenarioInfo, Task, check_known
from agentmixer.tasks.mamujoco.mamujoco_facts import REGROUPED, TEAMS

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene


class Options(Settings, frozen=True):
    """Settings of the task, as in mamujoco_v1."""

    agent_obsk: Annotated[
        Literal["0", "1", "none"],
        Meta(
            description="How many joints away an agent sees: 0 its own joints, 1 the positions of their neighbours too, none makes one agent that sees and moves everything."
        ),
    ] = "0"


backends = ("mujoco",)
names_code = False
takes_workers = backends
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


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["mujoco", "gymnasium_robotics"])


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError for an unknown scenario, and where MuJoCo or Gymnasium-Robotics is missing."""
    check_known("mamujoco", scenario, TEAMS)
    for problem in backend_problems(backend):
        raise AgentMixerError(f"task 'mamujoco': {problem}")


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.mamujoco import figure_scene

    return figure_scene.scene(spec, states)


def make(
    scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu", workers: str = "processes"
) -> Task:
    """Build the task. MuJoCo runs on the processor, whatever the device: in threads, or in Ray's workers one robot after the
    other."""
    from agentmixer.tasks.mamujoco.mujoco_team import MujocoTeam

    if workers == "processes":
        return MujocoTeam(scenario, num_envs, options.agent_obsk)
    from agentmixer.tasks.workers.task_row import TaskRow
    from agentmixer.tasks.workers.worker_task import WorkerTask, fitting_workers

    one = functools.partial(MujocoTeam, scenario, 1, options.agent_obsk, 1)
    make_row = functools.partial(TaskRow, one)
    return WorkerTask(one().spec, num_envs, make_row, fitting_workers(num_envs, ray=True), ray=True)
