"""The two passages as pure functions for `jax_task`. The state is both agents' sizes, int32 [2]."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from agentmixer.tasks.base import Probe
from agentmixer.tasks.jax_task import Game, Outcome, View
from agentmixer.tasks.passage.passage_payoffs import payoff


def _probes() -> tuple[Probe, ...]:
    def partner(key: jax.Array, state: jax.Array, agent: jax.Array) -> jax.Array:
        return state.at[1 - agent].set(1 - state[1 - agent])

    def own(key: jax.Array, state: jax.Array, agent: jax.Array) -> jax.Array:
        return state.at[agent].set(1 - state[agent])

    return Probe("the partner's size", True, partner), Probe("its own size", False, own)


@functools.cache
def game() -> Game:
    """The game, made once a process."""
    table = jnp.asarray(payoff(), jnp.float32)

    def reset(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, 0.5, (2,)).astype(jnp.int32)

    def step(key: jax.Array, state: jax.Array, actions: jax.Array) -> Outcome:
        reward = table[(*state, *actions)]
        return Outcome(state, reward, jnp.ones((), jnp.bool_), jnp.zeros((), jnp.bool_))

    def look(state: jax.Array) -> View:
        # One-hot: a learner that normalises an observation by itself would lose a single number.
        obs = jax.nn.one_hot(state, 2)
        return View(obs, obs.ravel(), jnp.ones((2, 2), jnp.bool_), jnp.ones(2, jnp.bool_))

    return Game(reset, step, look, _probes())
