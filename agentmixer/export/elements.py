"""What somebody says of a task's elements and actions in a file, for tasks that do not say it themselves."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from agentmixer.contract.spec import Discrete, Element, TaskSpec
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.files import read_regular

#: The table of a file that speaks of every agent.
ALL = "all"
MAX_FILE = 1 << 20
_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


def described(spec: TaskSpec, file: Path) -> TaskSpec:
    """The specification with the names, units, ranges, frames and groups that `file` gives. TOML:

    [all.obs_0]              # an element of every agent's observation, by the name that the task gives it
    name = "gyro.x"          # and unit, low, high, frame, group; each may be left out
    [agent_1.actions]        # of one agent; goes before what `all` says
    action_0 = "left"        # an action (Discrete) or an element of an action, by its name or else its number

    Raises AgentMixerError naming what is not there, and names that would stand twice."""
    try:
        data = tomllib.loads(read_regular(file, MAX_FILE, links=None, again="give another file").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AgentMixerError(f"{file} is not TOML ({error}); mend it") from error
    if unknown := set(data) - {ALL, *spec.agents}:
        name = min(unknown)
        raise AgentMixerError(f"{file} speaks of an agent '{name}'{nearest(name, [ALL, *spec.agents])}")
    names, elements, actions = [], [], []
    for index, agent in enumerate(spec.agents):
        for name in _table(data, agent, file).keys() - {*spec.obs_names[index], "actions"}:
            raise AgentMixerError(f"{file}: agent '{agent}' observes no '{name}'{nearest(name, spec.obs_names[index])}")
        own = _table(data, ALL, file) | _table(data, agent, file)
        told = _table(own, "actions", file)
        own.pop("actions", None)
        called = _elements(spec, index, own, file)
        names.append(tuple(name for name, _ in called))
        elements.append(tuple(element for _, element in called))
        actions.append(_actions(spec, index, told, file))
        for what in (names[-1], actions[-1]):
            if twice := next((name for name in what if what.count(name) > 1), None):
                raise AgentMixerError(
                    f"{file} gives agent '{agent}' the name '{twice}' twice; give each a name of its own"
                )
    return msgspec.structs.replace(
        spec, obs_names=tuple(names), obs_elements=tuple(elements), action_names=tuple(actions)
    )


def _table(data: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise AgentMixerError(f"{file}: [{name}] is a table of names; got {table!r}")
    return dict(table)


def _elements(spec: TaskSpec, index: int, told: dict[str, Any], file: Path) -> list[tuple[str, Element]]:
    """The name and the meaning of each element of an agent's observation."""
    agent, names = spec.agents[index], spec.obs_names[index]
    if unknown := set(told) - set(names):
        # What is said of all agents need only be some agent's.
        anybody = {name for own in spec.obs_names for name in own}
        for name in sorted(unknown):
            if name not in anybody:
                raise AgentMixerError(f"{file}: agent '{agent}' observes no '{name}'{nearest(name, names)}")
    known = spec.elements_of(index) or (Element(),) * len(names)
    found = []
    for name, element in zip(names, known, strict=True):
        said = dict(told.get(name, {})) if isinstance(told.get(name, {}), dict) else {"": told[name]}
        try:
            new = msgspec.convert(said.pop("name", name), _NAME)
            found.append((new, msgspec.convert(msgspec.to_builtins(element) | said, Element)))
        except msgspec.ValidationError as error:
            raise AgentMixerError(f"{file}: element '{name}' of agent '{agent}': {error}") from error
    return found


def _actions(spec: TaskSpec, index: int, told: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The names of an agent's actions; empty if neither task nor file gives any."""
    space = spec.action_spaces[index]
    count = space.n if isinstance(space, Discrete) else space.size
    known = spec.actions_of(index)
    if not told:
        return known
    names = list(known or (f"action_{i}" for i in range(count)))
    places = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(count)}
    for key, value in told.items():
        if key not in places or not isinstance(value, str) or not 0 < len(value) <= 128:
            raise AgentMixerError(
                f"{file}: agent '{spec.agents[index]}' has {count} actions, each called by 1 to 128 characters; got "
                f"'{key}' = {value!r}"
            )
        names[places[key]] = value
    return tuple(names)
