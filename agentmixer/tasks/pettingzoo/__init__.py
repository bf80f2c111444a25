"""Any PettingZoo ParallelEnv, yours or installed: `agentmixer train pettingzoo mypackage.mymodule:make_env`.

The scenario names a factory; `--env-arg key=value` gives the factory its keyword arguments.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from agentmixer.contract.spec import OptionValue
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.missing import Problem, missing_packages
from agentmixer.tasks.base import ScenarioInfo, Task
from agentmixer.tasks.pettingzoo.factory import EXAMPLE, arguments, factory

backends = ("processes", "serial")
names_code = True
takes_workers = backends
notes = (
    "The scenario is module:factory; factory(**options) must return a PettingZoo ParallelEnv, and a module alone "
    "means module:parallel_env. Modules in the current directory are found. The team's reward is the mean of all "
    "possible agents' rewards, the state is the environment's state() or else all observations in a row, masks "
    "come from 'action_mask' in the agents' infos or observations. Backend processes spreads the environments "
    "over worker processes, serial steps them one after another in this one. An interrupted run that is resumed "
    "starts new episodes."
)


class Options:
    """The factory's keyword arguments, whatever their names. It has the methods of `config.Settings`."""

    def __init__(self, /, **arguments: OptionValue):
        self._arguments = arguments

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """No names are known beforehand."""
        return ()

    @classmethod
    def explained(cls) -> dict[str, str]:
        """No argument is known beforehand, so none is explained."""
        return {}

    def as_dict(self) -> dict[str, OptionValue]:
        """Every argument by its name."""
        return dict(self._arguments)

    def replace(self, overrides: dict[str, Any], kind: str = "option") -> Options:
        """A copy with overrides applied; text is read as a whole number, a number, true or false where it is one.

        Raises AgentMixerError for a name that cannot be an argument's and for a value that is no such thing."""
        for name, value in overrides.items():
            if not name.isidentifier():
                raise AgentMixerError(f"{kind} '{name}' cannot be an argument's name; use letters, digits and _")
            if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf) or value != value:
                raise AgentMixerError(f"{kind} {name} must be true, false, a number or text, got {value!r}")
        return Options(**{**self._arguments, **{name: _parse(value) for name, value in overrides.items()}})


def scenarios() -> list[ScenarioInfo]:
    """One row that says what a scenario's name is made of; sizes are known once an environment was built."""
    return [
        ScenarioInfo(
            scenario="module:factory",
            agents=0,
            obs_sizes=(),
            state_size=0,
            actions="the environment's",
            episode_limit=0,
            source=f"any PettingZoo ParallelEnv, for example {EXAMPLE}",
        )
    ]


def option_names(scenario: str) -> tuple[str, ...] | None:
    """Names of the factory's parameters; None where it takes arguments of any name or has no signature to read."""
    try:
        parameters = inspect.signature(factory(scenario)).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return tuple(parameters)


def backend_problems(backend: str) -> list[Problem]:
    """What this machine lacks for a backend."""
    return missing_packages(["gymnasium", "pettingzoo"])


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError unless the factory exists, takes these options and gives an environment that can be
    used. One environment is built and closed; no process is started."""
    make_env = factory(scenario)
    try:
        inspect.signature(make_env).bind(**arguments(options.as_dict()))
    except TypeError as error:
        names = option_names(scenario)
        wrong = [] if names is None else [name for name in options.as_dict() if name not in names]
        hint = nearest(wrong[0], names or ()) if wrong else "; see --env-arg"
        raise AgentMixerError(f"{scenario} cannot be called with these options: {error}{hint}") from None
    except ValueError:  # no signature to read, as for some compiled functions
        pass
    try:
        from agentmixer.tasks.pettingzoo.team_description import specification
    except ImportError as error:
        raise AgentMixerError(f"task 'pettingzoo' needs {error.name}; pip install 'agentmixer[train]'") from error
    specification(scenario, backend, options.as_dict())


def make(
    scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu", workers: str = "processes"
) -> Task:
    """Build the task. Arrays are the host's, whatever `device` is."""
    from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask

    return ParallelEnvTask(scenario, num_envs, options.as_dict(), backend, ray=workers == "ray")


def _parse(value: Any) -> OptionValue:
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return value
