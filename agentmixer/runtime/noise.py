"""What an agent draws its actions by, where its policy was exported with `--sampled`."""

from __future__ import annotations

import os

import numpy as np
from numpy.random import default_rng  # before the sandbox closes, for numpy imports it when it is asked for

from agentmixer.errors import AgentMixerError


class Noise:
    """Standard Gumbel noise, a number for each logit and decision: the greatest of logits plus noise is an action drawn from the
    policy (the Gumbel-max trick).

    An episode's noise follows from the seed, the agent's index and the episode's number, and from nothing else, so that the
    agents of a team may have one seed. size: how many numbers a decision takes, 0 for a policy whose action is the mode; seed: 0 to
    2^62 - 1, drawn from the system unless given. Raises AgentMixerError for another seed."""

    def __init__(self, size: int, seed: int | None, index: int):
        if seed is not None and not 0 <= seed < 1 << 62:
            raise AgentMixerError(f"seed {seed} is none; a seed is a whole number from 0 to 2^62 - 1")
        self.size, self.index = size, index
        self.seed = drawn_seed() if seed is None and size else seed or 0
        self.episode = -1
        self.begin()

    def begin(self, episode: int | None = None) -> None:
        """An episode begins. episode: its number, one more than the last one's unless given."""
        self.episode = self.episode + 1 if episode is None else episode
        if self.size:
            self._generator = default_rng([self.seed, self.index, self.episode])

    def draw(self) -> np.ndarray:
        """The next decision's noise, [A] float32."""
        return self._generator.gumbel(size=self.size).astype(np.float32)


def drawn_seed() -> int:
    """A seed from the system: 0 to 2^62 - 1."""
    return int.from_bytes(os.urandom(8)) >> 2
