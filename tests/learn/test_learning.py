"""Learning is proved by learning: slow, run by `make learn`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agentmixer.train import run as runs
from agentmixer.train import trainer
from agentmixer.train.algorithms import AgentMixerPPO


@pytest.mark.learn
def test_protoss_5v5_is_learned_in_a_million_steps(tmp_path: Path) -> None:
    """Preset default: decentralised greedy win rate over 200 episodes, mean of 3 seeds, at least .50."""
    rates = []
    for seed in range(3):
        config = AgentMixerPPO.Config().replace({"total_steps": 1_000_000})
        run = runs.create(
            "smacv2", "protoss_5v5", "smax", "agentmixer_ppo", "default", seed, "cpu", config, tmp_path / str(seed)
        )
        assert trainer.train(run, Console())
        assert run.summary is not None
        rates.append(run.summary["decentralised_greedy"]["win_rate"])
        print(f"seed {seed}: {rates[-1]:.3f}")
    assert np.mean(rates) >= 0.50, rates
