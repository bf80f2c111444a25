"""A checkpoint is one safetensors file: weights, optimisers, random state and environments. No pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agentmixer.errors import AgentMixerError
from agentmixer.tasks import Task
from agentmixer.train.algorithms import ALGORITHMS, Algorithm
from agentmixer.train.rollout import Stream
from agentmixer.train.run import Run

KEEP = 2


def save(run: Run, step: int, algorithm: Algorithm, task: Task, stream: Stream) -> None:
    """Write everything that the next update depends on. Complete or absent: a crash leaves the old ones."""
    if algorithm.replay is not None:
        algorithm.replay.flush()
    tensors: dict[str, Tensor] = {"rng": algorithm.generators[0].get_state()}
    for name, module in algorithm.modules.items():
        tensors |= {f"model.{name}.{key}": value for key, value in module.state_dict().items()}
    for name, optimiser in algorithm.optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{name}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors |= {f"stream.memory.{key}": value for key, value in stream.memory.items()}
    tensors |= {"stream.fresh": stream.fresh, "stream.episode_return": stream.episode_return}
    tensors |= {f"task.{key}": torch.from_numpy(np.array(value)) for key, value in task.snapshot().items()}
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    target = run.checkpoints / f"step_{step:012d}.safetensors"
    scratch = target.with_suffix(".partial")
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
        scratch,
        metadata={"step": str(step)},
    )
    with open(scratch, "rb") as file:
        os.fsync(file.fileno())
    scratch.rename(target)
    for old in run.checkpoint_files[:-KEEP]:
        old.unlink()


def latest(run: Run) -> Path:
    """The run's newest checkpoint. Raises AgentMixerError if it has none."""
    files = run.checkpoint_files
    if not files:
        raise AgentMixerError(
            f"{run.path} has no checkpoint yet; train it further or choose another run (agentmixer runs)"
        )
    return files[-1]


def read(file: Path) -> tuple[int, dict[str, Tensor]]:
    """Step and tensors. Raises AgentMixerError if the file is not a readable checkpoint."""
    try:
        with safe_open(file, "pt") as data:
            return int(data.metadata()["step"]), {key: data.get_tensor(key) for key in data.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise AgentMixerError(
            f"{file} is not a readable checkpoint ({error}); use an older one or train again"
        ) from error


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def restore_weights(algorithm: Algorithm, tensors: dict[str, Tensor], file: Path) -> None:
    """Load networks only. Raises AgentMixerError if they do not fit the run's settings."""
    try:
        for name, module in algorithm.modules.items():
            module.load_state_dict(_below(tensors, f"model.{name}."))
    except RuntimeError as error:
        raise AgentMixerError(
            f"{file} does not fit its run's config.toml: {str(error).splitlines()[-1].strip()}"
        ) from error


def restore(algorithm: Algorithm, task: Task, file: Path) -> tuple[int, Stream]:
    """Continue exactly where `save` stood. Returns the step and the stream."""
    step, tensors = read(file)
    restore_weights(algorithm, tensors, file)
    for name, optimiser in algorithm.optimisers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in _below(tensors, f"optimiser.{name}.").items():
            index, field = key.split(".")
            state.setdefault(int(index), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    envs = tensors["stream.fresh"].shape[0]
    if envs != task.num_envs:
        raise AgentMixerError(
            f"{file} holds {envs} environments, but config.toml says num_envs = {task.num_envs}; put that back"
        )
    try:
        algorithm.generators[0].set_state(tensors["rng"])
    except RuntimeError as error:
        raise AgentMixerError(f"{file} was written on another kind of device; resume it there") from error
    device = algorithm.device
    current = task.restore({key: value.numpy() for key, value in _below(tensors, "task.").items()})
    # A task that starts new episodes instead starts them with nothing remembered and nothing earned.
    keep = 0.0 if task.restarts else 1.0
    return step, Stream(
        step=current,
        memory={key: value.to(device) * keep for key, value in _below(tensors, "stream.memory.").items()},
        fresh=torch.ones(envs, device=device) if task.restarts else tensors["stream.fresh"].to(device),
        episode_return=tensors["stream.episode_return"].to(device) * keep,
    )


def build(run: Run, task: Task) -> Algorithm:
    """The run's algorithm with fresh weights, its random numbers started from the run's seed."""
    generator = torch.Generator(device=run.device).manual_seed(run.seed)
    return ALGORITHMS[run.algorithm](task.spec, run.config, run.device, [generator])


def load_weights(run: Run, task: Task, file: Path) -> tuple[Algorithm, int]:
    """The run's algorithm with the weights of one checkpoint, and their step."""
    algorithm = build(run, task)
    step, tensors = read(file)
    restore_weights(algorithm, tensors, file)
    algorithm.schedule(min(step / run.config.total_steps, 1.0))
    return algorithm, step
