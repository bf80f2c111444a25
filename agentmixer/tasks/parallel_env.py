"""PettingZoo ParallelEnvs, many at once: one packed into flat arrays, several in a chunk, a chunk a process.

Gymnasium's AsyncVectorEnv runs the worker processes and their shared memory; a chunk is one of its environments.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import multiprocessing
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pettingzoo
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from agentmixer.contract.spec import (
    LONGEST_PERIOD_S,
    SHORTEST_PERIOD_S,
    Action,
    ActionSpace,
    Box,
    Discrete,
    TaskSpec,
)
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import TaskStep, cores
from agentmixer.tasks.pettingzoo import Options, arguments, factory

#: Where environments keep the length of an episode, most usual first.
LIMITS = ("max_cycles", "max_steps", "max_episode_steps", "episode_limit")
#: How long a worker may take to close its environments, seconds.
CLOSING_TIME = 5.0
Arrays = dict[str, np.ndarray]


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
        return tuple(int(space.n) if self.discrete else space.shape[0] for space in self.action_spaces)  # type: ignore

    @property
    def discrete(self) -> bool:
        return isinstance(self.action_spaces[0], spaces.Discrete)


def describe(scenario: str, options: Options) -> Team:
    """Build one environment, reset it, look and close it. A second call with the same arguments builds nothing.

    Raises AgentMixerError if the factory fails or gives an environment that cannot be used."""
    return _describe(scenario, json.dumps(options.as_dict(), sort_keys=True))


@functools.cache
def _describe(scenario: str, options: str) -> Team:
    env = _build(scenario, Options(**json.loads(options)))
    try:
        with _foreign(f"the first reset of {scenario}"):
            observations, infos = env.reset(seed=0)
            return _look(env, observations, infos)
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _build(scenario: str, options: Options) -> Any:
    """One environment. Raises AgentMixerError if the factory fails or gives something else."""
    make_env = factory(scenario)
    with _foreign(f"making {scenario}"):
        env = make_env(**arguments(options))
    if not isinstance(env, pettingzoo.ParallelEnv):
        raise AgentMixerError(
            f"{scenario} gives a {type(env).__name__}, not a PettingZoo ParallelEnv; turn an AECEnv into one with "
            "pettingzoo.utils.aec_to_parallel"
        )
    if not getattr(env, "possible_agents", None):
        raise AgentMixerError(f"the environment of {scenario} names no possible_agents; set that attribute")
    return env


@contextlib.contextmanager
def _foreign(doing: str) -> Iterator[None]:
    """Whatever code of others raises becomes an AgentMixerError that says during what, and what it was."""
    try:
        yield
    except AgentMixerError as error:
        raise AgentMixerError(f"{doing} failed: {error}") from error
    except Exception as error:
        words = " ".join(str(error).split())
        raise AgentMixerError(f"{doing} failed with {type(error).__name__}: {words}") from error


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
    masks = [_mask(agent, observations, infos) for agent in agents]
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


def _mask(agent: Any, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> np.ndarray | None:
    """The agent's action mask, where the environment gives one: as info, or beside the observation."""
    for source in (infos.get(agent), observations.get(agent)):
        if isinstance(source, Mapping) and source.get("action_mask") is not None:
            return np.asarray(source["action_mask"]).astype(bool)
    return None


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


def specification(scenario: str, backend: str, options: Options) -> TaskSpec:
    """What the environment promises, in AgentMixer's terms. Raises AgentMixerError if two agents' names would
    become one."""
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

    return TaskSpec(
        name="pettingzoo",
        scenario=scenario,
        backend=backend,
        options=options.as_dict(),
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


def episode_seed(seed: int, stream: int, number: int) -> int:
    """The seed of the `number`-th episode of a stream, 31 bits. Depends on nothing else."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1)[0]) >> 1


def _arrays(team: Team, envs: int) -> Arrays:
    """Room for what `envs` environments show: TaskStep's fields with environments outside and agents inside."""
    agents, obs, state = len(team.agents), max(team.obs_sizes), team.state_size

    def numbers(*shape: int) -> np.ndarray:
        return np.zeros((envs, *shape), np.float32)

    def flags(*shape: int) -> np.ndarray:
        return np.zeros((envs, *shape), np.uint8)

    return {
        "obs": numbers(agents, obs),
        "state": numbers(state),
        "action_mask": flags(agents, max(team.action_sizes)),
        "active": flags(agents),
        "reward": numbers(),
        "terminated": flags(),
        "truncated": flags(),
        "final_obs": numbers(agents, obs),
        "final_state": numbers(state),
    }


class _Copy:
    """One environment, which resets itself and writes what it shows into its row of the chunk's arrays."""

    def __init__(self, env: Any, team: Team, index: int, row: Arrays):
        self.env, self.team, self.index, self.row = env, team, index, row
        self.sizes, self.action_sizes = team.obs_sizes, team.action_sizes
        #: Which elements of the padded observations are an agent's own.
        self.own = np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]

    def reset(self, seed: int, stream: int, number: int) -> None:
        """Start episode `number` of a stream."""
        self.seed, self.stream, self.number = seed, stream, number
        self.row["reward"][()] = self.row["terminated"][()] = self.row["truncated"][()] = 0
        self._begin()
        self.row["final_obs"][:], self.row["final_state"][:] = self.row["obs"], self.row["state"]

    def step(self, actions: np.ndarray) -> None:
        """Advance by one step; an episode that ends is followed by the next one's start. actions: [N] or [N, A]."""
        team, row = self.team, self.row
        self.steps += 1
        with self._watched():
            acting = self.live
            chosen = {agent: self._action(i, actions[i]) for i, agent in enumerate(team.agents) if acting[i]}
            observations, rewards, terminations, truncations, infos = self.env.step(chosen)
            terminated, truncated = self._after(acting, terminations, truncations)
            self._known(observations, rewards, self.env.agents)
            row["reward"][()] = math.fsum(rewards.values()) / len(team.agents)
            if not np.isfinite(row["reward"]):
                raise AgentMixerError(f"a reward is not finite ({dict(rewards)})")
            row["terminated"][()], row["truncated"][()] = terminated, truncated
            ended = terminated or truncated
            # Those who saw the end are shown in the final observation.
            self._show(acting if ended else self.live, observations, infos, ended)
        row["final_obs"][:], row["final_state"][:] = row["obs"], row["state"]
        if ended:
            self.number += 1
            self._begin()

    def _begin(self) -> None:
        self.steps = 0
        with self._watched():
            observations, infos = self.env.reset(seed=episode_seed(self.seed, self.stream, self.number))
            self._known(observations, self.env.agents)
            self.live = [agent in self.env.agents for agent in self.team.agents]
            if not any(self.live):
                raise AgentMixerError("no agent is there after reset")
            self._show(self.live, observations, infos, False)

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        start = f"the episode that reset(seed={episode_seed(self.seed, self.stream, self.number)}) starts"
        return _foreign(f"environment {self.index}, step {self.steps} of {start},")

    def _known(self, *named: Iterable[Any]) -> None:
        for names in named:
            for agent in names:
                if agent not in self.team.agents:
                    raise AgentMixerError(f"agent '{agent}' is not one of possible_agents; name all agents there")

    def _action(self, i: int, action: np.ndarray) -> Any:
        space = self.team.action_spaces[i]
        if isinstance(space, spaces.Discrete):
            return np.int64(action + space.start)
        assert isinstance(space, spaces.Box)
        # Bounds that float32 cannot hold exactly would be overstepped by a rounding error.
        return np.minimum(np.maximum(action[: space.shape[0]].astype(space.dtype), space.low), space.high)

    def _after(self, acting: list[bool], terminations: Mapping[Any, Any], truncations: Mapping[Any, Any]) -> Any:
        """Who lives on, and whether the episode was terminated or truncated."""
        remaining = set(self.env.agents)
        self.live, terminated = [], False
        for agent, acted in zip(self.team.agents, acting, strict=True):
            ended, cut = bool(terminations.get(agent, False)), bool(truncations.get(agent, False))
            here = agent in remaining and not ended and not cut
            if here and not acted:
                raise AgentMixerError(f"agent '{agent}' appeared in mid-episode; agents may leave but not come")
            self.live.append(here)
            # An agent that left without a word was terminated.
            terminated |= acted and not here and (ended or not cut)
        over = not any(self.live)
        return over and terminated, over and not terminated

    def _show(self, who: list[bool], observations: Mapping[Any, Any], infos: Mapping[Any, Any], may_lack: bool) -> None:
        """Write obs, state, action_mask and active. At an episode's end an agent may lack its observation."""
        team, row = self.team, self.row
        row["obs"][:], row["action_mask"][:], row["active"][:] = 0.0, 0, who
        for i, (agent, shown) in enumerate(zip(team.agents, who, strict=True)):
            if shown and agent in observations:
                row["obs"][i, : self.sizes[i]] = self._observation(i, observations[agent])
            elif shown and not may_lack:
                raise AgentMixerError(f"agent '{agent}' was given no observation")
            row["action_mask"][i, : self.action_sizes[i]] = self._legal(i, shown, observations, infos)
        if not np.isfinite(row["obs"]).all():
            agent = team.agents[int(np.argmin(np.isfinite(row["obs"]).all(1)))]
            raise AgentMixerError(f"the observation of agent '{agent}' has a value that is not finite")
        row["state"][:] = self._state() if team.has_state else row["obs"][self.own]

    def _observation(self, i: int, value: Any) -> np.ndarray:
        agent, space = self.team.agents[i], self.team.observation_spaces[i]
        if isinstance(value, Mapping):
            value = value["observation"]
        if isinstance(space, spaces.Box):
            row = np.asarray(value)
            if row.shape != space.shape:
                raise AgentMixerError(
                    f"the observation of agent '{agent}' has shape {row.shape}, its space says {space.shape}"
                )
            return row.ravel()
        if not space.contains(value):
            raise AgentMixerError(f"the observation of agent '{agent}' is {value}, which is not in its space {space}")
        return np.asarray(flatten(space, value))

    def _legal(self, i: int, shown: bool, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> Any:
        """The mask's row of one agent."""
        team, agent, size = self.team, self.team.agents[i], self.action_sizes[i]
        if not team.discrete:
            return True
        if not shown:
            return np.arange(size) == team.fallback_actions[i]
        mask = _mask(agent, observations, infos)
        if mask is None:
            return True
        if not team.has_action_mask:
            raise AgentMixerError(f"agent '{agent}' has an action mask, but no agent had one after the first reset")
        if mask.shape != (size,) or not mask.any():
            raise AgentMixerError(f"the action mask of agent '{agent}' must have {size} elements and allow one action")
        return mask

    def _state(self) -> np.ndarray:
        state = np.asarray(self.env.state(), np.float32).ravel()
        if state.shape != (self.team.state_size,):
            raise AgentMixerError(f"the state has {state.size} elements, after the first reset {self.team.state_size}")
        if not np.isfinite(state).all():
            raise AgentMixerError("the state has a value that is not finite")
        return state


class Chunk(gymnasium.Env):
    """Several environments stepped one after another, seen from outside as one environment.

    It never ends: its environments reset themselves. What failed is told in info["error"], so that the process
    lives on and can be closed. Environments are built by the first reset, in the process that will step them.
    """

    metadata: dict[str, Any] = {}  # noqa: RUF012  Gymnasium writes into it; its own is shared by all environments

    def __init__(self, scenario: str, options: Options, team: Team, first: int, count: int, size: int):
        """`count` environments numbered from `first`, in arrays with room for `size`."""
        self.scenario, self.options, self.team = scenario, options, team
        self.numbers, self.copies = range(first, first + count), list[_Copy]()
        self.arrays = _arrays(team, size)
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(0, 1, array.shape, np.uint8)
                if array.dtype == np.uint8
                else spaces.Box(-np.inf, np.inf, array.shape, np.float32)
                for name, array in self.arrays.items()
            }
        )
        shape, agents = (size, len(team.agents)), max(team.action_sizes)
        self.action_space = (
            spaces.Box(0, np.iinfo(np.int32).max, shape, np.int32)
            if team.discrete
            else spaces.Box(-np.inf, np.inf, (*shape, agents), np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes. seed: the run's; options["streams"], options["episodes"]: a number an environment of
        the whole task."""
        assert seed is not None and options is not None
        try:
            if not self.copies:
                self._build()
            for copy in self.copies:
                copy.reset(seed, options["streams"][copy.index], options["episodes"][copy.index])
        except AgentMixerError as error:
            return self.arrays, {"error": str(error)}
        return self.arrays, {}

    def step(self, actions: np.ndarray) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Advance every environment. actions: [size, N] or [size, N, A]."""
        try:
            for copy, chosen in zip(self.copies, actions, strict=False):  # the last chunk may not be full
                copy.step(chosen)
        except AgentMixerError as error:
            return self.arrays, 0.0, False, False, {"error": str(error)}
        return self.arrays, 0.0, False, False, {}

    def close(self) -> None:
        for copy in self.copies:
            with contextlib.suppress(Exception):
                copy.env.close()
        self.copies = []

    def _build(self) -> None:
        if multiprocessing.parent_process() is not None:
            # Ctrl-C reaches every process of a terminal; the trainer alone decides when to stop.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for i, index in enumerate(self.numbers):
            row = {name: array[i : i + 1].reshape(array.shape[1:]) for name, array in self.arrays.items()}
            self.copies.append(_Copy(_build(self.scenario, self.options), self.team, index, row))


class ParallelEnvTask:
    """E copies of a PettingZoo ParallelEnv. See `tasks.base.Task`.

    Reward, shared by the team: the mean over `possible_agents` of their rewards, which is the common reward where
    all get the same; an agent that is gone counts as 0. An episode ends when no agent is left; it is terminated
    if any of the agents that left last was, else truncated. An agent that is gone is not active, observes zeros
    and may only take its fallback action.

    Code of others cannot be put back into mid-episode: `restore` starts the next episode of every stream.
    """

    restarts = True

    def __init__(
        self, scenario: str, num_envs: int, options: Options, backend: str = "processes", workers: int | None = None
    ):
        """workers: processes; one a core, and none for a single environment, unless given."""
        self.spec = specification(scenario, backend, options)
        self.num_envs = num_envs
        self._team = describe(scenario, options)
        self._vector: AsyncVectorEnv | None = None
        self._failed = ""
        if workers is None:
            workers = 0 if backend == "serial" or num_envs == 1 else min(num_envs, cores())
        self._size = math.ceil(num_envs / max(workers, 1))
        chunks = [
            functools.partial(
                Chunk, scenario, options, self._team, first, min(self._size, num_envs - first), self._size
            )
            for first in range(0, num_envs, self._size)
        ]
        self._chunk = chunks[0]()
        if workers:
            try:
                self._vector = AsyncVectorEnv(
                    chunks, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED
                )
            except (EOFError, OSError) as error:
                raise AgentMixerError(
                    f"worker processes for {scenario} did not start; see what they printed, put a script's own calls "
                    'under if __name__ == "__main__", or use backend serial'
                ) from error

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        """Start every environment in its stream, `episodes[e]` or e. Raises AgentMixerError if one fails."""
        streams = np.arange(self.num_envs) if episodes is None else np.asarray(episodes)
        return self._start(seed, streams, np.zeros(self.num_envs, np.int64))

    def step(self, actions: Any) -> TaskStep:
        self._usable()
        chosen = actions.numpy(force=True).astype(self._chunk.action_space.dtype, copy=False).swapaxes(0, 1)
        if self._vector is None:
            shown, *_, told = self._chunk.step(chosen)
            return self._finish(shown, told)
        padded = np.zeros((len(self._vector.processes) * self._size, *chosen.shape[1:]), chosen.dtype)
        padded[: self.num_envs] = chosen
        with self._lost_workers_named():
            self._vector.step_async(padded.reshape(-1, *self._chunk.action_space.shape))  # type: ignore[misc]
            self._await()
            result = self._vector.step_wait()
        return self._finish(result[0], result[-1])

    def snapshot(self) -> dict[str, np.ndarray]:
        """The seed, and of each environment its stream and the number of the episode that it will start next."""
        return {"seed": np.array(self._seed), "streams": self._streams.copy(), "episodes": self._next.copy()}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        """Start the episodes that would have come next."""
        return self._start(int(arrays["seed"]), np.asarray(arrays["streams"]), np.asarray(arrays["episodes"]))

    def close(self) -> None:
        """Close the environments and end the workers, by force if they do not answer."""
        if self._vector is None:
            self._chunk.close()
        elif not self._vector.closed:
            for pipe in self._vector.parent_pipes:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
            deadline = time.monotonic() + CLOSING_TIME
            for process in self._vector.processes:
                process.join(max(0.0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
                    process.join()
            for pipe in self._vector.parent_pipes:
                pipe.close()
            self._vector.closed = True
        self._failed = self._failed or "the task is closed; make a new one"

    def _start(self, seed: int, streams: np.ndarray, episodes: np.ndarray) -> TaskStep:
        self._usable()
        if len(streams) != self.num_envs or seed < 0:
            raise AgentMixerError(f"reset needs a seed that is not negative and {self.num_envs} episode streams")
        self._seed, self._streams, self._next = seed, streams.copy(), episodes + 1
        options = {"streams": streams.tolist(), "episodes": episodes.tolist()}
        if self._vector is None:
            return self._finish(*self._chunk.reset(seed=seed, options=options))
        with self._lost_workers_named():
            self._vector.reset_async([seed] * len(self._vector.processes), options)
            self._await()
            result: Any = self._vector.reset_wait()
        return self._finish(*result)

    def _finish(self, arrays: Any, infos: Mapping[str, Any]) -> TaskStep:
        """Environments-outside arrays, or chunks of such, as a TaskStep of its own memory."""
        if "error" in infos:
            self._failed = next(words for words in np.atleast_1d(infos["error"]) if words)
            raise AgentMixerError(self._failed)
        flat = {
            name: arrays[name].reshape(-1, *kept.shape[1:])[: self.num_envs]
            for name, kept in self._chunk.arrays.items()
        }
        for name in ("obs", "action_mask", "active", "final_obs"):
            flat[name] = flat[name].swapaxes(0, 1)
        for name in ("action_mask", "active", "terminated", "truncated"):
            flat[name] = flat[name].astype(np.bool_)
        own = {name: np.array(array, order="C") for name, array in flat.items()}
        self._next += own["terminated"] | own["truncated"]
        return TaskStep(won=np.zeros(self.num_envs, np.bool_), **own)

    def _usable(self) -> None:
        if self._failed:
            raise AgentMixerError(self._failed)

    def _await(self) -> None:
        """Wait until every worker has answered. Raises EOFError if one is gone, which a pipe alone does not always
        tell: the environment's own child processes may hold its other end."""
        assert self._vector is not None
        for pipe, process in zip(self._vector.parent_pipes, self._vector.processes, strict=True):
            while not pipe.poll(1.0):
                if not process.is_alive():
                    raise EOFError

    @contextlib.contextmanager
    def _lost_workers_named(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            assert self._vector is not None
            time.sleep(0.1)  # the pipe closes a moment before the process has its exit status
            dead = [i for i, process in enumerate(self._vector.processes) if not process.is_alive()]
            self._failed = "; ".join(self._obituary(i) for i in dead) or f"a worker process does not answer ({error})"
            raise AgentMixerError(self._failed) from error

    def _obituary(self, i: int) -> str:
        assert self._vector is not None
        status = self._vector.processes[i].exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        last = min((i + 1) * self._size, self.num_envs) - 1
        return (
            f"the worker process of environments {i * self._size} to {last} {how}; if the machine ran out of "
            "memory, use fewer environments"
        )
