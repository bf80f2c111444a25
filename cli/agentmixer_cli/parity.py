"""`agentmixer parity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.validate.ladder import Ladder


def parity(
    bundle: BundleArgument = None,
    trusted: TrustedOption = None,
    run: RunOption = None,
    task_code: TaskCodeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold every exported graph against the actor it came from: single steps, extremes, free runs, batches.

    Exits 1 if a rung fails. The report is kept in the bundle's reports/. Example: agentmixer parity
    """
    from agentmixer.validate import ladder
    from agentmixer.validate.reports import ReportFile

    console = Terminal()
    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    target = ReportFile(path, None, "parity.json")
    if as_json:
        result = ladder.climb(opened, source)
        typer.echo(result.to_json(), nl=False)
    else:
        console.print(f"bundle {path}", soft_wrap=True, markup=False)
        with console.status("playing") as status:
            result = ladder.climb(opened, source, lambda agent: status.update(f"climbing: {agent}"))
        console.print(_table(result))
        for line in _sentences(result):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        console.print(f"report {target.path}", soft_wrap=True, markup=False)
        console.print(
            "verdict: " + ("PASS" if result.passed else "FAIL"), style="bold green" if result.passed else "bold red"
        )
    target.write(result.to_json())
    if not result.passed:
        raise typer.Exit(1)


def _table(result: Ladder) -> Table:
    agents = len({rung.agent for rung in result.rungs})
    table = Table(
        title=escape(
            f"{result.task} {result.scenario}, {agents} agents: steps, largest error, different actions, "
            "near ties, steps left out, different bits"
        ),
        box=box.SIMPLE,
    )
    for column in ("rung", "steps", "error", "differ", "ties", "out", "bits", ""):
        table.add_column(column, justify="left" if column == "rung" else "right", no_wrap=True)
    for name in dict.fromkeys(rung.rung for rung in result.rungs):
        mine = [rung for rung in result.rungs if rung.rung == name]
        errors = [rung.largest_error for rung in mine]
        bits = [rung.different_bits for rung in mine if rung.different_bits is not None]
        finite = [error for error in errors if error is not None]
        table.add_row(
            name,
            f"{sum(rung.observations for rung in mine):,}",
            f"{max(finite):.1e}" if len(finite) == len(errors) else "not finite",
            f"{sum(rung.different_actions for rung in mine):,}",
            f"{sum(rung.near_ties for rung in mine):,}",
            f"{sum(len(rung.undetermined) for rung in mine):,}",
            f"{sum(bits):,}" if bits else "-",
            "ok" if all(rung.passed for rung in mine) else "FAIL",
        )
    return table


def _sentences(result: Ladder) -> list[str]:
    lines = [
        f"FAIL {rung.rung}, {rung.agent}: first at {rung.first['observation']}; expected action {rung.first['expected']}, "
        f"got {rung.first['got']}{_unusual(rung.first['unusual'])}"
        for rung in result.rungs
        if rung.first
    ]
    return [*lines, "     closed loop: agentmixer deploy-sim plays whole episodes"]


def _unusual(elements: list[dict[str, Any]]) -> str:
    told = [
        f"{e['element']} = {e['value']:g} ({e['mean_in_play']:.3g} ± {e['sd_in_play']:.2g} in play)" for e in elements
    ]
    return "; most unusual: " + ", ".join(told) if told else ""
