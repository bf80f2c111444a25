"""What sections are made of beside charts: tables, lists of facts, marks of what passed, commands."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from markupsafe import Markup

from agentmixer.contract.results import Status
from agentmixer.report.page import rendered
from agentmixer.runtime.bundle import Bundle

#: Longest text of a report that is shown whole, characters.
LONGEST = 2_000
#: What stands for a status, beside its word and its colour.
_MARKS: dict[Status, str] = {"passed": "✓", "failed": "✕", "not run": "–", "does not apply": "–"}
_TONES: dict[Status, str] = {"passed": "good", "failed": "bad", "not run": "open", "does not apply": "none"}


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> Markup:
    """A table whose first column names the rows. numbers: columns of figures. Strings are escaped, Markup is not."""
    return rendered("table.html", caption=caption, head=head, rows=rows, numbers=numbers)


def facts(*named: tuple[str, str]) -> Markup:
    """A list of names and what is said of each."""
    return rendered("facts.html", facts=named)


def badge(status: Status) -> Markup:
    """A status, in a word and a colour."""
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        _TONES[status], _MARKS[status], status
    )


def cut(text: str) -> str:
    """A text that is not endless."""
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def paragraph(text: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(text)


def charts(*drawn: Markup, small: bool = False) -> Markup:
    """Charts beside each other, two or, if small, three where there is room."""
    return Markup('<div class="charts{}">{}</div>').format(" small" if small else "", Markup("").join(drawn))


def subject(bundle: Bundle) -> str:
    """Which bundle a page is about: what its team does, and the beginning of its digest, the SHA-256 of team.json."""
    task = bundle.team.task
    return f"{task.name} {task.scenario}, {len(bundle.agents)} agents, bundle {bundle.digest[:8]}"


def command(*words: str | Path) -> str:
    """A command as it is typed."""
    return shlex.join(["agentmixer", *map(str, words)])
