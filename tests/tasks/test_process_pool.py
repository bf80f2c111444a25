"""Worker processes: who is lost is named, who hangs is ended, and nobody waits for ever."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.workers import process_pool
from agentmixer.tasks.workers.process_pool import Lost, ProcessPool


class Obedient:
    """Does what the request says, if it is said to this worker."""

    def __init__(self, name: str, memory: Any):
        self.name, self.memory = name, memory

    def answer(self, request: dict[str, Any]) -> Any:
        told = request.get(self.name)
        if isinstance(told, int):  # add to the shared byte
            self.memory[0] += told
        elif told == "fork and die":  # the child holds the pipe's end open for longer than anybody waits
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        elif told == "hang":
            child = subprocess.Popen(["sleep", "60"])
            Path(os.environ["TMPDIR_OF_TEST"], "child").write_text(str(child.pid))
            time.sleep(60)
        return self.name, told

    def close(self) -> None:
        if self.memory[0] < 0:
            time.sleep(60)


def refusing(memory: Any) -> Obedient:
    raise RuntimeError("no licence")


def shared() -> Any:
    return multiprocessing.RawArray(ctypes.c_byte, 1)


def pool_of(*names: str, memory: Any = None, patience: float | None = None) -> ProcessPool:
    return ProcessPool({name: functools.partial(Obedient, name) for name in names}, memory or shared(), patience)


def test_answers_come_in_order_and_memory_is_shared() -> None:
    memory = shared()
    pool = pool_of("one", "two", memory=memory)
    assert pool.ask({"two": "b"}) == [("one", None), ("two", "b")]
    assert pool.ask({"one": 5})[0] == ("one", 5) and memory[0] == 5
    assert (
        pool.ask({"two": 4})[1] == ("two", 4) and memory[0] == 9
    )  # one after the other: to add is to read and to write
    pool.close()
    pool.close()
    assert [process.exitcode for process in pool.processes] == [0, 0]


def test_a_worker_that_dies_is_named_though_its_pipe_stays_open_and_can_be_made_anew() -> None:
    pool = pool_of("the first half", "the second half")
    first, second = pool.ask({"the second half": "fork and die"})
    assert first == ("the first half", None)
    assert second.words.startswith(
        "the worker process of the second half was killed by SIGKILL; if the machine ran out"
    )
    assert pool.ask({}) == [first, second]
    pool.renew()
    assert pool.ask({}) == [("the first half", None), ("the second half", None)]
    pool.close()


def test_all_workers_that_ended_are_named() -> None:
    pool = pool_of("left", "right")
    for process in pool.processes:
        process.kill()
        process.join()
    words = [lost.words for lost in pool.ask({})]
    assert ["of left was killed by SIGKILL" in words[0], "of right was killed by SIGKILL" in words[1]] == [True, True]
    pool.close()


def test_a_worker_that_takes_too_long_is_ended_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR_OF_TEST", str(tmp_path))
    pool = pool_of("one", "two", patience=5.0)  # more than a worker takes to start on a busy machine
    assert pool.ask({"one": "hang"}) == [
        Lost("the worker process of one gave no answer for 5 s, and was ended"),
        ("two", None),
    ]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pool.close()


def test_a_worker_that_hangs_at_its_end_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "CLOSING_TIME", 0.5)
    pool = pool_of("one")
    pool.ask({"one": -1})
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 10
    assert pool.processes[0].exitcode == -signal.SIGKILL


def test_a_worker_that_cannot_be_built_is_named_and_the_others_are_closed() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(AgentMixerError, match="worker process of two ended with exit status 1"):
        ProcessPool({"one": functools.partial(Obedient, "one"), "two": refusing}, shared())
    assert set(multiprocessing.active_children()) <= set(before)


BLOCKED = """
import signal
from agentmixer.tasks.workers.process_pool import ProcessPool

class Blocked:
    def __init__(self, memory):
        self.found = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    def answer(self, request):
        print("an environment may print")
        return self.found
    def close(self):
        pass

if __name__ == "__main__":
    pool = ProcessPool({"one": Blocked, "two": Blocked}, None)
    print(pool.ask(1))
    pool.close()
"""


def test_the_first_workers_of_a_process_too_begin_with_ctrl_c_blocked_and_print_to_stderr(tmp_path: Path) -> None:
    """The first process that Python's multiprocessing starts comes with a tracker, which unblocks Ctrl-C."""
    (tmp_path / "program.py").write_text(BLOCKED)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True)
    # Two processes write at the same time, and a line's end may come after the other's line.
    assert (done.stdout, done.stderr.replace("\n", "")) == ("[True, True]\n", "an environment may print" * 2)
