"""Environments of others' code as a task: many at once, in this process or spread over workers."""

from __future__ import annotations

import ctypes
import functools
import math
import multiprocessing
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import TaskStep, cores
from agentmixer.tasks.workers.chunk import Chunk, Failure, MakeEnv, Renewal, Request, Start, row_type
from agentmixer.tasks.workers.process_pool import Lost, ProcessPool
from agentmixer.tasks.workers.ray_pool import RayPool, cluster_cores

#: What a step came to, beside what an environment shows after it.
_OUTCOME = ("reward", "terminated", "truncated", "won", "final_obs", "final_state")
#: How often in a row environments are made anew, without a step in between; then the task ends, whatever is allowed.
IN_A_ROW = 5


class WorkerTask:
    """E environments, each a `RowEnv`. See `tasks.base.Task`.

    Code of others cannot be put back into mid-episode: `restore` starts the next episode of every stream.

    An environment that fails ends the task, unless `env_restarts` allows that it is made anew; it then goes on with the next
    episode of its stream. A worker that dies, or that does not answer in time, is an environment that fails for each of
    its environments. One that fails at every start is not tried for ever: see `IN_A_ROW`.
    """

    restarts = True
    env_restarts = 0
    lost: np.ndarray | None = None

    def __init__(
        self,
        spec: TaskSpec,
        num_envs: int,
        make: MakeEnv,
        workers: int,
        patience: float | None = None,
        ray: bool = False,
    ):
        """make: builds an environment, in the worker that steps it. workers: how many; 0 to step in this process. patience:
        seconds that a worker may take to answer. ray: whether workers are on a Ray cluster instead of processes of this
        machine.

        Raises AgentMixerError if workers do not start."""
        self.spec, self.num_envs = spec, num_envs
        self._failed = ""
        self._failures: list[str] = []
        self._last: TaskStep
        size = num_envs * row_type(spec).itemsize
        memory: Any = multiprocessing.RawArray(ctypes.c_byte, size) if workers and not ray else bytearray(size)
        self._rows = np.frombuffer(memory, row_type(spec))
        self._pool: ProcessPool | RayPool | None = None
        chunk: Callable[[range, Any], Chunk] = functools.partial(Chunk, spec, make)
        if not workers:
            self._chunk = chunk(range(num_envs), memory)
            return
        share = math.ceil(num_envs / workers)
        self._parts = [range(first, min(first + share, num_envs)) for first in range(0, num_envs, share)]
        makers = {_environments(part): functools.partial(chunk, part) for part in self._parts}
        if ray:
            self._pool = RayPool(makers, self._parts, self._rows, patience)
            return
        try:
            self._pool = ProcessPool(makers, memory, patience)
        except (AgentMixerError, OSError) as error:
            raise AgentMixerError(
                f"worker processes for {spec.scenario} did not start; see what they printed, and put a script's own calls "
                'under if __name__ == "__main__"'
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

    def failures(self) -> list[str]:
        """A sentence for every environment that was made anew since the last call."""
        told, self._failures = self._failures, []
        return told

    def _start(self, seed: int, streams: np.ndarray, episodes: np.ndarray) -> TaskStep:
        self._usable()
        if len(streams) != self.num_envs or seed < 0:
            raise AgentMixerError(f"reset needs a seed that is not negative and {self.num_envs} episode streams")
        self._seed, self._streams, self._next = seed, streams.copy(), episodes.copy()
        return self._ask(Start(seed, streams.tolist(), episodes.tolist()))

    def _ask(self, request: Start | Literal["step"]) -> TaskStep:
        """Have all environments do something, and copy out what they show."""
        stepped = request == "step"
        failed = self._do(request)
        lost = [index for index, failure in failed.items() if stepped and not failure.starting]
        renewed = list(failed)
        outcome = {name: self._rows[name][renewed] for name in _OUTCOME} if renewed and stepped else {}
        times = 0
        while failed:
            words = list(dict.fromkeys(failure.words for failure in failed.values()))
            if len(failed) > self.env_restarts or times == IN_A_ROW:
                again = [f"that was after it had been made anew {times} times in a row"] if times == IN_A_ROW else []
                self._failed = "; ".join(words + again)
                self._usable()
            times += 1
            self.env_restarts -= len(failed)
            self._failures += words
            self._next[[index for index, failure in failed.items() if failure.starting]] += 1
            failed = self._do(Renewal(tuple(failed), Start(self._seed, self._streams.tolist(), self._next.tolist())))
        for name, array in outcome.items():
            self._rows[name][renewed] = array
        shown = {name: self._rows[name] for name in TaskStep._fields}
        for name in ("obs", "action_mask", "active", "final_obs"):
            shown[name] = shown[name].swapaxes(0, 1)
        step = TaskStep(**{name: np.array(array, order="C") for name, array in shown.items()})
        self.lost = np.isin(np.arange(self.num_envs), lost) if lost else None
        if lost:
            step.reward[lost], step.terminated[lost], step.truncated[lost], step.won[lost] = 0, False, True, False
            step.final_obs[:, lost], step.final_state[lost] = self._last.obs[:, lost], self._last.state[lost]
        self._next += step.terminated | step.truncated if stepped else True
        self._last = step
        return step

    def _do(self, request: Request) -> dict[int, Failure]:
        """What failed in it, by the environment's number."""
        # Holds until all have answered: after an interruption some environments are a step behind the others.
        self._failed = "the task was interrupted while its environments were stepped or reset; make a new one"
        failed: dict[int, Failure] = {}
        if self._pool is None:
            failed = self._chunk.answer(request)
        else:
            if isinstance(request, Renewal):
                self._pool.renew()
            for part, answer in zip(self._parts, self._pool.ask(request), strict=True):
                if isinstance(answer, Lost):
                    answer = dict.fromkeys(part, Failure(answer.words, request != "step"))
                failed |= answer
        self._failed = ""
        return failed

    def _usable(self) -> None:
        if self._failed:
            raise AgentMixerError(self._failed)


def fitting_workers(num_envs: int, ray: bool = False) -> int:
    """One worker a core of this machine or, with ray, of the cluster, and no more than environments."""
    return min(num_envs, cluster_cores() if ray else cores())


def _environments(part: range) -> str:
    """Environments in words."""
    return f"environments {part[0]} to {part[-1]}" if len(part) > 1 else f"environment {part[0]}"
