"""A matrix game as pure functions for `jax_task`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agentmixer.tasks.jax_task import Game, Outcome, View
from agentmixer.tasks.matrix.payoffs import Payoffs


def game(payoffs: Payoffs) -> Game:
    """The game of `payoffs`. Equal payoffs give the same game, compiled once."""
    return _game(payoffs.tables.shape, payoffs.tables.tobytes(), payoffs.probabilities.tobytes())


@functools.cache
def _game(tables_shape: tuple[int, ...], cells: bytes, shares: bytes) -> Game:
    payoffs = Payoffs(np.frombuffer(cells, np.float64).reshape(tables_shape), np.frombuffer(shares, np.float64))
    count, *shape = tables_shape
    agents = len(shape)
    tables, best = jnp.asarray(payoffs.tables, jnp.float32), jnp.asarray(payoffs.best)
    probabilities = jnp.asarray(payoffs.probabilities, jnp.float32)
    mask = jnp.arange(max(shape)) < jnp.array(shape)[:, None]

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Outcome:
        chosen = tuple(actions)
        table = tables[jax.random.choice(key, count, p=probabilities)] if count > 1 else tables[0]
        return Outcome(state, table[chosen], jnp.ones((), jnp.bool_), best[chosen])

    def look(state: Any) -> View:
        return View(jnp.ones((agents, 1)), jnp.ones(1), mask, jnp.ones(agents, jnp.bool_))

    # Nothing is carried from step to step.
    return Game(reset=lambda key: (), step=step, look=look)
