"""`agentmixer plot`: curves by hand, and pictures of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import agentmixer
from hand_runs import hand_run

from agentmixer.errors import AgentMixerError
from agentmixer.report.learning_plot import by_default, curves, drawn, read


def test_a_run_alone_has_the_interval_of_its_evaluations(tmp_path: Path) -> None:
    runs = read([hand_run(tmp_path / "a", {100: 0.25, 200: 0.5})])
    assert by_default(runs) == "eval_win_rate"
    ([curve], notes) = curves(runs, "eval_win_rate")
    assert (curve.steps, curve.values, notes) == ([100, 200], [0.25, 0.5], [])
    assert curve.low == [0.25 - 0.1, 0.4] and curve.high == [0.35, 0.6]


def test_runs_that_differ_in_seed_alone_are_one_curve_with_students_interval(tmp_path: Path) -> None:
    hand_run(tmp_path / "x" / "s0", {100: 0.2, 200: 0.5, 300: 0.7}, seed=0)
    hand_run(tmp_path / "x" / "s1", {100: 0.4, 200: 0.5}, seed=1)
    other = hand_run(tmp_path / "y", {100: 0.1}, seed=0, hidden=8)
    found, notes = curves(read([tmp_path / "x", other]), "eval_win_rate")
    assert {curve.name: curve.seeds for curve in found} == {"hidden=16": [0, 1], "hidden=8": [0]}
    mean = found[0]
    assert mean.steps == [100, 200] and mean.values == pytest.approx([0.3, 0.5])
    # Deviation 0.1 * sqrt(2), standard error 0.1; Student's quantile of one degree of freedom is 12.706: beyond 0 and 1.
    assert (mean.low[0], mean.high[0]) == (0.0, 1.0)
    assert mean.low[1] != mean.low[1]  # nan: two equal values do not show how values differ
    assert notes == ["hidden=16 ends at step 200, which all its seeds have reached"]
    five = [hand_run(tmp_path / "z" / str(seed), {100: seed}, seed, "return") for seed in range(5)]
    ([curve], _) = curves(read(five), "eval_return")
    assert curve.values == [2.0]  # deviation sqrt(2.5), standard error sqrt(0.5), quantile of four degrees 2.7764
    assert curve.low == pytest.approx([2 - 2.7764 * 0.5**0.5], abs=1e-3)
    assert by_default(read([*five, other])) == "eval_return"


def test_a_picture_shows_the_points_where_they_belong(tmp_path: Path) -> None:
    """A straight line: in the SVG its points lie at equal distances from each other."""
    ([curve], _) = curves(read([hand_run(tmp_path / "a", {100: 0.2, 200: 0.4, 300: 0.6})]), "eval_win_rate")
    text = drawn([[curve]], "protoss & $5^v$ <b>", ".svg").decode()
    assert "protoss &amp; $5^v$ &lt;b&gt;" in text  # text, and no formula
    for label in ("eval_win_rate", "environment steps", "band: 95 % interval over episodes"):
        assert f">{label}</text>" in text
    path = next(found for found in re.findall(r'<path d="([^"]+)"[^>]*stroke: #1f77b4', text) if found.count("L") == 2)
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", path)]
    (ax, ay), (bx, by), (cx, cy) = points
    assert bx - ax == pytest.approx(cx - bx) and bx > ax
    assert by - ay == pytest.approx(cy - by) and by < ay  # SVG counts downwards
    assert drawn([[curve]], "", ".png").startswith(b"\x89PNG\r\n\x1a\n")
    assert drawn([[curve]], "", ".svg") == drawn([[curve]], "", ".svg")


def test_the_command_writes_where_it_says_and_replaces_nothing(tmp_path: Path) -> None:
    hand_run(tmp_path / "runs" / "a", {100: 0.2, 200: 0.4})
    first, second = (agentmixer("plot", cwd=tmp_path) for _ in range(2))
    assert (first.returncode, first.stdout, second.stdout) == (0, "plot curves.png\n", "plot curves-2.png\n")
    asked = ["--metric", "entropy", "--metric", "eval_return", "--title", "Mine", "--out", "x.svg", "--json"]
    done = agentmixer("plot", "runs", *asked, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert [curve["metric"] for curve in told["curves"]] == ["entropy", "eval_return"]
    assert told["curves"][0]["values"] == [0.01, 0.005] and told["curves"][0]["low"] == [None, None]
    assert ">Mine</text>" in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("runs --metric entrop", "no run has a metric 'entrop' yet; did you mean 'entropy'?"),
        ("runs --metric step", "no run has a metric 'step' yet"),
        ("runs --out x.jpg", "--out x.jpg must end in one of .png, .svg, .pdf"),
        ("nowhere", "nowhere holds no run, nor a folder of runs"),
        ("runs copy", "are the same run twice, of seed 0; name one"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(arguments: str, words: str, tmp_path: Path) -> None:
    hand_run(tmp_path / "runs" / "a", {100: 0.2})
    hand_run(tmp_path / "copy", {100: 0.2})
    done = agentmixer("plot", *arguments.split(), cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_lines_of_strangers_are_no_points(tmp_path: Path) -> None:
    path = hand_run(tmp_path / "a", {100: 0.2})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "eval_win_rate": NaN}\n{"step": 300, "eval_win_rate": "1"}\n[]\n{"step": 4')
    ([curve], _) = curves(read([path]), "eval_win_rate")
    assert curve.steps == [100]
    with pytest.raises(AgentMixerError, match="no run has a metric"):
        curves(read([path]), "eval_length")
