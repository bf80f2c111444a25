"""What happens on a device, one line an event."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from typing import TextIO

import msgspec


class Events:
    """One line an event: wall-clock time, seconds of the monotonic clock, what happened, and details as name=value."""

    def __init__(self, file: TextIO | None = None):
        self._file = file or sys.stderr

    def __call__(self, event: str, **details: object) -> None:
        """Write a line. Never raises: a full disk must not stop an agent."""
        wall = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        words = [f"{name}={_word(str(value))}" for name, value in details.items()]
        with contextlib.suppress(OSError, ValueError):
            print(wall, f"{time.monotonic():.6f}", event, *words, file=self._file, flush=True)


def _word(text: str) -> str:
    return (
        text
        if text and all(letter.isprintable() and letter not in ' "=' for letter in text)
        else msgspec.json.encode(text).decode()
    )
