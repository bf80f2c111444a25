"""The run directory: `runs/<task>/<scenario>/<algorithm>/<timestamp>-s<seed>/` and what is in it.

A run that finds this name taken gets `<timestamp>-s<seed>-2`, or the next number that is free."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentmixer import provenance
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.files import write_whole
from agentmixer.tasks import Task, make, names_code
from agentmixer.tasks.base import Restarting
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.lock import LOCK, locked
from agentmixer.train.run_files import (
    FORMAT,
    IDENTITY,
    checkpoint_files,
    find_all,
    read_config,
    read_metrics,
    read_summary,
    step_of,
    unreadable,
)
from agentmixer.train.settings import Config
from agentmixer.versions import made_with

RUNS = Path("runs")
#: Most bytes of a checkpoint that are read.
MAX_BYTES = 1 << 30
#: What a creation that was interrupted may leave in a run's directory.
LEFT_OVERS = {LOCK, "config.toml.partial"}


@dataclass(frozen=True)
class Run:
    """One training run on disk: its directory and everything that was resolved when it started."""

    path: Path
    task: str
    scenario: str
    backend: str
    algorithm: str
    preset: str
    seed: int
    device: str
    #: The task's options as resolved (--env-arg).
    options: dict[str, Any]
    config: Config
    #: SHA-256 of config.toml as it was read or written last.
    digest: str = ""
    #: The checkpoint whose weights a new run began with, and its SHA-256; empty where a run began with random weights.
    begun_from: str = ""
    begun_from_sha256: str = ""
    #: What software created the run (`versions.made_with`).
    made_with: dict[str, str] = field(default_factory=dict, compare=False)
    #: Code that the user lets the task import, as the scenario names it. Needed only for a run that was not trained here.
    task_code: str | None = field(default=None, compare=False)
    #: Settings that an option of --resume gave.
    changed: frozenset[str] = field(default=frozenset(), compare=False)

    def on_cpu(self) -> Run:
        """The same run to be looked at, exported or deployed on this machine's processor."""
        return replace(self, device="cpu")

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def checkpoint_files(self) -> list[Path]:
        """Complete checkpoints, oldest first. A run with at least one can be evaluated and exported.

        Raises AgentMixerError if their folder is a link: files of others would be read, and removed."""
        return checkpoint_files(self.path)

    @property
    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None while the run is unfinished. One of fewer steps than the run is to have speaks of it as
        it was before it was extended."""
        return read_summary(self.path, self.config.run.total_steps)

    def make_task(self, num_envs: int, workers: str = "processes") -> Task:
        """The run's task as its algorithm's agents are shown it, `num_envs` at a time. workers: see `RunSettings`; training alone uses other than processes.

        Raises AgentMixerError if the scenario names code, the run was not trained here, and nobody has allowed it."""
        if (
            names_code(self.task)
            and self.task_code != self.scenario
            and not provenance.trained_here(self.digest, self.path)
        ):
            call = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            raise AgentMixerError(
                f"{self.path} was not trained here, and its task {self.task} would import and call "
                f"{self.scenario}({call}); if you trust that code, repeat it: --task-code {shlex.quote(self.scenario)}"
            )
        task = make(self.task, self.scenario, num_envs, self.backend, self.options, self.device, workers)
        if restarts := self.config.run.env_restarts:
            if not isinstance(task, Restarting):
                task.close()
                raise AgentMixerError(f"task {self.task} makes no environment anew; leave env_restarts out")
            task.env_restarts = restarts
        return ALGORITHMS[self.algorithm].shown(task)


def create(
    task: str,
    scenario: str,
    backend: str,
    algorithm: str,
    preset: str,
    seed: int,
    device: str,
    options: dict[str, Any],
    config: Config,
    out: Path | None,
    stamp: str | None = None,
    begun_from: Path | None = None,
) -> Run:
    """Make the directory and write config.toml. stamp: what leads its name unless `out` is given; `now()` if None.
    begun_from: a checkpoint whose weights it begins with. Without `out`, the directory is always a new one, also where
    another process makes one at the same moment.

    Raises AgentMixerError if settings do not fit each other, and if `out` holds anything: nothing is overwritten. What
    an interrupted creation left does not count."""
    config.check()
    path = out or new_folder(RUNS / task / folder_name(scenario) / algorithm / f"{stamp or now()}-s{seed}")
    run = Run(
        path, task, scenario, backend, algorithm, preset, seed, device, options, config, task_code=scenario,
        made_with=made_with(), begun_from=str(begun_from.resolve()) if begun_from else "",
        begun_from_sha256=sha256(begun_from.read_bytes()) if begun_from else "",
    )  # fmt: skip
    _check_vacant(run)
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        _check_vacant(run)  # another process may have been faster
        return write_config(run)


def new_folder(wanted: Path) -> Path:
    """Make a folder of that name, or of the first free name among `<wanted>-2`, `<wanted>-3` and so on; returns its path."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    path, number = wanted, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
            path = wanted.with_name(f"{wanted.name}-{number}")


def _check_vacant(run: Run) -> None:
    """Raise AgentMixerError if there is more at a new run's place than an interrupted creation leaves."""
    if is_vacant(run.path):
        return
    again = shlex.join(["agentmixer", "train", run.task, run.scenario, "--resume", "--out", str(run.path)])
    raise AgentMixerError(f"{run.path} exists already; continue it with '{again}' or choose another --out")


def is_vacant(path: Path) -> bool:
    """Whether a run can be created here: nothing is there, or no more than an interrupted creation leaves."""
    return not path.exists() or (path.is_dir() and {file.name for file in path.iterdir()} <= LEFT_OVERS)


def now() -> str:
    """The time as the name of a run's directory has it."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def folder_name(scenario: str) -> str:
    """A scenario as part of a path: module:function and files become names without separators."""
    return re.sub(r"[^A-Za-z0-9_.|+-]+", "-", scenario).strip("-.") or "scenario"


def write(file: Path, text: str, run: Run | None = None) -> None:
    """Replace a file's content; a crash leaves the old one. run: whose file it is, if a run's.

    Raises AgentMixerError if it cannot be written."""
    try:
        write_whole(file, text.encode())
    except OSError as error:
        raise unwritten(file, error, run) from error


def unwritten(file: Path, error: OSError, run: Run | None) -> AgentMixerError:
    """What to say where a file could not be written, for want of room perhaps."""
    way_out = "put that right and type the same again"
    if run is not None and run.checkpoint_files:
        way_out = (
            f"the checkpoint at step {steps_done(run):,} of {run.path} is good and, once that is put right, --resume "
            "goes on from it"
        )
    return AgentMixerError(f"{file} could not be written ({error.strerror or error}); {way_out}")


def make_folder(path: Path) -> None:
    """Make a folder below a run's directory unless it is there. Raises AgentMixerError if something else has the name:
    through a link, files of others would be written."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise AgentMixerError(f"{path} is not a folder but a file or a link; remove it")
    path.mkdir(exist_ok=True)


def write_config(run: Run) -> Run:
    """config.toml: what was asked for and every setting as resolved. Returns the run with the file's digest, which is
    remembered as made here."""
    head = {name: getattr(run, name) for name in IDENTITY}
    lines = [f"{key} = {_toml(value)}" for key, value in (head | {"format": FORMAT}).items()]
    for table, values in (("made_with", run.made_with), ("options", run.options)):
        lines += ["", f"[{table}]"] + [f"{_toml(key)} = {_toml(value)}" for key, value in values.items()]
    for name, part in run.config.parts.items():
        lines += ["", f"[settings.{name}]"] + [f"{key} = {_toml(value)}" for key, value in part.as_dict().items()]
    text = "\n".join(lines) + "\n"
    digest = sha256(text.encode())
    provenance.remember("runs", digest, run.path)  # first, so that a process that is killed leaves no file unknown here
    write(run.path / "config.toml", text, run)
    return replace(run, digest=digest)


def _toml(value: Any) -> str:
    """A number, truth value or text as TOML, which is JSON but for characters that JSON writes as two."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(path: Path, task_code: str | None = None) -> Run:
    """Read a run back. task_code: code that its task may import though the run was not trained here.

    Raises AgentMixerError if `path` holds no run, or one this version cannot read."""
    if path.is_dir() and is_vacant(path) and not os.path.lexists(path / "config.toml"):
        raise AgentMixerError(f"{path} holds no run yet; train one there without --resume")
    written = read_config(path)
    algorithm = written.head["algorithm"]
    try:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"unknown algorithm '{algorithm}'{nearest(algorithm, ALGORITHMS)}")
        config = _settings(ALGORITHMS[algorithm].configure(), written.settings)
    except (ValueError, KeyError, TypeError, AgentMixerError) as error:
        raise unreadable(path, error) from error
    return Run(
        path=path, options=written.options, config=config, digest=written.digest, task_code=task_code,
        made_with=written.made_with, **written.head,
    )  # fmt: skip


def _settings(start: Config, data: dict[str, Any]) -> Config:
    """The settings in config.toml, each part in its table. Raises ValueError, KeyError or AgentMixerError."""
    for name, part in start.parts.items():
        if missing := set(part.names()) ^ set(data[name]):
            raise ValueError(f"[settings.{name}] lacks or has beside: {', '.join(sorted(missing))}")
        start = start.replace(data[name])
    start.check()
    return start


def metrics(run: Run) -> dict[int, dict[str, Any]]:
    """The lines of metrics.jsonl by their steps. Lines that are not whole are left out."""
    return read_metrics(run.path)


def newest(
    task: str | None = None, scenario: str | None = None, root: Path = RUNS, with_checkpoint: bool = True,
    task_code: str | None = None,
) -> Run:  # fmt: skip
    """The newest run. Where a checkpoint is wanted, a finished run comes before one that is not, and one that was trained
    at all before one that was not. task_code: see `load`. Raises AgentMixerError saying what to type when there is none."""
    unfinished = []
    for path in reversed(find_all(root)):
        run = load(path, task_code)
        if task not in (None, run.task) or scenario not in (None, run.scenario):
            continue
        if not with_checkpoint or (run.checkpoint_files and run.summary is not None):
            return run
        if run.checkpoint_files:
            unfinished.append(run)
    if unfinished:
        return max(unfinished, key=lambda run: steps_done(run) > 0)
    what = (f"run of {task} {scenario}" if task else "run") + (" with a checkpoint" if with_checkpoint else "")
    raise AgentMixerError(
        f"no {what} found under {root}/; train one first: agentmixer train {task or 'smacv2'} {scenario or 'protoss_5v5'}"
    )


def extend(run: Run, steps: str | None, device: str | None) -> Run:
    """A run to be resumed: on `device` if given, and to another total if `steps` is given. Changes nothing on disk
    (see `reopen`).

    With lr_decay the step sizes follow the new total from where the run stands. A run that was trained to its end and
    not judged there is left that to do. Raises AgentMixerError if nothing would be left, or if the run's checkpoints are
    gone."""
    check_not_lost(run)
    extended = _extended(run, steps, device)
    done, total = steps_done(run), extended.config.run.total_steps
    if done >= total and not _to_be_judged(run, total):
        raise AgentMixerError(f"{run.path} stands at step {done:,} of {total:,}; give more --steps to go on")
    return extended


def check_not_lost(run: Run) -> None:
    """Raise AgentMixerError if a run was trained and has no checkpoint any more: it would begin at step 0 again, and what
    its files say of it would be lost."""
    if run.checkpoint_files:
        return
    summary = read_summary(run.path, 0)
    if done := max([*metrics(run), summary["steps"] if summary else 0], default=0):
        again = ["agentmixer", "train", run.task, run.scenario, "--algorithm", run.algorithm, "--preset", run.preset]
        raise AgentMixerError(
            f"{run.path} has no checkpoint to go on from, although its {'summary.json' if summary else 'metrics.jsonl'} "
            f"speaks of step {done:,}; put its checkpoints back, or move it away and train anew, without --resume and with "
            f"your settings: {shlex.join([*again, '--seed', str(run.seed)])}"
        )


def reopen(run: Run) -> None:
    """Write down that a run goes on, now that nothing stands in its way: its config.toml, and no summary unless it is
    that of the run's end."""
    write_config(run)
    if steps_done(run) < run.config.run.total_steps:
        (run.path / "summary.json").unlink(missing_ok=True)  # it speaks of the run as it was


def _to_be_judged(run: Run, total: int) -> bool:
    """Whether a run that stands at its end, `total`, was not judged there."""
    return total == run.config.run.total_steps and run.summary is None


def _extended(run: Run, steps: str | None, device: str | None) -> Run:
    run = replace(run, device=device or run.device)
    return run if steps is None else change(run, "total_steps", steps)


def change(run: Run, key: str, value: Any) -> Run:
    """A run to be resumed with another value of a setting, as an option says."""
    return replace(run, config=run.config.replace({key: value}), changed=run.changed | {key})


def extend_together(
    task: str, scenario: str, seeds: list[int], steps: str | None, device: str | None, root: Path = RUNS
) -> list[Run]:
    """The newest unfinished run of each seed, to be resumed side by side (see `extend`). If all that is left is to judge
    them, seeds that were judged before the others go along as they are.

    Raises AgentMixerError if a seed has none, or if they differ in anything but the seed."""
    candidates = []
    for path in reversed(find_all(root / task / folder_name(scenario))):
        try:
            run = load(path)
        except AgentMixerError:  # of another version, or damaged; if it is missed, the sentence below says so
            continue
        if run.scenario == scenario and run.seed in seeds:
            candidates.append(run)
    found: dict[int, Run] = {}
    at_end = True
    for run in candidates:
        total = _extended(run, steps, device).config.run.total_steps
        left = steps_done(run) < total
        if run.seed not in found and (left or _to_be_judged(run, total)):
            found[run.seed], at_end = run, at_end and not left
    if found and at_end:
        alike = _told(next(iter(found.values())))
        for run in candidates:
            if _told(run) == alike:
                found.setdefault(run.seed, run)
    if missing := [str(seed) for seed in seeds if seed not in found]:
        raise AgentMixerError(
            f"no unfinished run of {task} {scenario} found under {root}/ for seed {', '.join(missing)}; leave --resume "
            "out to train it, or give more --steps to go on with a finished one"
        )
    chosen = [found[seed] for seed in seeds]
    for run in chosen:
        check_not_lost(run)
    told = [_told(_extended(run, steps, device)) for run in chosen]
    for run, own in zip(chosen, told, strict=True):
        if differs := [
            f"{key} ({told[0].get(key)}, {own.get(key)})" for key in told[0] | own if told[0].get(key) != own.get(key)
        ]:
            again = shlex.join(["agentmixer", "train", task, scenario, "--resume", "--out", str(run.path)])
            raise AgentMixerError(
                f"{chosen[0].path} and {run.path} cannot go on together, they differ in {', '.join(differs)}; resume "
                f"each alone, for example: {again}"
            )
    return [_extended(replace(run, task_code=scenario), steps, device) for run in chosen]


def _told(run: Run) -> dict[str, Any]:
    """All that runs must have in common to go on side by side."""
    head = {name: getattr(run, name) for name in IDENTITY if name != "seed"}
    return (
        head
        | {f"--env-arg {key}": value for key, value in run.options.items()}
        | run.config.as_dict()
        | {"step": steps_done(run)}
    )


def steps_done(run: Run) -> int:
    """Environment steps up to the newest checkpoint; 0 if there is none."""
    files = run.checkpoint_files
    return step_of(files[-1]) if files else 0


def standing(run: Run, step: int) -> str:
    """How far a run is at a step: "at step 400,000", or "at step 0 of 400,000, unfinished"."""
    total = run.config.run.total_steps
    if step >= total:
        return f"at step {step:,}"
    return f"at step {step:,} of {total:,}" + (", unfinished" if run.summary is None else "")
