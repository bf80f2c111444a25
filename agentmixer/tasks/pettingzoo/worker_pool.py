"""Worker processes that answer one request each, all at the same time; one that is lost is named."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, cast

from gymnasium.vector.utils import CloudpickleWrapper

from agentmixer.errors import AgentMixerError

#: How long all workers together may take to close, seconds.
CLOSING_TIME = 5.0


class Worker(Protocol):
    """What a worker process holds."""

    def answer(self, request: Any) -> Any: ...

    def close(self) -> None: ...


class WorkerPool:
    """One process a worker. Every worker is built in its own process, over memory that all processes share."""

    def __init__(self, makers: Mapping[str, Callable[[Any], Worker]], memory: Any):
        """makers: what a worker's process does, for sentences about it -> memory -> the worker.

        Raises AgentMixerError or OSError if a process does not start or a worker is not built."""
        context = multiprocessing.get_context("spawn")
        self.work = list(makers)
        self.processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        try:
            for make in makers.values():
                pipe, far_end = context.Pipe()
                process = context.Process(
                    target=_serve, args=(CloudpickleWrapper(cast(Any, make)), memory, far_end), daemon=True
                )
                # A process inherits what its parent has blocked. Ctrl-C reaches every process of a terminal, and while a
                # worker imports what it needs there is nobody in it who could ignore that. Python's resource tracker
                # unblocks it when it starts, so it is started before.
                resource_tracker.ensure_running()
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    with far_end:
                        process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                self.processes.append(process)
                self._pipes.append(pipe)
            self._answers()
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        """Give every worker its request and wait for all answers. Raises AgentMixerError naming lost workers."""
        for i, request in enumerate(requests):
            with self._loss_named(i):
                self._pipes[i].send(request)
        return self._answers()

    def close(self) -> None:
        """Close the workers and end their processes, by force if they do not end in time. Twice is harmless."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + CLOSING_TIME
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def _answers(self) -> list[Any]:
        return [self._answer(i) for i in range(len(self.processes))]

    def _answer(self, i: int) -> Any:
        with self._loss_named(i):
            # The end of a process is not always seen at its pipe, which processes that it started may hold open.
            while not self._pipes[i].poll(1.0):
                if not self.processes[i].is_alive():
                    raise EOFError
            return self._pipes[i].recv()

    @contextlib.contextmanager
    def _loss_named(self, i: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.processes[i].join(1.0)  # a process that ends closes its pipe a moment before it has an exit status
            lost = [self._obituary(k) for k, process in enumerate(self.processes) if not process.is_alive()]
            raise AgentMixerError("; ".join(lost) or f"a worker process does not answer ({error})") from error

    def _obituary(self, i: int) -> str:
        status = self.processes[i].exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return f"the worker process of {self.work[i]} {how}; if the machine ran out of memory, use fewer environments"


def _serve(maker: Any, memory: Any, pipe: Connection) -> None:
    """A worker's process: build the worker, say so, answer requests until there are no more."""
    # Ctrl-C reaches every process of a terminal; the trainer alone decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: Worker = maker.fn(memory)
    pipe.send(None)
    try:
        while (request := pipe.recv()) is not None:
            pipe.send(worker.answer(request))
    except (EOFError, OSError):  # the trainer is gone
        pass
    finally:
        worker.close()
