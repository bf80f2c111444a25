"""The one exception a user can cause, and the sentence it carries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """Text as a terminal can show it on one line: what is not printable, as in names of files, is spelled out."""
    return "".join(
        letter if letter.isprintable() else " " if letter in "\n\r\t" else _spelled(ord(letter)) for letter in text
    )


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class AgentMixerError(Exception):
    """Something the caller asked for cannot be done.

    The message names the thing and the way out, in one sentence. The command line prints it
    without a traceback and exits 2.
    """


class TeamError(AgentMixerError):
    """One of several teams that train side by side failed. team: which of them, counted from 0."""

    def __init__(self, sentence: str, team: int):
        super().__init__(sentence)
        self.team = team


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word closest to `word`, or the list of known words.

    A name that has `word` between its underscores comes before a name that is spelled like it: lr means actor_lr or
    critic_lr, not pm."""
    names = sorted(known)
    if holding := [name for name in names if word and f"_{word}_" in f"_{name}_"]:
        return f"; did you mean {' or '.join(repr(name) for name in holding)}?"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names) or 'none'}"
