"""What commands print on: a terminal that no text from elsewhere can speak to."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from agentmixer.contract.results import TEAM, Check, Report
from agentmixer.errors import printable
from agentmixer.progress import Doing

#: The exit code of a command that somebody interrupts by Ctrl-C.
INTERRUPTED = 130
#: What there is to go on with, or to know, if the command is interrupted now: one sentence, or none.
left: list[str] = []

#: Columns of what is no terminal's, so that it can be copied anywhere.
WIDTH = 80
#: What stands before a check's sentence.
MARKS = {"passed": "ok  ", "failed": "FAIL", "not run": "    ", "does not apply": "    "}


class Output(io.TextIOBase):
    """Standard output or error for whoever may stop reading, or may not know every character.

    A reader that has gone (`agentmixer deploy-sim | head -1`) is no error: what it does not read is dropped, and the
    command ends as it would have. Characters that the stream's encoding lacks are spelled out."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Nobody reads any more: what is still buffered, and what is yet to come, goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


class _Words(textwrap.TextWrapper):
    """Breaks lines between words, and nowhere in an interval's brackets."""

    wordsep_simple_re = re.compile(r"(\s+(?![^\[\]]*\]))")


class Terminal(Console):
    """A console that spells out what is not printable, whoever wrote it: names of files and scenarios, an agent's words.

    Colours and cursor movements are Rich's own and are made after this. Where the output is no terminal, lines have WIDTH
    columns."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if style and style.link:  # where it leads to would be written as it is
                style = style.update_link(None)
            yield Segment(text if control else _lines(text), style, control)

    @contextlib.contextmanager
    def doing(self) -> Iterator[Callable[[str], None]]:
        """Say what a command does that may take long. What is yielded is to be called with what it does next, and how far
        it is. On a terminal one line shows the newest; elsewhere lines are printed on standard error, the first at once and
        then one every 10 s. Nothing is printed before the first call, so that bad input is answered by its sentence alone."""
        if self.is_terminal and sys.stderr.isatty():
            with self.status("starting") as status:
                yield lambda now: status.update(escape(now))
        else:
            yield Doing(lambda now: say(now, err=True))

    def sentence(self, text: str, indent: int = 0, style: str | None = None) -> None:
        """A sentence, in as many lines as it needs; all but the first begin with `indent` spaces."""
        lines = _Words(self.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
        self.print(lines.fill(text), style=style, soft_wrap=True, highlight=False, markup=False)

    def copied(self, text: str) -> None:
        """A path or a command, in one line however long."""
        self.print(text, soft_wrap=True, highlight=False, markup=False)

    def place(self, what: str, path: Path) -> None:
        """Where something lies."""
        self.print(f"{what} {path}", soft_wrap=True, markup=False)

    def check(self, check: Check, before: str = "") -> None:
        """One check of a report: whether it passed, its name, whose it is, and its sentence."""
        subject = "" if check.subject == TEAM else f", {check.subject}"
        self.sentence(f"{MARKS[check.status]} {before}{check.name}{subject}: {check.sentence}", indent=5)

    def verdict(self, report: Report) -> None:
        """The last line of a report, with the reason if it failed."""
        style = "bold green" if report.passed else "bold red"
        self.sentence(f"verdict: {report.verdict}", indent=2, style=style)


def leaves(sentence: str) -> None:
    """Note what is to be said behind "interrupted" if somebody interrupts the command from now on; "" if nothing is."""
    left[:] = [sentence] if sentence else []


def leave(report: Report) -> None:
    """End the command with the exit code of a report."""
    if not report.passed:
        raise typer.Exit(1)


def interval(figure: Mapping[str, float | None], form: str = ".3f") -> str:
    """A figure of a report with its interval."""
    from agentmixer.intervals import Estimate

    return Estimate(**figure).told(form)  # type: ignore[arg-type]


def say(text: str, err: bool = False) -> None:
    """A line without colours; what is not printable is spelled out."""
    # Not by typer.echo, which takes an ASCII stream for a mistake and writes UTF-8 to it.
    print(printable(text), file=sys.stderr if err else sys.stdout, flush=True)


def _lines(text: str) -> str:
    return text if text.isprintable() or text == "\n" else "\n".join(map(printable, text.split("\n")))
