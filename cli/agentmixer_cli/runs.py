"""`agentmixer runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmixer_cli.terminal import Terminal


def runs(
    root: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs, oldest first, with how far they came and what they came to alone and greedy.

    Example: agentmixer runs
    """
    from agentmixer.errors import AgentMixerError
    from agentmixer.train.run_files import find_all

    found = find_all(root)
    if not found:
        raise AgentMixerError(f"no run found under {root}/; train one first: agentmixer train smacv2 protoss_5v5")
    console = Terminal(stderr=as_json)
    listed, damaged = [], []
    for path in found:
        try:
            listed.append(_told(path))
        except (AgentMixerError, OSError) as error:
            damaged.append(str(error))
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
    else:
        for run in listed:
            _print(console, run)
    for sentence in damaged:
        console.sentence(f"note: {sentence}")


def _told(path: Path) -> dict[str, Any]:
    """All that is listed of a run, as JSON has it."""
    from agentmixer.train.run_files import checkpoint_files, read_config, read_summary, step_of

    written = read_config(path)
    checkpoints = checkpoint_files(path)
    summary = read_summary(path, written.total_steps)
    reached = step_of(checkpoints[-1]) if checkpoints else 0
    return {
        "run": str(path),
        **written.head,
        "step": summary["steps"] if summary else reached,
        "total_steps": written.total_steps,
        "checkpoints": [step_of(file) for file in checkpoints],
        "summary": summary,
        "made_with": written.made_with,
    }


def _print(console: Terminal, run: dict[str, Any]) -> None:
    """A run: in the first line its directory, to be copied."""
    from agentmixer.intervals import headline

    console.copied(run["run"])
    state = ("finished" if run["summary"] else "unfinished") + ("" if run["checkpoints"] else ", without a checkpoint")
    figures = f"; {headline(run['summary']['decentralised_greedy'])}" if run["summary"] else ""
    steps = f"{run['step']:,} of {run['total_steps']:,} steps"
    console.sentence(f"  {state}, {steps}, preset {run['preset']}{figures}", indent=4)
