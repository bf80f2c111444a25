"""`agentmixer probe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from agentmixer_cli.opening import TrustedOption, agent_folder
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.runtime.probe import Probe


def probe(
    folder: Annotated[Path, typer.Argument(help="One agent's folder, such as bundles/NAME/agents/agent_0.")],
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an agent heeds: how much each element of its observation moves its action.

    Tries each element on the agent's recorded observations. Judges nothing. Runs on a device, with the base install.
    Example: agentmixer probe bundles/NAME/agents/agent_0
    """
    import msgspec

    from agentmixer.runtime.bundle import read_agent
    from agentmixer.runtime.probe import probe as tried

    found = tried(read_agent(agent_folder(folder), trusted))
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found), indent=2, allow_nan=False))
    else:
        _print(found)


def _print(found: Probe) -> None:
    console = Terminal()
    table = Table(
        title=f"{found.agent}: what it heeds, over {found.decisions:,} recorded decisions",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("element", overflow="fold")
    for column in ("changed", "moves", "at ±1e6", "invalid"):
        table.add_column(column, justify="right")
    for heed in found.elements:
        if heed.heeded:
            name = Text(heed.name)
            table.add_row(name, f"{heed.changed:.1%}", f"{heed.slope:.3g}", f"{heed.extreme:.1%}", f"{heed.invalid:,}")
    console.print(table)
    for line in (
        "changed: decisions whose action is another if the element is at its 95 % quantile than at its 5 % quantile",
        "moves: how far the logit or mean that moves most moves if the element moves by its range",
        "at ±1e6: decisions whose action is another there; invalid: how many were no valid action there",
    ):
        console.sentence(line, indent=2)
    if unheeded := found.unheeded:
        console.sentence(f"never heeded, {len(unheeded):,} of {len(found.elements):,}: {', '.join(unheeded)}", indent=2)
    zeros = "no valid action" if found.zeros is None else f"action {found.zeros}"
    console.sentence(
        f"an observation of zeros: {zeros}; one that is infinite: refused for {found.refused:,} of "
        f"{len(found.elements):,} elements"
    )
