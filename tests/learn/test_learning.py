"""Learning is proved by learning: decentralised, greedy, several seeds; slow, run by `make learn`."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agentmixer.tasks import check
from agentmixer.tasks.passage import passage_payoffs
from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO

pytestmark = pytest.mark.learn
#: Name -> payoffs.
GAMES: dict[str, np.ndarray] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "matrix_games.py"))[
    "games"
]()


def learned(
    path: Path,
    task: str,
    scenario: str,
    seeds: int,
    measure: str,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> list[float]:
    """Final decentralised greedy figure of each seed, preset `default`, all trained in one stack."""
    backend, resolved = check(task, scenario, None, options)
    config = AgentMixerPPO.configure("default", task).replace(settings)
    chosen = [
        runs.create(
            task, scenario, backend, "agentmixer_ppo", "default", seed, "cpu", resolved, config, path / str(seed)
        )
        for seed in range(seeds)
    ]
    assert trainer.train_together(chosen, Console())
    found = []
    for run in chosen:
        assert run.summary is not None
        found.append(run.summary["decentralised_greedy"][measure])
    print(f"{task} {scenario} {resolved} seeds 0 to {seeds - 1}: {measure} {' '.join(f'{one:.3f}' for one in found)}")
    return found


def test_protoss_5v5_is_learned(tmp_path: Path) -> None:
    assert np.mean(learned(tmp_path, "smacv2", "protoss_5v5", 3, "win_rate")) >= 0.50


@pytest.mark.parametrize("scenario", ["HalfCheetah-6x1", "Ant-4x2"])
def test_robots_run_within_a_million_steps(scenario: str, tmp_path: Path) -> None:
    assert np.mean(learned(tmp_path, "mamujoco", scenario, 3, "return", total_steps=1_000_000)) >= 1500


@pytest.mark.parametrize(("penalty", "least"), [(0.0, 8.0), (-0.5, 8.0), (-1.0, 5.0)])
def test_predators_hunt_together(penalty: float, least: float, tmp_path: Path) -> None:
    found = learned(tmp_path, "predator_prey", "5x5", 3, "return", {"penalty": penalty}, total_steps=600_000)
    assert np.mean(found) >= least


def test_passage_comes_within_5_percent_of_the_best_decentralised_return(tmp_path: Path) -> None:
    found = learned(tmp_path, "passage", "two_agents", 3, "return", final_episodes=4000)
    assert np.mean(found) >= 0.95 * passage_payoffs.best_decentralised()


@pytest.mark.parametrize(
    ("game", "least"),
    [
        ("climbing", 10),
        ("penalty_25", 9),
        ("penalty_50", 9),
        ("penalty_100", 10),
        ("nonmonotonic", 10),
        ("climbing_stochastic_partly", 10),
        ("climbing_stochastic", 9),
    ],
)
def test_the_best_cell_of_a_matrix_is_found_on_nearly_all_of_10_seeds(game: str, least: int, tmp_path: Path) -> None:
    """Of the games of chance a single seed's win rate is 1 where its actors play the best cell, else 0."""
    assert sum(learned(tmp_path, "matrix", game, 10, "win_rate")) >= least


@pytest.mark.parametrize("name", sorted(GAMES))
def test_the_best_cell_of_games_that_nothing_was_tuned_on_is_found(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(GAMES[name].tolist()))
    assert sum(learned(tmp_path, "matrix", str(file), 10, "win_rate")) >= 9
