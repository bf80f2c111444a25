"""Workers on a Ray cluster, which answer as those of `process_pool` do. Rows travel with requests and answers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.workers.chunk import Chunk, Request
from agentmixer.tasks.workers.process_pool import CLOSING_TIME, Lost

#: Seconds that the cluster may take to start workers, where a task says nothing.
STARTING_TIME = 120.0


def connected() -> Any:
    """The package ray, connected to the cluster that RAY_ADDRESS names.

    Raises AgentMixerError if there is no such package, no RAY_ADDRESS, or no cluster that answers there."""
    try:
        import ray
    except ImportError:
        raise AgentMixerError("--workers ray needs the package ray; pip install 'agentmixer[ray]'") from None
    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise AgentMixerError(
            "--workers ray needs a Ray cluster, and RAY_ADDRESS names none; ray start --head starts one on this machine, and "
            "RAY_ADDRESS=auto finds it"
        )
    _check_listens(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise AgentMixerError(f"no Ray cluster answers at RAY_ADDRESS={address}: {words}") from error
    finally:
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # only the main thread may
                signal.signal(number, handler)
    # Ray prints what became of workers to standard output, which is the command's own. `Lost` says it too.
    ray._private.worker.print_to_stdstream = lambda *_args, **_options: None
    return ray


def _check_listens(address: str) -> None:
    """Raise AgentMixerError if nobody listens at host:port: Ray itself would go on trying for minutes. Other addresses, such as
    auto, are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), 10).close()
        except (OSError, OverflowError) as error:
            raise AgentMixerError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error


def cluster_cores() -> int:
    """Cores of the cluster that RAY_ADDRESS names. See `connected`."""
    return max(1, int(connected().cluster_resources().get("CPU", 1)))


class RayPool:
    """One Ray actor a worker, spread over the cluster's nodes. A worker whose node is lost is made anew on another one.

    Workers are told this process's import folders and working directory, for environments that are not installed: on another
    machine those folders must be there too."""

    def __init__(
        self,
        makers: Mapping[str, Callable[[Any], Chunk]],
        parts: Sequence[range],
        rows: np.ndarray,
        patience: float | None = None,
    ):
        """makers: what a worker does, for sentences about it -> memory -> its chunk. parts: the environments of each worker.
        rows: those of all environments, of `row_type`. patience: see `ProcessPool`.

        Raises AgentMixerError if there is no cluster, or a worker is not built."""
        self._ray = connected()
        self.work, self._makers, self._parts = list(makers), list(makers.values()), parts
        self._rows, self._patience = rows, patience
        self._actors: dict[int, Any] = {}
        self._lost: dict[int, Lost] = {}
        try:
            self._start(range(len(makers)))
            if self._lost:
                raise AgentMixerError("; ".join(lost.words for lost in self._lost.values()))
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request) -> list[Any]:
        """See `ProcessPool.ask`. The answers' rows are in `rows` then."""
        asked = {
            i: self._actors[i].answer.remote(request, self._rows["actions"][part])
            for i, part in enumerate(map(_slice, self._parts))
            if i not in self._lost
        }
        answers = self._answers(asked, self._patience, f"gave no answer for {self._patience or 0:g} s, and was ended")
        for i, (_, rows) in answers.items():
            self._rows[_slice(self._parts[i])] = rows
        return [answers[i][0] if i in answers else self._lost[i] for i in range(len(self.work))]

    def renew(self) -> None:
        """See `ProcessPool.renew`."""
        self._start(list(self._lost))

    def close(self) -> None:
        """See `ProcessPool.close`."""
        with contextlib.suppress(Exception):  # whoever does not close is killed
            closing = [actor.close.remote() for actor in self._actors.values()]
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSING_TIME)
        for i in list(self._actors):
            self._end(i)

    def _start(self, which: Iterable[int]) -> None:
        # Little of a processor is claimed: what is lost must find a place among the nodes that are left.
        actor = self._ray.remote(num_cpus=0.01, max_restarts=0, scheduling_strategy="SPREAD")(Held)
        which = list(which)
        for i in which:
            self._actors[i] = actor.remote(
                self._makers[i], self._rows.nbytes, _slice(self._parts[i]), sys.path, os.getcwd()
            )
            self._lost.pop(i, None)
        patience = self._patience or STARTING_TIME
        late = f"did not start in {patience:g} s; the command ray status says whether the cluster has a core to spare"
        self._answers({i: self._actors[i].built.remote() for i in which}, patience, late)

    def _answers(self, asked: Mapping[int, Any], patience: float | None, late: str) -> dict[int, Any]:
        """What workers answered in time, by their number; the others are lost. late: what is said of one that took longer."""
        deadline = None if patience is None else time.monotonic() + patience
        answers = {}
        for i, reference in asked.items():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                answers[i] = self._ray.get(reference, timeout=left)
                continue
            except self._ray.exceptions.GetTimeoutError:
                fate = late
            except self._ray.exceptions.RayActorError as error:
                fate = f"was lost: {str(error).splitlines()[0]}"
            self._lost[i] = Lost(f"the Ray worker of {self.work[i]} {fate}")
            self._end(i)
        return answers

    def _end(self, i: int) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(self._actors.pop(i))


class Held:
    """What an actor holds: a chunk, and memory for the rows of all environments, of which it uses its own."""

    def __init__(self, make: Callable[[Any], Chunk], size: int, own: slice, path: list[str], folder: str):
        """size: bytes of all rows. path, folder: import folders and working directory of the process that asks."""
        sys.path += [place for place in path if place not in sys.path]
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self.chunk, self.own = make(bytearray(size)), own

    def built(self) -> None:
        """Answer once the chunk is there."""

    def answer(self, request: Request, actions: np.ndarray) -> tuple[Any, np.ndarray]:
        """The chunk's answer, and its environments' rows after it."""
        self.chunk.rows["actions"][self.own] = actions
        return self.chunk.answer(request), self.chunk.rows[self.own].copy()

    def close(self) -> None:
        self.chunk.close()


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
