"""What a terminal shows while runs are trained: how far they are, and a row of figures for each seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from agentmixer import intervals
from agentmixer.progress import span
from agentmixer.train.metrics_file import EVALUATED, MODIFIER, evaluation, number
from agentmixer_cli.sparkline import ends, sparkline
from agentmixer_cli.terminal import Terminal

if TYPE_CHECKING:
    from agentmixer.train.run import Run
    from agentmixer.train.watching import Standing

#: The view is drawn anew at most as often, s.
DRAWN_EVERY_S = 0.5
#: Columns of a sparkline.
CURVE = 12


class LiveView:
    """Is told where runs stand, and draws it. To be entered; what was drawn last stays on the terminal."""

    def __init__(self, chosen: Sequence[Run], console: Terminal):
        self._chosen, self._console = chosen, console
        self._live = Live("starting", console=console, auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> LiveView:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._drawn:
            self._live.update("")
        self._live.stop()

    def __call__(self, now: Standing) -> None:
        """Draw, unless that was done a moment ago and nothing was evaluated since."""
        if now.judged or now.step >= now.total or time.monotonic() - self._drawn >= DRAWN_EVERY_S:
            self._live.update(view([run.seed for run in self._chosen], now, self._console.encoding), refresh=True)
            self._drawn = time.monotonic()


def view(seeds: Sequence[int], now: Standing, encoding: str = "utf-8") -> Group:
    """The view of a moment."""
    done = min(now.step, now.total)
    left = "judging" if now.step >= now.total else "-" if now.left is None else f"{span(now.left)} left"
    together = " together" if len(seeds) > 1 else ""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=now.total, completed=done, width=12),
        f"{now.step:,} of {now.total:,}", f"{now.rate * len(seeds):,.0f} steps/s{together}", left,
    )  # fmt: skip
    return Group(bar, figures(seeds, now, encoding))


def figures(seeds: Sequence[int], now: Standing, encoding: str) -> Table:
    """A row a seed: the newest evaluation, a curve of all, the sampled joint policy, and what the Policy Modifier does."""
    judged = [[found for line in run.evaluations if (found := evaluation(line))] for run in now.runs]
    name = next((points[-1][0] for points in judged if points), "return")
    for run in now.runs:  # before the first evaluation
        name = "win_rate" if "train_win_rate" in run.newest else name
    shown = [key for key in MODIFIER if any(number(run.newest, key) is not None for run in now.runs)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    what = name.replace("_", " ")
    form = ".3f" if name == "win_rate" else ".4g"
    table.add_column("seed", justify="right", vertical="bottom")
    table.add_column(f"{what}, each alone", no_wrap=True)
    table.add_column("evaluations", no_wrap=True)
    for key in ("sampled joint", *shown):
        table.add_column("\n".join(key.replace("_", " ").split()), justify="right")
    curves = [[found.value for own, found in points if own == name] for points in judged]
    lowest, highest = ends(name)
    if lowest is None and any(curves):
        lowest, highest = min(map(min, filter(None, curves))), max(map(max, filter(None, curves)))
    for seed, run, points, curve in zip(seeds, now.runs, judged, curves, strict=True):
        table.add_row(
            str(seed),
            escape(points[-1][1].told(form)) if points else "-",
            sparkline(curve, CURVE, lowest, highest, encoding),
            _told(run.newest, f"train_{name}", form),
            *(_told(run.newest, key, ".3f") for key in shown),
        )
    if len(seeds) > 1 and all(curves):
        values = [number(run.evaluations[-1], f"{EVALUATED}{name}") for run in now.runs]
        if None not in values:
            table.add_row("mean", escape(intervals.mean_of(name, np.array(values)).told(form)))
    return table


def _told(line: Any, key: str, form: str) -> str:
    value = number(line, key)
    return "-" if value is None else f"{value:{form}}"
