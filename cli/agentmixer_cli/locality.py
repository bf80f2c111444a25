"""`agentmixer locality`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.kept import Kept
from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal, leave

if TYPE_CHECKING:
    from agentmixer.validate.bit_tally import BitCheck
    from agentmixer.validate.locality import LocalityReport


def locality(
    bundle: BundleArgument = None,
    trusted: TrustedOption = None,
    run: RunOption = None,
    task_code: TaskCodeOption = None,
    steps: Annotated[int, typer.Option(help="Steps of real play that are recorded and repeated.", min=1)] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report, every agent apart.")] = False,
) -> None:
    """Change all that an agent must not depend on, in the running team, in training and in the task: not one bit may move.

    The others see noise, zeros or NaN, or are killed; Policy Modifier, critics and global state are replaced; the task
    changes what it hides. Beside each check stands a control that must move. The report is kept in the bundle's
    reports/. Exits 1 if anything moved that must not, or a control did not.

    Example: agentmixer locality
    """
    from agentmixer.validate import locality as check

    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    console = Terminal(stderr=as_json)
    kept = Kept(console, path, "locality.json")
    with console.doing() as doing:
        found = check.locality(opened, steps, source, doing)
    kept.write(found)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        _print(console, path, kept, found)
    leave(found)


def _print(console: Terminal, path: Path, kept: Kept, found: LocalityReport) -> None:
    console.place("bundle", path)
    table = Table(title=f"{found.steps} recorded steps, every agent in turn", box=box.SIMPLE)
    for column in ("where", "what was changed", "agents", "compared", "bits", "moved", ""):
        figure = column in {"agents", "compared", "bits", "moved"}
        table.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    groups: dict[tuple[str, str], list[BitCheck]] = {}
    for check in found.checks:
        groups.setdefault((check.where, check.name), []).append(check)
    for (where, change), checks in groups.items():
        failed = [check.subject for check in checks if not check.passed]
        sums = (sum(getattr(check, name) for check in checks) for name in ("comparisons", "bits", "differing"))
        verdict = f"FAIL {', '.join(failed)}" if failed else "ok"
        table.add_row(where, escape(change), str(len(checks)), *(f"{value:,}" for value in sums), verdict)
    console.print(table)
    inputs = sorted({name for agent in found.static.values() for names in agent.values() for name in names})
    console.sentence(
        f"static: every output of {len(found.static)} graphs is computed from the agent's own {', '.join(inputs)} alone"
    )
    console.sentence(f"observation: {found.observation}")
    kept.tell()
    console.verdict(found)
