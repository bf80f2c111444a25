"""SMAX as pure functions for `jax_task`: rewards, ends of episodes, and what a unit may not see."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from agentmixer.tasks.base import Probe
from agentmixer.tasks.jax_task import Game, Outcome, View, key_of
from agentmixer.tasks.smacv2.smacv2_facts import MAP_SIZE, TEAMS, split
from agentmixer.tasks.smacv2.smax import environment

if TYPE_CHECKING:
    from jaxmarl.environments.smax import HeuristicEnemySMAX


@functools.cache
def game(scenario: str) -> Game:
    """The game of a scenario, made once a process. SMAX's own end of an episode is not used: it has no truncation.

    Reward, shared by the team: the share of enemy health removed this step, plus 1 for a won battle."""
    env = environment(scenario)
    race, allies, enemies = split(scenario)
    kinds = len(TEAMS[race])
    # SMAX's state has raw map positions and type numbers; the rest is of order one already.
    unit = [1.0, 1.0 / MAP_SIZE, 1.0 / MAP_SIZE, 1.0] + [1.0] * kinds
    units = allies + enemies
    scale = jnp.array(unit * units + [1.0] * units + [1.0 / kinds] * units, jnp.float32)

    def stacked(values: dict[str, jax.Array]) -> jax.Array:
        return jnp.stack([values[agent] for agent in env.agents])

    def step(key: jax.Array, state: Any, actions: jax.Array) -> Outcome:
        chosen = {agent: actions[i] for i, agent in enumerate(env.agents)}
        _, after, reward, _, _ = env.step_env(key, state, chosen)
        ours = jnp.any(after.state.unit_alive[:allies])
        theirs = jnp.any(after.state.unit_alive[allies:])
        return Outcome(after, reward[env.agents[0]].astype(jnp.float32), ~ours | ~theirs, ours & ~theirs)

    def look(state: Any) -> View:
        return View(
            obs=stacked(env.get_obs(state)),
            state=env.get_world_state(state).astype(jnp.float32) * scale,
            action_mask=stacked(env.get_avail_actions(state)).astype(jnp.bool_),
            active=state.state.unit_alive[:allies],
        )

    return Game(
        reset=lambda key: env.reset(key)[1], step=step, look=look, probes=_probes(env, kinds), key=_key(scenario)
    )


def _key(scenario: str) -> str:
    """What this file, those beside it and JaxMARL's SMAX make of the scenario."""
    simulator = Path(inspect.getfile(type(environment(scenario)))).parent
    return key_of(scenario, files=[*Path(__file__).parent.glob("*.py"), *simulator.glob("*.py")])


def _probes(env: HeuristicEnemySMAX, kinds: int) -> tuple[Probe, ...]:
    """What a unit may not see: units that are dead or beyond its sight range, and what the scripted enemy remembers."""
    sight, units = env.unit_type_sight_ranges, env.num_allies + env.num_enemies

    def near(game: Any, agent: jax.Array) -> jax.Array:
        # The margin keeps a rounding error from calling a unit hidden that the simulator shows.
        distance = jnp.linalg.norm(game.unit_positions - game.unit_positions[agent], axis=-1)
        return distance < sight[game.unit_types[agent]] + 1e-3

    def unseen(game: Any, agent: jax.Array) -> jax.Array:
        seen = near(game, agent) & game.unit_alive & game.unit_alive[agent]
        return ~seen & (jnp.arange(units) != agent)

    def away(game: Any, agent: jax.Array) -> jax.Array:
        """Nobody who is away is seen, dead or alive."""
        return ~(near(game, agent) & game.unit_alive[agent]) & (jnp.arange(units) != agent)

    def elsewhere(key: jax.Array, state: Any, agent: jax.Array) -> Any:
        game = state.state
        drawn = jax.random.uniform(key, (units, 2), maxval=MAP_SIZE)
        moved = game.replace(unit_positions=drawn.at[agent].set(game.unit_positions[agent]))
        hidden = unseen(game, agent) & unseen(moved, agent)
        return state.replace(state=game.replace(unit_positions=jnp.where(hidden[:, None], drawn, game.unit_positions)))

    def otherwise(key: jax.Array, state: Any, agent: jax.Array) -> Any:
        game, hidden, keys = state.state, unseen(state.state, agent), jax.random.split(key, 5)
        types = jax.random.randint(keys[0], (units,), 0, kinds).astype(game.unit_types.dtype)
        health = jax.random.uniform(keys[1], (units,), maxval=400.0)
        cooldowns = jax.random.uniform(keys[2], (units,), maxval=2.0)
        moves = jax.random.uniform(keys[3], (units, 2), minval=-1.0)
        attacks = jax.random.randint(keys[4], (units,), 0, units)
        return state.replace(
            state=game.replace(
                unit_types=jnp.where(hidden, types, game.unit_types),
                unit_health=jnp.where(hidden, health, game.unit_health),
                unit_weapon_cooldowns=jnp.where(hidden, cooldowns, game.unit_weapon_cooldowns),
                prev_movement_actions=jnp.where(hidden[:, None], moves, game.prev_movement_actions),
                prev_attack_actions=jnp.where(hidden, attacks, game.prev_attack_actions).astype(
                    game.prev_attack_actions.dtype
                ),
            )
        )

    def dead(key: jax.Array, state: Any, agent: jax.Array) -> Any:
        game = state.state
        drawn = jax.random.bernoulli(key, 0.5, (units,))
        return state.replace(state=game.replace(unit_alive=jnp.where(away(game, agent), drawn, game.unit_alive)))

    def intent(key: jax.Array, state: Any, agent: jax.Array) -> Any:
        leaves, tree = jax.tree.flatten(state.enemy_policy_state)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            jax.random.normal(k, leaf.shape).astype(leaf.dtype)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
            else jax.random.randint(k, leaf.shape, 0, 2).astype(leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return state.replace(enemy_policy_state=jax.tree.unflatten(tree, drawn))

    def hurt(key: jax.Array, state: Any, agent: jax.Array) -> Any:
        game = state.state
        well_in = jnp.linalg.norm(game.unit_positions - game.unit_positions[agent], axis=-1) < (
            sight[game.unit_types[agent]] - 1e-3
        )
        seen = well_in & game.unit_alive & game.unit_alive[agent] & (jnp.arange(units) != agent)
        return state.replace(state=game.replace(unit_health=jnp.where(seen, game.unit_health / 2, game.unit_health)))

    return (
        Probe("units out of sight or dead: elsewhere", True, elsewhere),
        Probe("units out of sight or dead: type, health, cooldown, last action", True, otherwise),
        Probe("units out of sight: dead or alive", True, dead),
        Probe("what the scripted enemy remembers", True, intent),
        Probe("units in sight: half the health", False, hurt),
    )
