"""Any PettingZoo ParallelEnv as a task: compared with the bare environments, in one process and in workers."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import agentmixer

from agentmixer.contract.spec import Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import check, make
from agentmixer.tasks.base import TaskStep, to_torch
from agentmixer.tasks.pettingzoo import Options
from agentmixer.tasks.pettingzoo.parallel_env import ParallelEnvTask
from agentmixer.tasks.workers.chunk import episode_seed

SPREAD = "mpe2.simple_spread_v3:parallel_env"
ANT = "gymnasium_robotics.mamujoco_v1:parallel_env"


def serial(scenario: str, num_envs: int = 2, /, **options: Any) -> ParallelEnvTask:
    return ParallelEnvTask(scenario, num_envs, options, "serial")


@pytest.fixture(scope="module")
def workers() -> Iterator[ParallelEnvTask]:
    """Five environments in two processes: three and two."""
    task = ParallelEnvTask(SPREAD, 5, {"max_cycles": 6}, workers=2)
    yield task
    task.close()


def some_actions(task: ParallelEnvTask, generator: np.random.Generator) -> torch.Tensor:
    agents, envs = task.spec.num_agents, task.num_envs
    if task.spec.discrete:
        rows = [generator.integers(0, space.n, envs) for space in task.spec.action_spaces]
        return torch.from_numpy(np.stack(rows).astype(np.int32))
    actions = np.zeros((agents, envs, max(space.n for space in task.spec.action_spaces)), np.float32)
    for i, space in enumerate(task.spec.action_spaces):
        assert isinstance(space, Box)
        actions[i, :, : space.n] = generator.uniform(space.low, space.high, (envs, space.n))
    return torch.from_numpy(actions)


def walk(task: ParallelEnvTask, seed: int, steps: int, episodes: np.ndarray | None = None) -> list[TaskStep]:
    generator = np.random.default_rng(0)
    return [task.reset(seed, episodes)] + [task.step(some_actions(task, generator)) for _ in range(steps)]


def alike(first: TaskStep, second: TaskStep) -> None:
    for name, a, b in zip(TaskStep._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, name)
        assert a.dtype == b.dtype


def test_arrays_are_what_the_specification_says() -> None:
    task = serial("zoo_envs:counting", 3)
    spec, step = task.spec, task.reset(0)
    assert spec.agents == ("a", "b")
    assert spec.obs_sizes == (3, 1)
    assert spec.action_spaces == (Discrete(4, start=-1), Discrete(2))
    assert (spec.state_size, spec.episode_limit, spec.control_period_s) == (4, 4, 1 / 20)
    assert (spec.has_action_mask, spec.reports_wins, spec.fallback_actions) == (False, False, (-1, 0))
    assert step.obs.shape == (2, 3, 3) and step.obs.dtype == np.float32
    assert step.state.shape == (3, 4) and step.state.dtype == np.float32
    assert step.action_mask.shape == (2, 3, 4) and step.action_mask.dtype == np.bool_
    assert step.active.shape == (2, 3) and step.reward.shape == (3,)
    assert to_torch(step.action_mask).dtype == torch.bool
    np.testing.assert_array_equal(step.action_mask[:, 0], [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert not step.obs[1, :, 1:].any()


def test_one_episode_by_hand() -> None:
    """Rewards t and 3 t have mean 2 t; the fourth step truncates and the next episode has another seed."""
    task = serial("zoo_envs:counting", 1)
    first = task.reset(5)
    seed = float(np.float32(episode_seed(5, 0, 0)))
    np.testing.assert_array_equal(first.obs[:, 0], [[0, seed, 0], [0, 0, 0]])
    for t in range(1, 5):
        step = task.step(torch.tensor([[t - 2], [0]]))
        assert step.reward[0] == 2 * t
        assert (step.truncated[0], step.terminated[0]) == (t == 4, False)
        np.testing.assert_array_equal(step.final_obs[:, 0], [[t, seed, t - 2], [t, 0, 0]])
        np.testing.assert_array_equal(step.final_state[0], [t, seed, t - 2, t])
    np.testing.assert_array_equal(step.obs[:, 0, 0], [0, 0])
    assert step.obs[0, 0, 1] == np.float32(episode_seed(5, 0, 1)) != seed
    assert step.active.all()
    np.testing.assert_array_equal(step.state[0], [0, step.obs[0, 0, 1], 0, 0])


def test_a_step_is_not_changed_by_the_next_one(workers: ParallelEnvTask) -> None:
    for task in (workers, serial(SPREAD)):
        first = task.reset(0)
        kept = [array.copy() for array in first]
        task.step(some_actions(task, np.random.default_rng(1)))
        alike(first, TaskStep(*kept))


def test_masks_from_infos_and_beside_observations() -> None:
    task = serial("zoo_envs:Masked", 1)
    assert task.spec.has_action_mask and task.spec.obs_sizes == (3, 1)
    even, odd = [[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(task.reset(0).action_mask[:, 0], even)
    np.testing.assert_array_equal(task.step(torch.zeros(2, 1)).action_mask[:, 0], odd)
    np.testing.assert_array_equal(task.step(torch.zeros(2, 1)).action_mask[:, 0], even)


@pytest.mark.parametrize(
    ("scenario", "dead"), [("zoo_envs:Dying", [1, 1, 1, 1]), ("zoo_envs:MaskedDying", [1, 0, 0, 0])]
)
def test_a_dead_agent_is_masked_until_the_episode_ends_where_the_task_masks(scenario: str, dead: list[int]) -> None:
    """A task without masks forbids a dead agent nothing: the agent is exported without a mask."""
    task = serial(scenario, 1)
    assert task.spec.has_action_mask == (scenario == "zoo_envs:MaskedDying")
    task.reset(0)
    steps = [task.step(torch.tensor([[3], [1]])) for _ in range(4)]
    assert [step.active[:, 0].tolist() for step in steps] == [[True, True], [False, True], [False, True], [True, True]]
    for step in steps[1:3]:
        assert not step.obs[0].any()
        np.testing.assert_array_equal(step.action_mask[0, 0], dead)
    # The dead agent's reward counts as nothing: (3 * 3 + 0) / 2.
    assert [float(step.reward[0]) for step in steps] == [2.0, 4.0, 4.5, 6.0]
    # The last one was truncated, so the episode was, although a was terminated before.
    assert steps[3].truncated.all() and not steps[3].terminated.any()
    np.testing.assert_array_equal(steps[3].final_obs[:, 0], [[0, 0, 0], [4, 0, 0]])


def test_terminations_are_told_from_truncations() -> None:
    step = walk(serial("zoo_envs:Winning"), 0, 4)[-1]
    assert step.terminated.all() and not step.truncated.any()


def test_observations_of_every_kind_bounds_and_a_state_of_its_own() -> None:
    task = serial("zoo_envs:Kinds", 1)
    spec, step = task.spec, task.reset(0)
    assert spec.agents == ("one_hot", "bits", "image")
    np.testing.assert_array_equal(step.obs[:, 0], [[0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    assert spec.obs_names == (
        ("obs=4", "obs=5", "obs=6"), ("obs_0", "obs_1", "obs_2"), ("obs_0_0", "obs_0_1", "obs_1_0", "obs_1_1"),
    )  # fmt: skip
    np.testing.assert_array_equal(step.state, [[0, 1, 2, 3, 4, 5]])
    assert spec.action_spaces[0] == Box((1.0, -1.0), (2.0, 1.0))
    assert spec.fallback_actions == ((1.0, 0.0), (-2.0,), (0.0,))
    assert (spec.control_period_s, spec.episode_limit) == (0.25, 0)
    np.testing.assert_array_equal(step.action_mask[:, 0], [[1, 1], [1, 0], [1, 0]])
    # float32's 0.1 lies above the float64 bound 0.1: the environment itself asserts that it is inside.
    assert task.step(torch.tensor([[[1.0, 1.0]], [[-2.5, 0.0]], [[0.1, 9.0]]])).reward == 1.0
    given = task._chunk.envs[0].env.given
    assert given["bits"].tolist() == [-2.5] and given["image"].tolist() == [0.1]


def test_agents_names_become_folder_names() -> None:
    assert serial("zoo_envs:numbered").spec.agents == ("0", "drone_1", "M_ller")


@pytest.mark.parametrize("continuous", [False, True])
def test_simple_spread_step_by_step(continuous: bool) -> None:
    """Published sizes (3 agents, observation 18, state 54), and the bare environment's own numbers."""
    task = serial(SPREAD, 2, max_cycles=10, continuous_actions=continuous)
    bare = importlib.import_module("mpe2.simple_spread_v3").parallel_env(max_cycles=10, continuous_actions=continuous)
    assert task.spec.obs_sizes == (18, 18, 18) and task.spec.state_size == 54 and task.spec.episode_limit == 10
    assert task.spec.action_spaces == ((Box((0.0,) * 5, (1.0,) * 5) if continuous else Discrete(5)),) * 3
    compare(task, bare, steps=21)


def test_ma_mujoco_step_by_step() -> None:
    """Ant 4x2: 4 agents of 2 joints, the reward is everybody's; 105 numbers of state."""
    task = serial(ANT, 2, scenario="Ant", agent_conf="4x2", agent_obsk=0)
    bare = importlib.import_module("gymnasium_robotics").mamujoco_v1.parallel_env("Ant", "4x2", agent_obsk=0)
    assert task.spec.obs_sizes == (39,) * 4 and task.spec.state_size == 105
    assert task.spec.action_spaces == (Box((-1.0, -1.0), (1.0, 1.0)),) * 4
    assert task.spec.fallback_actions == ((0.0, 0.0),) * 4
    compare(task, bare, steps=40)


def compare(task: ParallelEnvTask, bare: Any, steps: int) -> None:
    """Environment 1 of the task against the environment itself."""
    generator, episode = np.random.default_rng(3), 0
    step = task.reset(9)
    bare.reset(seed=episode_seed(9, 1, 0))
    for _ in range(steps):
        np.testing.assert_array_equal(step.state[1], np.float32(bare.state()))
        actions = some_actions(task, generator)
        chosen = dict(zip(bare.possible_agents, actions[:, 1].numpy(), strict=True))
        seen, rewards, terminations, truncations, _ = bare.step(chosen)
        step = task.step(actions)
        np.testing.assert_array_equal(step.final_obs[:, 1], np.float32(list(seen.values())))
        np.testing.assert_array_equal(step.final_state[1], np.float32(bare.state()))
        np.testing.assert_array_equal(step.reward[1], np.float32(np.mean(list(rewards.values()))))
        assert step.terminated[1] == any(terminations.values())
        assert step.truncated[1] == (any(truncations.values()) and not step.terminated[1])
        if not bare.agents:
            episode += 1
            bare.reset(seed=episode_seed(9, 1, episode))
    assert episode > 0 or task.spec.episode_limit == 0


def test_workers_give_the_same_episodes_bit_for_bit(workers: ParallelEnvTask) -> None:
    alone = serial(SPREAD, 5, max_cycles=6)
    for a, b in zip(walk(workers, 4, 15), walk(alone, 4, 15), strict=True):
        alike(a, b)
    assert not np.array_equal(workers.reset(4).obs, workers.reset(5).obs)


def test_an_episode_does_not_depend_on_its_neighbours(workers: ParallelEnvTask) -> None:
    among = workers.reset(3, np.array([9, 9, 2, 7, 0]))
    alone = serial(SPREAD, 1).reset(3, np.array([7]))
    np.testing.assert_array_equal(among.obs[:, 3], alone.obs[:, 0])
    np.testing.assert_array_equal(among.obs[:, 0], among.obs[:, 1])
    assert not np.array_equal(among.obs[:, 0], among.obs[:, 2])


def test_seeds_are_spread_and_fit_31_bits() -> None:
    seeds = {episode_seed(s, k, n) for s in range(10) for k in range(10) for n in range(10)}
    assert len(seeds) == 1000 and max(seeds) < 2**31


def test_a_snapshot_starts_the_next_episodes(workers: ParallelEnvTask) -> None:
    """After 8 steps of episodes of 6, the second one runs; restored, the third one starts."""
    walk(workers, 2, 8, np.arange(5) + 10)
    kept = workers.snapshot()
    want = walk(workers, 2, 12, np.arange(5) + 10)[12]
    fresh = serial(SPREAD, 5, max_cycles=6)
    assert fresh.restarts and workers.restarts
    np.testing.assert_array_equal(fresh.restore(kept).obs, want.obs)
    assert [kept["seed"], *kept["streams"], *kept["episodes"]] == [2, 10, 11, 12, 13, 14, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "environment 0, step 3 .* failed with ValueError: the gripper is stuck$"),
        ("nan", "element 1 of the observation of agent 'a' is nan, which is not finite"),
        ("huge", r"element 2 of the observation of agent 'a' is -1e\+300, and beyond 1e\+15 .*; scale it"),
        ("huge reward", r"the reward of agent 'b' is 1e\+18, and beyond 1e\+15 .*; scale it"),
        ("shape", r"the observation of agent 'a' has shape \(5,\), its space says \(3,\)"),
        ("reward", "the reward of agent 'b' is inf, which is not finite"),
        ("stranger", "observations has 'c', which is not one of possible_agents"),
        ("rewards", "rewards has '__all__', which is not one of possible_agents"),
        ("terminations", "terminations has '__all__', which is not one of possible_agents"),
        ("truncations", "truncations has '__all__', which is not one of possible_agents"),
        ("infos", "infos has '__all__', which is not one of possible_agents"),
        ("word", "terminations says 'False' of agent 'b', which is neither true nor false"),
        ("unpaid", "agent 'b' acted and was given no reward; give 0 where that is meant"),
        ("silent", "agent 'b' was given no observation"),
        ("mask", "agent 'a' has an action mask, but no agent had one after the first reset"),
    ],
)
def test_a_broken_environment_is_named_with_its_step(how: str, words: str) -> None:
    task = serial("zoo_envs:Broken", 2, how=how)
    step = walk(task, 0, 2)[-1]
    assert np.isfinite(step.obs).all()
    with pytest.raises(AgentMixerError, match=words) as first:
        task.step(torch.zeros(2, 2))
    assert f"environment 0, step 3 of the episode that reset(seed={episode_seed(0, 0, 0)}) starts" in str(first.value)
    with pytest.raises(AgentMixerError, match=words):  # and stays unusable
        task.step(torch.zeros(2, 2))
    task.close()


def test_a_state_too_large_for_32_bit_arithmetic_is_refused() -> None:
    task = serial("zoo_envs:HugeState", 1)
    walk(task, 0, 2)
    with pytest.raises(AgentMixerError, match=r"step 3 .* element 2 of the state is 1e\+19, and beyond 1e\+15"):
        task.step(torch.zeros(2, 1))


def test_an_agent_without_a_reward_at_the_end_is_refused() -> None:
    task = serial("zoo_envs:Unpaid", 1)
    walk(task, 0, 3)
    with pytest.raises(AgentMixerError, match=r"step 4 .* agent 'b' acted and was given no reward"):
        task.step(torch.zeros(2, 1))


def test_an_agent_that_appears_later_is_refused() -> None:
    task = serial("zoo_envs:Coming", 1)
    assert task.reset(0).active[:, 0].tolist() == [True, False]
    for _ in range(2):
        task.step(torch.zeros(2, 1))
    with pytest.raises(AgentMixerError, match=r"step 3 .* agent 'b' appeared in mid-episode"):
        task.step(torch.zeros(2, 1))


def test_failures_in_workers_are_told_and_closing_does_not_hang() -> None:
    task = ParallelEnvTask("zoo_envs:Broken", 4, {"how": "raise"}, workers=2)
    walk(task, 0, 2)
    with pytest.raises(AgentMixerError, match=r"environment [02], step 3 .* ValueError: the gripper is stuck"):
        task.step(torch.zeros(2, 4))
    processes = task._pool.processes
    task.close()
    task.close()
    assert [process.exitcode for process in processes] == [0, 0]
    with pytest.raises(AgentMixerError):
        task.reset(0)


def test_a_task_that_was_interrupted_in_a_step_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its environments would be a step behind the others."""
    task = serial("zoo_envs:counting", 1)
    task.reset(0)

    def interrupted(request: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(task._chunk, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        task.step(torch.zeros(2, 1))
    with pytest.raises(AgentMixerError, match="the task was interrupted"):
        task.step(torch.zeros(2, 1))


def test_ctrl_c_is_left_to_the_trainer(workers: ParallelEnvTask) -> None:
    """A terminal sends it to all processes; the workers must live to finish the update."""
    workers.reset(0)
    for process in workers._pool.processes:
        os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
    assert len(walk(workers, 0, 3)) == 4


def test_a_worker_that_dies_is_named() -> None:
    task = ParallelEnvTask(SPREAD, 3, {}, workers=2)
    task.reset(0)
    os.kill(task._pool.processes[1].pid, signal.SIGKILL)
    with pytest.raises(AgentMixerError, match="environment 2 was killed by SIGKILL; if the machine ran out of"):
        task.step(torch.zeros(3, 3))
    task.close()


def test_a_worker_that_exits_is_named() -> None:
    task = ParallelEnvTask("zoo_envs:Broken", 2, {"how": "exit"}, workers=2)
    walk(task, 0, 2)
    with pytest.raises(AgentMixerError, match="ended with exit status 7"):
        task.step(torch.zeros(2, 2))
    task.close()


def test_options_are_read_as_what_they_look_like_and_survive_a_round_trip() -> None:
    typed = {"length": "7", "note": "none", "scale": "1e-1", "big": "TRUE"}
    backend, options = check("pettingzoo", "zoo_envs:counting", None, typed)
    assert (backend, options) == ("processes", {"length": 7, "note": "none", "scale": 0.1, "big": True})
    assert check("pettingzoo", "zoo_envs:counting", None, options)[1] == options
    task = make("pettingzoo", "zoo_envs:counting", 1, "serial", options)
    assert task.spec.options == options and task.spec.backend == "serial" and task.spec.episode_limit == 7
    task.reset(0)
    assert task._chunk.envs[0].env.metadata["got"] == (7, None, 0.1, True)


def test_text_that_is_no_number_stays_text() -> None:
    options = Options().replace({"conf": "4x2", "far": "inf", "path": "a/b", "n": "-3"})
    assert options.as_dict() == {"conf": "4x2", "far": "inf", "path": "a/b", "n": -3}
    assert options.replace({"n": "2"}).as_dict() == {"conf": "4x2", "far": "inf", "path": "a/b", "n": 2}


def test_a_file_in_the_current_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by worker processes."""
    (tmp_path / "my_own_env.py").write_text("import zoo_envs\n\ndef parallel_env():\n    return zoo_envs.Counting()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    task = ParallelEnvTask("my_own_env", 2, {}, workers=2)
    assert task.spec.scenario == "my_own_env"
    assert task.reset(0).active.all()
    task.close()


def test_an_option_without_a_value_is_answered_with_the_nearest_parameter(tmp_path: Path) -> None:
    """Of the factory that the scenario names; where it takes any argument, with an example."""
    for scenario, words in (
        ("zoo_envs:counting", "did you mean 'length'?"),
        (SPREAD, "for example --env-arg penalty=-1"),
    ):
        done = agentmixer("train", "pettingzoo", scenario, "--env-arg", "lenght", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"error: --env-arg takes key=value, got 'lenght'; {words}\n"


@pytest.mark.parametrize(
    ("scenario", "options", "words"),
    [
        ("zoo_envs:countin", {}, "module 'zoo_envs' has no 'countin'; did you mean 'counting'"),
        ("zoo_envs:np", {}, "is not a function"),
        ("no_such_module:make", {}, "module 'no_such_module' cannot be imported .* pip install the package"),
        ("mpe2.simple_spreed_v3", {}, "module 'mpe2.simple_spreed_v3' cannot be imported"),
        ("runs/x:make", {}, "is not of the form module:factory"),
        ("zoo_envs:counting", {"lenght": 3}, "cannot be called with these options: .*'lenght'; did you mean 'length'"),
        ("zoo_envs:counting", {"a-b": 3}, "option 'a-b' cannot be an argument's name"),
        ("zoo_envs:failing", {"size": 3}, "making zoo_envs:failing failed with RuntimeError: no licence for size 3"),
        (SPREAD, {"colour": "red"}, "making .* failed with TypeError: .*colour"),
        ("zoo_envs:sequential", {}, "gives a AECEnv, not a PettingZoo ParallelEnv; .*aec_to_parallel"),
        ("zoo_envs:no_action", {}, "agent 'a' acts in .*, which has no element"),
        ("zoo_envs:text_actions", {}, "agent 'a' acts in a Text, which has no fixed row of numbers"),
        ("zoo_envs:words", {}, "agent 'a' observes a Text"),
        ("zoo_envs:twins", {}, "give them names that differ"),
        (
            "zoo_envs:bounded",
            {"low": -1e300, "high": 1e300},
            r"element 1 of the actions of agent 'a' has the bounds -1e\+300 and 1e\+300, beyond 1e\+15",
        ),
        ("zoo_envs:bounded", {"low": -3.4e38, "high": 3.4e38}, "element 1 .* bounds .*, beyond"),
        (
            "zoo_envs:bounded",
            {"low": 1e8, "high": 1e8 + 1},
            r"element 1 .* 100000000.0 and 100000001.0, which are the same 32-bit number",
        ),
        ("zoo_envs:many_choices", {}, "agent 'a' has 20,000,000 actions; at most 16,777,216"),
        ("zoo_envs:blind", {}, r"agent 'a' observes Box\(.*\(2, 0\).*, which has no element"),
        ("zoo_envs:Stateless", {}, "state\\(\\) gives no number"),
        ("zoo_envs:one_for_all", {}, "gives the same environment at every call"),
        ("zoo_envs:wrapped_anew", {}, "gives the same environment at every call"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_starts(scenario: str, options: dict, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        check("pettingzoo", scenario, None, options)


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("def make(:\n")
    (tmp_path / "lacking.py").write_text("import no_such_simulator\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgentMixerError, match="importing module 'half_written' failed: SyntaxError"):
        check("pettingzoo", "half_written:make")
    with pytest.raises(AgentMixerError, match=r"module 'lacking' cannot be imported .*'no_such_simulator'"):
        check("pettingzoo", "lacking:make")


def test_listing_the_family_imports_no_library_of_environments() -> None:
    code = (
        "import sys; from agentmixer.tasks import pettingzoo as p; p.scenarios();"
        "assert not {'pettingzoo', 'gymnasium', 'torch', 'pygame'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_an_environment_prints_nothing() -> None:
    code = f"from agentmixer.tasks.pettingzoo.factory import factory; factory('{SPREAD}')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b""
