"""Training on a GPU. Skipped, with the reason, where torch or JAX sees none."""

from __future__ import annotations

import jax
import pytest
import torch

from agentmixer.tasks import make
from agentmixer.tasks.base import to_torch
from agentmixer.train.algorithms import AgentMixerPPO
from agentmixer.train.stream import begin


def missing() -> str:
    """Why nothing here can run; empty if it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return "" if any(device.platform == "gpu" for device in jax.devices()) else "JAX sees no GPU"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a GPU is there")


def test_a_team_learns_on_the_gpu_as_on_the_processor() -> None:
    """Two rollouts and updates: arrays never leave the device, numbers are finite, the first losses agree."""
    losses = {}
    for device in ("cpu", "cuda"):
        config = AgentMixerPPO.configure().replace({"num_envs": 8, "minibatches": 1})
        task = make("smacv2", "protoss_5v5", 8, device=device)
        algorithm = AgentMixerPPO(task.spec, config, [torch.Generator(device=device).manual_seed(0)])
        algorithm.schedule(0.0)
        stream = begin(algorithm.team, algorithm.memory(8), task.reset(0))
        assert to_torch(stream.step.obs, device).device.type == device
        for _ in range(2):
            experience, _ = algorithm.collect([task], [stream])
            assert {array.device.type for array in vars(experience).values()} == {device}
            (numbers,) = algorithm.update(experience)
            assert all(torch.isfinite(torch.tensor(list(numbers.values()))))
        losses[device] = numbers["value_loss"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.5)  # other random numbers, the same task
