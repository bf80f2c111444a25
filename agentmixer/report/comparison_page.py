"""The page of a comparison: its table with intervals, what was varied, and how the variants learned."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from markupsafe import Markup
from msgspec import Meta

from agentmixer.errors import AgentMixerError
from agentmixer.files import read_regular
from agentmixer.report.charts import STYLES, Row, Series, interval_chart, linear
from agentmixer.report.kept_reports import Figure, Number, decoded
from agentmixer.report.page import Page, Section
from agentmixer.report.pieces import charts, facts, paragraph, table
from agentmixer.report.training_section import chart, curve, measure, metrics

#: Most bytes of a comparison's JSON that is read, and most variants and runs in it.
MOST_BYTES, MOST_VARIANTS, MOST_RUNS = 16 << 20, 64, 1024


class Question(msgspec.Struct, frozen=True):
    """See `study.comparison.Question`."""

    command: str
    task: str
    scenario: str
    seeds: list[int]
    measure: str
    variants: Annotated[dict[str, dict[str, Any]], Meta(max_length=MOST_VARIANTS)]
    made_with: dict[str, str]


class Trained(msgspec.Struct, frozen=True):
    """See `study.comparison.Trained`."""

    run: str
    variant: str
    seed: int
    decentralised: Number
    joint: Number
    mode_agreement: Number | None
    ce_gap: dict[str, Number] | None
    seconds: Number


class Variant(msgspec.Struct, frozen=True):
    """See `study.comparison.Row`. An interval is a list of a value and its ends."""

    variant: str
    decentralised: tuple[Number, Number | None, Number | None]
    joint: tuple[Number, Number | None, Number | None]
    difference: tuple[Number, Number | None, Number | None] | None


class Comparison(msgspec.Struct, frozen=True):
    """What `agentmixer compare` keeps as JSON."""

    question: Question
    runs: Annotated[tuple[Trained, ...], Meta(max_length=MOST_RUNS)]
    rows: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=MOST_VARIANTS)]


def newest(folder: Path) -> Path | None:
    """The JSON of the comparison in `folder` that was written last; None if there is none."""
    found = [entry for entry in folder.iterdir() if re.fullmatch(r"[0-9a-f]{8}\.json", entry.name)]
    return max(found, key=lambda file: (os.lstat(file).st_mtime_ns, file.name), default=None)


def page(file: Path) -> Page:
    """The page of the comparison whose JSON `file` is, with its runs beside it. Raises AgentMixerError if it cannot be read."""
    found = decoded(read_regular(file, MOST_BYTES, links=None, again="compare again"), Comparison, file)
    asked = found.question
    what = asked.measure.replace("_", " ")
    best = max(found.rows, key=lambda row: row.decentralised[0])
    return Page(
        subject=f"{asked.task} {asked.scenario}, {len(found.rows)} variants, {len(asked.seeds)} seeds each",
        headline=_headline(found.rows, best, what),
        tone="plain",
        lead=(
            f"Mean over {len(asked.seeds)} seeds: {_figure(best.decentralised).told()}. Each agent decides alone from its own "
            "observation and takes its most likely action, as an exported team does.",
            "An interval says how much the mean would vary with other seeds. Where intervals overlap, the order is not settled.",
        ),
        sections=tuple(
            section
            for section in (_results(found, what), _varied(asked), _learning(found, file.parent), _made(asked))
            if section
        ),
        notes=(f"From {file}.",),
    )


def _figure(of: tuple[float, float | None, float | None]) -> Figure:
    return Figure(*of)


def _headline(rows: Sequence[Variant], best: Variant, what: str) -> str:
    """Which variant is best, and whether that is more than chance."""
    if len(rows) == 1:
        return f"{best.variant}: {what} {best.decentralised[0]:.3g}."
    if all(row.decentralised[0] == best.decentralised[0] for row in rows):
        return f"No variant has a higher {what} than another."
    low = best.decentralised[1]
    others = [row.decentralised[2] for row in rows if row is not best]
    if low is not None and all(high is not None and high < low for high in others):
        return f"{best.variant} has the highest {what}."
    return f"{best.variant} has the highest mean {what}, but the intervals do not settle it."


def _results(found: Comparison, what: str) -> Section:
    figures = {row.variant: _figure(row.decentralised) for row in found.rows}
    bounds = (0.0, 1.0) if found.question.measure == "win_rate" else None
    drawn = [
        interval_chart(
            "variants", f"{what.capitalize()} of each variant: mean over seeds, with 95 % interval",
            "; ".join(f"{name} {figure.told()}" for name, figure in figures.items()),
            linear([end for f in figures.values() for end in (f.value, f.low, f.high)], what, bounds),
            [Row(name, f.value, f.low, f.high, f.told()) for name, f in figures.items()],
        )
    ]  # fmt: skip
    differences = {row.variant: _figure(row.difference) for row in found.rows if row.difference}
    if differences:
        drawn.append(
            interval_chart(
                "differences", f"{what.capitalize()} minus that of {found.rows[0].variant}, same seeds",
                "; ".join(f"{name} {figure.told('+.3f')}" for name, figure in differences.items()),
                linear([0.0, *(end for f in differences.values() for end in (f.value, f.low, f.high))], "difference"),
                [Row(name, f.value, f.low, f.high, f.told("+.3f")) for name, f in differences.items()],
            )
        )  # fmt: skip
    gaps = any(run.ce_gap for run in found.runs)
    head = [
        "Variant",
        *(f"seed {seed}" for seed in found.question.seeds),
        "mean [95 %]",
        "joint",
        "against the first",
        "mode agreement, least",
    ]
    head += ["CE gap, largest: joint, exported"] if gaps else []
    rows = []
    for row in found.rows:
        own = [run for run in found.runs if run.variant == row.variant]
        by_seed = {run.seed: f"{run.decentralised:.3g}" for run in own}
        agreement = [run.mode_agreement for run in own if run.mode_agreement is not None]
        cells = [
            row.variant,
            *(by_seed.get(seed, "-") for seed in found.question.seeds),
            _figure(row.decentralised).told(),
            f"{row.joint[0]:.3f}",
            _figure(row.difference).told("+.3f") if row.difference else "",
            f"{min(agreement):.3f}" if agreement else "-",
        ]
        if gaps:
            worst = [
                max((run.ce_gap.get(key, 0.0) for run in own if run.ce_gap), default=0.0)
                for key in ("joint", "actors_greedy")
            ]
            cells.append(", ".join(f"{gap:.4f}" for gap in worst))
        rows.append(cells)
    told = table(f"{what.capitalize()}, each agent alone and greedy", head, rows, range(1, len(head)))
    return Section("results", "Results", Markup("").join([charts(*drawn), told]))


def _varied(asked: Question) -> Section:
    """The settings that differ between variants, and the command."""
    keys = list(dict.fromkeys(key for settings in asked.variants.values() for key in settings))
    differ = [key for key in keys if len({str(settings.get(key)) for settings in asked.variants.values()}) > 1]
    rows = [(name, *(str(settings.get(key, "-")) for key in differ)) for name, settings in asked.variants.items()]
    body = [
        table("What differs between the variants", ("Variant", *differ), rows)
        if differ
        else paragraph("There is one variant."),
        Markup('<p class="command">The command that makes this comparison: <code>{}</code></p>').format(asked.command),
    ]
    return Section("varied", "What was varied", Markup("").join(body))


def _learning(found: Comparison, folder: Path) -> Section | None:
    """A curve a variant: the mean over its seeds, and from the lowest to the highest seed. None if the runs are not there."""
    runs: dict[str, list[dict[int, dict[str, Any]]]] = {}
    for run in found.runs:
        try:
            if numbers := metrics(folder / Path(run.run).name):
                runs.setdefault(run.variant, []).append(numbers)
        except AgentMixerError:
            continue
    if not runs:
        return None
    name = measure([numbers for own in runs.values() for numbers in own])
    lines: list[Series] = []
    for key in (f"eval_{name}", f"train_{name}"):  # short runs are judged once only, at their end
        lines = lines or [line for variant, own in runs.items() if (line := _over_seeds(variant, own, key))]
    what = name.replace("_", " ")
    drawn = [
        chart(f"learning-{first}", f"{what.capitalize()} over training", name, lines[first : first + STYLES])
        for first in range(0, len(lines), STYLES)
    ]
    told = "Lines are means over seeds; bands reach from the lowest seed to the highest."
    shown = [one for one in drawn if one]
    return (
        Section("learning", "How they learned", Markup("").join([paragraph(told), charts(*shown)])) if shown else None
    )


def _over_seeds(variant: str, own: Sequence[dict[int, dict[str, Any]]], key: str) -> Series | None:
    """Where all seeds were judged at one step: mean, least and greatest."""
    lines = [line for numbers in own if (line := curve(numbers, key, variant))]
    if not lines or len(lines) < len(own):
        return None
    values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    steps = sorted(set(values[0]).intersection(*values[1:]))
    if len(steps) < 2:
        return None
    at = [[one[step] for one in values] for step in steps]
    return Series(variant, steps, [sum(v) / len(v) for v in at], [min(v) for v in at], [max(v) for v in at])


def _made(asked: Question) -> Section:
    steps = {str(settings.get("total_steps", "-")) for settings in asked.variants.values()}
    seeds = ", ".join(map(str, asked.seeds))
    return Section(
        "made", "What made it", facts(("Seeds", seeds), ("Steps a run", ", ".join(steps)), *asked.made_with.items())
    )
