"""Settings that explain themselves: a dataclass field carries its sentence and its range."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from agentmixer.errors import AgentMixerError, nearest


def setting(
    default: Any, doc: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A dataclass field with a sentence and what it may be. Bounds are inclusive."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Config:
    """Base of every algorithm's settings and every task's options."""

    def replace(self, overrides: dict[str, Any], kind: str = "setting") -> Any:
        """A copy with overrides applied and checked.

        Values may be strings as typed on a command line. Raises AgentMixerError naming the key, and
        the nearest known one, or what its value may be."""
        kinds = get_type_hints(type(self))
        fields = {f.name: f for f in dataclasses.fields(self)}
        values = {}
        for key, value in overrides.items():
            if key not in fields:
                raise AgentMixerError(f"unknown {kind} '{key}'{nearest(key, fields)}")
            values[key] = _checked(f"{kind} {key}", value, kinds[key], fields[key].metadata)
        return dataclasses.replace(self, **values)

    def check(self) -> None:
        """Raise AgentMixerError if settings do not fit each other. Called once all overrides are in."""


def parse_assignments(assignments: list[str], option: str = "--set", example: str = "actor_lr=3e-4") -> dict[str, str]:
    """['key=value', ...] -> {key: value}. Raises AgentMixerError for anything else."""
    pairs = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise AgentMixerError(f"{option} takes key=value, got '{text}'; for example {option} {example}")
        pairs[key.strip()] = value.strip()
    return pairs


#: Greatest seed a run may have; evaluations draw their episodes beyond it.
LAST_SEED = 999_999


def parse_seeds(text: str) -> list[int]:
    """'0-4' or '0,3,7' -> seeds. Raises AgentMixerError for anything else."""
    try:
        found = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            if not (first.strip().isdecimal() and (not dash or last.strip().isdecimal())):
                raise ValueError
            found += list(range(int(first), min(int(last), int(first) + 1000) + 1)) if dash else [int(first)]
        if (
            not found
            or len(set(found)) < len(found)
            or len(found) > 1000
            or not 0 <= min(found) <= max(found) <= LAST_SEED
        ):
            raise ValueError
    except ValueError:
        raise AgentMixerError(
            f"--seeds takes numbers such as 0-4 or 0,3,7, each once, at most 1,000 and none above {LAST_SEED:,}, got '{text}'"
        ) from None
    return found


def _checked(key: str, value: Any, kind: type, meta: Any) -> Any:
    wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}[kind]
    try:
        if kind is bool:
            parsed: Any = value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]
        elif kind is int:
            number = float(value)
            parsed = int(number)
            if parsed != number:
                raise ValueError
        else:
            parsed = kind(value)
            if kind is float and math.isinf(parsed):
                raise ValueError
    except (ValueError, KeyError, OverflowError):
        raise AgentMixerError(f"{key} must be {wanted}, got '{value}'") from None
    low, high, choices = meta["low"], meta["high"], meta["choices"]
    if choices and parsed not in choices:
        raise AgentMixerError(f"{key} must be one of {', '.join(choices)}, got '{value}'")
    inside = (low is None or parsed >= low) and (high is None or parsed <= high)
    if not inside or parsed != parsed:
        span = (
            f"between {low} and {high}"
            if None not in (low, high)
            else f"at least {low}"
            if high is None
            else f"at most {high}"
        )
        raise AgentMixerError(f"{key} must be {span}, got {value}")
    return parsed
