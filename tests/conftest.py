"""What several tests share: one tiny trained run and its bundle, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from agentmixer.contract.spec import Box, Discrete, TaskSpec
from agentmixer.export import bundle as export
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run

# Networks this small gain nothing from threads and lose much to them on a busy machine.
torch.set_num_threads(1)

#: Small enough to train in seconds, large enough to have several updates and checkpoints.
TINY = {"num_envs": 8, "rollout_length": 16, "total_steps": 512, "minibatches": 2, "chunk_length": 4, "hidden": 16}


def quiet() -> Console:
    return Console(quiet=True)


def make_run(path: Path, seed: int = 3, **settings: object) -> Run:
    config = AgentMixerPPO.Config().replace({**TINY, "eval_interval": 0, "checkpoint_interval": 0, **settings})
    return runs.create("smacv2", "protoss_5v5", "smax", "agentmixer_ppo", "default", seed, "cpu", {}, config, path)


def tiny_spec(agents: int = 3, obs: int = 7, state: int = 11, actions: int = 4) -> TaskSpec:
    """A task specification without a task."""
    return TaskSpec(
        name="none",
        scenario="none",
        backend="none",
        options={},
        agents=tuple(f"agent_{i}" for i in range(agents)),
        obs_names=(tuple(f"x{i}" for i in range(obs)),) * agents,
        state_size=state,
        action_spaces=(Discrete(actions),) * agents,
        has_action_mask=True,
        reports_wins=True,
        episode_limit=10,
        control_period_s=0.1,
        fallback_actions=(0,) * agents,
        shared="reward",
    )


def box_spec() -> TaskSpec:
    """Two agents of different sizes with real-valued actions, state of 11: 5 in, 3 out; 3 in, 2 out."""
    return TaskSpec(
        name="none",
        scenario="none",
        backend="none",
        options={},
        agents=("big", "small"),
        obs_names=(tuple("abcde"), tuple("abc")),
        state_size=11,
        action_spaces=(Box((-2.0,) * 3, (4.0,) * 3), Box((-0.5,) * 2, (0.5,) * 2)),
        has_action_mask=False,
        reports_wins=False,
        episode_limit=10,
        control_period_s=0.1,
        fallback_actions=((0.0,) * 3, (0.0,) * 2),
        shared="reward",
    )


def tiny_algorithm(spec: TaskSpec | None = None, seed: int = 0, **settings: object) -> AgentMixerPPO:
    config = AgentMixerPPO.Config().replace({**TINY, **settings})
    return AgentMixerPPO(spec or tiny_spec(), config, "cpu", [torch.Generator().manual_seed(seed)])


def random_masks(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Boolean masks with at least one True along the last axis."""
    mask = generator.random(shape) < 0.5
    np.put_along_axis(mask, generator.integers(0, shape[-1], (*shape[:-1], 1)), True, -1)
    return mask


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of protoss_5v5, 512 steps."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run")
    assert trainer.train(run, quiet())
    return run


@pytest.fixture(scope="session")
def exported(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> export.Exported:
    """The bundle of `trained`."""
    return export.export(trained, tmp_path_factory.mktemp("exported") / "bundle")
