"""Several seeds trained side by side: each gets what it would alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, box_spec, quiet, random_rollout, tiny_algorithm, tiny_spec
from safetensors.torch import load_file

from agentmixer import tasks
from agentmixer.errors import AgentMixerError, TeamError
from agentmixer.tasks.base import Task, TaskStep
from agentmixer.tasks.side_by_side import SideBySide, joined, side_by_side
from agentmixer.train import checkpoint, rollout, trainer
from agentmixer.train import run as runs
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.run import Run

TIMING = {"seconds", "steps_per_second"}
SEEDS = (3, 8, 11)
#: Largest difference of a weight after the updates below, from rounding in batched products (docs/method.md).
TOLERANCE = 1e-5


def make(folder: Path, seed: int, task: str = "matrix", scenario: str = "climbing", **settings: object) -> Run:
    backend, options = tasks.check(task, scenario, None, {})
    small = {**TINY, "eval_interval": 0, "checkpoint_interval": 0, "final_episodes": 8, "eval_episodes": 8}
    config = AgentMixerPPO.Config().replace({**small, **settings})
    path = folder / f"s{seed}"
    return runs.create(task, scenario, backend, "agentmixer_ppo", "default", seed, "cpu", options, config, path)


def metrics(run: Run) -> list[dict[str, float]]:
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def same_files(first: Run, second: Run) -> None:
    ours, theirs = (load_file(checkpoint.latest(run)) for run in (first, second))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# ---- one update, one rollout ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("discrete", {}),
        ("discrete", {"share_parameters": False, "team_critic": False, "recurrent_critic": True, "ratio": "joint"}),
        ("discrete", {"pm": "hypernetwork", "joint": "gumbel", "signal": 2, "minibatches": 1}),
        ("discrete", {"pm": "attention", "recurrent_actor": False, "chunk_length": 1, "optimism": 0.5}),
        ("real-valued", {"share_parameters": False, "input_norm": "running"}),
        ("real-valued", {"share_parameters": False, "pm": "none", "minibatches": 4}),
    ],
)
def test_teams_learn_side_by_side_what_each_learns_alone(kind: str, settings: dict[str, object]) -> None:
    """Weights, optimisers' moments and numbers after three updates; the real-valued team's agents are padded."""
    spec = box_spec() if kind == "real-valued" else tiny_spec()
    together = tiny_algorithm(spec, seeds=SEEDS, **settings)
    solos = [tiny_algorithm(spec, seed=seed, **settings) for seed in SEEDS]
    for team, solo in enumerate(solos):
        assert all(torch.equal(value, solo.team(0)[key]) for key, value in together.team(team).items())
    for update in range(3):
        experience = random_rollout(together, seed=10 * update)
        numbers = together.update(experience)
        for team, solo in enumerate(solos):
            (alone,) = solo.update({name: array.chunk(3)[team] for name, array in experience.items()})
            assert numbers[team].keys() == alone.keys()
            for name, value in alone.items():
                assert numbers[team][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            assert torch.equal(together.generators[team].get_state(), solo.generators[0].get_state())
    for team, solo in enumerate(solos):
        for name, value in together.team(team).items():
            torch.testing.assert_close(value, solo.team(0)[name], rtol=0, atol=TOLERANCE, msg=name)
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(solo.team(0).values(), solos[team - 1].team(0).values(), strict=True))


@pytest.mark.parametrize(
    ("task", "scenario", "settings"),
    [
        ("smacv2", "protoss_5v5", {}),
        ("predator_prey", "5x5", {"share_parameters": False, "signal": 2, "num_envs": 3}),
        ("mamujoco", "Hopper-3x1", {"share_parameters": False}),
    ],
)
def test_the_first_rollout_draws_the_same_actions_bit_for_bit(
    task: str, scenario: str, settings: dict[str, object], tmp_path: Path
) -> None:
    chosen = [make(tmp_path, seed, task, scenario, **settings) for seed in SEEDS]
    made = [run.make_task(run.config.num_envs) for run in chosen]
    together = side_by_side(made)
    algorithm = checkpoint.build(chosen, together.spec)
    stream = rollout.begin(
        algorithm, together.num_envs, joined([own.reset(run.seed) for own, run in zip(made, chosen, strict=True)])
    )
    out, finished = algorithm.collect(together, stream)
    for team, run in enumerate(chosen):
        own = made[team]
        alone = checkpoint.build([run], own.spec)
        want, (ended,) = alone.collect(own, rollout.start(alone, own, run.seed))
        for name in want:
            got = out[name].chunk(3)[team]
            if name in ("log_prob", "h_actor", "h_critic", "value", "last_value", "final_value") or want[name].is_floating_point() and name == "action":
                torch.testing.assert_close(got, want[name], rtol=0, atol=1e-5, msg=name)
            elif want[name].is_floating_point() and task == "mamujoco":  # its actions are real numbers, rounded above
                torch.testing.assert_close(got, want[name], rtol=1e-3, atol=1e-3, msg=name)
            else:
                assert torch.equal(got, want[name]), name
        assert ended["return"].shape == finished[team]["return"].shape
    together.close()
    for own in made:
        own.close()


# ---- whole runs ----------------------------------------------------------------------------------
