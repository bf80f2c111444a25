"""`agentmixer tasks`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from agentmixer.errors import AgentMixerError
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.tasks.base import TaskFamily


def tasks(
    name: Annotated[str | None, typer.Argument(help="One task; all unless given.")] = None,
    algorithms: Annotated[
        bool, typer.Option("--algorithms", help="List what they can be trained with, and what execution needs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List tasks and scenarios with their sizes, and what their simulators do not model.

    Example: agentmixer tasks smacv2
    """
    if algorithms:
        if name is not None:
            raise AgentMixerError("every algorithm is listed for all tasks; leave out --algorithms or the task")
        _algorithms(as_json)
        return
    from agentmixer import tasks as registry

    if as_json:
        chosen = [name] if name else registry.names()
        typer.echo(json.dumps({task: _told(task) for task in chosen}, indent=2))
        return
    console = Terminal()
    for task in [name] if name else registry.names():
        family = registry.family(task)
        table = Table(title=f"{task} (backends: {', '.join(family.backends)})", box=None, padding=(0, 2, 0, 0))
        for column in ("scenario", "agents", "obs", "state", "actions", "limit"):
            table.add_column(column, no_wrap=column != "obs", overflow="fold")
        sources: dict[str, list[str]] = {}
        for row in family.scenarios():
            sizes = "/".join(str(size) for size in dict.fromkeys(row.obs_sizes)) or "its own"
            cells = (row.agents, sizes, row.state_size, row.actions, row.episode_limit)
            table.add_row(row.scenario, *(str(cell or "its own") for cell in cells))
            sources.setdefault(row.source, []).append(row.scenario)
        console.print(table)
        for source, scenarios in sources.items():
            whose = f" ({', '.join(scenarios)})" if len(sources) > 1 else ""
            console.print(f"source: {source}{whose}", markup=False, highlight=False)
        defaults = family.Options().as_dict()
        for option, sentence in family.Options.explained().items():
            console.sentence(f"--env-arg {option}={defaults[option]}  {sentence}", indent=4)
        console.print(family.notes)
        for backend in family.backends:
            problems = registry.backend_problems(task, backend)
            console.sentence(f"backend {backend}: {f'missing: {problems[0]}' if problems else 'can be used here'}")
    console.copied(f"next: agentmixer train {_example(family, name) if name else 'smacv2 protoss_5v5'}")


def _algorithms(as_json: bool) -> None:
    """What a team can be trained with (paper, Table 2): what its agents need to act, and so whether `export` takes it."""
    from agentmixer.train.algorithms import ALGORITHMS

    listed = {
        name: {
            "about": algorithm.about(),
            "source": algorithm.source,
            "execution_needs": algorithm.execution_sees.value,
            "exported": algorithm.execution_sees.alone,
            "seeds_side_by_side": algorithm.several_teams,
        }
        for name, algorithm in ALGORITHMS.items()
    }
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    console = Terminal()
    for name, facts in listed.items():
        console.sentence(f"{name}  {facts['about']} ({facts['source']})", indent=4)
        needs = f"to act, an agent needs {facts['execution_needs']}"
        exported = "exported one by one" if facts["exported"] else "not exported"
        several = "" if facts["seeds_side_by_side"] else "; one seed at a time"
        console.sentence(f"    {needs}: {exported}{several}", indent=4)
    console.copied("next: agentmixer train smacv2 protoss_5v5 --algorithm NAME")


def _example(family: TaskFamily, name: str) -> str:
    """A task and a scenario of it as `train` takes them; in capitals where the user has to put in a name of their own."""
    first = family.scenarios()[0]
    return f"{name} {first.scenario if first.obs_sizes else first.scenario.upper()}"


def _told(task: str) -> dict[str, Any]:
    """All that is listed of a task, as JSON has it."""
    from agentmixer import tasks as registry

    family = registry.family(task)
    defaults, explained = family.Options().as_dict(), family.Options.explained()
    return {
        "backends": list(family.backends),
        "missing": {name: list(map(str, registry.backend_problems(task, name))) for name in family.backends},
        "scenarios": [msgspec.to_builtins(row) for row in family.scenarios()],
        "options": {name: {"default": value, "about": explained.get(name, "")} for name, value in defaults.items()},
        "notes": family.notes,
    }
