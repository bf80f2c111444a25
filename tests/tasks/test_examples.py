"""The tasks of examples/, as a user installs them: listed, trained, exported, deployed; and the page that shows them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import agentmixer
from installed_examples import EXAMPLES, install_examples

from agentmixer.runtime import Agent
from agentmixer.tasks import Task, TaskStep, make

ROOT = Path(__file__).parents[2]
SMALL = (
    "num_envs=8",
    "rollout_length=16",
    "chunk_length=4",
    "minibatches=2",
    "epochs=2",
    "hidden=16",
    "eval_episodes=8",
    "final_episodes=8",
)
TASKS = [("walkers", "two_walkers"), ("ring", "eight_cells")]


@pytest.fixture(autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pip install ./examples` leaves: the modules on the path, and the entry points of their pyproject.toml."""
    site = tmp_path_factory.mktemp("site")
    install_examples(site)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(site)


@pytest.mark.parametrize(("task", "scenario"), TASKS)
def test_trained_exported_deployed(task: str, scenario: str, tmp_path: Path) -> None:
    listed = agentmixer("tasks", task, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[-1] == f"next: agentmixer train {task} {scenario}"
    settings = [f"--set={setting}" for setting in SMALL]
    trained = agentmixer("train", task, scenario, "--steps", "256", *settings, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    exported = agentmixer("export", "--per-agent", "onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    deployed = agentmixer("deploy-sim", "--episodes", "4", "--deadline-ms", "10000", cwd=tmp_path)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert deployed.stdout.splitlines()[-1] == "verdict: PASS"


def played(task: Task, step: TaskStep, actions: torch.Tensor) -> list[TaskStep]:
    """A step, and those that follow by actions [T, N, E]; numpy, copied."""
    steps = (step, *(task.step(now.contiguous()) for now in actions))
    return [TaskStep(*(np.array(array) for array in each)) for each in steps]


def assert_same(some: list[TaskStep], others: list[TaskStep]) -> None:
    for one, other in zip(some, others, strict=True):
        for name, a, b in zip(TaskStep._fields, one, other, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b), name


@pytest.mark.parametrize(("task", "scenario"), TASKS)
def test_the_protocol_holds(task: str, scenario: str) -> None:
    """Shapes and types; episodes that depend on their stream alone; `restore` that goes on where `snapshot` was taken."""
    actions = torch.randint(3, (40, 2, 6), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    whole = make(task, scenario, 6)
    steps = played(whole, whole.reset(5), actions)
    spec, ended = whole.spec, np.stack([step.terminated | step.truncated for step in steps])
    shapes = {
        "obs": (2, 6, spec.obs_sizes[0]), "state": (6, spec.state_size), "action_mask": (2, 6, 3), "active": (2, 6),
    }  # fmt: skip
    for step in steps:
        assert {name: getattr(step, name).shape for name in shapes} == shapes
        assert all(getattr(step, name).dtype == np.float32 for name in ("obs", "state", "reward", "final_obs"))
        going = ~(step.terminated | step.truncated)
        assert np.array_equal(step.obs[:, going], step.final_obs[:, going])
        assert np.array_equal(step.won, step.terminated) and not (step.terminated & step.truncated).any()
    assert any(step.won.any() for step in steps) and any(step.truncated.any() for step in steps)
    assert np.diff(np.flatnonzero(ended[:, 0]), prepend=0).max() <= spec.episode_limit

    part = make(task, scenario, 2)
    alone = played(part, part.reset(5, np.array([2, 3])), actions[:, :, 2:4])
    for name in ("obs", "final_obs"):
        for step, own in zip(steps, alone, strict=True):
            assert np.array_equal(getattr(step, name)[:, 2:4], getattr(own, name)), name

    whole.reset(5)
    for now in actions[:17]:
        whole.step(now)
    kept = {name: np.array(array) for name, array in whole.snapshot().items()}
    again = make(task, scenario, 6)
    assert_same(steps[17:], played(again, again.restore(kept), actions[17:]))


def test_the_page_shows_the_files() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text()
    for name, language in (("pyproject.toml", "toml"), ("numpy_task.py", "python"), ("jax_task.py", "python")):
        assert f"`examples/{name}`:\n\n```{language}\n{(EXAMPLES / name).read_text()}```\n" in page, name


def test_from_an_environment_to_a_signed_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """examples/own_environment.py, with training cut short."""
    own = importlib.import_module("own_environment")
    small, typed = " ".join(f"--set={setting}" for setting in SMALL), own.typed
    monkeypatch.setattr(own, "typed", lambda line: typed(f"{line} {small}" if line.startswith("train") else line))
    monkeypatch.setattr("sys.argv", ["own_environment.py", "--steps", "256"])
    monkeypatch.chdir(tmp_path)
    own.main()
    (bundle,) = (tmp_path / "bundles").iterdir()
    assert (bundle / "team.sig").stat().st_size == 64
    agents = {name: Agent.load(bundle / "agents" / name) for name in own.Beam.possible_agents}
    assert own.play(agents, 2) == own.play(agents, 2)
