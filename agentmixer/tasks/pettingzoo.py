"""Any PettingZoo ParallelEnv, yours or installed: `agentmixer train pettingzoo mypackage.mymodule:make_env`.

The scenario names a factory; `--env-arg key=value` gives it its keyword arguments. This file finds the factory
and imports no simulator.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from agentmixer.contract.spec import OptionValue
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.tasks.base import ScenarioInfo, Task

backends = ("processes", "serial")
names_code = True
notes = (
    "The scenario is module:factory; factory(**options) must return a PettingZoo ParallelEnv, and a module alone "
    "means module:parallel_env. Modules in the current directory are found. The team's reward is the mean of all "
    "possible agents' rewards, the state is the environment's state() or else all observations in a row, masks "
    "come from 'action_mask' in the agents' infos or observations. Backend processes spreads the environments "
    "over worker processes, serial steps them one after another in this one. An interrupted run that is resumed "
    "starts new episodes."
)
EXAMPLE = "mpe2.simple_spread_v3:parallel_env"


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


def arguments(options: Options) -> dict[str, Any]:
    """What the factory is called with: the text 'none' becomes None."""
    return {name: None if str(value).lower() == "none" else value for name, value in options.as_dict().items()}


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


def factory(scenario: str) -> Callable[..., Any]:
    """The function that `module:factory` names; `module` alone means its `parallel_env`.

    Raises AgentMixerError if the module cannot be imported or has no such function."""
    module_name, _, name = scenario.partition(":")
    name = name or "parallel_env"
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise AgentMixerError(f"scenario '{scenario}' is not of the form module:factory; for example {EXAMPLE}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # pygame prints a greeting on standard output, where commands print their results.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    module = _import(module_name)
    found = getattr(module, name, None)
    if found is None:
        known = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise AgentMixerError(f"module '{module_name}' has no '{name}'{nearest(name, known)}")
    if not callable(found):
        raise AgentMixerError(f"'{scenario}' is not a function; name one that returns a PettingZoo ParallelEnv")
    return found


def check(scenario: str, backend: str, options: Options) -> None:
    """Raise AgentMixerError unless the factory exists, takes these options and gives an environment that can be
    used. One environment is built and closed; no process is started."""
    make_env = factory(scenario)
    try:
        inspect.signature(make_env).bind(**arguments(options))
    except TypeError as error:
        raise AgentMixerError(f"{scenario} cannot be called with these options: {error}; see --env-arg") from None
    except ValueError:  # no signature to read, as for some compiled functions
        pass
    try:
        from agentmixer.tasks import parallel_env
    except ImportError as error:
        raise AgentMixerError(f"task 'pettingzoo' needs {error.name}; pip install 'agentmixer[train]'") from error
    parallel_env.specification(scenario, backend, options)


def make(scenario: str, num_envs: int, backend: str, options: Options, device: str = "cpu") -> Task:
    """Build the task. Arrays are the host's, whatever `device` is."""
    from agentmixer.tasks.parallel_env import ParallelEnvTask

    return ParallelEnvTask(scenario, num_envs, options, backend)


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


def _import(name: str) -> Any:
    """The module of that name. A package may also hold a module under a name that is no file's."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent, _, child = name.rpartition(".")
        if error.name == name and parent and hasattr(_import(parent), child):
            return getattr(_import(parent), child)
        raise AgentMixerError(
            f"module '{name}' cannot be imported ({error}); pip install the package, or run from the directory "
            "that holds the file"
        ) from error
    except Exception as error:
        raise AgentMixerError(f"importing module '{name}' failed: {type(error).__name__}: {error}") from error
