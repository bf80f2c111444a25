"""Settings that explain themselves: every field carries its type, its range and its sentence.

A field is `name: Annotated[type, about("sentence")] = default`. Types are int, float, bool, str, Literal["a", "b"], or one
of the ranges below; `Meta(ge=..., le=...)` states any other range. Bounds are inclusive.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from agentmixer.errors import AgentMixerError, nearest

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
StepSize = Annotated[float, Meta(ge=0.0, le=1.0)]
Width = Annotated[int, Meta(ge=1, le=4096)]
Interval = Annotated[int, Meta(ge=0)]


def about(sentence: str) -> Meta:
    """The sentence that explains a setting."""
    return Meta(description=sentence)


class Settings(msgspec.Struct, frozen=True):
    """Base of every algorithm's settings and every task's options."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings, in the order in which they are declared."""
        return cls.__struct_fields__

    @classmethod
    def declared(cls) -> dict[str, Declared]:
        """Every setting as it is declared, by its name."""
        hints = _hints(cls)
        return {name: _declared(hints[name]) for name in cls.names()}

    @classmethod
    def explained(cls) -> dict[str, str]:
        """The sentence of every setting that has one."""
        return {name: declared.sentence for name, declared in cls.declared().items() if declared.sentence}

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its name."""
        return msgspec.structs.asdict(self)

    def replace(self, overrides: dict[str, Any], kind: str = "setting") -> Self:
        """A copy with overrides applied and checked.

        Values may be strings as typed on a command line. kind: what an error calls a setting. Raises AgentMixerError
        that names the key, and the nearest known key or the values that it may have."""
        unknown(overrides, self.names(), kind)
        hints = _hints(type(self))
        values = {key: checked(f"{kind} {key}", value, hints[key]) for key, value in overrides.items()}
        return msgspec.structs.replace(self, **values)


@functools.cache
def _hints(settings: type[Settings]) -> dict[str, Any]:
    """The type of every setting, by its name."""
    return get_type_hints(settings, include_extras=True)


#: What is not a setting, though it is called one elsewhere: the way out.
_MEANT = {
    "seed": "; give it as --seed N, or several as --seeds 0-4",
    "seeds": "; give them as --seeds 0-4",
    "steps": "; give them as --steps N, or as the setting total_steps",
    "learning_rate": "; did you mean 'actor_lr' or 'critic_lr'?",
    "algorithm": "; give it as --algorithm NAME",
    "preset": "; give it as --preset NAME",
    "device": "; give it as --device cpu or cuda",
    "backend": "; give it as --backend NAME",
}


def unknown(keys: Iterable[str], known: Iterable[str], kind: str = "setting") -> None:
    """Raise AgentMixerError that names the nearest known key if one of `keys` is not known."""
    names = set(known)
    for key in keys:
        if key not in names:
            raise AgentMixerError(f"unknown {kind} '{key}'{_MEANT.get(key) or nearest(key, names)}")


def parse_assignments(
    assignments: list[str], option: str = "--set", example: str = "actor_lr=3e-4", known: Iterable[str] | None = None
) -> dict[str, str]:
    """['key=value', ...] -> {key: value}. known: the keys that there are; None if that is not known.

    Raises AgentMixerError for anything that is not key=value. The error names the nearest known key where the text begins
    with an unknown one."""
    pairs = {}
    for text in assignments:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            misspelled = known is not None and key not in (names := set(known))
            hint = nearest(key, names) if misspelled else f"; for example {option} {example}"
            raise AgentMixerError(f"{option} takes key=value, got '{text}'{hint}")
        pairs[key] = value
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


class Declared(NamedTuple):
    """A setting as it is declared. type: int, float, bool, str or Literal. low, high: None where there is no bound."""

    type: Any
    low: float | None
    high: float | None
    sentence: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The only values that the setting may have; none where it may have any in its range."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def wanted(self) -> str:
        """The values that the setting may have, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        what = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}[self.type]
        if self.low is not None and self.high is not None:
            return f"{what} between {self.low} and {self.high}"
        return what if self.low is None else f"{what} of at least {self.low}"


def _in_digits(text: str) -> int | None:
    """400k, 1.5M or 1,000,000 -> the whole number that is meant; None for any other text."""
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text):
        return int(text.replace(",", ""))
    if found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMbB])", text):
        digits, letter = found.groups()
        number = float(f"{digits}e{ {'k': 3, 'm': 6, 'b': 9}[letter.lower()] }")
        return int(number) if number.is_integer() else None
    return None


def _declared(hint: Any) -> Declared:
    base, *extras = get_args(hint) if get_origin(hint) is Annotated else [hint]
    metas = [extra for extra in extras if isinstance(extra, Meta)]

    def said(name: str) -> Any:
        return next((value for meta in metas if (value := getattr(meta, name)) is not None), None)

    return Declared(base, said("ge"), said("le"), said("description") or "")


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value as its declaration wants it, a text too. name: what an error calls it. Raises AgentMixerError."""
    declared = _declared(hint)
    try:
        return msgspec.convert(_read(value, declared.type), hint)
    except (ValueError, OverflowError):
        meant = _in_digits(str(value)) if declared.type is int else None
        way_out = f", which is typed {meant}" if meant is not None else ""
        raise AgentMixerError(f"{name} must be {declared.wanted}, got {value}{way_out}") from None


def _read(value: Any, kind: Any) -> Any:
    """Text as a value of that type, where it is one. Raises ValueError or OverflowError where it is not."""
    if kind is bool:
        return {"true": True, "false": False}.get(str(value).lower(), value)
    if kind not in (int, float):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return int(number) if kind is int and number.is_integer() else number
