"""Run directories written by hand: what was asked for, and a few lines of metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import make_run


def hand_run(path: Path, values: dict[int, float], seed: int = 0, key: str = "win_rate", **settings: Any) -> Path:
    """A run of 1,000 steps that was judged at these steps with these figures, each 0.1 more or less."""
    run = make_run(path, seed, **{"total_steps": 1000, **settings})
    lines = [
        {"step": step, "entropy": 1.0 / step, "eval_return": value, "eval_return_low": value, "eval_return_high": value}
        | {f"eval_{key}": value, f"eval_{key}_low": value - 0.1, f"eval_{key}_high": value + 0.1}
        for step, value in values.items()
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path
