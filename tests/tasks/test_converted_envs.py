"""Environments of other kinds, made ParallelEnvs by the packages that their users use."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quiet
from pettingzoo.utils import aec_to_parallel, turn_based_aec_to_parallel

from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run
from agentmixer.validate.deploy_sim import deploy_sim

SPREAD = "mpe2.simple_spread_v3"
SMALL = {
    "num_envs": 2, "rollout_length": 8, "chunk_length": 4, "minibatches": 1, "epochs": 2, "total_steps": 32, "hidden": 16,
    "eval_interval": 0, "eval_episodes": 1, "final_episodes": 1, "judge_limit": 30,
}  # fmt: skip


def spread(**options: Any) -> Any:
    return importlib.import_module(SPREAD).parallel_env(max_cycles=6, **options)


def from_aec() -> Any:
    return aec_to_parallel(importlib.import_module(SPREAD).env(max_cycles=6))


def stacked() -> Any:
    return supersuit().frame_stack_v1(spread(), 3)


def padded() -> Any:
    adversary = importlib.import_module("mpe2.simple_adversary_v3").parallel_env(max_cycles=6)
    return supersuit().agent_indicator_v0(supersuit().pad_observations_v0(adversary))


def never_dying() -> Any:
    return supersuit().black_death_v3(spread())


def clipped() -> Any:
    return supersuit().dtype_v0(supersuit().clip_actions_v0(spread(continuous_actions=True)), "float64")


def delayed() -> Any:
    return supersuit().sticky_actions_v0(supersuit().delay_observations_v0(spread(), 2), 0.2)


def hanabi() -> Any:
    """An OpenSpiel game by way of Shimmy."""
    spiel, shimmy = importlib.import_module("pyspiel"), importlib.import_module("shimmy")
    return turn_based_aec_to_parallel(shimmy.OpenSpielCompatibilityV0(env=spiel.load_game("tiny_hanabi")))


def supersuit() -> Any:
    return importlib.import_module("supersuit")


def trained(scenario: str, path: Path) -> Run:
    backend, options = check("pettingzoo", scenario, "serial", {})
    config = AgentMixerPPO.configure("default", "pettingzoo").replace(SMALL)
    run = runs.create("pettingzoo", scenario, backend, "agentmixer_ppo", "default", 1, "cpu", options, config, path)
    trainer.train(run, console=quiet())
    return run


def test_an_aec_environment_turned_parallel_is_the_parallel_one() -> None:
    ours, theirs = (ParallelEnvTask(name, 2, {}, "serial") for name in (f"{__name__}:from_aec", f"{__name__}:spread"))
    a, b, draw = ours.reset(3), theirs.reset(3), np.random.default_rng(0)
    for _ in range(15):
        for name in ("obs", "state", "final_obs", "terminated", "truncated", "active"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        np.testing.assert_allclose(a.reward, b.reward, rtol=1e-6)
        actions = torch.from_numpy(draw.integers(0, 5, (3, 2)))
        a, b = ours.step(actions), theirs.step(actions)


def test_who_waits_for_its_turn_is_not_active_and_may_do_its_fallback_alone() -> None:
    task = ParallelEnvTask("zoo_envs:turns", 1, {}, "serial")
    assert task.spec.has_action_mask and task.spec.fallback_actions == (1, 0, 0)
    step = task.reset(0)
    for turn, laid in enumerate((2, 1, 0, 2, 0, 1)):
        np.testing.assert_array_equal(step.active[:, 0], np.arange(3) == turn % 3)
        legal = np.arange(3) != (0 if turn == 0 else step.obs[0, 0, 0])
        waiting = np.eye(3, dtype=bool)[list(task.spec.fallback_actions)]
        np.testing.assert_array_equal(
            step.action_mask[:, 0], np.where(np.arange(3)[:, None] == turn % 3, legal, waiting)
        )
        actions = np.array(task.spec.fallback_actions)
        actions[turn % 3] = laid
        step = task.step(torch.from_numpy(actions[:, None]))
        assert step.reward[0] == laid
    assert step.terminated[0]


def test_a_team_that_takes_turns_is_trained_exported_and_deployed(tmp_path: Path) -> None:
    run = trained("zoo_envs:turns", tmp_path / "run")
    report = deploy_sim(read_bundle(exporting.export(run, tmp_path / "bundle").path), 2, run=run, deadline_s=30)
    assert report.passed and report.parity.different == 0


def test_a_step_in_which_nobody_may_do_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo_envs

    monkeypatch.setattr(
        zoo_envs.Turns, "agent_selection", property(lambda self: "nobody", lambda *_: None), raising=False
    )
    with pytest.raises(AgentMixerError, match="the action masks allow no agent any action"):
        ParallelEnvTask("zoo_envs:turns", 1, {}, "serial").reset(0)


@pytest.mark.parametrize(
    ("package", "factory"),
    [
        ("supersuit", "stacked"), ("supersuit", "padded"), ("supersuit", "never_dying"), ("supersuit", "clipped"),
        ("supersuit", "delayed"), ("pyspiel", "hanabi"),
    ],
    ids=str,
)  # fmt: skip
def test_wrapped_and_converted_environments_train(package: str, factory: str, tmp_path: Path) -> None:
    """Where the package is installed; the project does not need it."""
    pytest.importorskip(package)
    run = trained(f"{__name__}:{factory}", tmp_path / "run")
    assert runs.load(run.path).summary
