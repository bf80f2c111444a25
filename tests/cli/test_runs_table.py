"""`agentmixer runs`: curves, what each run was, and what strangers may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from agentmixer_cli.runs import _ago
from agentmixer_cli.sparkline import sparkline
from commands import agentmixer
from hand_runs import hand_run

#: As in test_terminal.py.
EVIL = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x9b31m"


def test_a_sparkline_of_known_numbers() -> None:
    assert sparkline(range(8), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0, 0.5, 1.0], 8, 0.0, 1.0) == "▁▅█"
    assert sparkline([0.1, 0.2], 8, 0.0, 1.0) == "▁▂"  # an eighth each
    assert sparkline([-5.0, 9.0], 8, 0.0, 1.0) == "▁█"  # beyond the ends
    assert sparkline([3.0, 3.0, 3.0], 8) == "▄▄▄"
    assert sparkline([0.0, 2.0, 4.0, 4.0, 0.0, 14.0], 3) == "▁▅█"  # means of neighbours: 1, 4, 7
    assert sparkline([], 8) == ""
    assert sparkline(range(8), 8, encoding="ascii") == "_.:-=+*#"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, "0 s"), (99, "99 s"), (5400, "90 min"), (7200, "2 h"), (864000, "10 d")]
)
def test_ages_are_told_in_a_fitting_unit(seconds: float, told: str) -> None:
    assert _ago(seconds) == told


def test_a_run_is_listed_with_its_curve_and_its_own_settings(tmp_path: Path) -> None:
    path = hand_run(tmp_path / "runs" / "mine", {100: 0.0, 200: 0.3, 300: 0.99}, seed=7, hidden=32)
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "step_000000000300.safetensors").touch()
    os.utime(path / "metrics.jsonl")
    done = agentmixer("runs", cwd=tmp_path, columns=80)
    where, figures, *what = done.stdout.splitlines()
    assert where == "runs/mine"
    assert figures.startswith("  ▁▃█  win rate 0.990 [0.890, 1.090]  at 300 of 1,000  ") and figures.endswith(" s ago")
    assert " ".join(" ".join(what).split()).startswith(
        "smacv2 protoss_5v5, agentmixer_ppo default, seed 7; hidden=32, "
    )
    assert max(map(len, done.stdout.splitlines())) <= 80

    (told,) = json.loads(agentmixer("runs", "--json", cwd=tmp_path).stdout)
    assert told["own_settings"]["hidden"] == 32 and "total_steps" not in told["own_settings"]
    assert told["evaluations"][1] == {"step": 200, "measure": "win_rate", "value": 0.3, "low": 0.3 - 0.1, "high": 0.4}
    assert {"run", "task", "seed", "step", "total_steps", "checkpoints", "summary", "made_with"} <= told.keys()


def test_settings_of_the_preset_are_not_told(tmp_path: Path) -> None:
    hand_run(tmp_path / "runs" / "a", {100: 0.5}, epochs=3, hidden=64)  # as smacv2's default has them
    (told,) = json.loads(agentmixer("runs", "--json", cwd=tmp_path).stdout)
    assert not {"epochs", "hidden"} & told["own_settings"].keys()


def test_what_strangers_wrote_is_left_out_or_spelled_out(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    odd = hand_run(root / EVIL, {100: 0.5})
    odd_lines = [
        {"step": 200, "eval_return": "x", "eval_win_rate": EVIL}, {"step": 300, "eval_return": 1e400},
        {"step": 400, "eval_return": 2.0, "eval_win_rate": [1]}, {"step": EVIL, "eval_return": 1.0},
    ]  # fmt: skip
    with (odd / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in odd_lines) + '{"step": 500, "eval_return"')
    config = (odd / "config.toml").read_text()
    (odd / "config.toml").write_text(config.replace('"hidden" = 16', f'"hidden" = {json.dumps(EVIL)}'))
    linked = hand_run(root / "linked", {100: 0.5})
    (linked / "metrics.jsonl").unlink()
    (linked / "metrics.jsonl").symlink_to("/dev/zero")
    done = agentmixer("runs", cwd=tmp_path, columns=200)
    assert done.returncode == 0
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)
    assert r"hidden=\x1b[2J" in done.stdout
    assert "  ▄  return 2 (no interval)  " in done.stdout  # the last evaluation that is one
    assert f"note: {root.relative_to(tmp_path)}/linked/metrics.jsonl is a link" in done.stdout
