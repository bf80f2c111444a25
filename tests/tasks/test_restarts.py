"""Environments that fail are made anew as often as the user allows, and nothing is made up about what was lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import agentmixer
from conftest import quiet

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import check
from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask
from agentmixer.tasks.side_by_side import SideBySide, lost_in
from agentmixer.tasks.workers.chunk import episode_seed
from agentmixer.train import evaluate, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO, AgentMixerSAC
from agentmixer.train.run import Run
from agentmixer.train.stream import begin
from agentmixer.validate.arms import ActorsArm, play

FLAKY = "zoo_envs:Flaky"
ENVS = 6


def flaky(restarts: int, backend: str = "serial") -> ParallelEnvTask:
    task = ParallelEnvTask(FLAKY, ENVS, {}, backend, 2 if backend == "processes" else None)
    task.env_restarts = restarts
    return task


def fate(seed: int, stream: int, number: int) -> str:
    """What becomes of an episode."""
    drawn = episode_seed(seed, stream, number)
    return "no start" if drawn % 10 == 3 else "lost" if float(drawn) % 2 == 0 else "whole"


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_a_failed_step_truncates_with_what_was_seen_before(backend: str) -> None:
    """Every stream plays its episodes in order; those that fail leave one step that says so, and no other trace."""
    task = flaky(200, backend)
    step, number, steps = task.reset(5), np.zeros(ENVS, int), np.zeros(ENVS, int)
    for e in range(ENVS):
        while fate(5, e, number[e]) == "no start":
            number[e] += 1
    lost = 0
    for _ in range(30):
        before = step
        step = task.step(torch.zeros(2, ENVS))
        steps += 1
        for e in range(ENVS):
            fails = fate(5, e, number[e]) == "lost" and steps[e] == 3
            assert (task.lost is not None and task.lost[e]) == fails
            assert step.truncated[e] == (fails or steps[e] == 4) and not step.terminated[e]
            assert step.reward[e] == (0 if fails else 2 * steps[e])
            if fails:
                lost += 1
                np.testing.assert_array_equal(step.final_obs[:, e], before.obs[:, e])
                np.testing.assert_array_equal(step.final_state[e], before.state[e])
            if step.truncated[e]:
                steps[e], number[e] = 0, number[e] + 1
                while fate(5, e, number[e]) == "no start":
                    number[e] += 1
                assert step.obs[0, e, 1] == np.float32(episode_seed(5, e, number[e])) and step.obs[0, e, 0] == 0
    told = task.failures()
    assert lost and len(told) == 200 - task.env_restarts >= lost and not task.failures()
    assert any("step 3 of the episode" in words and "fell through the floor" in words for words in told)
    assert any("the port is taken" in words for words in told)
    task.close()


def test_without_leave_or_when_it_is_used_up_the_task_ends() -> None:
    for restarts in (0, 2):
        task = flaky(restarts)
        with pytest.raises(AgentMixerError, match=r"environment \d.* failed with (RuntimeError|OSError)"):  # noqa: PT012
            task.reset(5)
            for _ in range(30):
                task.step(torch.zeros(2, ENVS))
        with pytest.raises(AgentMixerError, match="failed with"):
            task.step(torch.zeros(2, ENVS))


def test_an_environment_that_never_starts_ends_the_task_whatever_is_allowed() -> None:
    task = ParallelEnvTask("zoo_envs:NeverAgain", 1, {}, "serial")
    task.env_restarts = 1000
    with pytest.raises(
        AgentMixerError, match="the port is taken; that was after it had been made anew 5 times in a row"
    ):
        task.reset(5)
    assert task.env_restarts == 1000 - 5


def test_a_worker_that_is_killed_loses_its_environments_alone() -> None:
    """Environments 3 to 5 go on in a new process with their streams' next episodes; the others have noticed nothing."""
    task, calm = flaky(200, "processes"), flaky(200, "serial")
    before = task.reset(5)
    calm.reset(5)
    task.failures()
    restarts = task.env_restarts
    victim = task._pool.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    step, undisturbed = task.step(torch.zeros(2, ENVS)), calm.step(torch.zeros(2, ENVS))
    assert task.lost.tolist() == step.truncated.tolist() == [False] * 3 + [True] * 3 and not step.terminated.any()
    assert task.env_restarts <= restarts - 3
    assert any(
        told.startswith("the worker process of environments 3 to 5 was killed by SIG") for told in task.failures()
    )
    np.testing.assert_array_equal(step.obs[:, :3], undisturbed.obs[:, :3])
    np.testing.assert_array_equal(step.final_obs[:, 3:], before.obs[:, 3:])
    assert (step.reward[3:] == 0).all() and (step.obs[:, 3:, 0] == 0).all()
    assert task._pool.processes[1].pid != victim.pid
    task.step(torch.zeros(2, ENVS))
    task.close()
    calm.close()


def test_losses_of_several_teams_are_put_together() -> None:
    task, other = flaky(200), flaky(200)
    several = SideBySide([task, other])
    task.reset(5)
    other.reset(5)
    assert lost_in(several) is None
    for _ in range(3):
        task.step(torch.zeros(2, ENVS))
    assert task.lost is not None and task.lost.any()
    assert lost_in(several).tolist() == [*task.lost, *[False] * ENVS]


def started(path: Path, algorithm: type, restarts: int = 10_000) -> Run:
    backend, options = check("pettingzoo", FLAKY, "serial", {})
    settings = {"num_envs": 6, "rollout_length": 8, "total_steps": 480, "hidden": 16, "eval_interval": 0,
                "eval_episodes": 2, "final_episodes": 8, "env_restarts": restarts}  # fmt: skip
    if algorithm is AgentMixerPPO:
        settings |= {"chunk_length": 4, "minibatches": 1, "epochs": 2}
    config = algorithm.configure("default", "pettingzoo").replace(settings)
    return runs.create("pettingzoo", FLAKY, backend, algorithm.name, "default", 1, "cpu", options, config, path)


@pytest.mark.parametrize("algorithm", [AgentMixerPPO, AgentMixerSAC])
def test_a_team_is_trained_and_judged_on_whole_episodes_alone(algorithm: type, tmp_path: Path) -> None:
    """Every whole episode pays 2 + 4 + 6 + 8."""
    run = started(tmp_path / "run", algorithm)
    assert trainer.train(run, quiet())
    summary = run.summary or {}
    assert [summary[which]["return"] for which in ("decentralised_greedy", "joint_greedy")] == [20.0, 20.0]
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert {row["train_return"] for row in rows if row.get("train_return") is not None} == {20.0}


def test_what_came_of_a_lost_step_is_not_learned_from(tmp_path: Path) -> None:
    run = started(tmp_path / "run", AgentMixerPPO)
    task = run.make_task(6)
    algorithm = AgentMixerPPO(task.spec, run.config, [torch.Generator().manual_seed(0)])
    rollout, _ = algorithm.collect([task], [begin(algorithm.team, algorithm.memory(6), task.reset(5))])
    failed = rollout.truncated[0] & (rollout.reward[0] == 0)
    assert failed.any() and not rollout.active[:, failed].any()
    assert rollout.active[:, ~failed].all()
    played = evaluate.evaluate(algorithm.team, task, 12, 3)
    assert (played.returns == 20).all() and (played.lengths == 4).all() and not played.unended.any()


def test_a_rehearsal_plays_no_episode_that_fails(tmp_path: Path) -> None:
    """Its arms would no longer play the same one; the sentence says which environment failed and how."""
    run = started(tmp_path / "run", AgentMixerPPO)
    task = run.make_task(1)
    team = AgentMixerPPO(task.spec, run.config, [torch.Generator().manual_seed(0)]).team
    with pytest.raises(
        AgentMixerError, match=r"step 3 of .* fell through the floor; choose other episodes with --seed"
    ):
        play(ActorsArm(team), task, 20, 3)


def test_the_option_of_the_command(tmp_path: Path) -> None:
    """Without it the run ends at its first failure; with it, also on --resume, a note names every failure."""
    (tmp_path / "flaky_envs.py").write_text("from zoo_envs import Flaky\n")
    small = ["num_envs=4", "rollout_length=8", "hidden=16", "final_episodes=2", "eval_episodes=2"]
    settings = [word for setting in small for word in ("--set", setting)]
    command = ["train", "pettingzoo", "flaky_envs:Flaky", "--backend", "serial", "--steps", "64", "--out", "run"]
    ended = agentmixer(*command, *settings, cwd=tmp_path)
    assert ended.returncode == 2 and "environment" in ended.stderr and "failed with" in ended.stderr
    again = agentmixer(*command[:3], "--resume", "--out", "run", "--env-restarts", "1000", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "it was made anew, 99" in again.stdout + again.stderr
    refused = agentmixer("train", "matrix", "climbing", "--steps", "64", "--env-restarts", "2", cwd=tmp_path)
    assert refused.returncode == 2 and "task matrix makes no environment anew; leave env_restarts out" in refused.stderr
