"""Robots that differ in all that they see and do: trained, exported and deployed as one team."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo_envs
from conftest import quiet
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.errors import AgentMixerError
from agentmixer.export import exporter as exporting
from agentmixer.runtime import Agent
from agentmixer.runtime.bundle import read_bundle
from agentmixer.tasks import check
from agentmixer.tasks.pettingzoo.observations import element_names, row_of
from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.validate.bundle_checks import prepare
from agentmixer.validate.deploy_sim import deploy_sim
from agentmixer.validate.mutations import mutate
from agentmixer.validate.wrong_bundles import MUTATIONS

TASK = "zoo_envs:Robots"
SMALL = {
    "num_envs": 4, "rollout_length": 8, "total_steps": 64, "epochs": 2, "hidden": 16, "chunk_length": 4, "eval_interval": 0,
    "final_episodes": 2,
}  # fmt: skip
#: Wrong copies that a team of other actions would not have.
OF_ACTIONS = ("mask bit flipped", "mask forgotten", "logits before the mask", "start dropped")
AGENTS = ("wheel", "gripper", "lamps", "arm", "pump", "counter")


def test_the_specification_by_hand() -> None:
    spec = ParallelEnvTask(TASK, 1, {}, "serial").spec
    assert spec.agents == AGENTS
    assert spec.action_spaces == (
        Discrete(4, 1), MultiDiscrete((2, 4), (0, 5)), MultiDiscrete((2, 2), (0, 0)), Box((-1.0, 0.0), (1.0, 10.0)),
        Box((0.0,), (60_000.0,), whole=True), Box((-1e15,), (1e15,), whole=True),
    )  # fmt: skip
    assert spec.fallback_actions == (1, (0, 5), (0, 0), (0.0, 0.0), (0.0,), (0.0,))
    assert spec.obs_names == (
        ("obs=2", "obs=3", "obs=4", "obs=5"),
        ("at", "goal.0_0", "goal.0_1", "goal.1_0"),
        ("obs_0=1", "obs_0=2", "obs_0=3", "obs_0=4", "obs_1=0", "obs_1=1"),
        ("obs_0_0", "obs_0_1", "obs_1_0", "obs_1_1"),
        ("obs_0_0", "obs_0_1", "obs_1_0", "obs_1_1"),
        ("obs_0",),
    )
    assert (spec.discrete, spec.real_valued, spec.action_size, spec.has_action_mask) == (False, False, 2, False)
    assert ParallelEnvTask(TASK, 1, {"mask": True}, "serial").spec.has_action_mask


def test_observations_and_masks_are_rows_in_the_order_of_their_names() -> None:
    task = ParallelEnvTask(TASK, 1, {"mask": True}, "serial")
    seen, env = task.reset(4), task._chunk.envs[0].env
    for i, (agent, told) in enumerate(env.told.items()):
        space, shown = env.SEEN[agent], env.shown(agent, told)
        np.testing.assert_array_equal(seen.obs[i, 0, : flatdim(space)], flatten(space, shown))
    np.testing.assert_array_equal(seen.action_mask[:, 0], [
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0],
    ])  # fmt: skip


def test_actions_reach_the_environment_in_the_form_that_its_spaces_say() -> None:
    task = ParallelEnvTask(TASK, 1, {}, "serial")
    task.reset(0)
    task.step(torch.tensor([[[3.0, 0]], [[1, 8]], [[0, 1]], [[0.5, 7]], [[59_999, 0]], [[-12.0, 0]]]))
    taken = task._chunk.envs[0].env.taken[-1]
    assert taken["wheel"] == 3 and isinstance(taken["wheel"], np.int64)
    for agent, dtype, value in (
        ("gripper", np.int64, [1, 8]), ("lamps", np.int8, [0, 1]), ("arm", np.float64, [[0.5, 7]]),
        ("pump", np.uint16, [59_999]), ("counter", np.int64, -12),
    ):  # fmt: skip
        assert taken[agent].dtype == dtype and taken[agent].tolist() == value


SPACES = [
    spaces.Tuple(
        (spaces.Discrete(3, start=-1), spaces.Dict({"b": spaces.MultiBinary((2, 2)), "a": spaces.Box(0, 1, (2, 1))}))
    ),
    spaces.Dict(
        {"image": spaces.Box(0, 255, (4, 3, 3), np.uint8), "gear": spaces.MultiDiscrete([[2, 3]], start=[[1, 1]])}
    ),
    spaces.Box(-1, 1, ()),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rows_are_gymnasiums(space: spaces.Space) -> None:
    space.seed(0)
    for _ in range(20):
        value = space.sample()
        np.testing.assert_array_equal(row_of(space, value, "it"), flatten(space, value))
    assert len(set(element_names(space))) == len(element_names(space)) == flatdim(space)


def test_what_is_wrong_inside_an_observation_is_named() -> None:
    space = SPACES[0]
    good = (0, {"a": np.zeros((2, 1)), "b": np.zeros((2, 2), np.int8)})
    assert row_of(space, good, "it").shape == (9,)
    for value, words in (
        ((0, {**good[1], "a": np.full((2, 1), np.nan)}), "element 0 of a of 1 of it is nan"),
        ((0, {**good[1], "a": np.zeros(2)}), r"a of 1 of it has shape \(2,\), its space says \(2, 1\)"),
        ((5, good[1]), "0 of it is 5, which is not in its space"),
        ((0, {"a": good[1]["a"]}), "1 of it lacks a part of its space"),
        ((0,), "it lacks a part of its space"),
        (None, "it lacks a part of its space"),
    ):
        with pytest.raises(AgentMixerError, match=words):
            row_of(space, value, "it")


@pytest.mark.parametrize(
    ("algorithm", "options"), [("agentmixer_ppo", {"mask": True}), ("mappo", {})], ids=["masked", "mappo"]
)
def test_trained_exported_deployed(algorithm: str, options: dict, tmp_path: Path) -> None:
    """Actions equal on every step; each agent answers in its own form; a start left out of a graph is found out."""
    backend, resolved = check("pettingzoo", TASK, "serial", options)
    config = runs.ALGORITHMS[algorithm].configure("default", "pettingzoo").replace(SMALL)
    run = runs.create("pettingzoo", TASK, backend, algorithm, "default", 1, "cpu", resolved, config, tmp_path / "run")
    trainer.train(run, console=quiet())
    place = exporting.export(run, tmp_path / "bundle").path
    bundle = read_bundle(place)
    report = deploy_sim(bundle, 3, run=run)
    assert report.passed and report.parity.actions == 3 * 6 * 6
    env = zoo_envs.Robots(**options)
    _, infos = env.reset(seed=1)
    for agent in AGENTS:
        loaded = Agent.load(place / "agents" / agent)
        space = env.SPACES[agent]
        mask = np.ones(loaded.manifest.action_space.n, bool) if loaded.manifest.mask_rule == "forbid" else None
        if agent == "gripper" and mask is not None:
            mask = np.concatenate(infos["gripper"]["action_mask"]).astype(bool)
        assert (mask is not None) == (bool(options) and agent in ("wheel", "gripper", "lamps"))
        for told in range(4):
            obs = row_of(env.SEEN[agent], env.shown(agent, told), agent).astype(np.float32)
            action = loaded.act(obs, mask)
            form = np.int64(action) if agent == "wheel" else np.asarray(action.reshape(space.shape), space.dtype)
            assert np.array_equal(form, action.reshape(np.shape(form))) and space.contains(form)
    if options:
        with pytest.raises(AgentMixerError, match="allows no action for element 0"):
            Agent.load(place / "agents/gripper").act(np.zeros(4, np.float32), np.array([0, 0, 1, 1, 1, 1], bool))
        context = prepare(bundle, run)
        checks = [mutate(mutation, context) for mutation in MUTATIONS if mutation.name in OF_ACTIONS]
        assert [(check.name, check.status) for check in checks] == [(name, "passed") for name in OF_ACTIONS]
