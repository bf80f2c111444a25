"""Charts as SVG. Colours and fonts are the page's own style sheet's; series differ in dashes too, not in colour alone.

A chart is drawn 400 units wide, which a telephone shows about as wide as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 240
#: What is left free around the area of the data.
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 14, 44
#: What is left free on both sides of a chart without a y axis.
MARGIN = 18
#: How many series the style sheet tells apart.
STYLES = 5
#: Longest label of a row.
LONGEST = 30


class Axis(NamedTuple):
    """What a chart shows in one direction. ticks: places with their texts."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the axis' beginning and 1 at its end; what is beyond lies at the end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


class Series(NamedTuple):
    """A line through (x, y), with a band from `low` to `high` where both are known. All are of one length; a `low` or
    `high` may be shorter, or None in places."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


class Row(NamedTuple):
    """A figure with the ends of its interval, None where it has none."""

    name: str
    value: float
    low: float | None
    high: float | None
    told: str


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from the last at or below `low` to the first at or above `high`, about so many."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def linear(values: Sequence[float | None], label: str, bounds: tuple[float, float] | None = None) -> Axis:
    """An axis that holds these values. bounds: its ends, unless they follow from the values."""
    known = [value for value in values if value is not None] or [0.0, 1.0]
    low, high = bounds or (min(known), max(known))
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    marks = ticks(low, high)
    return Axis(marks[0], marks[-1], tuple((mark, short(mark)) for mark in marks), label)


def decades(low: float, high: float, label: str) -> Axis:
    """An axis of logarithms to base 10, from and to whole numbers."""
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    return Axis(first, last, tuple((power, short(10.0**power)) for power in range(first, last + 1)), label)


def short(value: float) -> str:
    """1200000 -> '1.2M', 0.05 -> '0.05'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


def line_chart(name: str, title: str, told: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """Lines with their bands. name: the chart's id on the page; told: what the chart shows, for those who do not see it."""
    parts = [_frame(x, y)]
    for number, one in enumerate(series):
        style = f"s{number % STYLES}"
        ends = [(a, low, high) for a, low, high in zip(one.x, one.low, one.high, strict=False)]
        band = [(a, low, high) for a, low, high in ends if low is not None and high is not None]
        if len(band) > 1:
            outline = [(a, high) for a, _, high in band] + [(a, low) for a, low, _ in reversed(band)]
            parts.append(Markup('<polygon class="band {}" points="{}"/>').format(style, _points(x, y, outline)))
        points = list(zip(one.x, one.y, strict=True))
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(style, _points(x, y, points)))
        if len(points) <= 12:
            for a, b in points:
                left, top = _at(x, y, a, b)
                parts.append(Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(style, left, top))
    return _figure(
        name,
        title,
        told,
        HEIGHT,
        parts,
        [] if [one.name for one in series] == [y.label] else [one.name for one in series],
    )


def interval_chart(name: str, title: str, told: str, x: Axis, rows: Sequence[Row]) -> Markup:
    """A row for each figure: its name and its number, and below them a dot on its interval."""

    def mark(row: Row, top: int, style: str) -> Markup:
        whisker = Markup("")
        if row.low is not None and row.high is not None:
            whisker = Markup('<line class="whisker {}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
                style, _left(x, row.low), _left(x, row.high), y=top + 29
            )
        dot = Markup('<circle class="dot {}" cx="{}" cy="{}" r="5"/>').format(style, _left(x, row.value), top + 29)
        return whisker + dot

    return _rows(name, title, told, x, rows, mark)


def bar_chart(name: str, title: str, told: str, x: Axis, rows: Sequence[Row]) -> Markup:
    """A row for each figure: its name and its number, and below them a bar from the axis' beginning. All have one colour."""

    def mark(row: Row, top: int, style: str) -> Markup:
        return Markup('<rect class="bar s0" x="{}" y="{}" width="{:.1f}" height="10"/>').format(
            MARGIN, top + 24, max(_left(x, row.value) - MARGIN, 0.5)
        )

    return _rows(name, title, told, x, rows, mark)


def _rows(
    name: str, title: str, told: str, x: Axis, rows: Sequence[Row], mark: Callable[[Row, int, str], Markup]
) -> Markup:
    """A chart of a row for each figure. mark: draws a figure, given where its row begins and its style."""
    height = 42 * len(rows) + BOTTOM
    parts = []
    for place, text in x.ticks:
        left = _left(x, place)
        parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="4" y2="{1}"/>').format(left, height - BOTTOM + 4))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                left, height - BOTTOM + 18, text
            )
        )
    for number, row in enumerate(rows):
        top, style = 42 * number, f"s{number % STYLES}"
        label = row.name if len(row.name) <= LONGEST else row.name[: LONGEST - 1] + "…"
        parts.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(MARGIN, top + 16, label))
        parts.append(
            Markup('<text class="value" x="{}" y="{}" text-anchor="end">{}</text>').format(
                WIDTH - MARGIN, top + 16, row.told
            )
        )
        parts.append(mark(row, top, style))
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            WIDTH / 2, height - 8, x.label
        )
    )
    return _figure(name, title, told, height, parts, [])


def histogram_chart(
    name: str, title: str, told: str, x: Axis, edges: Sequence[float], counts: Sequence[int], label: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:  # fmt: skip
    """Bars between edges [n + 1] for counts [n], as high as the logarithm of the count. marks: upright lines, with a text each."""
    top = max([*counts, 1])
    y = decades(0, math.log10(top), label)
    y = y._replace(low=-0.25)  # so that one is more to see than none
    parts = [_frame(x, y)]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            a, height = _at(x, y, left, math.log10(count))
            b, ground = _at(x, y, right, y.low)
            parts.append(
                Markup(
                    '<rect class="bar s0" x="{}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                ).format(a, height, max(b - a - 1, 0.5), max(ground - height, 0.5), f"{count:,}")
            )
    for number, (place, text) in enumerate(marks):
        left, _ = _at(x, y, place, y.low)
        parts.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(left, TOP, HEIGHT - BOTTOM)
        )
        parts.append(
            Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 6, TOP + 12 + 16 * number, text
            )
        )
    return _figure(name, title, told, HEIGHT, parts, [])


def _left(x: Axis, value: float) -> float:
    """A place in a chart without a y axis."""
    return round(MARGIN + x.share(value) * (WIDTH - 2 * MARGIN), 1)


def _at(x: Axis, y: Axis, a: float, b: float) -> tuple[float, float]:
    """Where the point (a, b) is drawn."""
    return (
        round(LEFT + x.share(a) * (WIDTH - LEFT - RIGHT), 1),
        round(HEIGHT - BOTTOM - y.share(b) * (HEIGHT - TOP - BOTTOM), 1),
    )


def _points(x: Axis, y: Axis, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{left:g},{top:g}" for left, top in (_at(x, y, a, b) for a, b in points))


def _frame(x: Axis, y: Axis) -> Markup:
    """Grid lines, numbers and names of both axes."""
    parts = []
    for place, text in y.ticks:
        _, top = _at(x, y, x.low, place)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(LEFT, WIDTH - RIGHT, y=top)
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 7, top + 4, text)
        )
    for place, text in x.ticks:
        left, _ = _at(x, y, place, y.low)
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                left, HEIGHT - BOTTOM + 17, text
            )
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 7, x.label
        )
    )
    parts.append(
        Markup(
            '<text class="label" transform="rotate(-90 12 {0})" x="12" y="{0}" text-anchor="middle">{1}</text>'
        ).format(middle, y.label)
    )
    return Markup("").join(parts)


def _figure(name: str, title: str, told: str, height: float, parts: Sequence[Markup], legend: Sequence[str]) -> Markup:
    drawing = svg(name, title, told, WIDTH, height, parts)
    keys = [
        Markup(
            '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true"><line class="line s{}" x1="1" x2="27" y1="5" y2="5"/></svg>{}</li>'
        ).format(number % STYLES, text)
        for number, text in enumerate(legend)
    ]
    below = Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys)) if keys else ""
    return Markup("<figure><figcaption>{}</figcaption>{}{}</figure>").format(title, drawing, below)


def svg(name: str, title: str, told: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    """A drawing with a title and a description. parts: its elements."""
    return Markup(
        '<svg viewBox="0 0 {w:g} {h:g}" role="img" aria-labelledby="{n}-title {n}-told"><title id="{n}-title">{t}</title>'
        '<desc id="{n}-told">{d}</desc>{parts}</svg>'
    ).format(w=width, h=height, n=name, t=title, d=told, parts=Markup("").join(map(escape, parts)))
