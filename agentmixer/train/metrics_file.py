"""A run's metrics.jsonl, read without anything that trains: no torch, no task.

Whoever made the file may be a stranger: a line may hold anything, and a number is asked for by `number`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentmixer.files import read_regular
from agentmixer.intervals import Estimate, measure

#: Most bytes of metrics.jsonl that are read.
MAX_BYTES = 1 << 30
#: What leads the keys of an evaluation.
EVALUATED = "eval_"


def read_metrics(path: Path, evaluations: bool = False) -> dict[int, dict[str, Any]]:
    """The lines of metrics.jsonl of the run at `path` by their steps. Lines that are not whole are left out.

    evaluations: only lines with an evaluation, which takes a tenth of the time. Raises AgentMixerError if the file is a
    link, no regular file, or too large."""
    file, found = path / "metrics.jsonl", {}
    if os.path.lexists(file):
        again = "remove it; what it held is lost then, and the run can go on"
        for line in read_regular(file, MAX_BYTES, links=None, again=again).splitlines():
            if evaluations and f'"{EVALUATED}return"'.encode() not in line:
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # half a line, or not ours
                data = json.loads(line.decode(errors="replace"))
                if type(data["step"]) is int:
                    found[data["step"]] = data
    return found


def evaluated(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines that hold an evaluation."""
    return [line for line in lines if number(line, f"{EVALUATED}return") is not None]


def number(line: Mapping[str, Any], key: str) -> float | None:
    """What a line says of `key`, if that is a number and finite."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def estimate(line: Mapping[str, Any], key: str) -> Estimate | None:
    """What a line says of `key` with its interval, where it has one."""
    value, low, high = (number(line, f"{key}{end}") for end in ("", "_low", "_high"))
    return None if value is None else Estimate(value, low, high)


def evaluation(line: Mapping[str, Any]) -> tuple[str, Estimate] | None:
    """The figure that an evaluation is judged by, "win_rate" where there is one, else "return"; None where there is no
    evaluation."""
    name = measure({key.removeprefix(EVALUATED) for key in line if number(line, key) is not None})
    found = estimate(line, f"{EVALUATED}{name}")
    return found and (name, found)
