"""What one copy of a PettingZoo environment tells about all copies: spaces, sizes, masks, the limit of an episode."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim

from agentmixer.contract.spec import (
    LONGEST_PERIOD_S,
    SHORTEST_PERIOD_S,
    Action,
    ActionSpace,
    Box,
    Discrete,
    OptionValue,
    TaskSpec,
)
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import check_actions
from agentmixer.tasks.pettingzoo.foreign_env import build, foreign, mask_of

#: Where environments keep the length of an episode, most usual first.
LIMITS = ("max_cycles", "max_steps", "max_episode_steps", "episode_limit")


class Team(NamedTuple):
    """What one copy of the environment told about all copies. One entry an agent, in `possible_agents` order."""

    agents: tuple[Any, ...]
    observation_spaces: tuple[spaces.Space, ...]
    action_spaces: tuple[spaces.Space, ...]
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
    def action_sizes(self) -> tuple[int, ...]:
        """Number of actions (Discrete) or of action elements (Box)."""
        return tuple(int(s.n) if isinstance(s, spaces.Discrete) else flatdim(s) for s in self.action_spaces)

    @property
    def discrete(self) -> bool:
        return isinstance(self.action_spaces[0], spaces.Discrete)


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
    action_spaces = tuple(_action_space(agent, env.action_space(agent)) for agent in agents)
    if len({isinstance(space, spaces.Discrete) for space in action_spaces}) > 1:
        raise AgentMixerError("some agents have Discrete and some Box actions; a team must have one kind")
    try:
        state_size, has_state = np.size(env.state()), True
    except (NotImplementedError, AttributeError):
        state_size, has_state = sum(flatdim(space) for space in seen_spaces), False
    masks = [mask_of(agent, observations, infos) for agent in agents]
    if not state_size:
        raise AgentMixerError("state() gives no number; leave it out, and the state is all observations in a row")
    return Team(
        agents=agents,
        observation_spaces=seen_spaces,
        action_spaces=action_spaces,
        state_size=int(state_size),
        has_state=has_state,
        has_action_mask=any(mask is not None for mask in masks) and isinstance(action_spaces[0], spaces.Discrete),
        fallback_actions=tuple(_fallback(*pair) for pair in zip(action_spaces, masks, strict=True)),
        episode_limit=_episode_limit(env),
        control_period_s=_control_period(env),
    )


def _observation_space(agent: Any, space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
        space = space["observation"]
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        raise AgentMixerError(
            f"agent '{agent}' observes a {type(space).__name__}, which has no fixed row of numbers; flatten it to a "
            "Box in the factory"
        )
    if not flatdim(space):
        raise AgentMixerError(
            f"agent '{agent}' observes {space}, which has no element; give an agent that sees nothing the constant 1"
        )
    return space


def _action_space(agent: Any, space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Discrete):
        return space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.shape[0]:
        raise AgentMixerError(f"agent '{agent}' acts in {space}; only Discrete and one-dimensional Box actions work")
    if not np.issubdtype(space.dtype, np.floating):
        raise AgentMixerError(f"agent '{agent}' has Box actions of whole numbers; make them Discrete or floating point")
    if not np.isfinite([space.low, space.high]).all():
        raise AgentMixerError(f"agent '{agent}' has Box actions without bounds; give the space a finite low and high")
    return space


def _fallback(space: spaces.Space, mask: np.ndarray | None) -> Action:
    """What an agent does when no decision arrives: its first action that is legal at the start, or no push."""
    if isinstance(space, spaces.Box):
        return tuple(float(x) for x in np.clip(0.0, space.low, space.high))
    return 0 if mask is None else int(np.argmax(mask))


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

    def actions(space: Any) -> ActionSpace:
        if isinstance(space, spaces.Discrete):
            return Discrete(int(space.n))
        return Box(tuple(map(float, space.low)), tuple(map(float, space.high)))

    spec = TaskSpec(
        name="pettingzoo",
        scenario=scenario,
        backend=backend,
        options=dict(options),
        agents=names,
        obs_names=tuple(tuple(f"obs_{i}" for i in range(size)) for size in team.obs_sizes),
        state_size=team.state_size,
        action_spaces=tuple(map(actions, team.action_spaces)),
        has_action_mask=team.has_action_mask,
        reports_wins=False,
        episode_limit=team.episode_limit,
        control_period_s=team.control_period_s,
        fallback_actions=team.fallback_actions,
        shared="reward",
    )
    check_actions(spec)
    return spec
