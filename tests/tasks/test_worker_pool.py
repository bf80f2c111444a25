"""Worker processes: who is lost is named, who hangs is ended, and nobody waits for ever."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.pettingzoo import worker_pool
from agentmixer.tasks.pettingzoo.worker_pool import WorkerPool


class Obedient:
    """Does what the request says."""

    def __init__(self, memory: Any):
        self.memory = memory

    def answer(self, request: Any) -> Any:
        if isinstance(request, int):  # add to the shared byte
            self.memory[0] += request
        elif request == "fork and die":  # the child holds the pipe's end open for longer than anybody waits
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        elif request == "exit":
            os._exit(3)
        return request

    def close(self) -> None:
        if self.memory[0] < 0:
            time.sleep(60)


def refusing(memory: Any) -> Obedient:
    raise RuntimeError("no licence")


def shared() -> Any:
    return multiprocessing.RawArray(ctypes.c_byte, 1)


def test_answers_come_in_order_and_memory_is_shared() -> None:
    memory = shared()
    pool = WorkerPool({"one": Obedient, "two": Obedient}, memory)
    assert pool.ask(["a", "b"]) == ["a", "b"]
    assert pool.ask([5, "c"]) == [5, "c"] and memory[0] == 5
    pool.close()
    pool.close()
    assert [process.exitcode for process in pool.processes] == [0, 0]


def test_a_worker_that_dies_is_named_though_its_pipe_stays_open() -> None:
    pool = WorkerPool({"the first half": Obedient, "the second half": Obedient}, shared())
    with pytest.raises(AgentMixerError, match="worker process of the second half was killed by SIGKILL"):
        pool.ask(["a", "fork and die"])
    pool.close()


def test_all_workers_that_ended_are_named() -> None:
    pool = WorkerPool({"left": Obedient, "right": Obedient}, shared())
    for process in pool.processes:
        process.kill()
        process.join()
    with pytest.raises(AgentMixerError, match=r"of left was killed by SIGKILL.*; the worker process of right was"):
        pool.ask(["a", "b"])
    pool.close()


def test_a_worker_that_hangs_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "CLOSING_TIME", 0.5)
    pool = WorkerPool({"one": Obedient}, shared())
    pool.ask([-1])
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 10
    assert pool.processes[0].exitcode == -signal.SIGKILL


def test_a_worker_that_cannot_be_built_is_named_and_the_others_are_closed() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(AgentMixerError, match="worker process of two ended with exit status 1"):
        WorkerPool({"one": Obedient, "two": refusing}, shared())
    assert set(multiprocessing.active_children()) <= set(before)


BLOCKED = """
import signal
from agentmixer.tasks.pettingzoo.worker_pool import WorkerPool

class Blocked:
    def __init__(self, memory):
        self.found = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    def answer(self, request):
        return self.found
    def close(self):
        pass

if __name__ == "__main__":
    pool = WorkerPool({"one": Blocked, "two": Blocked}, None)
    print(pool.ask([1, 2]))
    pool.close()
"""


def test_the_first_workers_of_a_process_too_begin_with_ctrl_c_blocked(tmp_path: Path) -> None:
    """The first process that Python's multiprocessing starts comes with a tracker, which unblocks it."""
    (tmp_path / "program.py").write_text(BLOCKED)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[True, True]\n", "")
