"""What a run's directory says of the run, read without anything that trains: no torch, no task.

Whoever made the directory may be a stranger: files are read whole, up to a size, and never through a link."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from agentmixer.contract.manifest import sha256
from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular

#: What config.toml says of a run beside its settings.
IDENTITY = (
    "task", "scenario", "backend", "algorithm", "preset", "seed", "device", "begun_from", "begun_from_sha256",
)  # fmt: skip
#: Which layout of config.toml this version writes and reads.
FORMAT = 3
#: Largest config.toml or summary.json that is read, bytes.
MAX_TEXT = 2**20
#: Largest metrics.jsonl that a run goes on with, and largest that is read to be looked at, bytes.
MAX_METRICS, LOOKED_AT = 2**30, 2**28


class Written(NamedTuple):
    """A config.toml: IDENTITY's values, the task's options, what software made it, every setting by its part, those that
    differ from the preset's (none in a run of before these were kept), and the SHA-256 of the file."""

    head: dict[str, Any]
    options: dict[str, Any]
    made_with: dict[str, str]
    settings: dict[str, dict[str, Any]]
    own_settings: dict[str, Any]
    digest: str

    @property
    def total_steps(self) -> int:
        """Environment steps that the run is to have."""
        return self.settings["run"]["total_steps"]


def read_config(path: Path) -> Written:
    """Read the config.toml of the run at `path`. Raises AgentMixerError if there is none, or none of this version."""
    file = path / "config.toml"
    if not os.path.lexists(file):
        raise AgentMixerError(f"{path} holds no run (no config.toml); list runs with: agentmixer runs")
    text = read_regular(file, MAX_TEXT, links=None, again="the run cannot be read")
    try:
        data = tomllib.loads(text.decode())
        if data.get("format", 1) != FORMAT:
            raise ValueError(f"its format is {data.get('format', 1)}, this version reads format {FORMAT}")
        head = {name: data[name] for name in IDENTITY}
        if any(type(value) is not (int if name == "seed" else str) for name, value in head.items()):
            raise ValueError("the run's task, algorithm, device or seed is not of its type")
        if not 0 <= head["seed"] < 2**31:
            raise ValueError(f"seed {head['seed']}")
        options, made_with, settings = data["options"], data["made_with"], data["settings"]
        own_settings = data.get("own_settings", {})
        tables = {"options": options, "made_with": made_with, "settings": settings, "own_settings": own_settings}
        for name, table in tables.items():
            if type(table) is not dict:
                raise ValueError(f"{name} is not a table")
        if any(type(value) is not str for value in made_with.values()):
            raise ValueError("made_with has a version that is not text")
        if any(type(part) is not dict for part in settings.values()) or type(settings["run"]["total_steps"]) is not int:
            raise ValueError("settings are not tables, or total_steps is no whole number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable(path, error) from error
    return Written(head, options, made_with, settings, own_settings, sha256(text))


def unreadable(path: Path, error: Exception) -> AgentMixerError:
    """What to say of a config.toml that cannot be read."""
    return AgentMixerError(f"{path / 'config.toml'} is damaged or of another version ({error}); the run cannot be read")


def checkpoint_files(path: Path) -> list[Path]:
    """Complete checkpoints of the run at `path`, oldest first.

    Raises AgentMixerError if their folder is a link: files of others would be read, and removed."""
    folder = path / "checkpoints"
    if folder.is_symlink():
        raise AgentMixerError(f"{folder} is not a folder but a file or a link; remove it")
    files = folder.glob("step_*.safetensors")
    return sorted(file for file in files if re.fullmatch(r"step_[0-9]{12}\.safetensors", file.name))


def step_of(file: Path) -> int:
    """The step in a checkpoint's name."""
    return int(file.stem.removeprefix("step_"))


def read_metrics(path: Path, limit: int = MAX_METRICS, evaluations: bool = False) -> dict[int, dict[str, Any]]:
    """The lines of metrics.jsonl of the run at `path` by their steps. Lines that are not whole are left out.

    limit: most bytes that are read; evaluations: only lines with an evaluation, which are found in a tenth of the time.
    Raises AgentMixerError if the file has more, or is a link."""
    file, found = path / "metrics.jsonl", {}
    if os.path.lexists(file):
        again = "remove it; what it held is lost then, and the run can go on"
        for line in read_regular(file, limit, links=None, again=again).splitlines():
            if evaluations and b'"eval_return"' not in line:
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # half a line, or not ours
                data = json.loads(line.decode(errors="replace"))
                if type(data["step"]) is int:
                    found[data["step"]] = data
    return found


def read_summary(path: Path, total_steps: int) -> dict[str, Any] | None:
    """summary.json of the run at `path`, or None if the run was not trained to `total_steps` and judged there."""
    file = path / "summary.json"
    if not os.path.lexists(file):
        return None
    again = f"remove it, and --resume judges {path} again"
    try:
        found = _checked(json.loads(read_regular(file, MAX_TEXT, links=None, again=again)))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AgentMixerError(f"{file} is damaged ({error}); {again}") from error
    return found if found["steps"] >= total_steps else None


def _checked(summary: Any) -> dict[str, Any]:
    """A summary that has every number printed of it. Raises ValueError, KeyError or TypeError."""
    numbers = [summary[name] for name in ("steps", "steps_per_second", "seconds")]
    ends: list[Any] = []
    arms = [summary["decentralised_greedy"], summary["joint_greedy"]]
    if "decentralised_sampled" in summary:
        arms.append(summary["decentralised_sampled"])
    for arm in arms:
        numbers.append(arm["episodes"])
        for name in ("return", "win_rate") if "win_rate" in arm else ("return",):
            numbers.append(arm[name])
            ends += [arm[f"{name}_low"], arm[f"{name}_high"]]  # None where there was one episode
    if not all(type(number) in (int, float) for number in [*numbers, *(end for end in ends if end is not None)]):
        raise ValueError("a figure is not a number")
    return summary


def find_all(root: Path) -> list[Path]:
    """Directories of all runs under `root`, oldest first."""
    found = []
    for file in root.rglob("config.toml"):
        with contextlib.suppress(OSError):  # gone since
            found.append((file.lstat().st_mtime_ns, str(file), file.parent))
    return [path for *_, path in sorted(found)]
