"""`agentmixer deploy-sim` under faults, of the link and of observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.deploy_sim_kept import Keeper
from agentmixer_cli.terminal import interval, leave

if TYPE_CHECKING:
    from agentmixer.contract.results import Report
    from agentmixer.host.devices import Devices
    from agentmixer.host.faulty_link import Faults
    from agentmixer.runtime.bundle import Bundle
    from agentmixer.train.run import Run
    from agentmixer.validate.faults import FaultReport
    from agentmixer.validate.wiring import Wiring
    from agentmixer.validate.wiring_rehearsal import WiringReport


def with_faults(
    keep: Keeper, faults: Faults | None, deadline_ms: float | None, require_isolation: bool, devices: Devices | None,
    bundle: Bundle, episodes: int, seed: int, run: Run,
) -> None:  # fmt: skip
    """Rehearse under these faults, or under the matrix of them."""
    from agentmixer.validate import faults as rehearsal

    console, deadline_s = keep.console, None if deadline_ms is None else deadline_ms / 1e3
    with console.doing() as doing:
        if faults is None:
            matrix = rehearsal.matrix(
                bundle, episodes, seed, run, deadline_s, progress=doing, require_isolation=require_isolation
            )
            result: Report = matrix
            reports = matrix.reports
        else:
            alone = rehearsal.rehearse(
                bundle, faults, episodes, seed, run, deadline_s, require_isolation, doing, keep.logs.loggers, devices
            )
            result, reports = alone, (alone,)

    def show() -> None:
        for table in _faults(reports):
            console.print(table)
        for report in reports:
            for check in report.checks:
                if faults or not check.passed:
                    console.check(check, f"{report.told}: " if len(reports) > 1 else "")
        if faults is None and result.passed:
            promises = ", ".join(check.name for check in reports[0].checks)
            console.sentence(f"ok   {len(reports)} rehearsals behaved as declared: {promises}", indent=5)

    keep(result, show)
    leave(result)


def with_wiring(keep: Keeper, wirings: Sequence[Wiring], bundle: Bundle, episodes: int, seed: int, run: Run) -> None:
    """Rehearse with observations that are put together wrongly, or with the matrix of such faults if none are given."""
    from agentmixer.validate.wiring_rehearsal import rehearse_wiring, wiring_matrix

    console = keep.console
    with console.doing() as doing:
        if wirings:
            alone = rehearse_wiring(bundle, wirings, episodes, seed, run, doing, keep.logs.loggers)
            result: Report = alone
            reports: tuple[WiringReport, ...] = (alone,)
            agent = ""
        else:
            matrix = wiring_matrix(bundle, episodes, seed, run, doing)
            result, reports, agent = matrix, matrix.reports, matrix.agent

    def show() -> None:
        console.print(_wiring(reports, agent))
        for check in result.checks:
            if wirings or not check.passed:
                console.check(check)
        for flags in reports[0].flags if wirings else ():
            console.sentence(f"     {flags.agent}: {flags.told}", indent=5)
            told = "; ".join(finding.told for finding in flags.audit) or "nothing wrong"
            console.sentence(f"     {flags.agent}: an audit of its log finds: {told}", indent=5)
        if not wirings:
            console.sentence(
                "step: of the episodes that the status flags, the median of the first step in which it does", indent=2
            )
            console.sentence(
                "in time: no later than the mean return so far had fallen by a tenth of the whole", indent=2
            )
            console.sentence("audit: what an audit of the agent's log names first", indent=2)

    keep(result, show)
    leave(result)


def _wiring(reports: Sequence[WiringReport], agent: str) -> Table:
    """What each set of faults cost, and when the status said so. agent: whose observation all of them are of, "" if of several."""
    some = reports[0]
    title = f"{some.task} {some.scenario}, {some.episodes} paired episodes, agents in this process"
    table = Table(title=escape(f"{title}: what {agent} sees" if agent else title), box=box.SIMPLE, pad_edge=False)
    measure = "win_rate" if "win_rate" in some.figures else "return"
    table.add_column("faults", overflow="fold")
    for column in (measure.replace("_", " "), "against none [95 %]", "flagged", "step", "in time", "audit"):
        table.add_column(column, justify="right", no_wrap=True)
    calm = f"{sum(flags.calm for flags in some.flags) / (some.episodes * len(some.flags)):.0%}"
    form = ".2f" if abs(some.calm[measure]["value"]) < 100 else ".0f"
    table.add_row("none", f"{some.calm[measure]['value']:{form}}", "", calm, "", "", "")
    words = {True: "yes", False: "no", None: "no fall"}
    for report in reports:
        table.add_row(
            escape(report.told.replace(f"={agent}:", "=") if agent else report.told),
            f"{report.figures[measure]['value']:{form}}",
            interval(report.difference[measure], f"+{form}"),
            f"{sum(flags.flagged for flags in report.flags) / (report.episodes * len(report.flags)):.0%}",
            "-" if report.step is None else f"{report.step:,}",
            words[report.in_time],
            report.named,
        )
    return table


def _faults(reports: Sequence[FaultReport]) -> list[Table]:
    """What it came to, and what became of the steps: two tables, since one would not fit a terminal."""
    some = reports[0]
    title = f"{some.task} {some.scenario}, {some.episodes} episodes, deadline {some.deadline_s * 1e3:g} ms"
    results = Table(title=escape(title), box=box.SIMPLE)
    measures = [name for name in ("win_rate", "return") if name in some.figures]
    for column in ("faults", *(f"{name.replace('_', ' ')} [95 %]" for name in measures)):
        results.add_column(column)
    steps = Table(box=box.SIMPLE, pad_edge=False)
    steps.add_column("faults", min_width=14)
    for column in ("fallbacks", "lost", "late", "stale", "double", "refused", "step ms"):
        steps.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        cells = (report.figures[name] for name in measures)
        name = escape(report.told)
        results.add_row(name, *map(interval, cells))
        counts = ("fallbacks", "lost", "late", "stale", "duplicates", "refused")
        longest = report.step_us["max"] or 0.0
        steps.add_row(name, *(f"{report.total(name):,}" for name in counts), f"{longest / 1e3:.1f}")
    return [results, steps]
