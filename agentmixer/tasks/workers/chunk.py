"""Several environments that one worker steps, each with a row of flat arrays that it reads and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError

#: An environment's row: views of the fields of `row_type`.
Row = Mapping[str, np.ndarray]


def episode_seed(seed: int, stream: int, number: int) -> int:
    """The seed of the `number`-th episode of a stream, 31 bits. Depends on nothing else."""
    return int(np.random.SeedSequence([seed, stream, number]).generate_state(1)[0]) >> 1


def row_type(spec: TaskSpec) -> np.dtype:
    """One environment's row: `TaskStep`'s fields, agents inside, and the actions that it is given."""
    agents, obs, state = spec.num_agents, max(spec.obs_sizes), spec.state_size
    choices = max(space.n for space in spec.action_spaces)
    return np.dtype(
        [
            ("obs", np.float32, (agents, obs)),
            ("state", np.float32, (state,)),
            ("reward", np.float32),
            ("final_obs", np.float32, (agents, obs)),
            ("final_state", np.float32, (state,)),
            ("actions", np.int32, (agents,)) if spec.discrete else ("actions", np.float32, (agents, spec.action_size)),
            ("action_mask", np.bool_, (agents, choices)),
            ("active", np.bool_, (agents,)),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("won", np.bool_),
        ],
        align=True,
    )


class RowEnv(Protocol):
    """One environment, which resets itself. It reads its actions from its row and writes there what it shows, `TaskStep`'s
    fields. Whatever fails in it is an AgentMixerError."""

    #: Whether an episode is to start; an environment that fails then has shown all of the one before.
    starting: bool

    def reset(self, seed: int, stream: int, number: int) -> None:
        """Start episode `number` of a stream."""
        ...

    def step(self) -> None:
        """Advance by one step; an episode that ends is followed by the next one's start."""
        ...

    def close(self) -> None: ...


#: The environment's number in the task, and its row -> the environment.
MakeEnv = Callable[[int, Row], RowEnv]


class Start(NamedTuple):
    """The episodes to start: for each environment of the task a stream, and the number of an episode in that stream."""

    seed: int
    streams: list[int]
    episodes: list[int]

    def of(self, index: int) -> tuple[int, int, int]:
        """What `RowEnv.reset` takes, for one environment."""
        return self.seed, self.streams[index], self.episodes[index]


class Renewal(NamedTuple):
    """Environments to make anew, and the episodes that they start."""

    numbers: tuple[int, ...]
    start: Start


class Failure(NamedTuple):
    """What failed in an environment, and whether that was the start of an episode."""

    words: str
    starting: bool


Request = Start | Renewal | Literal["step"]


class Chunk:
    """Several environments stepped one after another, which write what they show into their rows of `memory`.

    Environments are built by the first start, in the process that steps them."""

    def __init__(self, spec: TaskSpec, make: MakeEnv, numbers: range, memory: Any):
        """numbers: those of its environments. memory: holds a row for each environment of the task."""
        self.make, self.numbers = make, numbers
        self.rows = np.frombuffer(memory, row_type(spec))
        self.envs: dict[int, RowEnv] = {}

    def answer(self, request: Request) -> dict[int, Failure]:
        """Start episodes, make environments anew, or take a step with the actions in the rows. Returns what failed, by the
        environment's number."""
        failed = {}
        for index in self.numbers:
            try:
                if isinstance(request, Renewal):
                    if index in request.numbers:
                        self._close(index)
                        self._env(index).reset(*request.start.of(index))
                elif request == "step":
                    self._env(index).step()
                else:
                    self._env(index).reset(*request.of(index))
            except AgentMixerError as error:
                failed[index] = Failure(str(error), index not in self.envs or self.envs[index].starting)
        return failed

    def close(self) -> None:
        for index in self.numbers:
            self._close(index)

    def _env(self, index: int) -> RowEnv:
        if index not in self.envs:
            row = {name: self.rows[name][index, ...] for name in self.rows.dtype.names or ()}
            self.envs[index] = self.make(index, row)
        return self.envs[index]

    def _close(self, index: int) -> None:
        if index in self.envs:
            with contextlib.suppress(Exception):
                self.envs.pop(index).close()
