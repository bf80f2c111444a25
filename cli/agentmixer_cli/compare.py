"""`agentmixer compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.report import write_page
from agentmixer_cli.terminal import Terminal, leaves


def compare(
    task: Annotated[str, typer.Argument(help="Task, for example passage (agentmixer tasks lists all).")],
    scenario: Annotated[str, typer.Argument(help="Scenario, for example two_agents.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B,...", help="What differs: a setting, algorithm or preset; repeated, all combinations."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each variant, for example 0-4 or 0,3,7.")] = "0-2",
    steps: Annotated[str | None, typer.Option(help="Environment steps a run; the preset's unless given.")] = None,
    algorithm: Annotated[str, typer.Option(help="Algorithm where it is not varied.")] = "agentmixer_ppo",
    preset: Annotated[str, typer.Option(help="Preset where it is not varied.")] = "default",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all variants; may be repeated.")
    ] = None,
    env_args: Annotated[
        list[str] | None, typer.Option("--env-arg", metavar="KEY=VALUE", help="An option of the task.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="The task's backend; its first unless given.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="return or win_rate; unless given, the win rate where the task reports wins (matrix does), else the return."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time, one thread each.", min=1, max=256)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where runs and table go; comparisons/<task>/<scenario> unless given.")
    ] = None,
) -> None:
    """Train several variants on the same seeds and print one table: decentralised greedy, with intervals. A page goes with it.

    Stopped and typed again it goes on, and runs that are finished are not run again.

    Example: agentmixer compare passage two_agents --vary pm=mixer,hypernetwork,attention,none --seeds 0-4
    """
    from agentmixer import tasks
    from agentmixer.config import parse_assignments, parse_seeds
    from agentmixer.errors import AgentMixerError, nearest
    from agentmixer.report import comparison_page
    from agentmixer.study import comparison
    from agentmixer.train import run as runs
    from agentmixer.train.settings import read_steps
    from agentmixer.validate.reports import ReportFile

    tasks.family(task)
    if measure not in (None, *comparison.MEASURES):
        raise AgentMixerError(f"unknown measure '{measure}'{nearest(str(measure), comparison.MEASURES)}")
    target = out or comparison.COMPARISONS / task / runs.folder_name(scenario)
    settings = parse_assignments(assignments or []) | ({} if steps is None else {"total_steps": read_steps(steps)})
    for text in vary or []:
        if (key := text.partition("=")[0].strip()) in settings:
            raise AgentMixerError(f"--vary and --set both give {key}; leave one of them out")
    chosen = comparison.variants(vary or [], algorithm, preset)
    options = parse_assignments(env_args or [], "--env-arg", "penalty=-1", tasks.option_names(task, scenario))
    prepared = comparison.prepare(task, scenario, chosen, parse_seeds(seeds), settings, options, target, backend)
    leaves("the same command goes on from here")
    asked = comparison.question(prepared, measure, shlex.join(["agentmixer", *sys.argv[1:]]))
    console = Terminal(stderr=as_json)
    console.print(f"{len(prepared)} runs, {jobs} at a time, under {target}", soft_wrap=True, markup=False)

    def done(trained: comparison.Trained) -> None:
        console.sentence(
            f"{trained.variant}, seed {trained.seed}: {trained.measure.replace('_', ' ')} {trained.decentralised:.3f} "
            f"as executed, {trained.joint:.3f} joint ({trained.seconds:.0f} s)",
            indent=2,
        )

    with console.doing() as doing:
        found = comparison.train_all(prepared, jobs, done, asked.measure, doing)
    rows = comparison.summarise(found)
    texts = {"md": comparison.markdown(asked, found, rows), "json": comparison.to_json(asked, found, rows)}
    for ending, text in texts.items():
        runs.write(target / f"{asked.digest}.{ending}", text)
    page = ReportFile(target, target / f"{asked.digest}.html", "", numbered=False)
    written = write_page(console, page, lambda: comparison_page.page(target / f"{asked.digest}.json"))
    if as_json:
        typer.echo(comparison.to_json(asked, found, rows), nl=False)
        return
    console.print()
    console.sentence(asked.heading)
    for table in _tables(*comparison.cells(found, rows), console.width):
        console.print(table)
    for ending in texts:
        console.place("written", target / f"{asked.digest}.{ending}")
    if written:
        console.place("page", page.path)


def _tables(head: list[str], cells: list[list[str]], width: int) -> list[Table]:
    """The table as tables of so many columns of text, each of which begins with the variants."""
    wide = [max(len(row[column]) for row in [head, *cells]) for column in range(len(head))]
    variant = max(len(word) for row in [head, *cells] for word in row[0].split())
    groups: list[list[int]] = []
    room = 0
    for column in range(1, len(head)):
        room -= wide[column] + 3  # what stands between columns
        if room < 0 or not groups:
            groups.append([])
            room = width - variant - wide[column] - 7
        groups[-1].append(column)
    tables = []
    for group in groups:
        table = Table(box=box.SIMPLE)
        table.add_column(head[0], overflow="fold")
        for column in group:
            table.add_column(escape(head[column]), justify="right", no_wrap=True)
        for row in cells:
            table.add_row(*(escape(row[column]) for column in (0, *group)))
        tables.append(table)
    return tables
