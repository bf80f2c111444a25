"""The run directory: `runs/<task>/<scenario>/<algorithm>/<timestamp>-s<seed>/` and what is in it."""

from __future__ import annotations

import datetime
import json
import re
import shlex
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentmixer import __version__, provenance
from agentmixer.config import Config
from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError, nearest
from agentmixer.tasks import Task, make, names_code
from agentmixer.train.algorithms import ALGORITHMS

RUNS = Path("runs")
#: What config.toml says of a run beside its settings.
IDENTITY = ("task", "scenario", "backend", "algorithm", "preset", "seed", "device")


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
    config: Any
    #: SHA-256 of config.toml as it was read or written last.
    digest: str = ""
    #: Code that the user lets the task import, as the scenario names it. Needed only for a run that was not trained here.
    task_code: str | None = None

    def on_cpu(self) -> Run:
        """The same run to be looked at, exported or deployed on this machine's processor."""
        return replace(self, device="cpu")

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def checkpoint_files(self) -> list[Path]:
        """Complete checkpoints, oldest first. A run with at least one can be resumed, evaluated and exported."""
        return sorted(self.checkpoints.glob("step_*.safetensors"))

    @property
    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None while the run is unfinished."""
        file = self.path / "summary.json"
        try:
            return json.loads(file.read_text()) if file.is_file() else None
        except ValueError as error:
            raise AgentMixerError(
                f"{file} is damaged ({error}); remove it and judge the run with: agentmixer evaluate {self.path}"
            ) from error

    def make_task(self, num_envs: int) -> Task:
        """The run's task, `num_envs` at a time.

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
        return make(self.task, self.scenario, num_envs, self.backend, self.options, self.device)


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
) -> Run:
    """Make the directory and write config.toml. stamp: what leads its name unless `out` is given; `now()` if None.

    Raises AgentMixerError if settings do not fit each other, and if `out` exists: nothing is overwritten."""
    config.check()
    path = out or RUNS / task / folder_name(scenario) / algorithm / f"{stamp or now()}-s{seed}"
    if path.exists():
        again = shlex.join(["agentmixer", "train", task, scenario, "--resume", "--out", str(path)])
        raise AgentMixerError(f"{path} exists already; continue it with '{again}' or choose another --out")
    path.mkdir(parents=True)
    run = Run(path, task, scenario, backend, algorithm, preset, seed, device, options, config, task_code=scenario)
    return write_config(run)


def now() -> str:
    """The time as the name of a run's directory has it."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def folder_name(scenario: str) -> str:
    """A scenario as part of a path: module:function and files become names without separators."""
    return re.sub(r"[^A-Za-z0-9_.|+-]+", "-", scenario).strip("-.") or "scenario"


def write(file: Path, text: str) -> None:
    """Replace a file's content; a crash leaves the old one."""
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.rename(file)


def write_config(run: Run) -> Run:
    """config.toml: what was asked for and every setting as resolved. Returns the run with the file's digest, which is
    remembered as made here."""
    head = {name: getattr(run, name) for name in IDENTITY}
    lines = [f"{key} = {_toml(value)}" for key, value in (head | {"agentmixer": __version__}).items()]
    lines += ["", "[options]"] + [f"{_toml(key)} = {_toml(value)}" for key, value in run.options.items()]
    lines += ["", "[settings]"] + [f"{key} = {_toml(value)}" for key, value in asdict(run.config).items()]
    text = "\n".join(lines) + "\n"
    write(run.path / "config.toml", text)
    digest = sha256(text.encode())
    provenance.remember("runs", digest, run.path)
    return replace(run, digest=digest)


def _toml(value: Any) -> str:
    """A number, truth value or text as TOML, which is JSON but for characters that JSON writes as two."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(path: Path, task_code: str | None = None) -> Run:
    """Read a run back. task_code: code that its task may import though the run was not trained here.

    Raises AgentMixerError if `path` holds no run, or one this version cannot read."""
    file = path / "config.toml"
    if not file.is_file():
        raise AgentMixerError(f"{path} holds no run (no config.toml); list runs with: agentmixer runs")
    try:
        text = file.read_bytes()
        data = tomllib.loads(text.decode())
        head = {name: data[name] for name in IDENTITY}
        if any(type(value) is not (int if name == "seed" else str) for name, value in head.items()):
            raise ValueError("the run's task, algorithm, device or seed is not of its type")
        options = data.get("options", {})
        if type(options) is not dict:
            raise ValueError("options is not a table")
        if head["algorithm"] not in ALGORITHMS:
            raise ValueError(f"unknown algorithm '{head['algorithm']}'{nearest(head['algorithm'], ALGORITHMS)}")
        config = ALGORITHMS[head["algorithm"]].Config()
        if missing := set(asdict(config)) - set(data["settings"]):
            raise ValueError(f"settings lack {', '.join(sorted(missing))}")
        config = config.replace(data["settings"])
        config.check()
    except (ValueError, KeyError, TypeError, AgentMixerError) as error:
        raise AgentMixerError(f"{file} is damaged or of another version ({error}); the run cannot be read") from error
    return Run(path=path, options=options, config=config, digest=sha256(text), task_code=task_code, **head)


def find_all(root: Path = RUNS) -> list[Path]:
    """Directories of all runs under `root`, oldest first."""
    files = sorted(root.rglob("config.toml"), key=lambda file: (file.stat().st_mtime_ns, str(file)))
    return [file.parent for file in files]


def newest(
    task: str | None = None, scenario: str | None = None, root: Path = RUNS, task_code: str | None = None
) -> Run:
    """The newest run that has a checkpoint. task_code: see `load`. Raises AgentMixerError saying what to type when there is none."""
    for path in reversed(find_all(root)):
        run = load(path, task_code)
        if task in (None, run.task) and scenario in (None, run.scenario) and run.checkpoint_files:
            return run
    wanted = f"run of {task} {scenario}" if task else "run"
    raise AgentMixerError(
        f"no {wanted} with a checkpoint found under {root}/; train one first: agentmixer train {task or 'smacv2'} {scenario or 'protoss_5v5'}"
    )


def extend(run: Run, steps: str | None, device: str | None) -> Run:
    """A run to be resumed: on `device` if given, and to another total if `steps` is given. Changes nothing on disk
    (see `reopen`).

    With lr_decay the step sizes follow the new total from where the run stands. Raises AgentMixerError if
    nothing would be left to do."""
    extended = _extended(run, steps, device)
    done, total = steps_done(run), extended.config.total_steps
    if done >= total:
        raise AgentMixerError(f"{run.path} stands at step {done:,} of {total:,}; give more --steps to go on")
    return extended


def reopen(run: Run) -> None:
    """Write down that a run goes on, now that nothing stands in its way: its config.toml, and no summary."""
    write_config(run)
    (run.path / "summary.json").unlink(missing_ok=True)  # it speaks of the run as it was


def _extended(run: Run, steps: str | None, device: str | None) -> Run:
    config = run.config if steps is None else run.config.replace({"total_steps": steps})
    return replace(run, config=config, device=device or run.device)


def extend_together(
    task: str, scenario: str, seeds: list[int], steps: str | None, device: str | None, root: Path = RUNS
) -> list[Run]:
    """The newest unfinished run of each seed, to be resumed side by side (see `extend`).

    Raises AgentMixerError if a seed has none, or if they differ in anything but the seed."""
    found: dict[int, Run] = {}
    for path in reversed(find_all(root / task / folder_name(scenario))):
        if len(found) == len(seeds):
            break
        try:
            run = load(path)
        except AgentMixerError:  # of another version, or damaged; if it is missed, the sentence below says so
            continue
        wanted = run.scenario == scenario and run.seed in set(seeds) - set(found) and bool(run.checkpoint_files)
        if wanted and steps_done(run) < _extended(run, steps, device).config.total_steps:
            found[run.seed] = run
    if missing := [str(seed) for seed in seeds if seed not in found]:
        raise AgentMixerError(
            f"no unfinished run of {task} {scenario} found under {root}/ for seed {', '.join(missing)}; leave --resume "
            "out to train it, or give more --steps to go on with a finished one"
        )
    chosen = [found[seed] for seed in seeds]
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
    return [extend(replace(run, task_code=scenario), steps, device) for run in chosen]


def _told(run: Run) -> dict[str, Any]:
    """All that runs must have in common to go on side by side."""
    head = {name: getattr(run, name) for name in IDENTITY if name != "seed"}
    return (
        head
        | {f"--env-arg {key}": value for key, value in run.options.items()}
        | asdict(run.config)
        | {"step": steps_done(run)}
    )


def steps_done(run: Run) -> int:
    """Environment steps up to the newest checkpoint; 0 if there is none."""
    files = run.checkpoint_files
    return int(files[-1].stem.removeprefix("step_")) if files else 0
