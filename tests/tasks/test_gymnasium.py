"""A Gymnasium environment of one agent as a team of one: compared with the bare environment, trained, exported."""

from __future__ import annotations

import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from agentmixer import tasks
from agentmixer.contract.spec import Box, Discrete
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.workers.chunk import episode_seed

GROUP = "agentmixer.tasks"


@pytest.fixture(autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point of pyproject.toml, also where the package was installed before it had that entry point."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / "entry_points_of_today-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: entry-points-of-today\nVersion: 1\n")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"][GROUP].items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    monkeypatch.syspath_prepend(site)


def test_the_specification_is_the_environments() -> None:
    spec = tasks.make("gymnasium", "CartPole-v1", 1, "serial").spec
    assert (spec.name, spec.scenario, spec.options, spec.agents) == ("gymnasium", "CartPole-v1", {}, ("agent_0",))
    assert (spec.obs_sizes, spec.state_size, spec.action_spaces) == ((4,), 4, (Discrete(2),))
    assert (spec.episode_limit, spec.control_period_s) == (500, 1 / 50)
    pendulum = tasks.make("gymnasium", "Pendulum-v1", 1, "serial", {"g": "9.81", "max_episode_steps": 7}).spec
    assert pendulum.action_spaces == (Box((-2.0,), (2.0,)),) and pendulum.episode_limit == 7
    assert pendulum.options == {"g": 9.81, "max_episode_steps": 7}
    newest = max(id for id in gymnasium.registry if id.startswith("Taxi-v"))
    taxi = tasks.make("gymnasium", newest, 1, "serial")
    assert taxi.spec.has_action_mask and not taxi.reset(0).action_mask.all()


@pytest.mark.parametrize("limit", [5, 500])
def test_steps_are_the_bare_environments(limit: int) -> None:
    """The pole falls, which terminates; or the limit comes first, which truncates."""
    options = {"max_episode_steps": limit}
    task, bare = (
        tasks.make("gymnasium", "CartPole-v1", 2, "serial", options),
        gymnasium.make("CartPole-v1", max_episode_steps=limit),
    )
    step, episode, ends = task.reset(3), 0, []
    seen, _ = bare.reset(seed=episode_seed(3, 1, 0))
    for _ in range(40):
        np.testing.assert_array_equal(step.obs[0, 1], seen)
        seen, reward, terminated, truncated, _ = bare.step(1)
        step = task.step(torch.ones(1, 2, dtype=torch.int32))
        np.testing.assert_array_equal(step.final_obs[0, 1], seen)
        assert (step.reward[1], step.terminated[1], step.truncated[1]) == (reward, terminated, truncated)
        if terminated or truncated:
            ends.append((terminated, truncated))
            episode += 1
            seen, _ = bare.reset(seed=episode_seed(3, 1, episode))
    assert set(ends) == {(limit == 500, limit == 5)}


def test_an_environment_of_the_current_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module registers the id. A run from elsewhere may not import it unasked."""
    (tmp_path / "my_gym_env.py").write_text(
        "import gymnasium\n"
        'gymnasium.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)\n'
    )
    monkeypatch.chdir(tmp_path)
    assert tasks.make("gymnasium", "my_gym_env:Mine-v0", 1, "serial").spec.episode_limit == 9
    assert tasks.registry.names_code("gymnasium")


@pytest.mark.parametrize(
    ("scenario", "options", "words"),
    [
        ("CartPol-v1", {}, "Gymnasium has no environment 'CartPol-v1'; write module:id .*; did you mean 'CartPole-v1'"),
        ("Nothing-like-any-v0", {}, "for an environment that a module registers$"),
        ("no_such_module:Env-v0", {}, "no_such_module"),
        ("CartPole-v1", {"colour": "red"}, "colour"),
        ("CartPole-v1", {"id": "Pendulum-v1"}, "option 'id' is what the scenario gives"),
    ],
)
def test_what_cannot_be_used_is_refused(scenario: str, options: dict, words: str) -> None:
    with pytest.raises(AgentMixerError, match=words):
        tasks.check("gymnasium", scenario, None, options)
