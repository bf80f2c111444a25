"""Multi-Agent MuJoCo: step for step the reference's, batched; sizes, starts, seeds, ends, snapshots."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentmixer.contract.spec import Box
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import make, mamujoco
from agentmixer.tasks.base import TaskStep, to_torch
from agentmixer.tasks.mamujoco.mamujoco_facts import REGROUPED, TEAMS, split
from agentmixer.tasks.mamujoco.mamujoco_layout import layout, reference
from agentmixer.tasks.mamujoco.mujoco_team import MujocoTeam
from agentmixer.tasks.mamujoco.robots import ROBOTS

CASES = [(name, "0") for name in TEAMS] + [
    (name, sees) for name in ("Ant-4x2", "Humanoid-9|8", "Reacher-2x1") for sees in ("1", "none")
]
ROBOT_TASKS = {name.split("-")[0]: name for name in TEAMS}.values()


def random_actions(task: MujocoTeam, rng: np.random.Generator) -> np.ndarray:
    """Uniform within the bounds, [N, E, A]; zeros where an agent has no such element."""
    spaces = [space for space in task.spec.action_spaces if isinstance(space, Box)]
    actions = np.zeros((len(spaces), task.num_envs, max(space.n for space in spaces)))
    for row, space in zip(actions, spaces, strict=True):
        row[:, : space.n] = rng.uniform(space.low, space.high, (task.num_envs, space.n))
    return actions.astype(np.float32)


def put(theirs: Any, task: MujocoTeam) -> None:
    """Start the reference's episode in the state of our environment 0."""
    theirs.reset()
    theirs.single_agent_env.unwrapped.set_state(task._data[0].qpos, task._data[0].qvel)


def unpadded(task: MujocoTeam, obs: np.ndarray, state: np.ndarray) -> np.ndarray:
    """All that environment 0's agents see, then the state."""
    return np.concatenate([*(row[0, :size] for row, size in zip(obs, task.spec.obs_sizes, strict=True)), state[0]])


def joined(obs: dict[str, np.ndarray], state: np.ndarray) -> np.ndarray:
    """The same of the reference, as float32."""
    return np.concatenate([*obs.values(), state]).astype(np.float32)


@pytest.mark.parametrize(("scenario", "sees"), CASES)
def test_every_step_is_the_references(scenario: str, sees: str) -> None:
    """One team of each robot plays up to the longest limit of steps; the others move and end as it does, and see what else
    they see in fewer."""
    steps = 40 if sees != "0" else 1000 if scenario in ROBOT_TASKS else 100
    task, theirs, rng = MujocoTeam(scenario, 1, sees), reference(scenario, sees), np.random.default_rng(1)
    step = task.reset(1)
    put(theirs, task)
    seen, rewards = [(unpadded(task, step.obs, step.state), joined(theirs._get_obs(), theirs.state()))], []
    for _ in range(steps):
        actions = random_actions(task, rng)
        step = task.step(torch.from_numpy(actions))
        alone = {a: actions[i, 0, : theirs.action_space(a).shape[0]] for i, a in enumerate(task.spec.agents)}
        obs, reward, terminated, truncated, _ = theirs.step(alone)
        seen.append((unpadded(task, step.final_obs, step.final_state), joined(obs, theirs.state())))
        rewards.append((step.reward[0], reward["agent_0"]))
        assert step.terminated[0] == terminated["agent_0"]
        assert step.truncated[0] == (truncated["agent_0"] and not terminated["agent_0"])
        if step.terminated[0] or step.truncated[0]:
            put(theirs, task)
            seen.append((unpadded(task, step.obs, step.state), joined(theirs._get_obs(), theirs.state())))
    for pairs in (seen, rewards):
        ours, wanted = zip(*pairs, strict=True)
        np.testing.assert_allclose(np.array(ours), np.array(wanted), rtol=1e-6, atol=1e-6)
    task.close()


@pytest.mark.parametrize("scenario", list(TEAMS))
def test_listed_sizes_and_bounds_are_the_references(scenario: str) -> None:
    theirs, info = reference(scenario), {row.scenario: row for row in mamujoco.scenarios()}[scenario]
    agents = theirs.possible_agents
    spec = MujocoTeam(scenario, 1).spec
    assert info.agents == len(agents)
    assert info.obs_sizes == spec.obs_sizes == tuple(theirs.observation_space(a).shape[0] for a in agents)
    assert info.state_size == spec.state_size == len(theirs.state())
    assert info.episode_limit == spec.episode_limit == theirs.single_agent_env.spec.max_episode_steps
    assert spec.control_period_s == theirs.single_agent_env.unwrapped.dt
    assert TEAMS[scenario].actions == tuple(theirs.action_space(a).shape[0] for a in agents)
    for agent, space, names in zip(agents, spec.action_spaces, spec.obs_names, strict=True):
        assert isinstance(space, Box)
        np.testing.assert_array_equal(np.array(space.low, np.float32), theirs.action_space(agent).low)
        np.testing.assert_array_equal(np.array(space.high, np.float32), theirs.action_space(agent).high)
        assert len(set(names)) == len(names)


def test_published_sizes() -> None:
    """Gymnasium-Robotics' documentation: Ant 4x2 has four agents with 2 torques each, Humanoid's halves differ."""
    info = {row.scenario: row for row in mamujoco.scenarios()}
    assert (info["Ant-4x2"].agents, info["Ant-4x2"].actions) == (4, "2 continuous")
    assert info["Humanoid-9|8"].actions == "9 and 8 continuous"
    assert info["HalfCheetah-6x1"].agents == 6


def test_regrouped_joints_cover_the_robot_once() -> None:
    for scenario in REGROUPED:
        found = layout(scenario, "0")
        driven = set(zip(found.agent_of.tolist(), found.element_of.tolist(), strict=True))
        assert len(driven) == found.model.nu == sum(TEAMS[scenario].actions)


def test_names_say_which_quantity_an_element_is() -> None:
    task = MujocoTeam("HalfCheetah-6x1", 1)
    task.reset(3)
    step, data = task.step(random_actions(task, np.random.default_rng(0))), task._data[0]
    for i, names in enumerate(task.spec.obs_names):
        for name, value in zip(names, step.obs[i, 0], strict=False):
            joint, quantity = name.split(".")
            assert value == np.float32(getattr(data.joint(joint), quantity)[0])
    assert task.spec.obs_names[1][:2] == ("bshin.qpos", "bshin.qvel")
    task.close()


@pytest.mark.parametrize("scenario", list(ROBOT_TASKS))
def test_starts_are_drawn_as_the_references(scenario: str) -> None:
    """Given the same random numbers, both start in the same state."""
    single, found = reference(scenario).single_agent_env.unwrapped, layout(scenario, "0")
    robot = ROBOTS[split(scenario)[0]]
    single.np_random, rng = (np.random.Generator(np.random.PCG64(5)) for _ in range(2))
    for _ in range(20):
        single.reset_model()
        qpos, qvel = robot.start(rng, found.qpos, found.model.nv)
        np.testing.assert_array_equal(qpos, single.data.qpos)
        np.testing.assert_array_equal(qvel, single.data.qvel)


@functools.cache
def stream(scenario: str, seed: int, number: int, steps: int) -> np.ndarray:
    """Actions of one episode stream, [steps, N, A], whatever runs beside it."""
    task = MujocoTeam(scenario, 1)
    rng = np.random.default_rng((seed, number))
    out = np.stack([random_actions(task, rng)[:, 0] for _ in range(steps)])
    task.close()
    return out


def walk(scenario: str, seed: int, numbers: list[int], steps: int, threads: int) -> list[TaskStep]:
    task = MujocoTeam(scenario, len(numbers), threads=threads)
    seen = [task.reset(seed, np.array(numbers))]
    for t in range(steps):
        actions = np.stack([stream(scenario, 0, number, steps)[t] for number in numbers], axis=1)
        seen.append(task.step(torch.from_numpy(actions)))
    task.close()
    return seen


def test_episodes_do_not_depend_on_neighbours_or_threads() -> None:
    """Bit for bit, over several episodes: Hopper falls within some 20 steps."""
    together = walk("Hopper-3x1", 4, [0, 1, 2, 3, 4], 120, threads=1)
    alone = walk("Hopper-3x1", 4, [2, 4], 120, threads=2)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.obs[:, [2, 4]], b.obs)
        np.testing.assert_array_equal(a.final_state[[2, 4]], b.final_state)
        np.testing.assert_array_equal(a.reward[[2, 4]], b.reward)
    assert sum(step.terminated.sum() for step in alone) > 2


def test_seeds_streams_and_episodes_differ() -> None:
    first, other = walk("Hopper-3x1", 4, [0, 1], 120, threads=1), walk("Hopper-3x1", 5, [0, 1], 1, threads=1)
    starts = [step.obs[:, 0] for step in first[1:] if step.terminated[0]]
    starts += [first[0].obs[:, 0], first[0].obs[:, 1], other[0].obs[:, 0]]
    assert len({start.tobytes() for start in starts}) == len(starts) >= 4


@pytest.mark.parametrize("scenario", ["Ant-4x2", "Humanoid-9|8", "Hopper-3x1"])
def test_a_snapshot_continues_exactly(scenario: str) -> None:
    task, fresh, rng = MujocoTeam(scenario, 3), MujocoTeam(scenario, 3), np.random.default_rng(2)
    task.reset(9, np.array([4, 5, 6]))
    for _ in range(15):
        now = task.step(random_actions(task, rng))
    kept = {name: array.copy() for name, array in task.snapshot().items()}
    actions = [random_actions(task, rng) for _ in range(80)]
    want = [now, *(task.step(a) for a in actions)]
    fresh.reset(0)
    got = [fresh.restore(kept), *(fresh.step(a) for a in actions)]
    for a, b in zip(want, got, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert any(step.terminated.any() for step in want)
    task.close()
    fresh.close()


def test_the_limit_truncates_and_the_last_step_is_kept() -> None:
    task = MujocoTeam("Reacher-2x1", 3)
    task.reset(0)
    for t in range(1, 102):
        step = task.step(np.zeros((2, 3, 1), np.float32))
        assert step.truncated.all() == (t in (50, 100))
        assert not step.terminated.any()
        moved = np.abs(step.final_state - step.state).max(1) > 1e-3
        assert moved.all() == step.truncated.all()
    task.close()


def test_a_fall_terminates_and_only_that_environment_starts_again() -> None:
    task, ends = MujocoTeam("Hopper-3x1", 4), 0
    task.reset(2)
    rng = np.random.default_rng(3)
    for _ in range(60):
        step = task.step(random_actions(task, rng))
        for e in range(4):
            height, angle = step.final_state[e, 0], step.final_state[e, 1]
            assert step.terminated[e] == (height <= 0.7 or abs(angle) >= 0.2)
            assert np.array_equal(step.state[e], step.final_state[e]) != step.terminated[e]
            assert np.array_equal(step.obs[:, e], step.final_obs[:, e]) != step.terminated[e]
        assert not step.truncated.any()
        ends += step.terminated.sum()
    assert ends > 3
    task.close()


def test_smaller_agents_are_padded_with_zeros_and_ignored_elements() -> None:
    task, twin = MujocoTeam("Humanoid-9|8", 2), MujocoTeam("Humanoid-9|8", 2)
    step = task.reset(0)
    twin.reset(0)
    assert step.obs.shape == (2, 2, 236) and step.action_mask.shape == (2, 2, 9)
    assert step.action_mask[0].all() and not step.action_mask[1, :, 8].any() and step.action_mask[1, :, :8].all()
    assert (step.obs.dtype, step.state.dtype, step.reward.dtype) == (np.float32, np.float32, np.float32)
    assert to_torch(step.obs).data_ptr() == step.obs.ctypes.data
    actions = random_actions(task, np.random.default_rng(0))
    other = actions.copy()
    other[1, :, 8] = 7.0
    a, b = task.step(actions), twin.step(other)
    np.testing.assert_array_equal(a.obs, b.obs)
    np.testing.assert_array_equal(a.reward, b.reward)
    assert not a.obs[1, :, 167:].any() and a.obs[0, :, 167:].any()
    task.close()
    twin.close()


def test_broken_physics_names_the_environment_and_the_step(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And MuJoCo prints nothing and leaves no log behind."""
    monkeypatch.chdir(tmp_path)
    task = MujocoTeam("HalfCheetah-2x3", 3)
    task.reset(0)
    still = np.zeros((2, 3, 3), np.float32)
    task.step(still)
    actions = still.copy()
    actions[0, 1, 0] = np.nan
    with pytest.raises(AgentMixerError, match="HalfCheetah-2x3 broke down in environment 1 at step 2 "):
        task.step(actions)
    task.reset(0)
    task._data[2].qvel[:] = 1e200
    with pytest.raises(AgentMixerError, match="environment 2 at step 1 "):
        task.step(still)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    task.close()
    task.close()


def test_one_agent_that_sees_everything_sees_the_state() -> None:
    task = MujocoTeam("Ant-4x2", 2, "none")
    task.reset(0)
    step = task.step(random_actions(task, np.random.default_rng(0)))
    assert task.spec.agents == ("agent_0",)
    np.testing.assert_array_equal(step.obs[0], step.state)
    task.close()


@pytest.mark.parametrize(
    ("scenario", "options", "words"),
    [
        ("Ant-4x3", {}, "no scenario 'Ant-4x3'; did you mean 'Ant-"),
        ("Ant-4x2", {"agent_obsk": "2"}, "agent_obsk must be one of 0, 1, none"),
        ("Ant-4x2", {"obsk": "1"}, "unknown option 'obsk'"),
    ],
)
def test_what_does_not_exist_is_named(scenario: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        make("mamujoco", scenario, 1, options=options)


def test_actions_of_the_wrong_shape_are_refused() -> None:
    task = make("mamujoco", "Ant-4x2", 2)
    task.reset(0)
    with pytest.raises(AgentMixerError, match=r"= \(4, 2, 2\)"):
        task.step(torch.zeros(2, 4, 2))
    task.close()
