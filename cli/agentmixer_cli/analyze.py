"""`agentmixer analyze`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.terminal import Terminal


def analyze(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory of task matrix; the newest run under runs/ unless given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the deviation that attains each gap.")
    ] = False,
) -> None:
    """Say how far a matrix game's policies are from equilibrium: the joint policy, the actors, the actors' modes.

    A gap is the most that one agent gains by deviating alone. All are exact, but for a joint policy with a signal:
    that one is averaged over 8,192 signals.

    Example: agentmixer analyze
    """
    from agentmixer.study import analysis
    from agentmixer.train import run as runs

    chosen = runs.load(run) if run else runs.newest()
    console = Terminal(stderr=as_json)
    with console.doing() as doing:
        result = analysis.analyze(chosen, doing)
    if as_json:
        typer.echo(json.dumps({"run": str(chosen.path), "scenario": chosen.scenario, **result}))
        return
    console.print(f"{chosen.path} at step {result['step']:,}", soft_wrap=True, markup=False)
    console.print(
        _table(result["policies"], escape(f"{Path(chosen.scenario).name}: highest payoff {result['maximum']:g}"))
    )


def _table(found: dict[str, Any], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in ("policy", "expected return", "CE gap", "CCE gap", "NE gap"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=column != "policy")
    names = {
        "joint": "joint, sampled (PM, state)",
        "actors": "actors, sampled",
        "actors_greedy": "actors, greedy (exported)",
    }
    for policy, figures in found.items():
        gaps = (_number(figures[kind]["value"]) if figures[kind] else "-" for kind in ("ce", "cce", "ne"))
        table.add_row(names[policy], _number(figures["return"]), *gaps)
    return table


def _number(value: float) -> str:
    return f"{round(value, 6) + 0.0:.6f}"  # the sum turns -0.0 into 0.0
