"""`agentmixer runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from agentmixer_cli.terminal import Terminal


def runs(root: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs")) -> None:
    """List runs, oldest first, with how far they came and their win rate alone and greedy.

    Example: agentmixer runs
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.train import run as records
    from agentmixer.train.figures import headline

    found = records.find_all(root)
    if not found:
        raise AgentMixerError(f"no run found under {root}/; train one first: agentmixer train smacv2 protoss_5v5")
    table = Table()
    for column in ("run", "preset", "steps", "decentralised greedy [95 %]", "state"):
        table.add_column(column, overflow="fold")
    damaged = []
    for path in found:
        try:
            run = records.load(path)
            summary, steps = run.summary, records.steps_done(run)
        except (AgentMixerError, OSError) as error:
            damaged.append(str(error))
            continue
        result = headline(summary["decentralised_greedy"]) if summary else "-"
        table.add_row(
            escape(str(run.path)),
            escape(run.preset),
            f"{steps:,} of {run.config.run.total_steps:,}",
            escape(result),
            "finished" if summary else "unfinished",
        )
    console = Terminal()
    console.print(table)
    for sentence in damaged:
        console.print(f"note: {sentence}", soft_wrap=True, markup=False)
