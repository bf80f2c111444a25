"""Observations and actions by name, for whoever puts an observation together by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agentmixer.contract.manifest import AgentManifest
from agentmixer.contract.spec import Discrete
from agentmixer.errors import AgentMixerError, nearest


class Observation:
    """One agent's observation, put together by the names of its elements. `Agent.act` and `Agent.step` take it as they take an array.

    >>> obs = agent.observation()
    >>> obs["own.health"] = 0.4
    >>> obs["ally_1.*"] = [1.0, 0.2, -0.3]  # a group: all elements of it, in their order
    >>> obs.update({"own.x": 0.1, "own.y": 0.7})
    >>> action = agent.act(obs, action_mask)

    Every element must be set before each decision: a decision forgets them all, unless the observation was made with
    `keep=True`. An element that was not set, or is not finite, is refused by the decision, with its name. Nothing is allocated
    a step. An observation belongs to one thread."""

    __slots__ = ("_agent", "_groups", "_index", "_sizes", "array", "keep", "names")

    def __init__(self, manifest: AgentManifest, keep: bool = False):
        """keep: a decision leaves the elements as they are, so that each holds its last value until it is set again."""
        self.names = manifest.tensor("obs").elements
        self.keep = keep
        #: The elements in the order that the policy takes them, [D] float32; NaN where one was not set.
        self.array = np.full(len(self.names), np.nan, np.float32)
        self._agent = manifest.agent
        self._index = {name: i for i, name in enumerate(self.names)}
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            said = manifest.obs_elements[i].group if manifest.obs_elements else ""
            group = said or name.partition(".")[0]
            if said or group != name:
                groups.setdefault(f"{group}.*", []).append(i)
        self._sizes = {group: len(members) for group, members in groups.items()}
        # Elements in a row are set faster as a slice.
        self._groups: dict[str, slice | list[int]] = {
            group: slice(members[0], members[-1] + 1) if members[-1] - members[0] == len(members) - 1 else members
            for group, members in groups.items()
        }

    def __setitem__(self, name: str, value: Any) -> None:
        """Set an element to a number, or a group of elements to as many numbers in a row. Raises AgentMixerError for an unknown name, and for what is no number or not as
        many as the group has."""
        try:
            self.array[self._index[name]] = value
        except KeyError:
            self._set_group(name, value)
        except (TypeError, ValueError) as error:
            raise AgentMixerError(f"agent {self._agent}: obs['{name}'] is one number, got {_told(value)}") from error

    def __getitem__(self, name: str) -> float | np.ndarray:
        """An element's value, or a copy of a group's. NaN where it was not set."""
        if name in self._index:
            return float(self.array[self._index[name]])
        return self.array[self._members(name)].copy()

    def update(self, values: Mapping[str, float]) -> None:
        """Set many elements, or groups, at once. A mapping of all elements is the fastest way.

        Raises AgentMixerError as setting one does; some may have been set then."""
        if len(values) == len(self.names):
            try:
                self.array[:] = list(map(values.__getitem__, self.names))
                return
            except (KeyError, TypeError, ValueError):
                pass  # one by one, to name what is wrong
        for name, value in values.items():
            self[name] = value

    def clear(self) -> None:
        """Forget all elements."""
        self.array.fill(np.nan)

    def unset(self) -> list[str]:
        """The names of the elements that were not set, or set to NaN."""
        return [self.names[i] for i in np.flatnonzero(np.isnan(self.array))]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Each group's name, as it is set, and the elements in it."""
        every = np.arange(len(self.names))
        return {group: tuple(self.names[i] for i in every[members]) for group, members in self._groups.items()}

    def _members(self, name: str) -> slice | list[int]:
        try:
            return self._groups[name]
        except KeyError:
            known = [*self.names, *self._groups]
            raise AgentMixerError(
                f"agent {self._agent} observes no '{name}'{nearest(name, known)}; agentmixer show lists all elements"
            ) from None

    def _set_group(self, name: str, values: Any) -> None:
        members = self._members(name)
        try:
            if len(values) == self._sizes[name]:
                self.array[members] = values
                return
        except (TypeError, ValueError):
            pass
        raise AgentMixerError(
            f"agent {self._agent}: obs['{name}'] is {self._sizes[name]} numbers in a row, got {_told(values)}"
        )


def check_finite(manifest: AgentManifest, obs: np.ndarray) -> None:
    """Raises AgentMixerError that names the first element that is not finite, if one is not. obs [D]."""
    wrong = np.flatnonzero(~np.isfinite(obs))
    if len(wrong):
        where = int(wrong[0])
        raise AgentMixerError(
            f"agent {manifest.agent}: obs[{where}] ({manifest.tensor('obs').elements[where]}) is {obs[where]}; send finite "
            "numbers only (an observation put together by name is nan where nobody has set it)"
        )


def _told(value: object) -> str:
    """A value that was not what it should be, in few words."""
    if isinstance(value, np.ndarray | list | tuple):
        return (
            f"an array of shape {list(np.shape(value))}" if isinstance(value, np.ndarray) else f"{len(value)} of them"
        )
    return f"{type(value).__name__} {value!r}"[:80]


def named_action(manifest: AgentManifest, action: np.ndarray) -> str | dict[str, float]:
    """An action that an agent has decided for, by name: of a Discrete space its name; else each element's value by the
    element's name."""
    names, space = manifest.names_of_actions, manifest.action_space
    if isinstance(space, Discrete):
        return names[int(action) - space.start]
    return dict(zip(names, action.tolist(), strict=True))
