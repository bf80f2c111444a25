"""`agentmixer tasks`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from agentmixer_cli.terminal import Terminal


def tasks(name: Annotated[str | None, typer.Argument(help="One task; all unless given.")] = None) -> None:
    """List tasks and scenarios with their sizes, and what their simulators do not model.

    Example: agentmixer tasks smacv2
    """
    from agentmixer import tasks as registry

    console = Terminal()
    for task in [name] if name else registry.names():
        family = registry.family(task)
        table = Table(title=f"{task} (backends: {', '.join(family.backends)})")
        for column in ("scenario", "agents", "observation", "state", "actions", "limit"):
            table.add_column(column, no_wrap=column != "observation")
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
            console.print(f"--env-arg {option}={defaults[option]}  {sentence}", markup=False, soft_wrap=True)
        console.print(family.notes)
    console.print("next: agentmixer train smacv2 protoss_5v5")
