"""`agentmixer tasks`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def tasks(name: Annotated[str | None, typer.Argument(help="One task; all unless given.")] = None) -> None:
    """List tasks and scenarios with their sizes, and what their simulators do not model.

    Example: agentmixer tasks smacv2
    """
    from agentmixer import tasks as registry

    console = Console()
    for task in [name] if name else registry.names():
        family = registry.family(task)
        table = Table(title=f"{task} (backends: {', '.join(family.backends)})")
        for column in ("scenario", "agents", "observation", "state", "actions", "limit", "source"):
            table.add_column(column)
        for row in family.scenarios():
            table.add_row(*(str(cell) for cell in row))
        console.print(table)
        console.print(family.notes)
    console.print("next: agentmixer train smacv2 protoss_5v5")
