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
    from agentmixer.runtime.bundle import Bundle
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
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Of a bundle: write live.html too, in which the exported policies decide recorded episodes anew.",
        ),
    ] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            help="The npm package that --live puts into the page; fetched once with npm unless given.",
            metavar="FILE.tgz",
        ),
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
    if live and not os.path.lexists(chosen / TEAM_FILE):
        raise AgentMixerError(
            f"--live runs the policies of a bundle, and {chosen} is none; leave --live out, or name a bundle"
        )
    if onnxruntime_web and not live:
        raise AgentMixerError("--onnxruntime-web is what --live puts into its page; add --live")
    place, name = out, "report.html"
    make: Callable[[], Page]
    beside: Path | None = None
    if os.path.lexists(chosen / TEAM_FILE):
        bundle = opened(chosen, trusted)
        beside = _live_page(bundle, out, onnxruntime_web) if live else None
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
        live_page = {"live_page": str(beside)} if beside else {}
        typer.echo(json.dumps({"page": str(target.path), "headline": made.headline} | live_page))
        return
    console = Terminal()
    console.sentence(made.headline)
    console.place("page", target.path)
    if beside:
        console.place("live page", beside)


def _live_page(bundle: Bundle, out: Path | None, archive: Path | None) -> Path:
    """Write the page in which a bundle's policies decide. Returns where it lies."""
    from agentmixer.report.episode_scenes import scenes
    from agentmixer.report.live_page import live_page
    from agentmixer.report.onnxruntime_web import web_runtime
    from agentmixer.report.page import compose
    from agentmixer.validate import recording
    from agentmixer.validate.reports import ReportFile

    place = out.with_stem(f"{out.stem}-live") if out else None
    target = ReportFile(bundle.path, place, "live.html", numbered=False, option="--out FILE.html")
    kept = recording.load(recording.newest(bundle.path), bundle.team.task)
    target.write(compose(live_page(bundle, kept, scenes(bundle), web_runtime(archive))))
    return target.path


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
