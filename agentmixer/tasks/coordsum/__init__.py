"""Numbers that add up to a target: a team must agree and still not be predictable.

After the task CoordSum of MAGPO (arXiv 2507.18059). N agents, K actions each, M targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmixer.contract.spec import Discrete, Element, TaskSpec
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, check_known
from agentmixer.tasks.coordsum.coordsum_facts import EPISODE_LIMIT, SIZES, state_size

if TYPE_CHECKING:
    import numpy as np

    from agentmixer.tasks.scene import Scene

Options = NoOptions
backends = ("jax",)
names_code = False
notes = (
    "An opponent guesses agent_0's number by what agent_0 played most for that target in the episode; a team that is guessed "
    "earns 1 instead of 2. A team that always answers a target in one way is guessed from the second time on."
)


def scenarios() -> list[ScenarioInfo]:
    """The scenarios with their sizes."""
    source = "after MAGPO (arXiv 2507.18059)"
    return [
        ScenarioInfo(
            name,
            of.agents,
            (of.targets + 1,) * of.agents,
            state_size(of),
            f"{of.actions} discrete",
            EPISODE_LIMIT,
            source,
        )
        for name, of in SIZES.items()
    ]


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["jax"])


def check(scenario: str, backend: str, options: NoOptions) -> None:
    """Raise AgentMixerError for an unknown scenario."""
    check_known("coordsum", scenario, SIZES)


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """An episode as shapes: see `tasks.scene`."""
    from agentmixer.tasks.coordsum import sum_scene

    return sum_scene.scene(spec, states, obs, actions)


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    """Build the task. It runs on the processor, whatever `device` the learner is on."""
    from agentmixer.tasks.coordsum.coordsum_game import game
    from agentmixer.tasks.jax_task import JaxTask

    of = SIZES[scenario]
    spec = TaskSpec(
        name="coordsum",
        scenario=scenario,
        backend=backend,
        options={},
        agents=tuple(f"agent_{i}" for i in range(of.agents)),
        obs_names=((*(f"target.is_{t}" for t in range(of.targets)), "step"),) * of.agents,
        state_size=state_size(of),
        action_spaces=(Discrete(of.actions),) * of.agents,
        has_action_mask=False,
        reports_wins=False,
        episode_limit=EPISODE_LIMIT,
        control_period_s=1.0,
        fallback_actions=(0,) * of.agents,
        shared="reward",
        obs_elements=((*(Element(low=0.0, high=1.0),) * of.targets, Element("share of the limit", 0.0, 1.0)),)
        * of.agents,
        action_names=(tuple(f"play_{k}" for k in range(of.actions)),) * of.agents,
    )
    return JaxTask(spec, game(of), num_envs)
