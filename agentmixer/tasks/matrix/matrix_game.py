"""A matrix game as pure functions for `jax_task`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agentmixer.tasks.jax_task import Game, Outcome, View


def game(payoff: np.ndarray) -> Game:
    """The game of `payoff`, float64 [A_0, ..., A_(N-1)]. Equal payoffs give the same game, compiled once."""
    return _game(payoff.shape, payoff.tobytes())


@functools.cache
def _game(shape: tuple[int, ...], cells: bytes) -> Game:
    payoff = np.frombuffer(cells, np.float64).reshape(shape)
    agents = len(shape)
    table, best = jnp.asarray(payoff, jnp.float32), jnp.asarray(payoff == payoff.max())
    mask = jnp.arange(max(shape)) < jnp.array(shape)[:, None]

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Outcome:
        chosen = tuple(actions)
        return Outcome(state, table[chosen], jnp.ones((), jnp.bool_), best[chosen])

    def look(state: Any) -> View:
        return View(jnp.ones((agents, 1)), jnp.ones(1), mask, jnp.ones(agents, jnp.bool_))

    # Nothing is carried from step to step.
    return Game(reset=lambda key: (), step=step, look=look)
