"""A program for test_killed.py: keeps what a run would leave if it were killed at each of its writes, and resumes from that.
Prints what it found as JSON.

Everything is imported once; each run to be watched and each to be resumed is a forked child, so that none takes longer
than its few updates. The task is one without JAX, which does not survive a fork.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from rich.console import Console
from safetensors.torch import load_file

from agentmixer import files, tasks
from agentmixer.tasks.mamujoco import mujoco_team
from agentmixer.train import checkpoint, records, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run

TASK, SCENARIO = "mamujoco", "Hopper-3x1"
#: Looked at now and not in every child; episodes of 5 steps, for judging whole ones is most of the work of so short a run.
LAYOUT = mujoco_team.layout(SCENARIO, "0")._replace(limit=5)
mujoco_team.layout = lambda *_: LAYOUT  # type: ignore[assignment]
#: Four updates of 8 steps. Checkpoints are due at 16 and 32, judging at 24 and at the end; it draws signals.
SETTINGS = {
    "num_envs": 2, "rollout_length": 4, "total_steps": 32, "chunk_length": 4, "minibatches": 1, "epochs": 1,
    "hidden": 8, "pm_width": 4, "pm_agent_hidden": 4, "pm_channel_hidden": 4, "share_parameters": False,
    "input_norm": "running", "signal": 2, "checkpoint_interval": 16, "eval_interval": 24, "eval_episodes": 2,
    "final_episodes": 2, "actor_lr": 0.05,
}  # fmt: skip
TIMES = {"seconds", "steps_per_second", "seconds_collecting", "seconds_updating"}


class Writes:
    """Notes what this process changes below a folder. Before each change, and in the middle of each file's content, the folder is
    copied to `left` under the change's number: as it would be left by a process killed at that moment. deadly: the number of the
    change before which this process is really killed; 0 if it lives."""

    def __init__(self, folder: Path, left: Path, deadly: int = 0):
        self.folder, self.left, self.deadly, self.seen = folder, left, deadly, list[str]()
        sys.addaudithook(self._hook)
        files.open = records.open = self._open  # type: ignore[attr-defined]

    def note(self, what: str, path: object) -> None:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not Path(name).is_relative_to(self.folder) or threading.current_thread() is not threading.main_thread():
            return
        change = f"{what} {os.path.relpath(name, self.folder)}"
        if self.seen and change == self.seen[-1]:  # said twice where `open` was given an opener
            return
        self.seen.append(change)
        if len(self.seen) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.folder.exists():
            shutil.copytree(self.folder, self.left / str(len(self.seen)))

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.note("open", arguments[0])
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            changes = os.path.lexists(arguments[0]) != (event == "os.mkdir")
            self.note(event[3:], arguments[0] if changes else "")

    def _open(self, file: Any, *arguments: Any, **named: Any) -> Any:
        return Halves(open(file, *arguments, **named), self)


class Halves:
    """A file that is written in two halves, with a chance to be killed between them."""

    def __init__(self, file: BinaryIO, writes: Writes):
        self._file, self._writes = file, writes
        self._path = os.readlink(f"/proc/self/fd/{file.fileno()}")

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._writes.note("half of", self._path)
        return half + self._file.write(data[half:])

    def __enter__(self) -> Halves:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def in_a_child(act: Callable[[], object]) -> int:
    """Its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def create(path: Path) -> Run:
    backend, options = tasks.check(TASK, SCENARIO, None, {})
    config = AgentMixerPPO.configure().replace(SETTINGS)
    return runs.create(TASK, SCENARIO, backend, "agentmixer_ppo", "default", 3, "cpu", options, config, path)


def train(path: Path, resume: bool) -> None:
    run = runs.load(path)
    assert trainer.train(runs.extend(run, None, None) if resume else run, Console(quiet=True), resume)


def watched(act: Callable[[], object], path: Path, deadly: int = 0) -> tuple[int, list[str], Path]:
    """Do something in a child. Returns its exit code, what it changed below `path`, and where each change left the folder."""
    left, told = path.with_name(f"left-by-{path.name}"), path.with_name(f"{path.name}.json")

    def child() -> None:
        writes = Writes(path, left, deadly)
        act()
        told.write_text(json.dumps([writes.seen, list(sys.modules)]))

    if code := in_a_child(child):
        return code, [], left
    seen, modules = json.loads(told.read_text())
    for name in modules:  # what it has imported on its way: later children find it here
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return code, seen, left


def outcome(path: Path) -> dict[str, Any]:
    """All that a finished run leaves, without times."""
    run = runs.load(path)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    summary = run.summary
    assert summary is not None
    saved = checkpoint.read_all(checkpoint.latest(run))
    assert saved.update is not None
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "summary": {key: value for key, value in summary.items() if key not in TIMES},
        "update": saved.update.numbers,
        "config": (path / "config.toml").read_text(),
        "files": sorted(
            str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file.parent.name != "tensorboard"
        ),
    }  # fmt: skip


def differences(path: Path, wanted: dict[str, Any], theirs: dict[str, torch.Tensor]) -> list[str]:
    """In what a run that was killed and resumed differs from the outcome and the tensors of one that was not."""
    try:
        found, ours = outcome(path), load_file(checkpoint.latest(runs.load(path)))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    wrong = [key for key in wanted if found[key] != wanted[key]]
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in theirs):
        wrong.append("tensors")
    return wrong


def main(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    began, failures = time.monotonic(), dict[str, Any]()

    # A creation, killed at every write: the same command works again, or the run is there.
    template = folder / "template"
    code, creations, left = watched(functools.partial(create, template), template)
    assert code == 0, "no run was created"
    for number, what in enumerate(creations, 1):
        path = left / str(number)
        again = create(path) if runs.is_vacant(path) else runs.load(path)
        if again != runs.load(path) or sorted(file.name for file in path.iterdir()) != ["config.toml", "lock"]:
            failures[f"creation {what}"] = "not as created"

    def copy(source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, folder / name))

    unbroken = copy(template, "unbroken")
    code, writes, left = watched(functools.partial(train, unbroken, resume=False), unbroken)
    assert code == 0, "the run that is not killed failed"
    wanted, theirs = outcome(unbroken), load_file(checkpoint.latest(runs.load(unbroken)))

    def finish(path: Path, what: str) -> None:
        code = in_a_child(functools.partial(train, path, resume=True))
        wrong = [f"exit code {code}"] if code else differences(path, wanted, theirs)
        if wrong:
            failures[what] = wrong
        shutil.rmtree(path)

    def names(path: Path) -> set[str]:
        found = (str(file.relative_to(path)) for file in path.rglob("*"))
        return {name for name in found if not name.startswith("tensorboard/")}

    # One that is really killed leaves what the others are taken to leave.
    deadly, killed = writes.index("half of checkpoints/step_000000000024.new.partial") + 1, copy(template, "killed")
    code, _, _ = watched(functools.partial(train, killed, resume=False), killed, deadly)
    if code != -signal.SIGKILL or names(killed) != names(left / str(deadly)):
        failures["killed"] = f"exit code {code}, {sorted(names(killed) ^ names(left / str(deadly)))}"
    finish(killed, "killed")

    resumed = []
    for number, what in enumerate(writes, 1):
        path = left / str(number)
        # Killed once more, at every write of the resumption: after the checkpoint of a step, before its line.
        if what == "half of metrics.jsonl" and runs.steps_done(runs.load(path)) == SETTINGS["total_steps"]:
            twice = copy(path, "resumed")
            _, resumed, left_again = watched(functools.partial(train, twice, resume=True), twice)
            for second, then in enumerate(resumed, 1):
                finish(left_again / str(second), f"{number} {what}, then {second} {then}")
        finish(path, f"{number} {what}")
    return {
        "creations": len(creations),
        "writes": writes,
        "resumed": resumed,
        "unbroken": wanted,
        "failures": failures,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve())))
