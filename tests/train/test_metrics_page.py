"""docs/metrics.md against what training writes: every key is defined there, and every key there is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import TINY, quiet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agentmixer.tasks import check
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
#: Discrete actions, with wins and episodes of one step; real-valued actions, without wins.
TASKS = (("matrix", "climbing"), ("mamujoco", "Reacher-2x1"))
#: What takes the place of the second for an algorithm of discrete actions.
DISCRETE = ("coordsum", "3x10-30")


def defined(heading: str, algorithm: str) -> set[str]:
    """Keys that the table under a heading of the page says this algorithm writes."""
    page = PAGE.read_text()
    (section,) = re.findall(rf"^#+ {heading}$(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    (several,) = re.findall(r"^- \*\*Algorithms on PPO\*\*: (.+?)\.$", page, re.MULTILINE)
    rows = [row.split("|")[1:4] for row in section.splitlines() if row.startswith("| `")]
    assert rows
    named = [
        (re.findall("`(.+?)`", keys), algorithms.replace("all on PPO", several).strip().split(", "))
        for keys, _, algorithms in rows
    ]
    assert all(set(algorithms) <= {"all", *ALGORITHMS} for _, algorithms in named)
    keys = [key for found, algorithms in named if {"all", algorithm} & set(algorithms) for key in found]
    assert len(keys) == len(set(keys))
    return set(keys)


def trained(algorithm: str, task: str, scenario: str, path: Path) -> Run:
    """A finished run of two updates, judged after the second."""
    small = TINY | {
        "total_steps": 256,
        "final_episodes": 2,
        "eval_episodes": 2,
        "updates": 1,
        "learning_starts": 128,
        "pm": "mixer",
        "signal": 1,
    }
    config = ALGORITHMS[algorithm].configure("default", task)
    config = config.replace({key: value for key, value in small.items() if key in config.as_dict()})
    backend, options = check(task, scenario)
    run = runs.create(task, scenario, backend, algorithm, "default", 1, "cpu", options, config, path)
    assert trainer.train(run, quiet())
    return run


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_page_defines_what_is_written_and_nothing_else(algorithm: str, tmp_path: Path) -> None:
    metrics, tags, summary, arms = set[str](), set[str](), set[str](), set[str]()
    for task, scenario in (TASKS[0], DISCRETE) if algorithm in ("maven", "magpo") else TASKS:
        run = trained(algorithm, task, scenario, tmp_path / task)
        for line in (run.path / "metrics.jsonl").read_text().splitlines():
            metrics |= set(json.loads(line))
        events = EventAccumulator(str(run.path / "tensorboard"))
        events.Reload()
        tags |= set(events.Tags()["scalars"])
        written = json.loads((run.path / "summary.json").read_text())
        summary |= set(written)
        arms |= set(written["decentralised_greedy"]) | set(written["joint_greedy"])
    assert metrics == defined("metrics.jsonl", algorithm)
    assert tags == metrics - {"step"}
    assert summary == defined("summary.json", algorithm)
    assert arms == defined("decentralised_greedy and joint_greedy", algorithm)
