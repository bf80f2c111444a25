"""What several tests share: one tiny trained run and its bundle, made once."""

from __future__ import annotations

import gc
import os
import random
import signal
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import browser
import jax
import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

from agentmixer.contract.spec import Box, Discrete, MultiDiscrete, TaskSpec
from agentmixer.export import episodes
from agentmixer.export import exporter as export
from agentmixer.tasks import predator_prey
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.rollout import Rollout
from agentmixer.train.run import Run

# What is made in tests is not remembered as this user's. Processes that tests start inherit it.
_state = tempfile.TemporaryDirectory(prefix="agentmixer-state-")
os.environ["XDG_STATE_HOME"] = _state.name

# Ctrl-C is ignored in what a shell starts in the background, and so in every process that the tests start there.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks this small gain nothing from threads and lose much to them on a busy machine.
torch.set_num_threads(1)

#: Small enough to train in seconds, large enough to have several updates and checkpoints.
TINY = {
    "num_envs": 8, "rollout_length": 16, "total_steps": 512, "minibatches": 2, "epochs": 2, "chunk_length": 4, "hidden": 16,
    "eval_episodes": 8, "final_episodes": 8,
}  # fmt: skip


#: Modules that take longest. They come first, so that no process is left with one of them when the others are done. The
#: first has SMAX compiled before the others come to it.
LONG = (
    "cli/test_cli.py", "test_every_task.py", "train/test_run.py", "report/test_pages_in_browser.py",
    "train/test_seeds.py", "validate/test_locality.py", "study/test_comparison.py", "runtime/test_audit.py",
    "validate/test_fault_verdict.py", "train/test_killed.py", "train/test_sac.py", "tasks/test_sc2_game.py",
    "cli/test_output.py", "runtime/test_process.py", "tasks/test_mamujoco.py", "host/test_faulty_link.py",
    "tasks/test_predator_prey.py", "tasks/test_examples.py", "validate/test_mutations.py", "runtime/test_verify.py",
    "runtime/test_strange_bundles.py", "export/test_export.py", "train/test_reused_arrays.py",
    "train/test_every_algorithm.py", "train/test_rollout.py", "runtime/test_decisions.py", "validate/test_ladder.py",
    "validate/test_deploy_sim.py", "runtime/test_guard.py", "validate/test_isolation.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """XLA compiles simulators quickly, and not for speed: most of their work in tests would be that. Tests that learn for
    hours want them fast."""
    if not any(item.get_closest_marker("learn") for item in session.items):
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for processes that tests start
        jax.config.update("jax_disable_most_optimizations", True)
    gc.freeze()  # what was imported stays; looking through it for garbage again and again takes long


@pytest.fixture(autouse=True, scope="session")
def _brief_profiles() -> Iterator[None]:
    """Export takes what agents see and do from a few hundred decisions here, and not from thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "PROFILE_STEPS", 256)
        patch.setattr(episodes, "PROFILE_STARTS", 32)
        patch.setattr(episodes, "PROFILE_EPISODE", 64)
        yield


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Random numbers that no test passes itself depend on that test's name alone, not on the tests before it."""
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def quiet() -> Console:
    return Console(quiet=True)


def make_run(path: Path, seed: int = 3, **settings: object) -> Run:
    config = AgentMixerPPO.configure().replace({**TINY, "eval_interval": 0, "checkpoint_interval": 0, **settings})
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


def unlike_spec(mask: bool = False) -> TaskSpec:
    """Four agents of 7 in, state of 11: one of 3 actions from 2 on; two elements of 2 and of 4 from -1 on; two real values;
    and a number from 0 to 10."""
    spaces = (Discrete(3, 2), MultiDiscrete((2, 4), (0, -1)), Box((-1.0, 0.0), (1.0, 10.0)), Box((0.0,), (10.0,), True))
    return msgspec.structs.replace(
        tiny_spec(agents=4),
        action_spaces=spaces,
        fallback_actions=(2, (0, 0), (0.0, 0.0), (0.0,)),
        has_action_mask=mask,
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


def tiny_algorithm(
    spec: TaskSpec | None = None, seed: int = 0, seeds: Sequence[int] | None = None, **settings: object
) -> AgentMixerPPO:
    """One team, or a team a seed."""
    config = AgentMixerPPO.configure().replace({**TINY, **settings})
    generators = [torch.Generator().manual_seed(own) for own in ([seed] if seeds is None else seeds)]
    return AgentMixerPPO(spec or tiny_spec(), config, generators)


def random_rollout(algorithm: AgentMixerPPO, seed: int = 5) -> Rollout:
    """What `collect` might have given, some agents dead and some episodes ended. Each team's does not depend on others."""
    parts = [_random_rollout(algorithm, seed + team) for team in range(algorithm.team.count)]
    return Rollout(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _random_rollout(algorithm: AgentMixerPPO, seed: int) -> dict[str, torch.Tensor]:
    spec, run, actions = algorithm.team.spec, algorithm.config.run, algorithm.team.actions
    generator = np.random.default_rng(seed)
    agents, critics = spec.num_agents, algorithm.critic.critics // algorithm.team.count
    lead = (run.rollout_length, run.num_envs)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    def chance(share: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.random(shape) < share)

    obs, action = normal(agents, *lead, max(spec.obs_sizes)), normal(agents, *lead, actions)
    mask = torch.from_numpy(random_masks(generator, agents, *lead, actions))
    if not spec.discrete:
        mask[:] = True
    for i, (size, space) in enumerate(zip(spec.obs_sizes, spec.action_spaces, strict=True)):
        obs[i, ..., size:], mask[i, ..., space.n :], action[i, ..., space.n :] = 0, False, 0
    terminated = chance(0.1, 1, *lead)
    truncated = chance(0.1, 1, *lead) & ~terminated
    starts = torch.cat([torch.zeros(1, 1, lead[1]), (terminated | truncated)[:, :-1].float()], 1)
    return {
        "obs": obs, "mask": mask, "active": chance(0.9, agents, *lead), "log_prob": -normal(agents, *lead).abs(),
        "action": mask.float().mul(torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))).argmax(-1)
        if spec.discrete else action,
        "actor_memory": normal(agents, *lead, algorithm.team.actor.body.memory),
        "critic_memory": normal(critics, *lead, algorithm.critic.body.memory),
        "pm_memory": normal(1, *lead, algorithm.team.pm.memory),
        "value": normal(critics, *lead), "final_value": normal(critics, *lead), "last_value": normal(critics, lead[1]),
        "state": normal(1, *lead, spec.state_size), "signal": normal(1, *lead, algorithm.team.signal),
        "reward": normal(1, *lead), "terminated": terminated, "truncated": truncated, "episode_start": starts,
    }  # fmt: skip


@pytest.fixture
def short_episodes() -> Iterator[None]:
    """Predators have 20 steps and not 200: judging a team takes less time, and episodes end while it trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predator_prey, "EPISODE_LIMIT", 20)
        yield


def random_masks(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Boolean masks with at least one True along the last axis."""
    mask = generator.random(shape) < 0.5
    np.put_along_axis(mask, generator.integers(0, shape[-1], (*shape[:-1], 1)), True, -1)
    return mask


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; a test that asks for it is skipped where there is none."""
    with browser.started() as found:
        yield found


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
