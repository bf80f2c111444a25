"""Episodes as they were played, for replays: what everybody saw and did, step by step.

T is the number of steps of an episode, N of agents, D, S and A as in `tasks.base.TaskStep`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """One episode of one arm. Index 0 of T + 1 is the start; the last is the end, and not the next episode's start."""

    #: "joint" or "deployed".
    arm: str
    #: Which of the paired episodes.
    number: int
    #: [T + 1, S] float32.
    states: np.ndarray
    #: [T + 1, N, D] float32, padded as in a TaskStep.
    obs: np.ndarray
    #: [T + 1, N, A] bool.
    masks: np.ndarray
    #: [T + 1, N] bool: who can still act.
    active: np.ndarray
    #: [T, N] int32 or [T, N, W] float32, in the task's own units.
    actions: np.ndarray
    #: [T] float32.
    rewards: np.ndarray
    won: bool
    #: False if it was cut off.
    ended: bool
    #: [T + 1, H, W, 3] uint8 where the environment renders, else None.
    frames: np.ndarray | None = None


class Recording(NamedTuple):
    """Some of a rehearsal's episodes, by arm and number."""

    episodes: tuple[Episode, ...]
    #: How many were played an arm; more than are kept if those did not fit.
    played: int
