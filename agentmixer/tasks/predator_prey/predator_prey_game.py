"""The rules of predator and prey as pure functions for `jax_task`.

A step: predators move, prey are caught, the remaining prey move. Movers go one after another, in order of their number;
a move onto a taken cell or off the grid leaves the mover where it is. P predators, M prey.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from agentmixer.tasks.base import Probe
from agentmixer.tasks.jax_task import Game, Outcome, View
from agentmixer.tasks.predator_prey.predator_prey_facts import (
    CAPTORS,
    CAPTURE_REWARD,
    EPISODE_LIMIT,
    MOVES,
    PREY_MOVES,
    PREY_TRIES,
    SIGHT,
    STEP_REWARD,
    Size,
)


class State(NamedTuple):
    """One grid. predators [P, 2] and preys [M, 2]: row and column, int32; alive [M] bool; time [] int32."""

    predators: jax.Array
    preys: jax.Array
    alive: jax.Array
    time: jax.Array


def _moves() -> jax.Array:
    return jnp.array(list(MOVES.values()), jnp.int32)


def _beside(cells: jax.Array, predators: jax.Array) -> jax.Array:
    """How many predators share an edge with each cell. cells [..., 2] -> [...] int32."""
    distance = jnp.abs(cells[..., None, :] - predators).sum(-1)
    return (distance == 1).sum(-1)


def _inside(cells: jax.Array, grid: int) -> jax.Array:
    return ((cells >= 0) & (cells < grid)).all(-1)


def _free(cells: jax.Array, state: State, grid: int) -> jax.Array:
    """Whether each cell is on the grid and nobody is there. cells [..., 2] -> [...] bool."""
    by_predator = (cells[..., None, :] == state.predators).all(-1).any(-1)
    by_prey = ((cells[..., None, :] == state.preys).all(-1) & state.alive).any(-1)
    return _inside(cells, grid) & ~by_predator & ~by_prey


def start(key: jax.Array, size: Size) -> State:
    """Predators anywhere, prey on cells with no predator beside them as far as there are such cells."""
    cells = jnp.stack(jnp.divmod(jnp.arange(size.grid**2), size.grid), -1)
    for_predators, for_preys = jax.random.uniform(key, (2, size.grid**2))
    predators = cells[jax.lax.top_k(for_predators, size.predators)[1]]
    taken = (cells[:, None] == predators).all(-1).any(-1)
    # A random order in which cells away from predators come first and taken ones last.
    rank = for_preys + (_beside(cells, predators) == 0) - 2.0 * taken
    preys = cells[jax.lax.top_k(rank, size.preys)[1]]
    return State(predators, preys, jnp.ones(size.preys, jnp.bool_), jnp.zeros((), jnp.int32))


def move_predators(state: State, actions: jax.Array, grid: int) -> State:
    """Predators move in order. actions [P], numbers in MOVES."""
    for i in range(len(state.predators)):
        target = state.predators[i] + _moves()[actions[i]]
        arrived = jnp.where(_free(target, state, grid), target, state.predators[i])
        state = state._replace(predators=state.predators.at[i].set(arrived))
    return state


def capture(state: State, penalty: float) -> tuple[State, jax.Array]:
    """Take away the prey with enough predators beside them. Returns the state and the step's whole reward."""
    beside = _beside(state.preys, state.predators)
    caught = state.alive & (beside >= CAPTORS)
    lonely = state.alive & (beside == 1)
    reward = STEP_REWARD + CAPTURE_REWARD * caught.sum() + penalty * lonely.sum()
    return state._replace(alive=state.alive & ~caught), reward.astype(jnp.float32)


def move_preys(state: State, tries: jax.Array, grid: int) -> State:
    """Prey move in order, each by the first of its tries that does not end beside a predator; if all do, it stays.

    tries [M, T], numbers in MOVES."""
    for i in range(len(state.preys)):
        targets = state.preys[i] + _moves()[tries[i]]
        ends = jnp.where(_free(targets, state, grid)[:, None], targets, state.preys[i])
        safe = _beside(ends, state.predators) == 0
        arrived = jnp.where(state.alive[i] & safe.any(), ends[safe.argmax()], state.preys[i])
        state = state._replace(preys=state.preys.at[i].set(arrived))
    return state


def draw_tries(key: jax.Array, preys: int) -> jax.Array:
    """The moves each prey will try, [M, PREY_TRIES]."""
    bounds = jnp.cumsum(jnp.array(PREY_MOVES[:-1]))
    return (jax.random.uniform(key, (preys, PREY_TRIES, 1)) >= bounds).sum(-1)


def look(state: State, grid: int) -> View:
    """What each predator sees, the global state and the moves that stay on the grid."""
    agents, alive = len(state.predators), state.alive.astype(jnp.float32)
    around = jnp.arange(-SIGHT, SIGHT + 1)
    offsets = jnp.stack(jnp.meshgrid(around, around, indexing="ij"), -1).reshape(-1, 2)
    relative = state.preys - state.predators[:, None]
    seen = ((relative[:, :, None] == offsets).all(-1) & state.alive[:, None]).any(1).astype(jnp.float32)
    time = state.time.astype(jnp.float32) / EPISODE_LIMIT
    own = state.predators.astype(jnp.float32) / (grid - 1)
    preys = state.preys.astype(jnp.float32) / (grid - 1) * alive[:, None]
    return View(
        obs=jnp.concatenate([own, seen, jnp.full((agents, 1), time)], -1),
        state=jnp.concatenate([own.ravel(), preys.ravel(), alive, time[None]]),
        action_mask=_inside(state.predators[:, None] + _moves(), grid),
        active=jnp.ones(agents, jnp.bool_),
    )


def _in_view(cells: jax.Array, predator: jax.Array) -> jax.Array:
    """Whether a predator sees each cell. cells [..., 2] -> [...] bool."""
    return (jnp.abs(cells - predator) <= SIGHT).all(-1)


def probes(grid: int) -> tuple[Probe, ...]:
    """What a predator may not see: prey outside its view, prey that are gone, and all other predators."""

    def cells(key: jax.Array, count: int) -> jax.Array:
        return jax.random.randint(key, (count, 2), 0, grid)

    def prey_elsewhere(key: jax.Array, state: State, agent: jax.Array) -> State:
        me, to = state.predators[agent], cells(key, len(state.preys))
        unseen = ~_in_view(state.preys, me) & ~_in_view(to, me)
        return state._replace(preys=jnp.where((unseen | ~state.alive)[:, None], to, state.preys))

    def prey_gone(key: jax.Array, state: State, agent: jax.Array) -> State:
        unseen = ~_in_view(state.preys, state.predators[agent])
        drawn = jax.random.bernoulli(key, 0.5, state.alive.shape)
        return state._replace(alive=jnp.where(unseen, drawn, state.alive))

    def others_elsewhere(key: jax.Array, state: State, agent: jax.Array) -> State:
        drawn = cells(key, len(state.predators))
        return state._replace(predators=drawn.at[agent].set(state.predators[agent]))

    def prey_caught(key: jax.Array, state: State, agent: jax.Array) -> State:
        return state._replace(alive=state.alive & ~_in_view(state.preys, state.predators[agent]))

    return (
        Probe("prey outside its view: elsewhere", True, prey_elsewhere),
        Probe("prey outside its view: gone or back", True, prey_gone),
        Probe("other predators: elsewhere", True, others_elsewhere),
        Probe("prey in its view: gone", False, prey_caught),
    )


@functools.cache
def game(size: Size, penalty: float) -> Game:
    """The game of that size, made once a process."""

    def step(key: jax.Array, state: State, actions: jax.Array) -> Outcome:
        state, reward = capture(move_predators(state, actions, size.grid), penalty)
        state = move_preys(state, draw_tries(key, size.preys), size.grid)
        ended = ~state.alive.any()
        return Outcome(state._replace(time=state.time + 1), reward, ended, ended)

    return Game(
        reset=lambda key: start(key, size),
        step=step,
        look=lambda state: look(state, size.grid),
        probes=probes(size.grid),
    )
