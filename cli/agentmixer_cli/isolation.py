"""`agentmixer isolation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from agentmixer_cli.kept import Kept
from agentmixer_cli.opening import BundleArgument, TrustedOption, opened
from agentmixer_cli.terminal import Terminal, leave

if TYPE_CHECKING:
    from agentmixer.validate.isolation import AttackCheck, IsolationReport


def isolation(
    bundle: BundleArgument = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack a team from inside: a hostile process in one agent's place tries to reach the others.

    Each attack runs without the sandbox, where it must work, and in it, where it must not. The report is kept in the
    bundle's reports/. Exits 1 if one gets through or a control fails. Example: agentmixer isolation
    """
    from agentmixer.validate.isolation import self_test

    found = opened(bundle, trusted)
    console = Terminal(stderr=as_json)
    kept = Kept(console, found.path, "isolation.json")
    with console.doing() as doing:
        result = self_test(found, doing)
    kept.write(result)
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        _print(console, kept, result)
    leave(result)


def _print(console: Terminal, kept: Kept, result: IsolationReport) -> None:
    table = Table(title="attacks from the place of one agent", box=box.SIMPLE)
    for column in ("attack", "aim", "without", "in the sandbox"):
        table.add_column(column, overflow="fold")
    for check in result.attacks:
        table.add_row(check.name, check.aim, *_cells(check), style="bold red" if check.status == "failed" else None)
    console.print(table)
    shown = [check for check in result.attacks if check.status != "does not apply"]
    levels = sorted({found["level"] for found in result.isolation.values()})
    answer = result.still_answer.values()
    abi = f"Landlock ABI {result.offered.landlock}" if result.offered.landlock else "no Landlock"
    console.sentence(
        f"this kernel offers {abi} and {'seccomp' if result.offered.seccomp else 'no seccomp'}; level reached: "
        f"{', '.join(levels)}"
    )
    console.sentence(
        f"{sum(bool(check.outside) for check in shown)} of {len(shown)} attacks work without the sandbox, "
        f"{sum(bool(check.inside) for check in result.attacks)} of {len(result.attacks)} in it; "
        f"{len(result.attacks) - len(shown)} not shown here"
    )
    console.sentence(f"still answer after the attacks: {sum(answer)} of {len(answer)} others")
    kept.tell()
    console.verdict(result)


def _cells(check: AttackCheck) -> tuple[str, str]:
    inside = "GOT THROUGH" if check.inside else "not tried" if check.inside is None else f"refused: {check.refusal}"
    if check.status == "does not apply":
        return f"not shown here: {check.sentence}", inside
    return "works" if check.outside else "CONTROL FAILS", inside
