"""Every algorithm trains, goes on after a break to the same numbers, and is exported or refused with a sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import quiet
from safetensors.torch import load_file

from agentmixer import tasks
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter
from agentmixer.train import checkpoint, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import ALGORITHMS
from agentmixer.train.run import Run

#: Short, for whichever algorithm has the setting.
SHORT: dict[str, Any] = {
    "num_envs": 8, "rollout_length": 16, "minibatches": 2, "epochs": 2, "hidden": 16, "eval_interval": 0, "eval_episodes": 4,
    "final_episodes": 4, "updates": 1, "learning_starts": 128, "batch_size": 32, "lr_decay": False, "checkpoint_interval": 0,
}  # fmt: skip
SCENARIOS = (
    ("matrix", "climbing"), ("passage", "two_agents"), ("predator_prey", "5x5"), ("smacv2", "protoss_5v5"),
    ("mamujoco", "Hopper-3x1"), ("mamujoco", "Humanoid-9|8"), ("pettingzoo", "mpe2.simple_spread_v3:parallel_env"),
    ("coordsum", "3x10-30"), ("gymnasium", "CartPole-v1"),
)  # fmt: skip


def started(algorithm: str, task: str, scenario: str, path: Path, steps: int) -> Run:
    backend, options = tasks.check(task, scenario, None, {})
    config = ALGORITHMS[algorithm].configure("default", task)
    # What falls along a run falls by its length, so both runs are made equally long, and one is broken off.
    config = config.replace({key: value for key, value in SHORT.items() if key in config.as_dict()}).fitted(())
    config = config.replace({"total_steps": steps})
    config.check()
    return runs.create(task, scenario, backend, algorithm, "default", 2, "cpu", options, config, path)


def goes_on_and_is_exported(algorithm: str, task: str, scenario: str, steps: int, folder: Path) -> None:
    whole = started(algorithm, task, scenario, folder / "whole", steps)
    assert trainer.train(whole, quiet())
    broken = started(algorithm, task, scenario, folder / "broken", steps)

    class Once:
        """Somebody asks the run to stop after its first update."""

        asked = True

        def __enter__(self) -> Once:
            return self

        def __exit__(self, *_: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_Interrupt", Once)
        patch.setattr(trainer._Training, "_train", _one_update)
        assert not trainer.train(broken, quiet())
    assert 0 < runs.steps_done(broken) < steps
    assert trainer.train(runs.load(broken.path), quiet(), resume=True)
    ours, theirs = (load_file(checkpoint.latest(runs.load(run.path))) for run in (whole, broken))
    assert ours.keys() == theirs.keys()
    if task not in ("pettingzoo", "gymnasium"):  # whose environments begin anew
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    if ALGORITHMS[algorithm].execution_sees.alone:
        found = exporter.export(runs.load(whole.path), folder / "bundle")
        assert all(parity.passed for kinds in found.parity.values() for parity in kinds.values())
    else:
        with pytest.raises(AgentMixerError, match=f"an agent of {algorithm} needs .* to act, so none can be exported"):
            exporter.export(runs.load(whole.path), folder / "bundle")
    assert whole.summary is not None and whole.summary["steps"] >= steps


def _one_update(self: Any) -> bool:
    updates = self._learn()
    checkpoint.save(self.chosen, self.step, self.algorithm, self.tasks, self.streams, updates)
    return False


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_trains_goes_on_and_is_exported_or_refused(algorithm: str, tmp_path: Path) -> None:
    goes_on_and_is_exported(algorithm, "matrix", "climbing", 384, tmp_path)


def test_the_page_says_of_every_algorithm_what_its_class_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith("| ")][1:]
    told = {name: (needs, exported, seeds) for name, _, needs, exported, _, seeds in rows}
    yes = {True: "yes", False: "no"}
    assert told == {
        name: (algorithm.execution_sees.value, yes[algorithm.execution_sees.alone], yes[algorithm.several_teams])
        for name, algorithm in ALGORITHMS.items()
    }
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(ALGORITHMS)


@pytest.mark.learn
@pytest.mark.parametrize(("task", "scenario"), SCENARIOS, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_does_so_on_every_task_or_says_that_it_cannot(
    algorithm: str, task: str, scenario: str, tmp_path: Path
) -> None:
    try:
        goes_on_and_is_exported(algorithm, task, scenario, 2_000, tmp_path)
    except AgentMixerError as error:
        if "use agentmixer_ppo or mappo" not in str(error):
            raise
        print(f"{algorithm} on {task} {scenario}: {error}")
