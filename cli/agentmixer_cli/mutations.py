"""`agentmixer mutations`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.kept import Kept
from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal, leave


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

    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    console = Terminal(stderr=as_json)
    kept = Kept(console, path, "mutations.json")
    with console.doing() as doing:
        found = check.mutations(opened, source, doing)
    kept.write(found)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        console.place("bundle", path)
        table = Table(box=box.SIMPLE)
        for column in ("mutation", "caught by", "its sentence"):
            table.add_column(column, overflow="fold")
        for mutation in found.mutations:
            caught_by = mutation.caught_by or ("survived" if mutation.status == "failed" else mutation.status)
            table.add_row(mutation.name, caught_by, escape(mutation.sentence))
        console.print(table)
        for control in found.checks:
            if control.control and not control.passed:
                console.sentence(f"FAIL nothing was wrong, and yet {control.sentence}", indent=5)
        kept.tell()
        caught, survived = (sum(m.status == status for m in found.mutations) for status in ("passed", "failed"))
        apart = len(found.mutations) - caught - survived
        console.sentence(f"{caught} caught, {survived} survived, {apart} do not apply")
        console.verdict(found)
    leave(found)
