"""What commands print on: a terminal that no text from elsewhere can speak to."""

from __future__ import annotations

from collections.abc import Iterable

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from agentmixer.errors import printable


class Terminal(Console):
    """A console that spells out what is not printable, whoever wrote it: names of files and scenarios, an agent's words.

    Colours and cursor movements are Rich's own and are made after this."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if style and style.link:  # where it leads to would be written as it is
                style = style.update_link(None)
            yield Segment(text if control else _lines(text), style, control)


def say(text: str, err: bool = False) -> None:
    """A line without colours; what is not printable is spelled out."""
    typer.echo(printable(text), err=err)


def _lines(text: str) -> str:
    return text if text.isprintable() or text == "\n" else "\n".join(map(printable, text.split("\n")))
