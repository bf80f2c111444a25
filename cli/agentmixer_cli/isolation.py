"""`agentmixer isolation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from agentmixer_cli.opening import BundleArgument, TrustedOption, opened
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.validate.isolation import Outcome, SelfTest


def isolation(
    bundle: BundleArgument = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Attack a team from inside: a hostile process in one agent's place tries to reach the others.

    Each attack runs without the sandbox, where it must work, and in it, where it must not. Exits 1 if one gets
    through or a control fails. Example: agentmixer isolation
    """
    from agentmixer.validate.isolation import self_test

    found = opened(bundle, trusted)
    console = Terminal(stderr=as_json)
    with console.status("starting") as status:
        result = self_test(found, lambda run: status.update(f"attacking {run}"))
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        _print(console, result)
    if not result.passed:
        raise typer.Exit(1)


def _print(console: Console, result: SelfTest) -> None:
    table = Table(title="attacks from the place of one agent", box=box.SIMPLE)
    for column in ("attack", "aim", "without", "in the sandbox"):
        table.add_column(column)
    for outcome in result.outcomes:
        table.add_row(outcome.name, outcome.aim, *_cells(outcome), style=None if outcome.passed else "bold red")
    console.print(table)
    shown = [outcome for outcome in result.outcomes if not outcome.not_shown]
    levels = sorted({level.level for level in result.isolation.values()})
    dumb = [name for name, answers in result.still_answer.items() if not answers]
    abi = f"Landlock ABI {result.offered.landlock}" if result.offered.landlock else "no Landlock"
    lines = [
        f"this kernel offers {abi} and {'seccomp' if result.offered.seccomp else 'no seccomp'}; level reached: {', '.join(levels)}",
        f"{sum(bool(o.control) for o in shown)} of {len(shown)} attacks work without the sandbox, "
        f"{sum(bool(o.sandboxed) for o in result.outcomes)} of {len(result.outcomes)} in it; "
        f"{len(result.outcomes) - len(shown)} not shown here",
        f"still answer after the attacks: {len(result.still_answer) - len(dumb)} of {len(result.still_answer)} others",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(
        "verdict: " + ("PASS" if result.passed else "FAIL"), style="bold green" if result.passed else "bold red"
    )


def _cells(outcome: Outcome) -> tuple[str, str]:
    inside = (
        "GOT THROUGH"
        if outcome.sandboxed
        else "not tried"
        if outcome.sandboxed is None
        else f"refused: {outcome.refusal}"
    )
    if outcome.not_shown:
        return f"not shown here: {outcome.not_shown}", inside
    return "works" if outcome.control else "CONTROL FAILS", inside
