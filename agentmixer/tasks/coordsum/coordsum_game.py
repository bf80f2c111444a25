"""The rules of numbers that add up to a target, as pure functions for `jax_task`. N agents, K actions, M targets."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from agentmixer.tasks.base import Probe
from agentmixer.tasks.coordsum.coordsum_facts import COUNT_SCALE, EPISODE_LIMIT, GUESSED, REWARD, Size
from agentmixer.tasks.jax_task import Game, Outcome, View


class State(NamedTuple):
    """One episode. target, step [] int32; counts [M, K] int32: how often agent_0 played each action for each target."""

    target: jax.Array
    step: jax.Array
    counts: jax.Array


def reward(state: State, actions: jax.Array) -> jax.Array:
    """What the team earns, [] float32. actions [N].

    The opponent guesses the action with the largest count for this target, the lowest of several; 0 before there is any."""
    guessed = actions[0] == state.counts[state.target].argmax()
    earned = jnp.where(guessed, GUESSED, REWARD)
    return jnp.where(actions.sum() == state.target, earned, 0.0).astype(jnp.float32)


def probes(size: Size) -> tuple[Probe, ...]:
    """What no agent is shown: what agent_0 has played."""

    def counts(key: jax.Array, state: State, agent: jax.Array) -> State:
        return state._replace(counts=jax.random.randint(key, state.counts.shape, 0, EPISODE_LIMIT))

    def target(key: jax.Array, state: State, agent: jax.Array) -> State:
        return state._replace(target=(state.target + 1) % size.targets)

    return Probe("what agent_0 played before", True, counts), Probe("the target", False, target)


@functools.cache
def game(size: Size) -> Game:
    """The game of that size, made once a process."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, size.targets)

    def reset(key: jax.Array) -> State:
        return State(draw(key), jnp.zeros((), jnp.int32), jnp.zeros((size.targets, size.actions), jnp.int32))

    def step(key: jax.Array, state: State, actions: jax.Array) -> Outcome:
        counts = state.counts.at[state.target, actions[0]].add(1)
        no = jnp.zeros((), jnp.bool_)
        return Outcome(State(draw(key), state.step + 1, counts), reward(state, actions), no, no)

    def look(state: State) -> View:
        time = state.step.astype(jnp.float32) / EPISODE_LIMIT
        seen = jnp.append(jax.nn.one_hot(state.target, size.targets), time)
        counts = state.counts[state.target].astype(jnp.float32) * COUNT_SCALE
        return View(
            obs=jnp.tile(seen, (size.agents, 1)),
            state=jnp.concatenate([seen, counts]),
            action_mask=jnp.ones((size.agents, size.actions), jnp.bool_),
            active=jnp.ones(size.agents, jnp.bool_),
        )

    return Game(reset, step, look, probes(size))
