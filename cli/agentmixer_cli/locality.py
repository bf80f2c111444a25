"""`agentmixer locality`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.validate.bit_tally import Finding
    from agentmixer.validate.locality import Locality
    from agentmixer.validate.reports import ReportFile


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
    from agentmixer.validate.reports import ReportFile

    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    target = ReportFile(path, None, "locality.json")
    console = Terminal(stderr=as_json)
    with console.status("starting") as status:
        found = check.locality(opened, steps, source, progress=lambda what: status.update(escape(what)))
    target.write(found.to_json())
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        _print(console, path, target, found)
    if not found.passed:
        raise typer.Exit(1)


def _print(console: Console, path: Path, target: ReportFile, found: Locality) -> None:
    console.print(f"bundle {path}", soft_wrap=True, markup=False)
    table = Table(title=f"{found.steps} recorded steps, every agent in turn", box=box.SIMPLE)
    for column in ("where", "what was changed", "agents", "compared", "bits", "moved", ""):
        table.add_column(column, justify="right" if column in {"agents", "compared", "bits", "moved"} else "left")
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in found.findings:
        groups.setdefault((finding.where, finding.change), []).append(finding)
    for (where, change), findings in groups.items():
        failed = [finding.agent for finding in findings if not finding.passed]
        sums = (sum(getattr(finding, name) for finding in findings) for name in ("comparisons", "bits", "differing"))
        verdict = f"FAIL {', '.join(failed)}" if failed else "ok"
        table.add_row(where, escape(change), str(len(findings)), *(f"{value:,}" for value in sums), verdict)
    console.print(table)
    inputs = sorted({name for agent in found.static.values() for names in agent.values() for name in names})
    console.print(
        f"static: every output of {len(found.static)} graphs is computed from the agent's own {', '.join(inputs)} alone",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    console.print(f"observation: {found.observation}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report {target.path}", soft_wrap=True, markup=False)
    passed = found.passed
    console.print("verdict: " + ("PASS" if passed else "FAIL"), style="bold green" if passed else "bold red")
