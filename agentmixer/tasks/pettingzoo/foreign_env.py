"""Making an environment that others wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pettingzoo

from agentmixer.contract.spec import OptionValue
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.pettingzoo.factory import arguments, factory
from agentmixer.tasks.workers.foreign import foreign


def build(scenario: str, options: Mapping[str, OptionValue]) -> Any:
    """One environment. Raises AgentMixerError if the factory fails or gives something else."""
    make_env = factory(scenario)
    with foreign(f"making {scenario}"):
        env = make_env(**arguments(options))
    if not isinstance(env, pettingzoo.ParallelEnv):
        raise AgentMixerError(
            f"{scenario} gives a {type(env).__name__}, not a PettingZoo ParallelEnv; turn an AECEnv into one with "
            "pettingzoo.utils.aec_to_parallel"
        )
    if not getattr(env, "possible_agents", None):
        raise AgentMixerError(f"the environment of {scenario} names no possible_agents; set that attribute")
    return env
