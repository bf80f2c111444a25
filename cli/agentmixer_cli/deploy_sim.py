"""`agentmixer deploy-sim`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.deploy_sim_faults import with_faults, with_wiring
from agentmixer_cli.deploy_sim_kept import Keeper, Logs
from agentmixer_cli.opening import BundleArgument, RunOption, TaskCodeOption, TrustedOption, opened_with_run
from agentmixer_cli.terminal import Terminal, interval, leave

if TYPE_CHECKING:
    from agentmixer.validate.deploy_sim import DeploySimReport


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
    devices: Annotated[
        Path | None,
        typer.Option(
            help="Which agents run on other machines, under agentmixer agent: a TOML file.", metavar="DEVICES.toml"
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
    from agentmixer.host.agent_link import AgentLost
    from agentmixer.host.devices import read_devices
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
    if devices and many:
        raise AgentMixerError(
            "a matrix plays on this machine alone; leave out --devices, or give single --fault options"
        )
    wired = [text for text in fault or [] if text.partition("=")[0] in EXAMPLES]
    faults = parse_faults([text for text in fault or [] if text not in wired], opened.team.task.agents, tuple(EXAMPLES))
    wirings = [parse_wiring(text, {name: files.manifest for name, files in opened.agents.items()}) for text in wired]
    if wired and len(wired) < len(fault or []):
        raise AgentMixerError(
            "faults of an observation and faults of the link are rehearsed apart; leave out one kind of --fault"
        )
    if (wired or wiring_matrix) and (deadline_ms is not None or require_isolation or devices):
        raise AgentMixerError(
            "faults of an observation are played without processes; leave out --deadline-ms, --require-isolation and --devices"
        )
    where = read_devices(devices, opened.team.task.agents) if devices else None
    for incident in faults.incidents:
        name = opened.team.task.agents[incident.agent]
        if where and name in where.addresses:
            raise AgentMixerError(
                f"--fault {incident.kind}={name} stops a process of this machine, and {name} runs on a device; stop it there"
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
            with_wiring(keep, wirings, *arguments)
            return
        if fault or fault_matrix:
            chosen = None if fault_matrix else faults
            with_faults(keep, chosen, deadline_ms, require_isolation, where, *arguments)
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
                devices=where,
            )
    except AgentLost as error:
        keep(rehearsal.lost_report(opened, error), lambda: None)
        raise typer.Exit(1) from error
    keep(result, lambda: _print(console, result))
    leave(result)


def _print(console: Terminal, result: DeploySimReport) -> None:
    for table in (_arms(result), _agents(result)):
        console.print(table)
    for check in result.checks:
        console.check(check)
    for line in _sentences(result):
        console.sentence(f"     {line}", indent=5)


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
        table.add_row(names[arm], *map(interval, cells))
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
        *_devices(result),
        f"joint minus deployed, same episodes: {measure} {interval(gap, '+.3f')}; {modes}",
        f"isolation: {'full' if not lacks else 'without ' + ', '.join(lacks)}",
        f"lock-step round trip of {len(result.agents)} agents: p50 {_number(step['p50'])}, p99 {_number(step['p99'])}, p99.9 {_number(step['p99.9'])}, "
        f"max {_number(step['max'])} µs; start to first action {result.start_to_first_action_s:.2f} s",
    ]


def _share(found: dict[str, float]) -> str:
    return f"{found['value']:.4f}" if found["value"] < 1 else "all"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _devices(result: DeploySimReport) -> list[str]:
    """What devices counted: a line for each that has more to tell than its steps, and one for all others."""
    told, steps, calm = [], 0, 0
    for name, agent in result.agents.items():
        if agent.device is None:
            continue
        counts = agent.device.health
        if counts and not any(counts[what] for what in ("late", "fallbacks", "refused", "restarts")):
            steps, calm = steps + counts["steps"], calm + 1
        elif counts:
            words = ", ".join(
                f"{counts[what]:,} {what}" for what in ("steps", "late", "fallbacks", "refused", "restarts")
            )
            told.append(f"{name}'s device, {agent.device.address}, counted {words}")
        else:
            told.append(f"{name}'s device, {agent.device.address}, did not say how it is")
    if calm:
        told.append(
            f"{calm} device{'s' * (calm > 1)} counted {steps:,} steps, and nothing late, refused or started anew"
        )
    return told
