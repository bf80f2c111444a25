"""What commands print on: a terminal that no text from elsewhere can speak to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from agentmixer.contract.results import TEAM, Check, Report
from agentmixer.errors import printable

#: What stands before a check's sentence.
MARKS = {"passed": "ok  ", "failed": "FAIL", "not run": "    ", "does not apply": "    "}


class Terminal(Console):
    """A console that spells out what is not printable, whoever wrote it: names of files and scenarios, an agent's words.

    Colours and cursor movements are Rich's own and are made after this."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if style and style.link:  # where it leads to would be written as it is
                style = style.update_link(None)
            yield Segment(text if control else _lines(text), style, control)

    def sentence(self, text: str) -> None:
        """A sentence as it is, however long."""
        self.print(text, soft_wrap=True, highlight=False, markup=False)

    def place(self, what: str, path: Path) -> None:
        """Where something lies."""
        self.print(f"{what} {path}", soft_wrap=True, markup=False)

    def check(self, check: Check, before: str = "") -> None:
        """One check of a report: whether it passed, its name, whose it is, and its sentence."""
        subject = "" if check.subject == TEAM else f", {check.subject}"
        self.sentence(f"{MARKS[check.status]} {before}{check.name}{subject}: {check.sentence}")

    def verdict(self, report: Report) -> None:
        """The last line of a report, with the reason if it failed."""
        style = "bold green" if report.passed else "bold red"
        self.print(f"verdict: {report.verdict}", style=style, soft_wrap=True, highlight=False, markup=False)


def leave(report: Report) -> None:
    """End the command with the exit code of a report."""
    if not report.passed:
        raise typer.Exit(1)


def say(text: str, err: bool = False) -> None:
    """A line without colours; what is not printable is spelled out."""
    typer.echo(printable(text), err=err)


def _lines(text: str) -> str:
    return text if text.isprintable() or text == "\n" else "\n".join(map(printable, text.split("\n")))
