"""`agentmixer report`, and the page that other commands write beside their report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentmixer_cli.opening import TrustedOption, opened
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.report.page import Page
    from agentmixer.validate.reports import ReportFile

#: What a page needs beside the base install.
WAY_OUT = "pip install 'agentmixer[report]'"


def report(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A bundle, a run's directory, or the folder of a comparison; the newest bundle under bundles/ unless given."
        ),
    ] = None,
    trusted: TrustedOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; a file of that name is replaced.", metavar="FILE.html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the page is and its headline as JSON.")] = False,
) -> None:
    """Write one HTML page of what is known: of a bundle, of a run, or of a comparison. It opens without a network.

    A bundle's page shows its newest reports; deploy-sim writes it too. Exits 0 once the page is written, whatever it says.
    Example: agentmixer report
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.missing import missing_packages

    if problems := missing_packages(["jinja2"], WAY_OUT):
        raise AgentMixerError(str(problems[0]))

    from agentmixer.contract.manifest import TEAM_FILE
    from agentmixer.report import bundle_page, comparison_page, run_page
    from agentmixer.report.page import compose
    from agentmixer.runtime.bundle import newest
    from agentmixer.validate.reports import ReportFile

    if out is not None and out.suffix != ".html":
        raise AgentMixerError(f"--out {out} must end in .html, so that nothing but a page is replaced")
    chosen = path or newest()
    place, name = out, "report.html"
    make: Callable[[], Page]
    if os.path.lexists(chosen / TEAM_FILE):
        bundle = opened(chosen, trusted)
        make = partial(bundle_page.page, bundle, trusted)
    elif os.path.lexists(chosen / "config.toml"):
        place = out or chosen / name
        make = partial(run_page.page, chosen)
    elif chosen.is_dir() and (file := comparison_page.newest(chosen)):
        place = out or file.with_suffix(".html")
        make = partial(comparison_page.page, file)
    else:
        raise AgentMixerError(
            f"{chosen} is nothing to report on: no bundle ({TEAM_FILE}), no run (config.toml), and no comparison in it"
        )
    target = ReportFile(chosen, place, name, numbered=False, option="--out FILE.html")
    made = make()
    target.write(compose(made))
    if as_json:
        typer.echo(json.dumps({"page": str(target.path), "headline": made.headline}))
        return
    console = Terminal()
    console.sentence(made.headline)
    console.place("page", target.path)


def write_page(console: Terminal, target: ReportFile, make: Callable[[], Page]) -> bool:
    """Write the page that goes with a report. Where it cannot be made, a line says why and nothing else changes: the report
    itself is kept already. Returns whether it was written."""
    from agentmixer.errors import AgentMixerError
    from agentmixer.missing import missing_packages

    try:
        if problems := missing_packages(["jinja2"], WAY_OUT):
            raise AgentMixerError(str(problems[0]))
        from agentmixer.report.page import compose

        target.write(compose(make()))
    except AgentMixerError as error:
        console.sentence(f"note: no page was written: {error}")
        return False
    return True
