"""`agentmixer mutations`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal


def mutations(
    bundle: BundleArgument = None,
    trusted: TrustedOption = None,
    run: RunOption = None,
    task_code: TaskCodeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report.")] = False,
) -> None:
    """Test the evidence: make copies of the bundle that are wrong in one thing each and see which check says so.

    The bundle itself is left alone. What a bundle cannot get wrong (no memory, no mask) does not apply. The report is
    kept in the bundle's reports/. Exits 1 if a mutation survives, or if a check objects where nothing is wrong.

    Example: agentmixer mutations
    """
    from agentmixer.validate import mutations as check
    from agentmixer.validate.reports import ReportFile

    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    target = ReportFile(path, None, "mutations.json")
    console = Terminal(stderr=as_json)
    with console.status("starting") as status:
        found = check.mutations(opened, source, progress=lambda what: status.update(escape(what)))
    target.write(found.to_json())
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        console.print(f"bundle {path}", soft_wrap=True, markup=False)
        table = Table(box=box.SIMPLE)
        for column in ("mutation", "caught by", "its sentence"):
            table.add_column(column)
        for outcome in found.outcomes:
            table.add_row(outcome.mutation, outcome.check or outcome.verdict, escape(outcome.sentence))
        console.print(table)
        if found.untouched:
            console.print(f"FAIL nothing was wrong, and yet {found.untouched}", soft_wrap=True, markup=False)
        console.print(f"report {target.path}", soft_wrap=True, markup=False)
        caught, survived = (sum(o.verdict == verdict for o in found.outcomes) for verdict in ("caught", "survived"))
        console.print(
            f"verdict: {'PASS' if found.passed else 'FAIL'}: {caught} caught, {survived} survived, "
            f"{len(found.outcomes) - caught - survived} do not apply",
            style="bold green" if found.passed else "bold red",
        )
    if not found.passed:
        raise typer.Exit(1)
