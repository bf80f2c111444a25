"""`agentmixer show`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.columns import Columns
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agentmixer.contract.manifest import NOISE
from agentmixer.contract.spec import Action, ActionSpace, Discrete, MultiDiscrete
from agentmixer_cli.opening import TrustedOption
from agentmixer_cli.terminal import WIDTH, Terminal

if TYPE_CHECKING:
    from agentmixer.contract.manifest import TensorSpec
    from agentmixer.contract.spec import Element
    from agentmixer.runtime.datasheet import AgentSheet, DataSheet


def show(
    path: Annotated[
        Path | None,
        typer.Argument(help="A bundle, or one agent's folder; the newest bundle under bundles/ unless given."),
    ] = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what goes onto a device: inputs, outputs, memory, actions, rate, operators and cost of each agent.

    Checks all files and models but replays no trace: that is agentmixer verify. Runs on a device, with the base install.
    Example: agentmixer show
    """
    import msgspec

    from agentmixer.runtime.bundle import newest
    from agentmixer.runtime.datasheet import data_sheet

    sheet = data_sheet(path or newest(), trusted)
    if as_json:  # all but ASCII escaped, so that no text of a stranger speaks to the terminal
        typer.echo(json.dumps(msgspec.to_builtins(sheet), indent=2, allow_nan=False))
    else:
        _print(sheet)


def _print(sheet: DataSheet) -> None:
    console = Terminal()
    console.width = min(console.width, WIDTH)
    source = sheet.source
    console.print(Text(sheet.path, style="bold"), soft_wrap=True)
    console.print(
        _rows(
            ("team", f"{sheet.team_id}, release {sheet.release}"),
            ("task", f"{sheet.task}, scenario {sheet.scenario}"),
            ("rate", f"{sheet.rate_hz:g} Hz: one decision every {sheet.control_period_s:g} s"),
            ("run", f"{source.run}, seed {source.seed}, step {source.step}"),
            ("trained by", f"{source.algorithm}, preset {source.preset}"),
            ("exported by", f"agentmixer {source.agentmixer}"),
            ("checkpoint", f"{source.checkpoint}, SHA-256"),
            ("", source.checkpoint_sha256),
            ("manifest", "SHA-256"),
            ("", sheet.digest),
            ("signature", sheet.signature),
        )
    )
    for agents in _alike(sheet.agents):
        _print_agents(console, agents)


def _print_agents(console: Terminal, agents: list[AgentSheet]) -> None:
    """agents: those of one interface."""
    console.print()
    console.print(Text(", ".join(agent.agent for agent in agents), style="bold"))
    first = agents[0]
    console.print(
        _rows(
            *(("input", _tensor(tensor, first.action_space)) for tensor in first.inputs),
            *(("output", _tensor(tensor, first.action_space)) for tensor in first.outputs),
            ("memory", f"{first.memory:,} float32; zeros when an episode starts" if first.memory else "none"),
            ("mask", _MASKS[first.mask_rule]),
            ("actions", _space(first.action_space)),
            ("fallback", _action(first.fallback_action)),
            ("operators", ", ".join(f"{op} {count}" for op, count in first.operators.items())),
        )
    )
    table = Table("agent", box=None, padding=(0, 2, 0, 0))
    for column in ("index", "policy.onnx", "parameters", "multiply-adds", "elements"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("agent.sig", no_wrap=True)
    for agent in agents:
        table.add_row(
            Text(agent.agent, overflow="fold"),
            str(agent.index),
            f"{agent.model_bytes:,} B",
            f"{agent.parameters:,}",
            f"{agent.multiply_adds:,}",
            f"{agent.elements:,}",
            "yes" if agent.signed else "no",
        )
    console.print(table)
    for tensor in first.inputs:
        if tensor.elements:
            console.print(Text(f"elements of {tensor.name}, in order"))
            told = first.obs_elements if tensor.name == "obs" else ()
            console.print(_columns(f"{i} {name}{_meaning(told, i)}" for i, name in enumerate(tensor.elements)))
    if first.action_names:
        console.print(Text("actions, in order"))
        console.print(_columns(f"{i} {name}" for i, name in enumerate(first.action_names)))


def _meaning(told: tuple[Element, ...], index: int) -> str:
    """Unit, range and frame of an element, as far as they are known."""
    if not told:
        return ""
    of = told[index]
    low, high = ("" if bound is None else f"{bound:g}" for bound in (of.low, of.high))
    bounds = f"{low}..{high}" if low or high else ""
    words = [word for word in (of.unit, bounds, of.frame) if word]
    return f" ({', '.join(words)})" if words else ""


_MASKS = {
    "forbid": "action_mask: True marks a legal action; an illegal action is never chosen",
    "none": "none: every action is legal",
}


def _alike(agents: Iterable[AgentSheet]) -> list[list[AgentSheet]]:
    """Agents grouped by all that `_print_agents` says of a group once."""
    groups: dict[object, list[AgentSheet]] = {}
    for agent in agents:
        tensors = (agent.inputs, agent.outputs, agent.memory, agent.mask_rule)
        actions = (agent.action_space, agent.fallback_action, agent.obs_elements, agent.action_names)
        groups.setdefault((tensors, actions, tuple(agent.operators.items())), []).append(agent)
    return list(groups.values())


def _rows(*rows: tuple[str, RenderableType]) -> Table:
    """One line a fact: the fact's name, then the fact."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=12, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value, overflow="fold") if isinstance(value, str) else value)
    return table


def _columns(texts: Iterable[str]) -> Columns:
    return Columns([Text(text, overflow="fold") for text in texts], column_first=True, padding=(0, 2))


def _tensor(tensor: TensorSpec, space: ActionSpace) -> str:
    """A tensor's name, type, shape without the batch, bounds and units."""
    units = {
        "obs": "raw, in the task's units",
        "action_mask": "True: legal",
        NOISE: "standard Gumbel noise, which the agent draws itself; zeros: the most likely action",
        "action": "number of the action" if isinstance(space, Discrete) else "in the task's units",
        "logits": "without a unit",
        "mean": "in units of half the action range, before clamping",
    }.get(tensor.name, "recurrent state")
    limits = zip(("from", "to"), (tensor.low, tensor.high), strict=True)
    bounds = "".join(f" {word} {limit:g}" for word, limit in limits if limit is not None)
    return f"{tensor.name} {tensor.dtype} {list(tensor.shape)}{bounds}, {units}"


def _space(space: ActionSpace) -> RenderableType:
    if isinstance(space, Discrete):
        return f"discrete, {space.start:,} to {space.start + space.n - 1:,}"
    bounds: list[tuple[float, float]]
    if isinstance(space, MultiDiscrete):
        kind, bounds = "whole numbers", [(start, start + n - 1) for n, start in space.choices]
    else:
        kind = "rounded to whole numbers" if space.whole else "real-valued"
        bounds = list(zip(space.low, space.high, strict=True))
    if len(set(bounds)) == 1:
        return f"{space.size:,} {kind}, each from {bounds[0][0]:g} to {bounds[0][1]:g}"
    return _columns(f"[{i}] from {low:g} to {high:g}" for i, (low, high) in enumerate(bounds))


def _action(action: Action) -> str:
    return f"action {action}" if isinstance(action, int) else ", ".join(f"{value:g}" for value in action)
