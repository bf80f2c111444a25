"""Learning curves of runs: read, put together where runs differ in their seeds alone, and drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agentmixer import intervals
from agentmixer.errors import AgentMixerError, nearest, printable
from agentmixer.train.metrics_file import estimate, number
from agentmixer.train.run_files import LOOKED_AT, find_all, read_config, read_metrics

#: Files that a plot can be.
FORMATS = (".png", ".svg", ".pdf")
#: Most points of a curve that are drawn.
MOST_POINTS = 1000
#: Means of shares lie between 0 and 1.
SHARES = ("win_rate", "mode_agreement", "clip_fraction", "epsilon")
#: What tells one run from another before its settings do.
NAMES = ("task", "scenario", "backend", "algorithm", "preset", "begun_from")
#: More differences than this do not go into a curve's name.
MOST_DIFFERENCES = 4


class Trained(NamedTuple):
    """A run on disk. asked: all that was asked for but the seed, by its name; lines: metrics.jsonl by steps."""

    path: Path
    seed: int
    asked: Mapping[str, Any]
    lines: Mapping[int, Mapping[str, Any]]


class Curve(NamedTuple):
    """A metric over environment steps: of one run, with the interval over episodes where the metric has one; or the mean of
    several seeds, with Student's 95 % interval over them. low, high: nan where there is no interval."""

    name: str
    metric: str
    seeds: Sequence[int]
    steps: Sequence[int]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def read(paths: Sequence[Path]) -> list[Trained]:
    """The runs at these paths, and all runs in those that are folders of runs. Raises AgentMixerError if there is none."""
    found = []
    for path in paths:
        inside = [path] if (path / "config.toml").exists() else find_all(path)
        if not inside:
            raise AgentMixerError(f"{path} holds no run, nor a folder of runs; list runs with: agentmixer runs")
        found += inside
    return [_read(path) for path in dict.fromkeys(found)]


def _read(path: Path) -> Trained:
    written = read_config(path)
    asked = {name: written.head[name] for name in NAMES} | written.options
    asked |= {key: value for part in written.settings.values() for key, value in part.items()}
    return Trained(path, written.head["seed"], asked, read_metrics(path, LOOKED_AT))


def by_default(runs: Sequence[Trained]) -> str:
    """The metric that is drawn unless one is named: eval_win_rate where every run has it, else eval_return."""
    name = "eval_win_rate"
    return name if all(any(name in line for line in run.lines.values()) for run in runs) else "eval_return"


def curves(runs: Sequence[Trained], metric: str) -> tuple[list[Curve], list[str]]:
    """A curve for each group of runs that differ in their seeds alone, and sentences about what is left out of them.

    Raises AgentMixerError that names the nearest metric if no run has this one."""
    known = {key for run in runs for line in run.lines.values() for key in line if number(line, key) is not None}
    if metric not in known - {"step"}:
        raise AgentMixerError(f"no run has a metric '{metric}' yet{nearest(metric, known - {'step'})}")
    found, notes = [], []
    groups = _groups(runs)
    for name, group in zip(_names(groups), groups, strict=True):
        with_it = [run for run in group if any(number(line, metric) is not None for line in run.lines.values())]
        notes += [f"{run.path} has no {metric} and is left out" for run in group if run not in with_it]
        if len(with_it) == 1:
            found.append(_alone(name, metric, with_it[0]))
        elif with_it:
            curve, last = _together(name, metric, with_it)
            found.append(curve)
            if last > curve.steps[-1]:
                notes.append(f"{name} ends at step {curve.steps[-1]:,}, which all its seeds have reached")
    return found, notes


def _groups(runs: Sequence[Trained]) -> list[list[Trained]]:
    """Runs that differ in their seeds alone. Raises AgentMixerError where two are of the same seed: they are one team."""
    groups: list[list[Trained]] = []
    for run in runs:
        group = next((group for group in groups if group[0].asked == run.asked), None)
        if group is None:
            groups.append([run])
        elif twice := next((other for other in group if other.seed == run.seed), None):
            raise AgentMixerError(f"{twice.path} and {run.path} are the same run twice, of seed {run.seed}; name one")
        else:
            group.append(run)
    return groups


def _names(groups: Sequence[Sequence[Trained]]) -> list[str]:
    """What tells each group from the others, in few words."""
    asked = [group[0].asked for group in groups]
    named = [key for key in NAMES if len({str(one[key]) for one in asked}) > 1]
    names = []
    for group in groups:
        own = group[0].asked
        alike = [one for one in asked if all(one[key] == own[key] for key in named)]
        keys = {key: None for one in alike for key in one if key not in NAMES}
        differ = [key for key in keys if any(one.get(key) != own.get(key) for one in alike)]
        told = [str(own[key]) for key in named] + [f"{key}={own.get(key)}" for key in differ]
        if len(differ) > MOST_DIFFERENCES:
            told = [str(group[0].path)]
        names.append(printable(", ".join(told)) or printable(f"{own['scenario']}, {own['algorithm']}"))
    return names


def _alone(name: str, metric: str, run: Trained) -> Curve:
    points = [
        (step, found) for step, line in sorted(run.lines.items()) if (found := estimate(line, metric)) is not None
    ]
    points = points[::-1][:: -(-len(points) // MOST_POINTS)][::-1]
    ends = [[float("nan") if end is None else end for end in pair] for _, (_, *pair) in points]
    return Curve(
        name, metric, [run.seed], [step for step, _ in points], [found.value for _, found in points],
        [low for low, _ in ends], [high for _, high in ends],
    )  # fmt: skip


def _together(name: str, metric: str, group: Sequence[Trained]) -> tuple[Curve, int]:
    """The mean over seeds at every step that all have, and the last step that any has."""
    points = [
        {step: value for step, line in run.lines.items() if (value := number(line, metric)) is not None}
        for run in group
    ]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        raise AgentMixerError(
            f"{group[0].path} and its other seeds have no step in common at which {metric} is known; draw one alone"
        )
    steps = steps[::-1][:: -(-len(steps) // MOST_POINTS)][::-1]
    share = any(metric.endswith(name) for name in SHARES)
    means = [
        intervals.mean(np.array([own[step] for own in points]), (0.0, 1.0) if share else (-np.inf, np.inf))
        for step in steps
    ]
    low, high = ([float("nan") if end is None else end for end in ends] for ends in list(zip(*means, strict=True))[1:])
    curve = Curve(
        name, metric, [run.seed for run in group], steps, [mean.value for mean in means], low, high
    )  # fmt: skip
    return curve, max(step for own in points for step in own)


def title(runs: Sequence[Trained]) -> str:
    """What all runs have in common."""
    shared = [
        str(runs[0].asked[key])
        for key in ("task", "scenario", "algorithm")
        if len({str(run.asked[key]) for run in runs}) == 1
    ]
    return printable(" ".join(shared))


def drawn(panels: Sequence[Sequence[Curve]], heading: str, ending: str) -> bytes:
    """A picture with a panel for each metric. ending: one of FORMATS."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    # Text stays text in SVG, and a dollar sign in a name is no formula.
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "agentmixer",
        "text.parse_math": False,
        "font.size": 10,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.0, 0.8 + 3.4 * len(panels)), layout="constrained")
        figure.suptitle(heading)
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for panel, axis in zip(panels, axes, strict=True):
            for place, curve in enumerate(panel):
                _line(axis, curve, place)
            axis.set_ylabel(panel[0].metric)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.margins(x=0.01)
            lines = axis.get_lines()
            if len(panel) > 1 or len(panel[0].seeds) > 1:
                axis.legend(lines, [_told(curve) for curve in panel], frameon=False, fontsize="small")
        axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[-1].set_xlabel("\n".join(["environment steps", *_bands(panels)]))
        out = io.BytesIO()
        dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[ending]
        figure.savefig(out, format=ending[1:], dpi=150, metadata=dates)
    return out.getvalue()


def _line(axis: Any, curve: Curve, place: int) -> None:
    """A curve with its band. Curves differ in colour and in dashes."""
    colour = f"C{place % 10}"
    marker = "o" if len(curve.steps) <= 30 else None
    dashes = ("-", "--", "-.", ":")[place % 4]
    axis.plot(curve.steps, curve.values, dashes, color=colour, marker=marker, markersize=3, linewidth=1.6)
    if np.isfinite(curve.low).any():
        axis.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _told(curve: Curve) -> str:
    many = f" (mean of {len(curve.seeds)} seeds)" if len(curve.seeds) > 1 else ""
    return f"{curve.name}{many}"


def _bands(panels: Sequence[Sequence[Curve]]) -> Collection[str]:
    """A sentence for each kind of band in the picture."""
    over: dict[str, None] = {}
    for curve in (curve for panel in panels for curve in panel):
        if np.isfinite(curve.low).any():
            several = len(curve.seeds) > 1
            over["band: Student's 95 % interval over seeds" if several else "band: 95 % interval over episodes"] = None
    return over
