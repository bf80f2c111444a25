"""A program for test_killed.py: kills a run at each of its writes and resumes it. Prints what it found as JSON.

Everything is imported once; each run to be killed and each to be resumed is a forked child, so that none takes longer
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
from agentmixer.tasks import registry
from agentmixer.tasks.mamujoco import mujoco_team
from agentmixer.train import checkpoint, records, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run

TASK, SCENARIO = "mamujoco", "Hopper-3x1"
#: Looked at now and not in every child; episodes of 5 steps, for judging whole ones is most of the work of so short a run.
LAYOUT = mujoco_team.layout(SCENARIO, "0")._replace(limit=5)
mujoco_team.layout = lambda *_: LAYOUT  # type: ignore[assignment]
registry.entry_points = functools.cache(registry.entry_points)  # so is what is installed
#: Four updates of 8 steps. Checkpoints are due at 16 and 32, judging at 24 and at the end; it draws signals.
SETTINGS = {
    "num_envs": 2, "rollout_length": 4, "total_steps": 32, "chunk_length": 4, "minibatches": 1, "epochs": 1,
    "hidden": 8, "pm_width": 4, "pm_agent_hidden": 4, "pm_channel_hidden": 4, "share_parameters": False,
    "input_norm": "running", "signal": 2, "checkpoint_interval": 16, "eval_interval": 24, "eval_episodes": 2,
    "final_episodes": 2, "actor_lr": 0.05,
}  # fmt: skip
TIMES = {"seconds", "steps_per_second", "seconds_collecting", "seconds_updating"}


class Writes:
    """Counts what this process changes below a folder, and kills it just before change number `deadly`, or in its middle
    where that is a file's content."""

    def __init__(self, folder: Path, deadly: int = 0):
        self.folder, self.deadly, self.seen = str(folder), deadly, list[str]()
        sys.addaudithook(self._hook)
        files.open = records.open = self._open  # type: ignore[attr-defined]

    def note(self, what: str, path: object) -> None:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not name.startswith(self.folder) or threading.current_thread() is not threading.main_thread():
            return
        change = f"{what} {os.path.relpath(name, self.folder)}"
        if self.seen and change == self.seen[-1]:  # said twice where `open` was given an opener
            return
        self.seen.append(change)
        if len(self.seen) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)

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


def counted(path: Path, resume: bool, deadly: int = 0) -> tuple[int, list[str]]:
    """Train in a child that dies before write `deadly`; 0: it lives, and what it wrote is returned."""
    told = path.with_suffix(".writes")

    def act() -> None:
        writes = Writes(path, deadly)
        train(path, resume)
        told.write_text(json.dumps([writes.seen, list(sys.modules)]))

    code = in_a_child(act)
    if code:
        return code, []
    seen, modules = json.loads(told.read_text())
    for name in modules:  # what training imports on its way: later children find it here
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return code, seen


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
    template, creations = folder / "template", 0
    while True:
        path = folder / f"created-{creations + 1}"

        def act(path: Path = path, deadly: int = creations + 1) -> None:
            Writes(path, deadly)
            create(path)

        if in_a_child(act) == 0:
            path.rename(template)
            break
        creations += 1
        again = create(path) if runs.is_vacant(path) else runs.load(path)
        if again != runs.load(path) or sorted(file.name for file in path.iterdir()) != ["config.toml", "lock"]:
            failures[f"creation {creations}"] = "not as created"

    def copy(source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, folder / name))

    unbroken = copy(template, "unbroken")
    code, writes = counted(unbroken, resume=False)
    assert code == 0, "the run that is not killed failed"
    wanted, theirs = outcome(unbroken), load_file(checkpoint.latest(runs.load(unbroken)))

    def finish(path: Path, what: str) -> None:
        code = in_a_child(lambda: train(path, resume=True))
        wrong = [f"exit code {code}"] if code else differences(path, wanted, theirs)
        if wrong:
            failures[what] = wrong
        shutil.rmtree(path)

    resumed = []
    for number, what in enumerate(writes, 1):
        path = copy(template, f"killed-{number}")
        code, _ = counted(path, resume=False, deadly=number)
        if code != -signal.SIGKILL:
            failures[what] = f"was not killed: {code}"
            continue
        # Killed once more, at every write of the resumption: after the checkpoint of a step, before its line.
        if what == "half of metrics.jsonl" and runs.steps_done(runs.load(path)) == SETTINGS["total_steps"]:
            _, second = counted(copy(path, "resumed"), resume=True)
            for deadly, twice in enumerate(second, 1):
                other = copy(path, f"twice-{deadly}")
                code, _ = counted(other, resume=True, deadly=deadly)
                if code != -signal.SIGKILL:
                    failures[f"then {twice}"] = f"was not killed: {code}"
                resumed.append(twice)
                finish(other, f"{number} {what}, then {deadly} {twice}")
        finish(path, f"{number} {what}")
    return {
        "creations": creations,
        "writes": writes,
        "resumed": resumed,
        "unbroken": wanted,
        "failures": failures,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve())))
