"""A process that trains can be killed at any moment; nothing but time is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_run_killed_at_any_write_is_resumed_to_the_numbers_of_an_unbroken_one(tmp_path: Path) -> None:
    """As it is left just before each change below the run's directory, and in the middle of each file's content: while it is
    created, while it trains through four updates, four checkpoints and two evaluations along the way, and while it is
    judged at its end; and once more at each change of one resumption, of a run killed between its last checkpoint and
    the line of metrics.jsonl that goes with it. Then metrics, summary, final checkpoint, settings and the names of the
    files are those of a run that nobody killed; only times differ.

    The directory is copied at each change of one run: a killed process leaves what it has handed to the system. One process
    is really killed, in the middle of a checkpoint, and leaves the files that the copy has.

    Tensorboard's files are left out: a thread of its own writes them, and nothing reads them back. So are changes that
    change nothing, such as making a folder that is there."""
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == {}

    # That it was killed wherever it matters.
    steps = (0, 16, 24, 32)
    assert found["creations"] >= 5
    for step in steps:
        name = f"checkpoints/step_{step:012d}.new"
        for change in (f"open {name}.partial", f"half of {name}.partial", f"rename {name}.partial", f"rename {name}"):
            assert found["writes"].count(change) == 1, change
    assert sum(change.startswith("remove checkpoints/") for change in found["writes"]) == 2
    assert found["writes"].count("half of metrics.jsonl") == 4
    assert found["writes"][-2:] == ["half of summary.json.partial", "rename summary.json.partial"]
    for change in ("rename config.toml.partial", "half of metrics.jsonl", "half of summary.json.partial"):
        assert change in found["resumed"]
    # The checkpoint of a step is there before its line, and before anything is judged.
    order = [change for change in found["writes"] if change.startswith("rename checkpoints/") or "f metrics" in change]
    assert order[-2:] == ["rename checkpoints/step_000000000032.new", "half of metrics.jsonl"]
    lines = found["unbroken"]["metrics"]
    assert [line["step"] for line in lines] == [8, 16, 24, 32]
    assert [line["step"] for line in lines if "eval_return" in line] == [24, 32]
