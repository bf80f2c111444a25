"""Telling what went wrong in code that others wrote, and what is wrong with its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import LARGEST


@contextlib.contextmanager
def foreign(doing: str) -> Iterator[None]:
    """Turn any exception of foreign code into an AgentMixerError that says what was being done and what was raised."""
    try:
        yield
    except AgentMixerError as error:
        raise AgentMixerError(f"{doing} failed: {error}") from error
    except Exception as error:
        words = " ".join(str(error).split())
        raise AgentMixerError(f"{doing} failed with {type(error).__name__}: {words}") from error


def check_numbers(what: str, numbers: np.ndarray) -> None:
    """Raise AgentMixerError if one of `numbers`, a row, is not finite or larger than LARGEST. what: whose they are."""
    # In float64: float16 has no LARGEST, and the least int64 no opposite.
    fine = np.abs(numbers, dtype=np.float64) <= LARGEST
    if not fine.all():
        where = int(np.argmin(fine))
        raise AgentMixerError(f"element {where} of {what} is {numbers[where]:g}, {unusable(numbers[where])}")


def unusable(number: float) -> str:
    """What is wrong with a number that is not finite or larger than LARGEST."""
    if not np.isfinite(number):
        return "which is not finite"
    return f"and beyond {LARGEST:g} sums of squares overflow in 32-bit arithmetic; scale it in the environment"
