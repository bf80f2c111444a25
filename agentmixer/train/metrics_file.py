"""Numbers out of lines of metrics.jsonl (`run_files.read_metrics`).

Whoever made the file may be a stranger, and a line may hold anything: what is no number is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentmixer.intervals import Estimate, measure

#: What leads the keys of an evaluation.
EVALUATED = "eval_"
#: What metrics.jsonl says of the Policy Modifier, or of what takes its place, for whoever watches.
MODIFIER = ("mode_agreement", "entropy", "actor_kl", "total_correlation", "imitation_kl", "alpha", "epsilon", "latent")


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
