"""Pages of runs and comparisons, from files whose numbers are known. Nothing is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import agentmixer
from conftest import make_run
from pages import Reader, read

from agentmixer.errors import AgentMixerError
from agentmixer.report import comparison_page, run_page, training_section
from agentmixer.report.page import compose
from agentmixer.study import comparison
from agentmixer.study.comparison import Question, Trained

BAD = "<script>alert(1)</script>\"'&"


def metrics(run: Path, *lines: dict[str, object] | str) -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_the_page_of_a_run_that_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run").path
    line = {"eval_win_rate": 0.25, "eval_win_rate_low": 0.0, "eval_win_rate_high": 0.5, "mode_agreement": 0.75}
    metrics(
        run,
        {"step": 100, **line},
        {"step": 200, **line, "eval_win_rate": 0.5, "eval_win_rate_high": None},
        '{"step": 300',
    )
    page = run_page.page(run)
    text = compose(page)
    found = read(text)
    assert page.headline == "At step 200 of 512."
    assert f"agentmixer train smacv2 protoss_5v5 --resume --out {run}" in found.text
    # Steps 100 and 200 of 0..200 lie at 215 and 378; shares 0.25 and 0.5 at 150.5 and 105, 0.75 at 59.5.
    assert '<polyline class="line s0" points="215,150.5 378,105"/>' in text
    assert '<polyline class="line s0" points="215,59.5 378,59.5"/>' in text
    assert ["hidden", "16"] in found.rows and ["total_steps", "512"] in found.rows


def test_the_page_of_a_finished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run").path
    arm = {
        "return": 3.5,
        "return_low": 3.0,
        "return_high": 4.0,
        "win_rate": 0.5,
        "win_rate_low": None,
        "win_rate_high": None,
        "episodes": 8,
    }
    summary = {
        "steps": 512,
        "steps_per_second": 99.6,
        "seconds": 12.0,
        "decentralised_greedy": arm,
        "joint_greedy": arm | {"return": 5.25},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    done = agentmixer("report", run, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"Trained for 512 steps.\npage {run / 'report.html'}\n")
    told = agentmixer("report", run, "--json", cwd=tmp_path).stdout
    assert json.loads(told) == {"page": str(run / "report.html"), "headline": "Trained for 512 steps."}
    found = read((run / "report.html").read_text())
    assert ["each agent alone, greedy", "0.500 (no interval)", "3.500 [3.000, 4.000]", "8"] in found.rows
    assert ["joint policy, greedy", "0.500 (no interval)", "5.250 [3.000, 4.000]", "8"] in found.rows
    assert "There are no numbers to draw yet." in found.text
    assert f"Export it: agentmixer export {run}" in found.text


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    """Text, truth values, numbers that no chart can hold, and lines that are no objects."""
    metrics(
        tmp_path, {"step": 1, "a": 1.0}, '{"step": 2, "a": NaN}', {"step": 3, "a": "4"}, {"step": 4, "a": True}, {"step": 5, "a": 1e300},
        "7", "[]", {"step": True, "a": 9.0}, '{"step": 6, "a": 2.0, "a_low": Infinity, "a_high": 3}',
    )  # fmt: skip
    found = training_section.curve(training_section.metrics(tmp_path), "a", "a")
    assert found is not None
    assert (list(found.x), list(found.y), list(found.low), list(found.high)) == (
        [1, 6],
        [1.0, 2.0],
        [None, None],
        [None, 3],
    )


def test_a_long_curve_is_thinned_and_keeps_its_newest_point() -> None:
    found = training_section.curve({step: {"a": float(step)} for step in range(1, 1001)}, "a", "a")
    assert found is not None
    assert len(found.x) == 250 and found.x[-1] == 1000 and found.x[0] == 4


def compared(folder: Path, values: dict[str, tuple[float, ...]], command: str = "agentmixer compare") -> Path:
    """What compare keeps of variants with these results, one a seed; and the runs' curves."""
    found = []
    for variant, own in values.items():
        for seed, value in enumerate(own):
            path = folder / f"run-{len(found)}"
            metrics(path, {"step": 0, "eval_return": 0.0}, {"step": 10, "eval_return": value})
            found.append(
                Trained(
                    str(Path("gone") / path.name), variant, seed, "return", value, value + 1, 0.5 + seed / 10, None, 2.0
                )
            )
    settings = {variant: {"algorithm": "mappo", "pm": variant, "total_steps": 10} for variant in values}
    asked = Question(
        "0123abcd", command, "passage", "two", {}, list(range(len(own))), "return", settings, {"torch": "2"}
    )
    file = folder / "0123abcd.json"
    file.write_text(comparison.to_json(asked, found, comparison.summarise(found)))
    return file


def test_the_page_of_a_comparison(tmp_path: Path) -> None:
    """First variant: 1, 2, 3; mean 2, s = 1, n = 3: 2 +- 4.3027 / sqrt(3) = -0.484 .. 4.484. Second: 21, 22, 23, 20 more."""
    compared(tmp_path, {"mixer": (1.0, 2.0, 3.0), BAD: (21.0, 22.0, 23.0)}, f"agentmixer compare {BAD}")
    done = agentmixer("report", tmp_path, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"page {tmp_path / '0123abcd.html'}"
    text = (tmp_path / "0123abcd.html").read_text()
    found: Reader = read(text)
    assert found.scripts == []
    assert f"{BAD} has the highest return." in found.text
    assert ["mixer", "1", "2", "3", "2.000 [-0.484, 4.484]", "3.000", "", "0.500"] in found.rows
    assert [BAD, "21", "22", "23", "22.000 [19.516, 24.484]", "23.000", "+20.000 (no interval)", "0.500"] in found.rows
    assert [BAD, BAD] in found.rows and ["mixer", "mixer"] in found.rows  # what differs: pm alone
    assert f"agentmixer compare {BAD}" in found.text
    # Curves: means 0 then 2 and 22 on axes of 0..10 and 0..25, bands from 1 to 3 and from 21 to 23.
    assert '<polyline class="line s0" points="52,196 378,181.4"/>' in text
    assert '<polygon class="band s1" points="52,196 378,28.6 378,43.1 52,196"/>' in text


@pytest.mark.parametrize(
    ("values", "headline"),
    [
        ({"a": (1.0, 2.0), "b": (2.0, 3.0)}, "b has the highest mean return, but the intervals do not settle it."),
        ({"a": (1.0,), "b": (3.0,)}, "b has the highest mean return, but the intervals do not settle it."),
        ({"a": (2.0, 2.0), "b": (2.0, 2.0)}, "No variant has a higher return than another."),
        ({"a": (2.0,)}, "a: return 2."),
    ],
)
def test_a_headline_claims_no_more_than_the_intervals(
    values: dict[str, tuple[float, ...]], headline: str, tmp_path: Path
) -> None:
    assert comparison_page.page(compared(tmp_path, values)).headline == headline


def test_the_newest_comparison_counts_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    first = compared(tmp_path, {"a": (1.0, 2.0)})
    (tmp_path / "fedcba98.json").write_text('{"question": 1}')
    (tmp_path / "notes.json").write_text("{}")
    os.utime(first, (1, 1))
    assert comparison_page.newest(tmp_path) == tmp_path / "fedcba98.json"
    with pytest.raises(AgentMixerError, match="damaged, or of another version"):
        comparison_page.page(tmp_path / "fedcba98.json")
    refused = agentmixer("report", tmp_path, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "Traceback" not in refused.stderr
