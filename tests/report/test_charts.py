"""Where charts draw what: worked by hand. A line chart's area goes from 52 to 378 and, upwards, from 196 to 14."""

from __future__ import annotations

import re

import pytest

from agentmixer.report.charts import (
    Axis,
    Row,
    Series,
    bar_chart,
    decades,
    histogram_chart,
    interval_chart,
    line_chart,
    linear,
    short,
    ticks,
)


def test_a_line_and_its_band() -> None:
    """x 0, 5, 10 of 0..10: 52, 215, 378. y 0, 1, 0.5 of 0..1: 196, 14, 105; ends 0.25 and 0.75: 150.5 and 59.5."""
    x, y = Axis(0, 10, ((0, "0"), (10, "10")), "steps"), Axis(0, 1, ((0, "0"), (1, "1")), "win rate")
    drawn = line_chart(
        "c", "A curve", "it rises", x, y, [Series("mine", (0, 5, 10), (0, 1, 0.5), (0, 0.75, 0.25), (0, 1, 0.75))]
    )
    assert '<polyline class="line s0" points="52,196 215,14 378,105"/>' in drawn
    assert '<polygon class="band s0" points="52,196 215,14 378,59.5 378,150.5 215,59.5 52,196"/>' in drawn
    assert '<circle class="dot s0" cx="215.0" cy="14.0" r="3.5"/>' in drawn
    assert '<title id="c-title">A curve</title><desc id="c-told">it rises</desc>' in drawn


def test_a_band_is_drawn_where_both_ends_are_known() -> None:
    x = y = Axis(0, 1, (), "")
    line = Series("", (0, 0.5, 1), (0, 0.5, 1), (0, None, 1), (0, 1, 1))
    assert 'points="52,196 378,14 378,14 52,196"' in line_chart("c", "", "", x, y, [line])
    assert "polygon" not in line_chart("c", "", "", x, y, [Series("", (0, 1), (0, 1))])


def test_what_is_beyond_an_axis_lies_at_its_end() -> None:
    axis = Axis(0, 1, (), "")
    assert [axis.share(value) for value in (-1e300, 0, 0.25, 1e300)] == [0, 0, 0.25, 1]


def test_intervals() -> None:
    """The area goes from 18 to 382: 0.5 lies at 200, 0.25 at 109, 0.75 at 291."""
    axis = Axis(0, 1, ((0, "0"), (1, "1")), "win rate")
    rows = [Row("deployed", 0.5, 0.25, 0.75, "0.5"), Row("one episode", 1.0, None, None, "1 (no interval)")]
    drawn = interval_chart("c", "Arms", "", axis, rows)
    assert '<line class="whisker s0" x1="109.0" x2="291.0" y1="29" y2="29"/>' in drawn
    assert '<circle class="dot s0" cx="200.0" cy="29" r="5"/>' in drawn
    assert '<circle class="dot s1" cx="382.0" cy="71" r="5"/>' in drawn
    assert drawn.count("whisker") == 1


def test_bars_in_rows() -> None:
    """From 18 on: 0.5 of 364 is 182; what is nothing is still to be seen."""
    axis = Axis(0, 1, ((0, "0"), (1, "1")), "share")
    drawn = bar_chart(
        "c", "Heeded", "", axis, [Row("own.x", 0.5, None, None, "50%"), Row("own.y", 0, None, None, "0%")]
    )
    assert '<rect class="bar s0" x="18" y="24" width="182.0" height="10"/>' in drawn
    assert '<rect class="bar s0" x="18" y="66" width="0.5" height="10"/>' in drawn
    assert drawn.index("own.x") < drawn.index("50%") < drawn.index("own.y")


def test_bars_are_as_high_as_the_logarithm_of_their_counts() -> None:
    """Counts 100, 0 and 1 on an axis from -0.25 to 2, 182 high: 100 reaches the top, 1 is 0.25 / 2.25 of it, 20.2."""
    drawn = histogram_chart(
        "c", "Times", "", Axis(0, 3, (), "time"), (0, 1, 2, 3), (100, 0, 1), "decisions", [(1.5, "period")]
    )
    bars = re.findall(r'<rect class="bar s0" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">', drawn)
    assert bars == [("52.0", "14.0", "107.7", "182.0"), ("269.3", "175.8", "107.7", "20.2")]
    assert '<line class="mark" x1="215.0" x2="215.0" y1="14" y2="196"/>' in drawn


def test_text_is_escaped() -> None:
    bad = "</text><script>alert(1)</script>\"'"
    axis = Axis(0, 1, ((0, bad),), bad)
    for drawn in (
        line_chart("c", bad, bad, axis, axis, [Series(bad, (0, 1), (0, 1))]),
        interval_chart("c", bad, bad, axis, [Row(bad, 0, 0, 0, bad)]),
        histogram_chart("c", bad, bad, axis, (0, 1), (1,), bad, [(0, bad)]),
    ):
        assert "<script" not in drawn and "&lt;script" in drawn


def test_ticks_are_round_numbers_that_hold_the_data() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(-3, 17) == [-5, 0, 5, 10, 15, 20]
    assert ticks(4, 4) == [4, 5]
    assert [round(tick, 3) for tick in ticks(0.1, 0.22)] == [0.1, 0.125, 0.15, 0.175, 0.2, 0.225]
    assert linear([None], "x")[:2] == (0, 1)
    assert linear([-2.0, -2.0], "x")[:2] == (-3, -1)
    assert decades(1.4, 2.0, "x").ticks == ((1, "10"), (2, "100"))
    assert [short(value) for value in (0, 0.05, 1500, 2e6, -1e9)] == ["0", "0.05", "1.5k", "2M", "-1G"]
