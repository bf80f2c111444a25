"""`agentmixer deploy-sim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.report import write_page
from agentmixer_cli.terminal import Terminal, leave

if TYPE_CHECKING:
    from agentmixer.contract.results import Report
    from agentmixer.host.faulty_link import Faults
    from agentmixer.report.page import Page
    from agentmixer.runtime.bundle import Bundle
    from agentmixer.train.run import Run
    from agentmixer.validate.deploy_sim import DeploySimReport
    from agentmixer.validate.faults import FaultReport
    from agentmixer.validate.recording import Recorder
    from agentmixer.validate.reports import ReportFile
    from agentmixer.validate.wiring import Wiring
    from agentmixer.validate.wiring_rehearsal import WiringReport


def deploy_sim(
    bundle: BundleArgument = None,
    episodes: Annotated[int, typer.Option(help="Paired episodes an arm.", min=1)] = 32,
    seed: Annotated[
        int | None, typer.Option(help="Which episodes; a stream of their own unless given.", min=0, max=2**31 - 1)
    ] = None,
    run: RunOption = None,
    task_code: TaskCodeOption = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(help="How long a step waits for decisions; the control period unless given.", min=0.01, max=4e6),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Fail unless deployed and actors are shown to differ by less, in win rate or as a share of the mean return, or not at all.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    trusted: TrustedOption = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Where to write the JSON, with the page beside it; the bundle's reports/ unless given."),
    ] = None,
    require_isolation: Annotated[
        bool, typer.Option("--require-isolation", help="Refuse to start unless every agent is fully sandboxed.")
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="Something that goes wrong, once or more: drop, duplicate, reorder, corrupt, truncate or oversize=RATE, "
            "delay=20ms:p=RATE, kill=AGENT@STEP, stop=AGENT@STEP:for=500ms; or of an observation, swap=AGENT:NAME,NAME, "
            "permute=AGENT:GROUP.*, scale=AGENT:NAME:57.3, flip=AGENT:NAME, offset=AGENT:NAME:0.5, freeze=AGENT:NAME@STEP, "
            "lag=AGENT:NAME:STEPS.",
            metavar="KIND=...",
        ),
    ] = None,
    fault_matrix: Annotated[
        bool, typer.Option("--fault-matrix", help="Play with each kind of fault at 0, 1, 5 and 20 % instead.")
    ] = False,
    wiring_matrix: Annotated[
        bool,
        typer.Option(
            "--wiring-matrix",
            help="Play with each fault of an observation on the elements that are heeded most instead.",
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Write what each deployed agent was sent and did to this folder, as AGENT.npz.", metavar="FOLDER"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Rehearse the deployment: every agent in its own process, against the same episodes in process; a verdict.

    The report and the bundle's page, report.html, are kept in the bundle's reports/. Exits 1 if an action differs or a deadline is missed; with faults, if the team does not do as declared.
    Example: agentmixer deploy-sim --episodes 100
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.files import beside
    from agentmixer.host.agent_process import AgentLost
    from agentmixer.host.faulty_link import parse_faults
    from agentmixer.train.run import standing
    from agentmixer.validate import deploy_sim as rehearsal
    from agentmixer.validate import recording
    from agentmixer.validate.reports import ReportFile
    from agentmixer.validate.wiring import EXAMPLES, parse_wiring

    console = Terminal(stderr=as_json)
    opened, source = opened_with_run(bundle, trusted, run, task_code)
    path = opened.path
    many = fault_matrix or wiring_matrix
    if margin is not None and (fault or many):
        raise AgentMixerError(
            "--margin compares teams without faults; leave out --fault, --fault-matrix and --wiring-matrix"
        )
    if (fault and many) or (fault_matrix and wiring_matrix):
        raise AgentMixerError(
            "a matrix sets the faults itself; leave out --fault, and give one of --fault-matrix and --wiring-matrix"
        )
    if log and many:
        raise AgentMixerError("--log keeps one rehearsal, and a matrix plays many; leave one of them out")
    wired = [text for text in fault or [] if text.partition("=")[0] in EXAMPLES]
    faults = parse_faults([text for text in fault or [] if text not in wired], opened.team.task.agents, tuple(EXAMPLES))
    wirings = [parse_wiring(text, {name: files.manifest for name, files in opened.agents.items()}) for text in wired]
    if wired and len(wired) < len(fault or []):
        raise AgentMixerError(
            "faults of an observation and faults of the link are rehearsed apart; leave out one kind of --fault"
        )
    if (wired or wiring_matrix) and (deadline_ms is not None or require_isolation):
        raise AgentMixerError(
            "faults of an observation are played without processes; leave out --deadline-ms and --require-isolation"
        )
    if not as_json:
        console.place("bundle", path)
        console.sentence(f"the team stands {standing(source, opened.team.source.step)}")
    names = {
        "wiring_matrix.json": wiring_matrix, "faults.json": fault_matrix, "wiring.json": wired, "deploy_sim_faults.json": fault,
    }  # fmt: skip
    name = next((name for name, asked in names.items() if asked), "deploy_sim.json")
    plain = not fault and not many
    target = ReportFile(path, report, name, also=(".npz",) if plain else ())
    page = ReportFile(path, beside(target.path, ".html") if report else None, "report.html", numbered=bool(report))
    recorders = recording.recorders() if plain else {}
    logs = Logs(opened, log)
    keep = Keeper(console, as_json, target, page, opened, trusted, source, recorders, logs)
    arguments = (opened, episodes, rehearsal.DEPLOY_SEED if seed is None else seed, source)
    try:
        if wired or wiring_matrix:
            _with_wiring(keep, wirings, *arguments)
            return
        if fault or fault_matrix:
            chosen = None if fault_matrix else faults
            _with_faults(keep, chosen, deadline_ms, require_isolation, *arguments)
            return
        with console.doing() as doing:
            result = rehearsal.deploy_sim(
                *arguments,
                deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
                progress=doing,
                require_isolation=require_isolation,
                margin=margin,
                recorders=recorders,
                loggers=logs.loggers,
            )
    except AgentLost as error:
        keep(rehearsal.lost_report(opened, error), lambda: None)
        raise typer.Exit(1) from error
    keep(result, lambda: _print(console, result))
    leave(result)


class Logs:
    """One log an agent in a folder, made sure of before anything is played; none without a folder."""

    def __init__(self, bundle: Bundle, folder: Path | None):
        from agentmixer.errors import AgentMixerError
        from agentmixer.runtime.log import Logger
        from agentmixer.validate.reports import ReportFile

        self.folder = folder
        self._files: list[ReportFile] = []
        #: In the agents' order.
        self.loggers: list[Logger] = []
        if folder is None:
            return
        for name, files in bundle.agents.items():
            place = folder / f"{name}.npz"
            if place.exists():
                raise AgentMixerError(f"{place} exists already, and is not written over; choose another --log FOLDER")
            self._files.append(ReportFile(bundle.path, place, "", numbered=False, option="--log FOLDER"))
            self.loggers.append(Logger(files.manifest))

    def write(self) -> None:
        """Keep what was logged."""
        from agentmixer.runtime.log import dump

        for file, logger in zip(self._files, self.loggers, strict=True):
            if logger.added:
                file.write(dump(logger.log()))


class Keeper(NamedTuple):
    """Where a report goes, and what is kept with it: logs, episodes to replay, and the page that is made anew.

    recorders: what recorded the episodes, by arm; none if none are kept."""

    console: Terminal
    as_json: bool
    target: ReportFile
    page: ReportFile
    bundle: Bundle
    trusted: Path | None
    run: Run
    recorders: Mapping[str, Recorder]
    logs: Logs

    def __call__(self, report: Report, show: Callable[[], None]) -> None:
        """Write a report, episodes and the page before anything of them is printed. show: prints what comes before the
        verdict."""
        self.target.write(report.to_json())
        self.logs.write()
        recorded = self._recorded()

        def made() -> Page:
            from agentmixer.report import bundle_page

            return bundle_page.page(self.bundle, self.trusted, self.run.path, {self.target.name: self.target.path})

        written = write_page(self.console, self.page, made)
        if self.as_json:
            typer.echo(report.to_json(), nl=False)
            return
        show()
        self.console.place("report", self.target.path)
        if recorded:
            self.console.sentence(f"recording {recorded}", indent=2)
        if self.logs.folder:
            self.console.place("logs", self.logs.folder)
        if written:
            self.console.place("page", self.page.path)
        self.console.verdict(report)

    def _recorded(self) -> str:
        """Keep episodes beside the report. Returns what is to be said of it; the verdict stands without them."""
        from agentmixer.errors import AgentMixerError
        from agentmixer.validate import recording

        if not self.recorders or not all(recorder.played for recorder in self.recorders.values()):
            return ""
        kept = recording.gathered(self.recorders)
        if not kept.episodes:
            return "of nothing: not one step of an episode fits"
        try:
            path = self.target.write_beside(".npz", recording.dump(kept))
        except AgentMixerError as error:
            return f"of nothing: {error}"
        return f"{path} ({len(kept.numbers):,} of {kept.played:,} episodes; see them: agentmixer replay)"


def _print(console: Terminal, result: DeploySimReport) -> None:
    for table in (_arms(result), _agents(result)):
        console.print(table)
    for check in result.checks:
        console.check(check)
    for line in _sentences(result):
        console.sentence(f"     {line}", indent=5)


def _with_faults(
    keep: Keeper, faults: Faults | None, deadline_ms: float | None, require_isolation: bool,
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
                bundle, faults, episodes, seed, run, deadline_s, require_isolation, doing, keep.logs.loggers
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


def _with_wiring(keep: Keeper, wirings: Sequence[Wiring], bundle: Bundle, episodes: int, seed: int, run: Run) -> None:
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
            _interval(report.difference[measure], f"+{form}"),
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
        results.add_row(name, *map(_interval, cells))
        counts = ("fallbacks", "lost", "late", "stale", "duplicates", "refused")
        longest = report.step_us["max"] or 0.0
        steps.add_row(name, *(f"{report.total(name):,}" for name in counts), f"{longest / 1e3:.1f}")
    return [results, steps]


def _arms(result: DeploySimReport) -> Table:
    table = Table(
        title=escape(f"{result.task} {result.scenario}, {result.parity.episodes} paired episodes"), box=box.SIMPLE
    )
    measures = [name for name in ("win_rate", "return") if name in result.arms["deployed"]]
    for column in ("arm", *(f"{name.replace('_', ' ')} [95 %]" for name in measures)):
        table.add_column(column)
    names = {"joint": "joint (PM, state)", "actors": "actors (torch)", "deployed": "deployed (ONNX)"}
    for arm, figures in result.arms.items():
        cells = (figures[name] for name in measures)
        table.add_row(names[arm], *map(_interval, cells))
    return table


def _agents(result: DeploySimReport) -> Table:
    table = Table(
        title="each agent's process: µs to decide, peak memory, traffic over its link", box=box.SIMPLE, padding=0
    )
    for column in ("agent", "start s", "p50", "p99", "p99.9", "max", "missed", "MB", "kB in", "kB out", "sandbox"):
        figure = column != "agent"
        table.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for name, agent in result.agents.items():
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


def _sentences(result: DeploySimReport) -> list[str]:
    """What decides nothing."""
    step, agree = result.step_us, result.mode_agreement
    gap = result.asymmetric_gap.get("win_rate", result.asymmetric_gap["return"])
    measure = "win rate" if "win_rate" in result.asymmetric_gap else "return"
    lacks = sorted({part for agent in result.agents.values() for part in agent.isolation_lacks})
    modes = "the joint policy's mode is the actors' by definition"
    if agree:
        modes = (
            f"joint policy and actor have the same mode in {_share(agree['joint'])} of decisions played jointly, "
            f"{_share(agree['deployed'])} deployed"
        )
    cut = [
        f"{len(found)} of {result.parity.episodes} episodes of arm {arm} did not end within {result.longest_episode:,} steps "
        f"(the first: episode {found[0]}); they count as lost"
        for arm, found in result.unended.items()
    ]
    return [
        *cut,
        f"joint minus deployed, same episodes: {measure} {_interval(gap, '+.3f')}; {modes}",
        f"isolation: {'full' if not lacks else 'without ' + ', '.join(lacks)}",
        f"lock-step round trip of {len(result.agents)} agents: p50 {_number(step['p50'])}, p99 {_number(step['p99'])}, p99.9 {_number(step['p99.9'])}, "
        f"max {_number(step['max'])} µs; start to first action {result.start_to_first_action_s:.2f} s",
    ]


def _interval(figure: Mapping[str, float | None], form: str = ".3f") -> str:
    """A figure of a report with its interval."""
    from agentmixer.intervals import Estimate

    return Estimate(**figure).told(form)  # type: ignore[arg-type]


def _share(found: dict[str, float]) -> str:
    return f"{found['value']:.4f}" if found["value"] < 1 else "all"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
