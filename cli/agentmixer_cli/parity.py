"""`agentmixer parity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.kept import Kept
from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal, leave

if TYPE_CHECKING:
    from agentmixer.validate.ladder import ParityReport


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

    console = Terminal(stderr=as_json)
    opened, source = opened_with_run(bundle, trusted, run, task_code)
    kept = Kept(console, opened.path, "parity.json")
    if not as_json:
        console.place("bundle", opened.path)
    with console.doing() as doing:
        result = ladder.climb(opened, source, doing)
    kept.write(result)
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        console.print(_table(result))
        for check in result.checks:
            if not check.passed:
                console.check(check)
        console.sentence("     closed loop: agentmixer deploy-sim plays whole episodes")
        kept.tell()
        console.verdict(result)
    leave(result)


def _table(result: ParityReport) -> Table:
    agents = len({rung.subject for rung in result.checks})
    table = Table(
        title=escape(
            f"{result.task} {result.scenario}, {agents} agents: steps, largest error, different actions, "
            "near ties, steps left out, different bits"
        ),
        box=box.SIMPLE,
    )
    for column in ("rung", "steps", "error", "differ", "ties", "out", "bits", ""):
        table.add_column(column, justify="left" if column == "rung" else "right", no_wrap=True)
    for name in dict.fromkeys(rung.name for rung in result.checks):
        mine = [rung for rung in result.checks if rung.name == name]
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
