"""A task may write every step into the same arrays: what it showed before is then gone, and no figure may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quiet

from agentmixer.tasks import check
from agentmixer.tasks.base import Task, TaskStep
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.run import Run

TIMES = ("steps_per_second", "seconds", "seconds_collecting", "seconds_updating")
SPREAD = "mpe2.simple_spread_v3:parallel_env"


class InPlace:
    """A task that shows every step in the arrays of the first one."""

    def __init__(self, task: Task):
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def reset(self, *arguments: Any) -> TaskStep:
        return self._shown(self.task.reset(*arguments))

    def step(self, actions: torch.Tensor) -> TaskStep:
        actions = actions.clone()
        for array in self.arrays:  # a simulator may write at any moment from here on
            array[...] = 77 if array.dtype == np.float32 else ~array
        return self._shown(self.task.step(actions))

    def _shown(self, step: TaskStep) -> TaskStep:
        if "arrays" not in vars(self):
            self.arrays = TaskStep(*(np.array(array) for array in step))
        for array, now in zip(self.arrays, step, strict=True):
            array[...] = now
        return self.arrays


#: An algorithm for each way of recording: rollouts (all on PPO), transitions, sequences.
RECORDERS = ("agentmixer_ppo", "agentmixer_sac", "maven")


def trained(algorithm: str, pipelined: bool, path: Path) -> tuple[list[dict], dict]:
    """A run's metrics and summary, but for its times."""
    backend, options = check("pettingzoo", SPREAD, "serial", {"max_cycles": 5})
    settings = {"num_envs": 4, "rollout_length": 8, "total_steps": 192, "hidden": 16, "eval_interval": 64,
                "eval_episodes": 4, "final_episodes": 4}  # fmt: skip
    off_policy = algorithm in ("agentmixer_sac", "maven")
    extra = {"learning_starts": 32, "batch_size": 16} if off_policy else {"chunk_length": 4, "epochs": 2}
    config = ALGORITHMS[algorithm].configure("default", "pettingzoo")
    config = config.replace(settings | extra | {"pipelined": pipelined}).fitted([])
    run = runs.create("pettingzoo", SPREAD, backend, algorithm, "default", 1, "cpu", options, config, path)
    assert trainer.train(run, quiet())
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows], {
        k: v for k, v in (run.summary or {}).items() if k not in TIMES
    }


@pytest.mark.parametrize(("algorithm", "pipelined"), [*((name, False) for name in RECORDERS), ("agentmixer_ppo", True)])
def test_a_team_learns_the_same(
    algorithm: str, pipelined: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = trained(algorithm, pipelined, tmp_path / "fresh")
    make = Run.make_task
    monkeypatch.setattr(Run, "make_task", lambda *arguments: InPlace(make(*arguments)))
    assert trained(algorithm, pipelined, tmp_path / "reused") == fresh
