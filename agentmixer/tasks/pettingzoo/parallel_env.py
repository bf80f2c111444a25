"""PettingZoo ParallelEnvs as a task: many at once, in this process or spread over worker processes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import multiprocessing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from agentmixer.contract.spec import OptionValue
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import TaskStep, cores
from agentmixer.tasks.pettingzoo.env_copy import EnvCopy, row_type
from agentmixer.tasks.pettingzoo.foreign_env import build
from agentmixer.tasks.pettingzoo.team_description import Team, describe, specification
from agentmixer.tasks.pettingzoo.worker_pool import WorkerPool

#: What a step came to, beside what an environment shows after it.
_OUTCOME = ("reward", "terminated", "truncated", "final_obs", "final_state")


class Start(NamedTuple):
    """The episodes to start: for each environment of the task a stream, and the number of an episode in that stream."""

    seed: int
    streams: list[int]
    episodes: list[int]

    def of(self, index: int) -> tuple[int, int, int]:
        """What `EnvCopy.reset` takes, for one environment."""
        return self.seed, self.streams[index], self.episodes[index]


class Renewal(NamedTuple):
    """Environments to make anew, and the episodes that they start."""

    numbers: tuple[int, ...]
    start: Start


class Failure(NamedTuple):
    """What failed in an environment, and whether that was the start of an episode."""

    words: str
    starting: bool


class Chunk:
    """Several environments stepped one after another, which write what they show into their rows of `memory`.

    Environments are built by the first start, in the process that steps them."""

    def __init__(self, scenario: str, options: Mapping[str, OptionValue], team: Team, numbers: range, memory: Any):
        """numbers: those of its environments. memory: holds a row for each environment of the task."""
        self.scenario, self.options, self.team, self.numbers = scenario, options, team, numbers
        self.rows = np.frombuffer(memory, row_type(team))
        self.copies: dict[int, EnvCopy] = {}

    def answer(self, request: Start | Renewal | Literal["step"]) -> dict[int, Failure]:
        """Start episodes, make environments anew, or take a step with the actions in the rows. Returns what failed, by the
        environment's number."""
        failed = {}
        for index in self.numbers:
            try:
                if isinstance(request, Renewal):
                    if index in request.numbers:
                        self._close(index)
                        self._copy(index).reset(*request.start.of(index))
                elif request == "step":
                    self._copy(index).step()
                else:
                    self._copy(index).reset(*request.of(index))
            except AgentMixerError as error:
                failed[index] = Failure(str(error), index not in self.copies or self.copies[index].starting)
        return failed

    def close(self) -> None:
        for index in self.numbers:
            self._close(index)

    def _copy(self, index: int) -> EnvCopy:
        if index not in self.copies:
            row = {name: self.rows[name][index, ...] for name in row_type(self.team).names or ()}
            self.copies[index] = EnvCopy(build(self.scenario, self.options), self.team, index, row)
        return self.copies[index]

    def _close(self, index: int) -> None:
        if index in self.copies:
            with contextlib.suppress(Exception):
                self.copies.pop(index).env.close()


class ParallelEnvTask:
    """E copies of a PettingZoo ParallelEnv. See `tasks.base.Task`.

    Reward, shared by the team: the mean over `possible_agents` of their rewards, which is the common reward where
    all get the same; an agent that is gone counts as 0. An episode ends when no agent is left; the episode is
    terminated if any of the agents that left last was terminated, else truncated. An agent that is gone is not
    active and observes zeros. Where the task masks actions, that agent's mask allows the fallback action alone. The
    environment never gets an action of an agent that is gone.

    Code of others cannot be put back into mid-episode: `restore` starts the next episode of every stream.

    An environment that fails ends the task, unless `env_restarts` allows that it is made anew; it then goes on with the next
    episode of its stream.
    """

    restarts = True
    env_restarts = 0
    lost: np.ndarray | None = None

    def __init__(
        self,
        scenario: str,
        num_envs: int,
        options: Mapping[str, OptionValue],
        backend: str = "processes",
        workers: int | None = None,
    ):
        """workers: processes; one a core, and none for a single environment, unless given."""
        self.spec = specification(scenario, backend, options)
        self.num_envs = num_envs
        self._failed = ""
        self._failures: list[str] = []
        self._last: TaskStep
        team = describe(scenario, options)
        if workers is None:
            workers = 0 if backend == "serial" or num_envs == 1 else min(num_envs, cores())
        size = num_envs * row_type(team).itemsize
        memory: Any = multiprocessing.RawArray(ctypes.c_byte, size) if workers else bytearray(size)
        self._rows = np.frombuffer(memory, row_type(team))
        self._pool: WorkerPool | None = None
        if not workers:
            self._chunk = Chunk(scenario, options, team, range(num_envs), memory)
            return
        share = math.ceil(num_envs / workers)
        parts = [range(first, min(first + share, num_envs)) for first in range(0, num_envs, share)]
        chunk = functools.partial(Chunk, scenario, dict(options), team)
        makers = {f"environments {part[0]} to {part[-1]}": functools.partial(chunk, part) for part in parts}
        try:
            self._pool = WorkerPool(makers, memory)
        except (AgentMixerError, OSError) as error:
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
        self._rows["actions"] = actions.numpy(force=True).swapaxes(0, 1)
        return self._ask("step")

    def snapshot(self) -> dict[str, np.ndarray]:
        """The seed, and of each environment its stream and the number of the episode that it will start next."""
        return {"seed": np.array(self._seed), "streams": self._streams.copy(), "episodes": self._next.copy()}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        """Start the episodes that would have come next."""
        return self._start(int(arrays["seed"]), np.asarray(arrays["streams"]), np.asarray(arrays["episodes"]))

    def close(self) -> None:
        """Close the environments and end the workers, by force if they do not answer."""
        (self._pool or self._chunk).close()
        self._failed = self._failed or "the task is closed; make a new one"

    def _start(self, seed: int, streams: np.ndarray, episodes: np.ndarray) -> TaskStep:
        self._usable()
        if len(streams) != self.num_envs or seed < 0:
            raise AgentMixerError(f"reset needs a seed that is not negative and {self.num_envs} episode streams")
        self._seed, self._streams, self._next = seed, streams.copy(), episodes.copy()
        return self._ask(Start(seed, streams.tolist(), episodes.tolist()))

    def failures(self) -> list[str]:
        """A sentence for every environment that was made anew since the last call."""
        told, self._failures = self._failures, []
        return told

    def _ask(self, request: Start | Literal["step"]) -> TaskStep:
        """Have all environments do something, and copy out what they show."""
        stepped = request == "step"
        failed = self._do(request)
        lost = [index for index, failure in failed.items() if stepped and not failure.starting]
        renewed = list(failed)
        outcome = {name: self._rows[name][renewed] for name in _OUTCOME} if renewed and stepped else {}
        while failed:
            if len(failed) > self.env_restarts:
                self._failed = next(iter(failed.values())).words
                self._usable()
            self.env_restarts -= len(failed)
            self._failures += [failure.words for failure in failed.values()]
            self._next[[index for index, failure in failed.items() if failure.starting]] += 1
            failed = self._do(Renewal(tuple(failed), Start(self._seed, self._streams.tolist(), self._next.tolist())))
        for name, array in outcome.items():
            self._rows[name][renewed] = array
        shown = {name: self._rows[name] for name in TaskStep._fields if name != "won"}
        for name in ("obs", "action_mask", "active", "final_obs"):
            shown[name] = shown[name].swapaxes(0, 1)
        own = {name: np.array(array, order="C") for name, array in shown.items()}
        step = TaskStep(won=np.zeros(self.num_envs, np.bool_), **own)
        self.lost = np.isin(np.arange(self.num_envs), lost) if lost else None
        if lost:
            step.reward[lost], step.terminated[lost], step.truncated[lost] = 0, False, True
            step.final_obs[:, lost], step.final_state[lost] = self._last.obs[:, lost], self._last.state[lost]
        self._next += step.terminated | step.truncated if stepped else True
        self._last = step
        return step

    def _do(self, request: Start | Renewal | Literal["step"]) -> dict[int, Failure]:
        """What failed in it, by the environment's number. Raises AgentMixerError if a worker is lost."""
        # Holds until all have answered: after an interruption some environments are a step behind the others.
        self._failed = "the task was interrupted while its environments were stepped or reset; make a new one"
        try:
            if self._pool is None:
                answers = [self._chunk.answer(request)]
            else:
                answers = self._pool.ask([request] * len(self._pool.processes))
        except AgentMixerError as error:
            self._failed = str(error)
            raise
        self._failed = ""
        return {index: failure for answer in answers for index, failure in answer.items()}

    def _usable(self) -> None:
        if self._failed:
            raise AgentMixerError(self._failed)
