"""What deploy-sim found, drawn: how well the three arms play, how long deciding takes, and what faults do to the team."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from agentmixer.report.charts import (
    Axis,
    Row,
    Series,
    decades,
    histogram_chart,
    interval_chart,
    line_chart,
    linear,
)
from agentmixer.report.kept_reports import ARMS, Buckets, FaultFigures, FaultMatrix, Figure, Kept, Rehearsal, plain
from agentmixer.report.page import Section
from agentmixer.report.pieces import charts, paragraph, table

#: Buckets between a time and ten times that time (`validate.histogram.A_DECADE`).
A_DECADE = 10
#: What a measure is called, and how its numbers are written.
MEASURES = {"win_rate": ("win rate", ".3f"), "return": ("return", ".3f")}


def playing(run: Rehearsal) -> Section:
    """Win rate and return of the three arms, and what leaving the joint policy behind costs."""
    drawn = []
    for name in run.measures:
        what, form = MEASURES[name]
        figures = {arm: run.arms[arm][name] for arm in ARMS}
        rows = [Row(ARMS[arm], f.value, f.low, f.high, f.told(form)) for arm, f in figures.items()]
        told = "; ".join(f"{row.name} {row.told}" for row in rows)
        drawn.append(
            interval_chart(
                f"arms-{name}",
                f"{what.capitalize()}, with 95 % interval",
                told,
                _axis(name, figures.values(), what),
                rows,
            )
        )
    head = ("Team", *(f"{MEASURES[name][0]} [95 %]" for name in run.measures))
    rows_told = [(ARMS[arm], *(run.arms[arm][name].told(MEASURES[name][1]) for name in run.measures)) for arm in ARMS]
    gap = ("joint policy minus deployed", *(run.asymmetric_gap[name].told("+.3f") for name in run.measures))
    numbers = range(1, len(head))
    body = [
        paragraph(
            f"Three teams played the same {run.parity.episodes:,} episodes. The joint policy exists in training only, and may "
            "use the global state and a Policy Modifier. The trained actors are what it leaves behind: "
            "each sees its own observation. The deployed agents are those actors as exported models, each in a process of its own."
        ),
        charts(*drawn),
        table(f"{run.task} {run.scenario}, {run.parity.episodes:,} paired episodes", head, [*rows_told, gap], numbers),
        paragraph(
            "The last row is the asymmetric gap: what the team gives up, over the same episodes, because its members no longer "
            "see the global state and no longer act as one."
        ),
    ]
    if run.mode_agreement:
        shares = [
            (f"played by the {'joint policy' if arm == 'joint' else 'deployed agents'}", share.told(".4f"))
            for arm, share in run.mode_agreement.items()
        ]
        body.append(
            paragraph(
                "Mode agreement is the share of decisions in which the joint policy's likeliest action is the actor's own."
            )
        )
        body.append(table("Mode agreement", ("Episodes", "share [95 %]"), shares, {1}))
    return Section("playing", "How well it plays", Markup("").join(body))


def timing(run: Rehearsal) -> Section:
    """Deciding times against the control period, and each agent's process."""
    period, deadline = run.control_period_s, run.deadline_s
    marks = [(math.log10(period * 1e6), f"control period {period * 1e3:g} ms")]
    if deadline != period:
        marks.append((math.log10(deadline * 1e6), f"deadline {deadline * 1e3:g} ms"))
    drawn = []
    for name, title, found, label in (
        (
            "deciding",
            "One agent decides",
            _sum([agent.deciding_histogram for agent in run.agents.values()]),
            "decisions",
        ),
        ("round-trip", "The whole team takes a step", run.step_histogram, "steps"),
    ):
        if found.counts:
            drawn.append(_histogram(name, title, found, label, marks))
    body = [
        paragraph(
            f"A decision is due every {period * 1e3:g} ms. Both scales are logarithmic, so that a rare slow decision can be seen "
            "beside thousands of fast ones."
        ),
        charts(*drawn) if drawn else paragraph("The report was written by an earlier version, without histograms."),
        table(
            "Each agent's process: time to decide in µs, peak memory, bytes over its link",
            ("Agent", "p50", "p99", "p99.9", "max", "late", "start s", "MB", "kB in", "kB out", "sandbox"),
            [
                (
                    name,
                    *(plain(agent.deciding_us.get(part)) for part in ("p50", "p99", "p99.9", "max")),
                    f"{agent.missed_deadlines:,}", f"{agent.start_s:.2f}", f"{agent.peak_mb:.0f}",
                    f"{agent.bytes_to_agent / 1e3:,.0f}", f"{agent.bytes_from_agent / 1e3:,.0f}", agent.isolation,
                )
                for name, agent in run.agents.items()
            ],
            range(1, 10),
        ),
        *_devices(run),
        paragraph(
            f"From the start of all processes to the first action: {run.start_to_first_action_s:.2f} s. A step of the team, to all "
            f"agents and back: p50 {plain(run.step_us.get('p50'))}, p99 {plain(run.step_us.get('p99'))}, longest "
            f"{plain(run.step_us.get('max'))} µs."
        ),
    ]  # fmt: skip
    return Section("timing", "Time to decide", Markup("").join(body))


def _devices(run: Rehearsal) -> list[Markup]:
    """A table of what the devices told; nothing if every agent ran on the host's machine."""
    rows = [
        (
            name, device.address, f"{device.lost:,}",
            *((f"{told.steps:,}", f"{told.late:,}", f"{told.fallbacks:,}", f"{told.refused:,}", f"{told.restarts:,}",
               plain(told.temperature_c)) if (told := device.health) else ("did not say", "", "", "", "", "")),
        )
        for name, agent in run.agents.items() if (device := agent.device)
    ]  # fmt: skip
    columns = ("Agent", "address", "went away", "steps", "late", "fallbacks", "refused", "started anew", "°C")
    return [table("What the agents' devices counted, over mutual TLS", columns, rows, range(2, 9))] if rows else []


def _histogram(name: str, title: str, found: Buckets, label: str, marks: Sequence[tuple[float, str]]) -> Markup:
    edges = [(found.first + i) / A_DECADE for i in range(len(found.counts) + 1)]
    x = decades(min(edges), max([*edges, *(place for place, _ in marks)]), "time, logarithmic")
    x = x._replace(ticks=tuple((place, _time(10.0**place)) for place, _ in x.ticks))
    told = f"{sum(found.counts):,} {label}, from {_time(10 ** edges[0])} to {_time(10 ** edges[-1])}; {', '.join(text for _, text in marks)}"
    return histogram_chart(name, title, told, x, edges, found.counts, f"{label}, logarithmic", marks)


def _sum(all_counts: Sequence[Buckets]) -> Buckets:
    """Histograms of several agents as one."""
    some = [one for one in all_counts if one.counts]
    if not some:
        return Buckets()
    first = min(one.first for one in some)
    counts = [0] * (max(one.first + len(one.counts) for one in some) - first)
    for one in some:
        for i, count in enumerate(one.counts):
            counts[one.first - first + i] += count
    return Buckets(first, tuple(counts))


def _time(us: float) -> str:
    """12 -> '12 µs', 1e5 -> '100 ms'."""
    return f"{us / 1e6:.3g} s" if us >= 999_999 else f"{us / 1e3:.3g} ms" if us >= 999.9 else f"{us:.3g} µs"


def _axis(name: str, figures: Iterable[Figure], label: str) -> Axis:
    values = [end for figure in figures for end in (figure.value, figure.low, figure.high)]
    return linear(values, label, (0.0, 1.0) if name == "win_rate" else None)


def faults(kept: Kept) -> Section | None:
    """The newest rehearsal under faults; None if it has no figures."""
    matrix, alone = kept.figures(FaultMatrix), kept.figures(FaultFigures)
    reports = matrix.reports if matrix else (alone,) if alone else ()
    if not reports:
        return None
    some = reports[0]
    body = [
        paragraph(
            f"{some.episodes:,} episodes for each kind of fault at each rate, with a deadline of {some.deadline_s * 1e3:g} ms. An "
            "agent whose decision is lost or late takes its fallback action."
        )
    ]
    if matrix and (drawn := _curves(matrix)):
        body.append(charts(*drawn, small=True))
    measures = [name for name in MEASURES if name in some.figures]
    head = (
        "Faults",
        *(f"{MEASURES[name][0]} [95 %]" for name in measures),
        "fallbacks",
        "lost",
        "late",
        "refused",
        "longest step ms",
    )
    rows = [
        (
            _faults_told(run),
            *(run.figures[name].told() if name in run.figures else "-" for name in measures),
            *(f"{run.total(name):,}" for name in ("fallbacks", "lost", "late", "refused")),
            f"{(run.step_us.get('max') or 0) / 1e3:.1f}",
        )
        for run in reports
    ]
    body.append(table("Results under faults, and what became of the decisions", head, rows, range(1, len(head))))
    return Section("faults", "When things break", Markup("").join(body))


def _faults_told(run: FaultFigures) -> str:
    told = [f"{kind} {rate:.3g}" for kind, rate in run.faults.rates.items()]
    told += [f"{one.kind} {one.agent}@{one.step}" for one in run.faults.incidents]
    return ", ".join(told) or "none"


def _curves(matrix: FaultMatrix) -> list[Markup]:
    """The measure against the rate, a chart for each kind of fault, and the share of fallbacks of all kinds in one."""
    calm = [run for run in matrix.reports if not run.faults.rates]
    kinds: dict[str, list[tuple[float, FaultFigures]]] = {}
    for run in matrix.reports:
        for kind, rate in run.faults.rates.items():
            kinds.setdefault(kind, [(0.0, one) for one in calm[:1]]).append((rate, run))
    rates = sorted({rate for points in kinds.values() for rate, _ in points})
    if len(rates) < 2:
        return []
    # Rates are drawn equally far apart: 1 and 5 % would lie on each other beside 20 %.
    x = Axis(
        0,
        len(rates) - 1,
        tuple(
            (i, f"{rate:.3g}".rstrip(".") if rate < 0.01 and rate else f"{rate:.0%}") for i, rate in enumerate(rates)
        ),
        "rate of the fault",
    )
    measure = "win_rate" if all("win_rate" in run.figures for run in matrix.reports) else "return"
    what = MEASURES[measure][0]
    y = _axis(measure, [run.figures[measure] for run in matrix.reports], what)
    drawn: list[Markup] = []
    fallbacks: list[Series] = []
    for kind, points in kinds.items():
        places = [rates.index(rate) for rate, _ in points]
        figures = [run.figures[measure] for _, run in points]
        told = "; ".join(f"{rate:.0%} {figure.told()}" for (rate, _), figure in zip(points, figures, strict=True))
        line = Series(what, places, [f.value for f in figures], [f.low for f in figures], [f.high for f in figures])
        drawn.append(line_chart(f"fault-{len(drawn)}", f"{what.capitalize()} against {kind}", told, x, y, [line]))
        shares = [run.total("fallbacks") / max(run.total("fallbacks") + run.total("decisions"), 1) for _, run in points]
        fallbacks.append(Series(kind, places, shares))
    share = linear([value for line in fallbacks for value in line.y], "share of decisions")
    told = "; ".join(f"{line.name} {', '.join(f'{value:.3f}' for value in line.y)}" for line in fallbacks)
    return [*drawn, line_chart("fallbacks", "Fallbacks in place of decisions", told, x, share, fallbacks)]
