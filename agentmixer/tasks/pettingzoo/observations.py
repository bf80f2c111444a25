"""Observations as rows of numbers, whatever space they come from, the name of every element, and action masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.workers.foreign import check_numbers


def element_names(space: spaces.Space, name: str = "obs") -> tuple[str, ...]:
    """The name of each element of a flattened observation, in the order of `gymnasium.spaces.utils.flatten`.

    A Box has its elements row by row (`obs_0`, or `obs_2_0` of several dimensions), and a MultiBinary too. Of a whole number
    there is an element for each value, 1 where it is that value (`obs=3`, or `obs_0=3` of a MultiDiscrete). Parts of a Dict or
    Tuple follow one another, led by their key or position (`camera.0_1`, `1.0`). Raises TypeError naming a space that has no
    fixed size."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        lead = "" if name == "obs" else f"{name}."
        return tuple(n for key, part in _parts(space) for n in element_names(part, f"{lead}{key}"))
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        shape = (space.n,) if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int) else space.shape
        return tuple("_".join(map(str, (name, *index))) for index in np.ndindex(*shape or ()))
    if isinstance(space, spaces.Discrete):
        first, n = int(space.start), int(space.n)
        return tuple(f"{name}={value}" for value in range(first, first + n))
    if isinstance(space, spaces.MultiDiscrete):
        places = ("_".join(map(str, (name, *index))) for index in np.ndindex(*space.nvec.shape))
        values = zip(places, space.start.ravel().tolist(), space.nvec.ravel().tolist(), strict=True)
        return tuple(f"{place}={value}" for place, start, n in values for value in range(start, start + n))
    raise TypeError(f"a {type(space).__name__}")


def row_of(space: spaces.Space, value: Any, whose: str) -> np.ndarray:
    """An observation's elements in the order of `element_names`. whose: the observation's name in a sentence.

    Raises AgentMixerError naming what is not in its space, not finite or too large."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = _parts(space)
        try:
            given = [value[key] for key, _ in parts]
        except (KeyError, IndexError, TypeError) as error:
            raise AgentMixerError(f"{whose} lacks a part of its space {space}") from error
        return np.concatenate(
            [row_of(part, own, f"{key} of {whose}") for (key, part), own in zip(parts, given, strict=True)]
        )
    if not isinstance(space, spaces.Box):
        if not space.contains(value):
            raise AgentMixerError(f"{whose} is {value}, which is not in its space {space}")
        return np.asarray(flatten(space, value))
    row = numbers(value, whose)
    if row.shape != space.shape:
        raise AgentMixerError(f"{whose} has shape {row.shape}, its space says {space.shape}")
    check_numbers(whose, row.ravel())
    return row.ravel()


def mask_of(agent: Any, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> np.ndarray | None:
    """The agent's action mask, where the environment gives one: as info, or beside the observation."""
    for source in (infos.get(agent), observations.get(agent)):
        if isinstance(source, Mapping) and source.get("action_mask") is not None:
            mask = source["action_mask"]
            parts = mask if isinstance(mask, tuple) else (mask,)  # a tuple has a mask an element
            whose = f"the action mask of agent '{agent}'"
            return np.concatenate([numbers(part, whose).ravel() for part in parts]).astype(bool)
    return None


def numbers(value: Any, whose: str) -> np.ndarray:
    """What an environment gave, as an array of numbers. Raises AgentMixerError if it is none."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise AgentMixerError(f"{whose} is {' '.join(repr(value).split())[:100]}, which is no array of numbers")
    return array


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    """Each part's key or position, and its space."""
    return list(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))
