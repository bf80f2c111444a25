"""Two agents, two passages: where copying an all-seeing teacher goes wrong (the paper's Figure 1).

Each agent is small or big, independently and with equal chance, and sees only its own size. Each chooses the
short passage or the long one, once. A passage has room for two small agents or for one big one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmixer.contract.spec import Discrete, Element, TaskSpec
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, check_known
from agentmixer.tasks.passage.passage_payoffs import LONG, SHORT

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene

SCENARIO = "two_agents"

Options = NoOptions
backends = ("jax",)
names_code = False
notes = (
    "One step an episode; an agent sees only its own size. Best possible: 9.25 if one could see both sizes, 8.5 "
    "for agents that cannot; agents that copy the all-seeing policy's most frequent action get 4.5."
)


def scenarios() -> list[ScenarioInfo]:
    """The one scenario."""
    return [ScenarioInfo(SCENARIO, 2, (2, 2), 4, "2 discrete", 1, "AgentMixer (arXiv 2401.08728), Figure 1")]


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["jax"])


def check(scenario: str, backend: str, options: NoOptions) -> None:
    """Raise AgentMixerError for an unknown scenario."""
    check_known("passage", scenario, [SCENARIO])


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.passage import passage_scene

    return passage_scene.scene(spec, states, obs, actions)


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on."""
    from agentmixer.tasks.jax_task import JaxTask
    from agentmixer.tasks.passage.passage_game import game

    spec = TaskSpec(
        name="passage",
        scenario=scenario,
        backend=backend,
        options={},
        agents=("agent_0", "agent_1"),
        obs_names=(("own.is_small", "own.is_big"),) * 2,
        state_size=4,
        action_spaces=(Discrete(2),) * 2,
        has_action_mask=False,
        reports_wins=False,
        episode_limit=1,
        control_period_s=1.0,
        fallback_actions=(SHORT, LONG),
        shared="reward",
        obs_elements=((Element(low=0.0, high=1.0),) * 2,) * 2,
        action_names=(("short", "long"),) * 2,
    )
    return JaxTask(spec, game(), num_envs)
