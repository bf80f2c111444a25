"""Worker processes that answer one request each, all at the same time; one that is lost is named, and can be made anew."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, Protocol, cast

from gymnasium.vector.utils import CloudpickleWrapper

from agentmixer.errors import AgentMixerError

#: How long all workers together may take to close, seconds.
CLOSING_TIME = 5.0


class Worker(Protocol):
    """What a worker process holds."""

    def answer(self, request: Any) -> Any: ...

    def close(self) -> None: ...


class Lost(NamedTuple):
    """Stands for the answer of a worker that will not give one. words: a sentence about what became of it."""

    words: str


class ProcessPool:
    """One process a worker. Every worker is built in its own process, over memory that all processes share.

    A worker's process leads a process group: what it starts is ended with it, and Ctrl-C in a terminal does not reach
    either."""

    def __init__(self, makers: Mapping[str, Callable[[Any], Worker]], memory: Any, patience: float | None = None):
        """makers: what a worker's process does, for sentences about it -> memory -> the worker. patience: seconds that a
        worker may take for an answer; a worker that takes longer is ended.

        Raises AgentMixerError or OSError if a process does not start or a worker is not built."""
        self.work, self._makers, self._memory, self._patience = list(makers), list(makers.values()), memory, patience
        self.processes: list[SpawnProcess] = [cast(Any, None)] * len(makers)
        self._pipes: list[Connection] = [cast(Any, None)] * len(makers)
        self._lost: dict[int, Lost] = {}
        try:
            self._start(range(len(makers)))
            if self._lost:
                raise AgentMixerError("; ".join(lost.words for lost in self._lost.values()))
        except BaseException:
            self.close()
            raise

    def ask(self, request: Any) -> list[Any]:
        """Give every worker the request and wait for all answers. A worker that is lost answers `Lost`, until `renew`."""
        for i in range(len(self.work)):
            if i not in self._lost:
                with contextlib.suppress(OSError):  # it is dead, and has no answer then either
                    self._pipes[i].send(request)
        return self._answers(range(len(self.work)))

    def renew(self) -> None:
        """Start a new process for every worker that is lost. One that cannot be built is lost again."""
        again = list(self._lost)
        for i in again:
            self._pipes[i].close()
        self._start(again)

    def close(self) -> None:
        """Close the workers and end their processes, by force if they do not end in time. Twice is harmless."""
        pipes = [pipe for pipe in self._pipes if pipe]
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + CLOSING_TIME
        for process in self.processes:
            if process:
                process.join(max(0.0, deadline - time.monotonic()))
                _end(process)
        for pipe in pipes:
            pipe.close()

    def _start(self, which: Iterable[int]) -> None:
        context = multiprocessing.get_context("spawn")
        which = list(which)
        for i in which:
            pipe, far_end = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(CloudpickleWrapper(cast(Any, self._makers[i])), self._memory, far_end),
                daemon=True,
            )
            # A process inherits what its parent has blocked. Ctrl-C reaches every process of a terminal, and while a worker
            # imports what it needs there is nobody in it who could ignore that. Python's resource tracker unblocks it when
            # it starts, so it is started before.
            resource_tracker.ensure_running()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with far_end:
                    process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.processes[i], self._pipes[i] = process, pipe
            self._lost.pop(i, None)
        self._answers(which)

    def _answers(self, which: Iterable[int]) -> list[Any]:
        deadline = None if self._patience is None else time.monotonic() + self._patience
        return [self._answer(i, deadline) for i in which]

    def _answer(self, i: int, deadline: float | None) -> Any:
        if i in self._lost:
            return self._lost[i]
        late = False
        try:
            # The end of a process is not always seen at its pipe, which processes that it started may hold open.
            while not self._pipes[i].poll(1.0 if deadline is None else min(1.0, max(0.0, deadline - time.monotonic()))):
                late = deadline is not None and time.monotonic() >= deadline
                if late or not self.processes[i].is_alive():
                    raise EOFError
            return self._pipes[i].recv()
        except (EOFError, OSError):
            self.processes[i].join(0.0 if late else 1.0)  # its pipe closes a moment before it has an exit status
            self._lost[i] = Lost(f"the worker process of {self.work[i]} {self._fate(i, late)}")
            _end(self.processes[i])
            return self._lost[i]

    def _fate(self, i: int, late: bool) -> str:
        if late:
            return f"gave no answer for {self._patience:g} s, and was ended"
        status = self.processes[i].exitcode
        if status is None:
            return "does not answer, and was ended"
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return f"{how}; if the machine ran out of memory, use fewer environments"


def _end(process: SpawnProcess) -> None:
    """End a worker's process, if it has not ended, and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(cast(int, process.pid), signal.SIGKILL)
    if process.is_alive():
        process.kill()
        process.join()


def _serve(maker: Any, memory: Any, pipe: Connection) -> None:
    """A worker's process: build the worker, say so, answer requests until there are no more."""
    # Ctrl-C reaches every process of a terminal; the trainer alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.dup2(2, 1)  # what environments print is no part of a command's output
    worker: Worker = maker.fn(memory)
    pipe.send(None)
    try:
        while (request := pipe.recv()) is not None:
            pipe.send(worker.answer(request))
    except (EOFError, OSError):  # the trainer is gone
        pass
    finally:
        worker.close()
