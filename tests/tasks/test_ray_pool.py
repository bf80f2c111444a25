"""Workers on a Ray cluster give the steps that processes give, and outlive a node. Skipped where ray is not installed, but for
what is said then."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import agentmixer
from stand_ins.installed import install

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make
from agentmixer.tasks.base import Task, TaskStep
from agentmixer.tasks.workers import ray_pool

STAND_INS = Path(__file__).parents[1] / "stand_ins"
SPREAD = ("pettingzoo", "mpe2.simple_spread_v3:parallel_env", {"max_cycles": 7})


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, of two cores each, and this process connected."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'agentmixer[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setattr(sys, "path", [str(STAND_INS / "interface"), *sys.path, str(STAND_INS / "packages")])
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        cluster.add_node(num_cpus=2)
        patch.setenv("RAY_ADDRESS", cluster.address)
        ray_pool.connected()
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def actions(task: Task, step: TaskStep, source: np.random.Generator) -> torch.Tensor:
    """Legal actions drawn at random."""
    spec, envs = task.spec, task.num_envs
    if not spec.discrete:
        return torch.tensor(source.uniform(-1, 1, (spec.num_agents, envs, spec.action_size)).astype(np.float32))
    masks = np.asarray(step.action_mask)
    rows = [[source.choice(np.flatnonzero(masks[i, e])) for e in range(envs)] for i in range(spec.num_agents)]
    return torch.tensor(np.array(rows, np.int32))


@pytest.mark.parametrize(
    "scenario",
    [SPREAD, ("mamujoco", "HalfCheetah-2x3", {}), ("smacv2", "protoss_5v5", {}, "sc2")],
    ids=["pettingzoo", "mamujoco", "sc2"],
)
def test_steps_are_those_of_processes(
    cluster: Any, scenario: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SC2PATH", str(install(tmp_path / "sc2")))
    task, name, options, *backend = scenario
    far, near = (
        make(task, name, 3, backend[0] if backend else None, options, workers=workers)
        for workers in ("ray", "processes")
    )
    source, steps = np.random.default_rng(0), [far.reset(5), near.reset(5)]
    for _ in range(30):
        for a, b in zip(*steps, strict=True):
            np.testing.assert_array_equal(a, b)
        chosen = actions(near, steps[1], source)
        steps = [far.step(chosen), near.step(chosen)]
    far.close()
    near.close()


def test_ray_prints_nothing_to_standard_output(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It would tell there of a worker that died, in the midst of what --json prints."""
    from ray._private import worker

    worker.print_to_stdstream({"lines": ["a worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)


def test_a_cluster_without_a_core_to_spare_is_told_of(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util import placement_group, remove_placement_group

    monkeypatch.setattr(ray_pool, "STARTING_TIME", 3.0)
    everything = placement_group([{"CPU": 2}, {"CPU": 2}])
    assert everything.wait(60)
    with pytest.raises(AgentMixerError, match="environment 0 did not start in 3 s; the command ray status says"):
        make(*SPREAD[:2], 1, None, SPREAD[2], workers="ray").close()
    remove_placement_group(everything)


def test_a_node_that_is_killed_is_replaced(cluster: Any) -> None:
    """Environments of workers on another node notice nothing."""
    import ray

    node = cluster.add_node(num_cpus=2)
    task, calm = (make(*SPREAD[:2], 6, None, SPREAD[2], workers=workers) for workers in ("ray", "processes"))
    task.env_restarts = 6
    step, undisturbed = task.reset(1), calm.reset(1)
    cluster.remove_node(node)
    chosen = actions(calm, undisturbed, np.random.default_rng(0))
    step, undisturbed = task.step(chosen), calm.step(chosen)
    assert task.lost is not None and 0 < task.lost.sum() < 6
    told = task.failures()
    assert len(told) == len(task._parts) - sum(not task.lost[part[0]] for part in task._parts)
    assert all(words.startswith("the Ray worker of environment") and " was lost: " in words for words in told)
    assert task.env_restarts == 6 - task.lost.sum()
    np.testing.assert_array_equal(step.obs[:, ~task.lost], undisturbed.obs[:, ~task.lost])
    assert (step.reward[task.lost] == 0).all() and step.truncated[task.lost].all()
    step = task.step(actions(calm, undisturbed, np.random.default_rng(1)))
    assert task.lost is None and sum(node["Alive"] for node in ray.nodes()) == 2
    task.close()
    calm.close()


def test_train_takes_workers_ray_and_goes_on_without(cluster: Any, tmp_path: Path) -> None:
    small = ["num_envs=2", "rollout_length=16", "hidden=16", "final_episodes=2", "eval_episodes=2"]
    settings = [word for setting in small for word in ("--set", setting)]
    trained = {}
    for workers in ("ray", "processes"):
        done = agentmixer(
            "train", *SPREAD[:2], "--env-arg", "max_cycles=7", "--steps", 64, *settings, "--workers", workers,
            "--out", workers, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        trained[workers] = done.stdout.splitlines()[-2].partition("over")[2]
    assert trained["ray"] == trained["processes"] != ""
    again = agentmixer(
        "train", *SPREAD[:2], "--resume", "--out", "ray", "--steps", 128, "--workers", "processes", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert 'workers = "processes"' in (tmp_path / "ray/config.toml").read_text()


def test_without_ray_or_a_cluster_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = ("train", *SPREAD[:2], "--steps", 64, "--workers")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        refused = agentmixer(*command, "ray", cwd=tmp_path)
        assert list(tmp_path.iterdir()) == []  # no run was made
    assert refused.returncode == 2 and "needs the package ray; pip install 'agentmixer[ray]'" in refused.stderr
    refused = agentmixer(*command, "raj", cwd=tmp_path)
    assert refused.returncode == 2 and "workers must be one of processes, ray" in refused.stderr
    refused = agentmixer("train", "matrix", "climbing", "--steps", 64, "--workers", "ray", cwd=tmp_path)
    assert (
        refused.returncode == 2
        and "task 'matrix' steps the environments of backend jax in this process" in refused.stderr
    )


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'agentmixer[ray]'")
    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(AgentMixerError, match="RAY_ADDRESS names none; ray start --head starts one"):
        ray_pool.connected()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(AgentMixerError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:1"):
        ray_pool.connected()
