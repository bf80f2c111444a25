"""From a scenario `module:factory` to the function that makes environments. This file imports no simulator."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agentmixer.contract.spec import OptionValue
from agentmixer.errors import AgentMixerError, nearest

EXAMPLE = "mpe2.simple_spread_v3:parallel_env"


def arguments(options: Mapping[str, OptionValue]) -> dict[str, Any]:
    """What the factory is called with: the text 'none' becomes None."""
    return {name: None if str(value).lower() == "none" else value for name, value in options.items()}


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
