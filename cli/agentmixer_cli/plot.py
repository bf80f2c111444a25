"""`agentmixer plot`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from agentmixer_cli.terminal import Terminal


def plot(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Run directories, or folders of runs; the newest run under runs/ unless given."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="A key of metrics.jsonl; may be repeated. eval_win_rate or eval_return unless given.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to: .png, .svg or .pdf.")] = Path("curves.png"),
    title: Annotated[
        str | None, typer.Option(help="What stands above; what the runs have in common unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the curves as JSON too.")] = False,
) -> None:
    """Draw learning curves: of the decentralised greedy evaluations, or of any metric, over environment steps.

    Runs that differ in their seeds alone are one curve: their mean at each step that all have, with a band, Student's 95 %
    interval over seeds. A run alone has the interval over episodes. A file that is there already stays.
    Example: agentmixer plot runs/smacv2/protoss_5v5 --metric eval_win_rate --metric entropy --out curves.svg
    """
    from agentmixer.errors import AgentMixerError, printable
    from agentmixer.missing import missing_packages
    from agentmixer.train.run_files import find_all

    if problems := missing_packages(["matplotlib", "scipy"], "pip install 'agentmixer[report]'"):
        raise AgentMixerError(str(problems[0]))
    from agentmixer.report import learning_plot
    from agentmixer.validate.reports import ReportFile

    if out.suffix not in learning_plot.FORMATS:
        raise AgentMixerError(f"--out {out} must end in one of {', '.join(learning_plot.FORMATS)}")
    chosen = runs or find_all(Path("runs"))[-1:]
    if not chosen:
        raise AgentMixerError("no run found under runs/; train one first: agentmixer train smacv2 protoss_5v5")
    read = learning_plot.read(chosen)
    panels, notes = [], dict[str, None]()
    for metric in metrics or [learning_plot.by_default(read)]:
        found, left_out = learning_plot.curves(read, metric)
        panels.append(found)
        notes |= dict.fromkeys(left_out)
    target = ReportFile(Path(), out, "", option="--out FILE")
    heading = learning_plot.title(read) if title is None else printable(title)
    target.write(learning_plot.drawn(panels, heading, out.suffix))
    console = Terminal(stderr=as_json)
    for note in notes:
        console.sentence(f"note: {note}")
    console.place("plot", target.path)
    if as_json:
        curves = [curve._asdict() for panel in panels for curve in panel]
        for curve in curves:
            curve |= {end: [None if math.isnan(value) else value for value in curve[end]] for end in ("low", "high")}
        typer.echo(json.dumps({"file": str(target.path), "curves": curves}, indent=2))
