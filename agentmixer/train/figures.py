"""What a run came to, in numbers and in words: returns and win rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from agentmixer import intervals
from agentmixer.contract.spec import TaskSpec
from agentmixer.intervals import headline, measure
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.evaluate import Episodes
from agentmixer.train.metrics_file import EVALUATED
from agentmixer.train.run import Run


def report(episodes: Episodes, spec: TaskSpec) -> dict[str, float | None]:
    """Return, and win rate where the task knows one, of a set of episodes with their 95 % intervals."""
    value = intervals.mean(episodes.returns)
    numbers: dict[str, float | None] = {"return": value.value, "return_low": value.low, "return_high": value.high}
    if spec.reports_wins:
        win = intervals.rate(episodes.won)
        numbers |= {"win_rate": win.value, "win_rate_low": win.low, "win_rate_high": win.high}
    return numbers | {
        "length": float(episodes.lengths.mean()), "episodes": len(episodes.returns),
        "unended": int(episodes.unended.sum()),
    }  # fmt: skip


def evaluation_line(run: Run, line: Mapping[str, Any], score: str = "") -> str:
    """One line on an evaluation along the way. line: of metrics.jsonl; score: what is told of it in place of its figures.

    Raises KeyError, TypeError or ValueError if the line is not what training writes."""
    agree = f"; modes agree in {line['mode_agreement']:.3f} of decisions" if "mode_agreement" in line else ""
    return (
        f"step {line['step']:>10,}  {line['steps_per_second']:>6,.0f} steps/s  {arm(run)} greedy: "
        f"{score or headline(line, EVALUATED)}{agree}"
    )


def summary_line(run: Run) -> str:
    """One sentence on a finished run."""
    summary = run.summary
    assert summary is not None
    alone, joint = summary["decentralised_greedy"], summary["joint_greedy"]
    return (
        f"{summary['steps']:,} steps at {summary['steps_per_second']:,.0f} steps/s; over {alone['episodes']} episodes, "
        f"greedy: {arm(run)} {headline(alone)}; joint {headline(joint)}"
    )


def differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two sets of figures of `report` differ by more than chance: their intervals have nothing in common."""
    what = measure(first)
    lows, highs = ([figures[f"{what}{end}"] for figures in (first, second)] for end in ("_low", "_high"))
    return None not in (*lows, *highs) and max(lows) > min(highs)


def sampled_line(run: Run) -> str | None:
    """One sentence on what a finished run's agents came to with sampled actions; None if that is what they came to greedily."""
    summary = run.summary or {}
    sampled = summary.get("decentralised_sampled")
    if sampled is None or not differ(summary["decentralised_greedy"], sampled):
        return None
    return f"with sampled actions {arm(run)} {headline(sampled)}; greedy is what is exported without --sampled"


def arm(run: Run) -> str:
    """What the figures of a run's agents are called that act by what execution gives them: decentralised, if that is their own
    observation."""
    return ALGORITHMS[run.algorithm].execution_sees.arm


def table(chosen: Sequence[Run]) -> Table:
    """Finished runs of several seeds: each one's greedy figures, and their means over seeds with 95 % intervals.

    The figure is the win rate where the task reports wins, else the return."""
    summaries = [run.summary for run in chosen]
    rows = [[summary[arm] for arm in ("decentralised_greedy", "joint_greedy")] for summary in summaries if summary]
    assert len(rows) == len(chosen)
    what = measure(rows[0][0])
    out = Table(
        title=f"{what.replace('_', ' ')}, greedy, {rows[0][0]['episodes']} episodes a seed",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in ("seed", arm(chosen[0]), "joint"):
        out.add_column(column, justify="right")
    for run, row in zip(chosen, rows, strict=True):
        out.add_row(str(run.seed), *(f"{arm[what]:.3f}" for arm in row))
    means = [intervals.mean_of(what, np.array([row[arm][what] for row in rows])) for arm in (0, 1)]
    out.add_section()
    out.add_row("mean", *(escape(mean.told()) for mean in means))
    return out
