"""How a run learned: its curves, from metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from agentmixer.report.charts import Series, line_chart, linear
from agentmixer.train.run_files import read_metrics

#: Most points of a curve that are drawn, and most bytes of metrics.jsonl that a page reads.
MOST_POINTS, MOST_BYTES = 300, 64 << 20
#: Shares: their axis goes from 0 to 1.
_SHARES = ("win_rate", "mode_agreement")

Metrics = Mapping[int, Mapping[str, Any]]


def metrics(run: Path) -> dict[int, dict[str, Any]]:
    """The numbers of the run at `run`. Raises AgentMixerError if its file is a link, or too large."""
    return read_metrics(run, MOST_BYTES)


def curve(numbers: Metrics, key: str, name: str) -> Series | None:
    """A metric over environment steps, with its interval if there is one; None if it is there less than twice."""
    points = [
        (step, line[key], line.get(f"{key}_low"), line.get(f"{key}_high"))
        for step, line in sorted(numbers.items())
        if _is_number(line.get(key))
    ]
    if len(points) < 2:
        return None
    every = -(-len(points) // MOST_POINTS)
    points = points[::-1][::every][::-1]  # the newest point is always among them
    steps, values, low, high = zip(*points, strict=True)
    known = [end if _is_number(end) else None for end in low], [end if _is_number(end) else None for end in high]
    return Series(name, steps, values, *known)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15


def measure(runs: Sequence[Metrics]) -> str:
    """win_rate where every run was judged by it, else return."""
    return "win_rate" if all(any("eval_win_rate" in line for line in run.values()) for run in runs) else "return"


def learning_curves(numbers: Metrics) -> list[Markup]:
    """Charts of one run: the win rate or return where the team was judged, the return, and the mode agreement."""
    drawn = []
    for name in ("win_rate", "return"):
        what = name.replace("_", " ")
        lines = [
            curve(numbers, f"eval_{name}", "each agent alone, greedy"),
            curve(numbers, f"train_{name}", "while training, sampled"),
        ]
        drawn.append(chart(f"learning-{name}", f"{what.capitalize()} over training", name, lines))
    drawn.append(
        chart(
            "agreement",
            "Mode agreement over training",
            "mode_agreement",
            [curve(numbers, "mode_agreement", "joint policy and actor")],
        )
    )
    return [one for one in drawn if one]


def chart(name: str, title: str, key: str, lines: Sequence[Series | None]) -> Markup | None:
    """Curves over environment steps; None if there is none. key: whose axis it is."""
    known = [line for line in lines if line]
    if not known:
        return None
    values = [value for line in known for part in (line.y, line.low, line.high) for value in part]
    x = linear([], "environment steps", (0, max(step for line in known for step in line.x)))
    y = linear(values, key.replace("_", " "), (0.0, 1.0) if key in _SHARES else None)
    told = "; ".join(
        f"{line.name}: {line.y[0]:.3g} at step {line.x[0]:,}, {line.y[-1]:.3g} at step {line.x[-1]:,}" for line in known
    )
    return line_chart(name, title, told, x, y, known)
