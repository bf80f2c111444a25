"""What the episodes of a bundle's recording look like; in a matrix game with the joint policy over the payoff."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agentmixer.errors import AgentMixerError
from agentmixer.runtime.bundle import Bundle
from agentmixer.tasks import registry
from agentmixer.tasks.scene import Scene, Shape
from agentmixer.validate.recording import Episode

#: A bar of probability 1: its width, its height, and how far below a cell's middle it lies.
_BAR = (0.8, 0.1, 0.34)


def scenes(bundle: Bundle, run: Path | None = None) -> Callable[[Episode], Scene | None]:
    """A function from an episode to its scene; None where the environment rendered it.

    run: where the bundle was exported from, as known here unless given. It is read for the joint policy of a matrix game; where it is
    gone the payoff is drawn without."""
    spec = bundle.team.task
    joint = _joint_policy(bundle, run) if spec.name == "matrix" and spec.num_agents == 2 else None

    def scene(episode: Episode) -> Scene | None:
        if episode.frames is not None:
            return None
        found = registry.scene(spec, episode.states, episode.obs, episode.actions)
        return found if joint is None or episode.arm != "joint" else over_payoff(found, joint)

    return scene


def over_payoff(scene: Scene, joint: np.ndarray) -> Scene:
    """A matrix game's scene with a bar in every cell, as long as the joint policy's probability [A_0, A_1]."""
    cells = [k for k, shape in enumerate(scene.shapes) if shape.kind == "rectangle"]
    if len(cells) != joint.size:  # not drawn as a table
        return scene
    wide, high, below = _BAR
    share = np.clip(joint.reshape(-1), 0, 1).astype(np.float32)
    size = np.stack([wide * share, np.full_like(share, high)], -1)
    at = scene.at[:, cells] + np.stack([(size[:, 0] - wide) / 2, np.full_like(share, -below)], -1)
    bars = tuple(
        Shape("rectangle", "mark", f"{scene.shapes[k].label}: probability {p:.3f}", 0.0)
        for k, p in zip(cells, share, strict=True)
    )

    def more(array: np.ndarray, added: np.ndarray) -> np.ndarray:
        return np.concatenate([array, added.astype(array.dtype)], -1)

    count, moments, agents = len(bars), len(scene.at), len(scene.sight)
    return scene._replace(
        shapes=scene.shapes + bars,
        at=np.concatenate([scene.at, at], 1),
        to=np.concatenate([scene.to, np.broadcast_to(size, at.shape)], 1),
        shown=more(scene.shown, np.broadcast_to(share > 0, (moments, count))),
        level=more(scene.level, np.full((moments, count), np.nan)),
        seen=more(scene.seen, np.zeros((moments, agents, count))),
        captions=tuple(f"{text}; bars: how often the joint policy would play a cell" for text in scene.captions),
    )


def _joint_policy(bundle: Bundle, run: Path | None) -> np.ndarray | None:
    """The joint policy of the checkpoint that was exported; None where its run is not on this machine."""
    from agentmixer.study.analysis import joint_distribution  # torch takes seconds to import
    from agentmixer.train import checkpoint
    from agentmixer.validate.source_run import source_run

    try:
        found = source_run(bundle, run).on_cpu()
        with contextlib.closing(found.make_task(1)) as task:
            algorithm, _ = checkpoint.load_weights(found, task, found.checkpoints / bundle.team.source.checkpoint)
            return joint_distribution(algorithm.team, task)
    except AgentMixerError:
        return None
