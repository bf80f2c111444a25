"""What one copy of a PettingZoo environment tells about all copies: spaces, sizes, masks, the limit of an episode."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim

from agentmixer.contract.spec import (
    LONGEST_PERIOD_S,
    NO_BOUND,
    SHORTEST_PERIOD_S,
    Action,
    ActionSpace,
    Box,
    Discrete,
    MultiDiscrete,
    OptionValue,
    TaskSpec,
)
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.actions import parts
from agentmixer.tasks.base import check_actions
from agentmixer.tasks.pettingzoo.foreign_env import build
from agentmixer.tasks.pettingzoo.observations import element_names, mask_of
from agentmixer.tasks.workers.foreign import foreign

#: Where environments keep the length of an episode, most usual first.
LIMITS = ("max_cycles", "max_steps", "max_episode_steps", "episode_limit")
#: Whole numbers in a Box are choices up to so many values, and beyond that a real value that is rounded.
MOST_CHOICES = 32
#: A bound of whole numbers beyond this is none: it is the end of their type.
LARGEST_WHOLE = (1 << 31) - 2


class Team(NamedTuple):
    """What one copy of the environment told about all copies. One entry an agent, in `possible_agents` order.

    env_action_spaces: what the environment takes; action_spaces: the same in AgentMixer's terms."""

    agents: tuple[Any, ...]
    observation_spaces: tuple[spaces.Space, ...]
    env_action_spaces: tuple[spaces.Space, ...]
    action_spaces: tuple[ActionSpace, ...]
    state_size: int
    #: Whether the environment has a state of its own; otherwise it is all observations in a row.
    has_state: bool
    has_action_mask: bool
    fallback_actions: tuple[Action, ...]
    episode_limit: int
    control_period_s: float

    @property
    def obs_sizes(self) -> tuple[int, ...]:
        return tuple(flatdim(space) for space in self.observation_spaces)

    @property
    def discrete(self) -> bool:
        """Whether every agent's action is one whole number."""
        return all(isinstance(space, Discrete) for space in self.action_spaces)


def describe(scenario: str, options: Mapping[str, OptionValue]) -> Team:
    """Build one environment, reset it, look and close it; build and close another. A second call with the same arguments
    builds nothing.

    Raises AgentMixerError if the factory fails, gives an environment that cannot be used, or gives the same environment
    twice."""
    return _describe(scenario, json.dumps(dict(options), sort_keys=True))


@functools.cache
def _describe(scenario: str, options: str) -> Team:
    env = build(scenario, json.loads(options))
    try:
        with foreign(f"the first reset of {scenario}"):
            observations, infos = env.reset(seed=0)
            team = _look(env, observations, infos)
    finally:
        _close(env)
    another = build(scenario, json.loads(options))
    _close(another)
    if another.unwrapped is env.unwrapped:
        raise AgentMixerError(
            f"{scenario} gives the same environment at every call, and environments that are stepped together must not "
            "be one; make a new environment in the factory"
        )
    return team


def _close(env: Any) -> None:
    with contextlib.suppress(Exception):
        env.close()


def _look(env: Any, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Team:
    """The team as it is right after a reset. Raises AgentMixerError for spaces that cannot be used."""
    agents = tuple(env.possible_agents)
    seen_spaces = tuple(_observation_space(agent, env.observation_space(agent)) for agent in agents)
    env_action_spaces = tuple(env.action_space(agent) for agent in agents)
    action_spaces = tuple(_action_space(*pair) for pair in zip(agents, env_action_spaces, strict=True))
    state_size, has_state = sum(flatdim(space) for space in seen_spaces), False
    if callable(getattr(env.unwrapped, "state", None)):  # some keep something else under that name
        with contextlib.suppress(NotImplementedError, AttributeError):
            state_size, has_state = np.size(env.state()), True
    masks = [mask_of(agent, observations, infos) for agent in agents]
    if not state_size:
        raise AgentMixerError("state() gives no number; leave it out, and the state is all observations in a row")
    return Team(
        agents=agents,
        observation_spaces=seen_spaces,
        env_action_spaces=env_action_spaces,
        action_spaces=action_spaces,
        state_size=int(state_size),
        has_state=has_state,
        has_action_mask=any(
            mask is not None and not isinstance(space, Box) for space, mask in zip(action_spaces, masks, strict=True)
        ),
        fallback_actions=tuple(map(_fallback, agents, action_spaces, masks)),
        episode_limit=_episode_limit(env),
        control_period_s=_control_period(env),
    )


def _observation_space(agent: Any, space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
        space = space["observation"]
    try:
        names = element_names(space)
    except TypeError as error:
        raise AgentMixerError(
            f"agent '{agent}' observes {error}, which has no fixed row of numbers; flatten it to a Box in the factory"
        ) from None
    if not names:
        raise AgentMixerError(
            f"agent '{agent}' observes {space}, which has no element; give an agent that sees nothing the constant 1"
        )
    return space


def _action_space(agent: Any, space: spaces.Space) -> ActionSpace:
    """The space in AgentMixer's terms. Raises AgentMixerError naming the agent for a space that cannot be learned."""
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiBinary):
        sizes = [2] * math.prod(space.shape)
        starts = [0] * len(sizes)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
    elif isinstance(space, spaces.Box):
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
        whole = not np.issubdtype(space.dtype, np.floating)
        if low and not (whole and max(b - a for a, b in zip(low, high, strict=True)) < MOST_CHOICES):
            return Box(tuple(map(_bound, low)), tuple(map(_bound, high)), whole)
        sizes, starts = [1 + b - a for a, b in zip(low, high, strict=True)], list(map(int, low))
    else:
        raise AgentMixerError(
            f"agent '{agent}' acts in a {type(space).__name__}, which has no fixed row of numbers; make it a Discrete, "
            "MultiDiscrete, MultiBinary or Box in the factory"
        )
    if not sizes:
        raise AgentMixerError(f"agent '{agent}' acts in {space}, which has no element; give it one action, Discrete(1)")
    return MultiDiscrete(tuple(sizes), tuple(starts))


def _bound(value: float) -> float:
    """A bound of a Box as a specification has it: NO_BOUND where there is none."""
    none = abs(value) > LARGEST_WHOLE if isinstance(value, int) else math.isinf(value)
    return math.copysign(NO_BOUND, value) if none else float(value)


def _fallback(agent: Any, space: ActionSpace, mask: np.ndarray | None) -> Action:
    """What an agent does when no decision arrives: of every element the first value that is legal at the start, or no
    push."""
    if isinstance(space, Box):
        return tuple(float(np.clip(0.0, low, high)) for low, high in zip(space.low, space.high, strict=True))
    legal = np.ones(space.n, bool) if mask is None or not mask.any() else checked_mask(agent, space, mask)
    elements = zip(parts(space, legal), space.choices, strict=True)
    chosen = tuple(start + int(np.argmax(part)) for part, (_, start) in elements)
    return chosen[0] if isinstance(space, Discrete) else chosen


def checked_mask(agent: Any, space: Discrete | MultiDiscrete, mask: np.ndarray) -> np.ndarray:
    """The mask, [A] bool. Raises AgentMixerError unless it has an element for every choice and allows one everywhere."""
    if mask.shape != (space.n,):
        raise AgentMixerError(
            f"the action mask of agent '{agent}' has {mask.size} elements, its actions need {space.n}"
        )
    for element, part in enumerate(parts(space, mask)):
        if not part.any():
            of = f" for element {element}" if space.size > 1 else ""
            raise AgentMixerError(
                f"the action mask of agent '{agent}' allows no action{of}; at least one must be legal"
            )
    return mask


def _episode_limit(env: Any) -> int:
    """The first of LIMITS that the environment has as a whole number, else 0: not known."""
    values = (getattr(owner, name, None) for name in LIMITS for owner in (env, env.unwrapped))
    return next((int(v) for v in values if isinstance(v, int | np.integer) and not isinstance(v, bool) and v > 0), 0)


def _control_period(env: Any) -> float:
    """Seconds a step: 1 / metadata["render_fps"], else the environment's `dt`, else 1."""
    fps = (getattr(env, "metadata", None) or {}).get("render_fps")
    for value in (1.0 / fps if isinstance(fps, int | float) and fps > 0 else None, getattr(env.unwrapped, "dt", None)):
        if isinstance(value, int | float | np.floating) and SHORTEST_PERIOD_S <= value <= LONGEST_PERIOD_S:
            return float(value)
    return 1.0


def specification(scenario: str, backend: str, options: Mapping[str, OptionValue]) -> TaskSpec:
    """What the environment promises, in AgentMixer's terms. Raises AgentMixerError if two agents' names would
    become one, and for actions that cannot be used (`check_actions`)."""
    team = describe(scenario, options)
    names = tuple(re.sub("[^A-Za-z0-9_-]", "_", str(agent))[:64] or "_" for agent in team.agents)
    if len(set(names)) < len(names):
        raise AgentMixerError(
            f"the agents of {scenario} are called {', '.join(map(str, team.agents))}; give them names that differ in "
            "their first 64 letters, digits, _ and -"
        )

    spec = TaskSpec(
        name="pettingzoo",
        scenario=scenario,
        backend=backend,
        options=dict(options),
        agents=names,
        obs_names=tuple(map(element_names, team.observation_spaces)),
        state_size=team.state_size,
        action_spaces=team.action_spaces,
        has_action_mask=team.has_action_mask,
        reports_wins=False,
        episode_limit=team.episode_limit,
        control_period_s=team.control_period_s,
        fallback_actions=team.fallback_actions,
        shared="reward",
    )
    check_actions(spec)
    return spec
