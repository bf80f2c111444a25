"""`agentmixer runs`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmixer_cli.terminal import Terminal

#: Columns of a sparkline.
CURVE = 10
#: Files whose last change is the run's.
WRITTEN = ("config.toml", "metrics.jsonl", "summary.json")


def runs(
    root: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs, oldest first: a curve of evaluations, what the run came to alone and greedy, how far it is, when it was
    written last, and what was trained with which settings of its own.

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
        typer.echo(json.dumps(listed, indent=2, default=str))
    else:
        _print(console, listed)
    for sentence in damaged:
        console.sentence(f"note: {sentence}")


def _told(path: Path) -> dict[str, Any]:
    """All that is listed of a run, as JSON has it."""
    from agentmixer.train.metrics_file import evaluation
    from agentmixer.train.run_files import LOOKED_AT, checkpoint_files, read_config, read_metrics, read_summary, step_of

    written = read_config(path)
    checkpoints = checkpoint_files(path)
    summary = read_summary(path, written.total_steps)
    reached = step_of(checkpoints[-1]) if checkpoints else 0
    judged = {step: evaluation(line) for step, line in sorted(read_metrics(path, LOOKED_AT, evaluations=True).items())}
    changed = [(path / name).lstat().st_mtime for name in WRITTEN if (path / name).exists()]
    return {
        "run": str(path),
        **written.head,
        "step": summary["steps"] if summary else reached,
        "total_steps": written.total_steps,
        "checkpoints": [step_of(file) for file in checkpoints],
        "summary": summary,
        "made_with": written.made_with,
        "options": written.options,
        "own_settings": {key: value for key, value in written.own_settings.items() if key != "total_steps"},
        "evaluations": [
            {"step": step, "measure": found[0], **found[1]._asdict()} for step, found in judged.items() if found
        ],
        "seconds_since_written": max(0.0, time.time() - max(changed)),
    }


def _print(console: Terminal, listed: list[dict[str, Any]]) -> None:
    """A table in which each run begins with its directory, to be copied."""
    rows = [_cells(run, console.encoding) for run in listed]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for run, row in zip(listed, rows, strict=True):
        console.copied(run["run"])
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if len(line) + 2 <= console.width:
            console.print(f"  {line}", style="green" if run["summary"] else "yellow", highlight=False, markup=False)
        else:
            console.sentence(f"  {', '.join(filter(None, row))}", indent=4)
        console.sentence(f"  {_what(run)}", indent=4)


def _cells(run: dict[str, Any], encoding: str) -> list[str]:
    """Curve, figure, steps and age of a run."""
    from agentmixer.intervals import Estimate, measure
    from agentmixer_cli.sparkline import ends, sparkline

    judged, summary = run["evaluations"], run["summary"]
    alike = [point["value"] for point in judged if point["measure"] == judged[-1]["measure"]]
    curve = sparkline(alike, CURVE, *ends(judged[-1]["measure"]), encoding=encoding) if judged else ""
    figure = ""
    if summary:
        name = measure(summary["decentralised_greedy"])
        found = [summary["decentralised_greedy"][f"{name}{end}"] for end in ("", "_low", "_high")]
    elif judged:
        name, found = judged[-1]["measure"], [judged[-1][key] for key in ("value", "low", "high")]
    if summary or judged:
        figure = f"{name.replace('_', ' ')} {Estimate(*found).told('.3f' if name == 'win_rate' else '.4g')}"
    how_far = f"finished at {run['step']:,}" if summary else f"at {run['step']:,} of {run['total_steps']:,}"
    return [curve, figure, how_far, f"{_ago(run['seconds_since_written'])} ago"]


def _what(run: dict[str, Any]) -> str:
    """What was trained: the task with its options, the algorithm, and settings that are not the preset's; and what is odd."""
    own = [f"{key}={value}" for key, value in {**run["options"], **run["own_settings"]}.items()]
    begun = [f"begun from {run['begun_from']}"] if run["begun_from"] else []
    lost = [] if run["checkpoints"] else ["no checkpoint"]
    told = [f"{run['task']} {run['scenario']}", f"{run['algorithm']} {run['preset']}", f"seed {run['seed']}"]
    return "; ".join([", ".join(told), *([", ".join(own)] if own else []), *begun, *lost])


def _ago(seconds: float) -> str:
    """5400 -> "90 min"."""
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
