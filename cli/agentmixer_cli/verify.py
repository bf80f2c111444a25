"""`agentmixer verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.opening import TrustedOption
from agentmixer_cli.terminal import Terminal, leave

#: What a status is called in this command's lines.
WORDS = {"passed": "ok", "failed": "FAILED"}


def verify(
    path: Annotated[
        Path | None,
        typer.Argument(help="A bundle, or one agent's folder; the newest bundle under bundles/ unless given."),
    ] = None,
    trusted: TrustedOption = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which agent a folder must be of: a team mate is signed as well.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="A line for every check, not for those that failed only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a bundle is what was exported, holds nothing else and decides as it did.

    Exits 1 if a check fails. Runs on a device, with the base install. Example: agentmixer verify
    """
    from agentmixer.runtime.bundle import newest
    from agentmixer.runtime.verify import verify as check

    chosen, console = path or newest(), Terminal(stderr=as_json)
    with console.doing() as doing:
        report = check(chosen, trusted, agent, doing)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        console.copied(report.bundle)
        width = max(len(entry.subject) for entry in report.checks)

        def line(status: str, subject: str, what: str) -> None:
            console.sentence(f"{status:<7}  {subject:<{width}}  {what}", indent=width + 11)

        for subject in dict.fromkeys(entry.subject for entry in report.checks):
            mine = [entry for entry in report.checks if entry.subject == subject]
            if passed := [entry for entry in mine if entry.passed and not every and entry.name != "signature"]:
                line("ok", subject, ", ".join(entry.name for entry in passed))
            for entry in mine:
                if entry not in passed:
                    line(WORDS.get(entry.status, entry.status), entry.subject, f"{entry.name:<9}  {entry.sentence}")
        console.sentence(f"checked by a process whose isolation was {report.isolation}")
        console.verdict(report)
    leave(report)
