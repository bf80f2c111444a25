"""Any Gymnasium environment of one agent, as a team of one: `agentmixer train gymnasium CartPole-v1`.

The scenario is the id of a registered environment; `--env-arg key=value` gives `gymnasium.make` its keyword arguments.
The environment is stepped by the machinery of the task pettingzoo.
"""

from __future__ import annotations

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import pettingzoo
from agentmixer.tasks.base import ScenarioInfo, Task
from agentmixer.tasks.pettingzoo import Options

backends = pettingzoo.backends
backend_problems = pettingzoo.backend_problems
#: An id may lead with a module, which is then imported; and what a registered id makes is code of others.
names_code = True
takes_workers = backends
notes = (
    "The scenario is the id of a registered environment; module:id imports the module first, which registers the id. "
    "Modules in the current directory are found. Options are keyword arguments of gymnasium.make. The team has one "
    "agent, agent_0; a mask comes from 'action_mask' in the info or the observation. For the rest see the task pettingzoo."
)

#: What makes an environment, as the task pettingzoo names it.
_FACTORY = "agentmixer.tasks.gymnasium_env.single_agent:make_env"


def scenarios() -> list[ScenarioInfo]:
    """One row that says what a scenario's name is; sizes are known once an environment was built."""
    return [
        ScenarioInfo(
            scenario="id",
            agents=1,
            obs_sizes=(),
            state_size=0,
            actions="the environment's",
            episode_limit=0,
            source="any Gymnasium environment, for example CartPole-v1",
        )
    ]


def option_names(scenario: str) -> tuple[str, ...] | None:
    """None: which arguments an environment takes is not known before it is made."""
    return None


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError unless the id is registered, and makes with these options an environment that can be used.
    Two environments are built and closed; no process is started."""
    if "id" in options.as_dict():
        raise AgentMixerError("option 'id' is what the scenario gives; leave --env-arg id out")
    try:
        from agentmixer.tasks.gymnasium_env.single_agent import check_registered
    except ImportError as error:
        raise AgentMixerError(f"task 'gymnasium' needs {error.name}; pip install 'agentmixer[train]'") from error
    check_registered(scenario)
    pettingzoo.check(_FACTORY, backend, options.replace({"id": scenario}))


def make(
    scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu", workers: str = "processes"
) -> Task:
    """Build the task. Arrays are the host's, whatever `device` is."""
    import msgspec

    from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask

    task = ParallelEnvTask(_FACTORY, num_envs, {**options.as_dict(), "id": scenario}, backend, ray=workers == "ray")
    task.spec = msgspec.structs.replace(task.spec, name="gymnasium", scenario=scenario, options=options.as_dict())
    return task
