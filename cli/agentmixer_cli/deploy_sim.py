"""`agentmixer deploy-sim`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from agentmixer.validate.deploy_sim import Verdict


def deploy_sim(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle directory; the newest under bundles/ unless given.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Paired episodes an arm.", min=1)] = 32,
    seed: Annotated[
        int | None, typer.Option(help="Which episodes; a stream of their own unless given.", min=0, max=2**31 - 1)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The run it was exported from; where it was unless given.")] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(help="How long a step waits for decisions; the control period unless given.", min=0.01, max=4e6),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where to write the JSON; the bundle's reports/ unless given.")
    ] = None,
    require_isolation: Annotated[
        bool, typer.Option("--require-isolation", help="Refuse to start unless every agent is fully sandboxed.")
    ] = False,
) -> None:
    """Rehearse the deployment: every agent in its own process, against the same episodes in process; a verdict.

    Exits 1 if an action differs or a deadline is missed. Example: agentmixer deploy-sim --episodes 100
    """
    from agentmixer.runtime.bundle import newest, read_bundle
    from agentmixer.runtime.host import AgentLost
    from agentmixer.validate import deploy_sim as rehearsal

    console = Console()
    path = bundle or newest()
    opened = read_bundle(path)
    console.print(f"bundle {path}", soft_wrap=True, markup=False)
    target = rehearsal.report_file(path, report)
    arguments = (opened, episodes, rehearsal.DEPLOY_SEED if seed is None else seed, run)
    try:
        with console.status("starting") as status:
            verdict = rehearsal.deploy_sim(
                *arguments,
                deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
                progress=lambda arm: status.update(f"playing {episodes} episodes: {arm}"),
                require_isolation=require_isolation,
            )
    except AgentLost as error:
        target.write_text(rehearsal.lost_report(error))
        console.print(f"FAIL {error}", soft_wrap=True, markup=False)
        _conclude(console, False)
        return
    for table in (_arms(verdict), _agents(verdict)):
        console.print(table)
    for line in _sentences(verdict):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    target.write_text(verdict.to_json())
    console.print(f"report {target}", soft_wrap=True, markup=False)
    _conclude(console, verdict.passed)


def _conclude(console: Console, passed: bool) -> None:
    console.print("verdict: " + ("PASS" if passed else "FAIL"), style="bold green" if passed else "bold red")
    if not passed:
        raise typer.Exit(1)


def _arms(verdict: Verdict) -> Table:
    table = Table(
        title=escape(f"{verdict.task} {verdict.scenario}, {verdict.parity.episodes} paired episodes"), box=box.SIMPLE
    )
    measures = [name for name in ("win_rate", "return") if name in verdict.arms["deployed"]]
    for column in ("arm", *(f"{name.replace('_', ' ')} [95 %]" for name in measures)):
        table.add_column(column)
    names = {"joint": "joint (PM, state)", "actors": "actors (torch)", "deployed": "deployed (ONNX)"}
    for arm, figures in verdict.arms.items():
        cells = (figures[name] for name in measures)
        table.add_row(names[arm], *(f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells))
    return table


def _agents(verdict: Verdict) -> Table:
    table = Table(
        title="each agent's process: µs to decide, peak memory, traffic over its link", box=box.SIMPLE, padding=0
    )
    for column in ("agent", "start s", "p50", "p99", "p99.9", "max", "missed", "MB", "kB in", "kB out", "sandbox"):
        table.add_column(column, justify="left" if column == "agent" else "right", no_wrap=True)
    for name, agent in verdict.agents.items():
        table.add_row(
            name,
            f"{agent.start_s:.2f}",
            *(_number(agent.deciding_us[q]) for q in ("p50", "p99", "p99.9", "max")),
            str(agent.missed_deadlines),
            f"{agent.peak_mb:.0f}",
            f"{agent.bytes_to_agent / 1e3:,.0f}",
            f"{agent.bytes_from_agent / 1e3:,.0f}",
            agent.isolation,
        )
    return table


def _sentences(verdict: Verdict) -> list[str]:
    parity, step = verdict.parity, verdict.step_us
    first = f"; first: {parity.first}" if parity.first else ""
    how = (
        f"{parity.near_ties} near ties" if parity.largest_error is None else f"largest error {parity.largest_error:.1e}"
    )
    lacks = sorted({part for agent in verdict.agents.values() for part in agent.isolation_lacks})
    return [
        f"{'ok  ' if parity.passed else 'FAIL'} parity: {parity.actions - parity.different:,} of {parity.actions:,} actions equal over "
        f"{parity.steps:,} steps, {how}{first}",
        f"{'ok  ' if verdict.missed_deadlines == 0 else 'FAIL'} deadline: {verdict.missed_deadlines} decisions later than "
        f"{verdict.deadline_s * 1e3:g} ms (control period {verdict.control_period_s * 1e3:g} ms)",
        f"     isolation: {'full' if not lacks else 'without ' + ', '.join(lacks)}",
        f"     lock-step round trip of {len(verdict.agents)} agents: p50 {_number(step['p50'])}, p99 {_number(step['p99'])}, p99.9 {_number(step['p99.9'])}, "
        f"max {_number(step['max'])} µs; start to first action {verdict.start_to_first_action_s:.2f} s",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
