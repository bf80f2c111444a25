"""SMACv2 scenarios played in SMAX (JaxMARL), batched and compiled.

Units, teams and rewards stand here; batching, seeds, resets and saving are `jax_task`'s.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.tasks import smacv2
from agentmixer.tasks.base import Probe
from agentmixer.tasks.jax_task import Game, JaxTask, Outcome, View


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """JaxMARL announces optional simulators when imported, and points sys.stdout back at sys.__stdout__."""
    out, err, real_out, real_err = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        sys.__stdout__, sys.__stderr__ = real_out, real_err  # type: ignore[misc]


with _silence():
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.distributions import Distribution
    from jaxmarl.environments.smax.smax_env import Scenario


class Unit(NamedTuple):
    """SMAX's parameters of a unit: distances in map units, times in seconds."""

    velocity: float
    attack: float
    attack_range: float
    sight_range: float
    radius: float
    health: float
    cooldown: float


#: The first six rows are SMAX's own values. The colossus (not in SMAX) has the real unit's speed, range,
#: sight, radius, weapon cooldown, health (200 + 150 shield) and damage (two beams of 10), on one target.
UNITS: dict[str, Unit] = {
    "marine": Unit(3.15, 9.0, 5.0, 9.0, 0.375, 45.0, 0.61),
    "marauder": Unit(2.25, 10.0, 6.0, 10.0, 0.5625, 125.0, 1.07),
    "stalker": Unit(4.13, 13.0, 6.0, 10.0, 0.625, 160.0, 1.87),
    "zealot": Unit(3.15, 8.0, 2.0, 9.0, 0.5, 150.0, 0.86),
    "zergling": Unit(4.13, 5.0, 2.0, 8.0, 0.375, 35.0, 0.5),
    "hydralisk": Unit(3.15, 12.0, 5.0, 9.0, 0.625, 80.0, 0.59),
    "colossus": Unit(3.15, 20.0, 7.0, 10.0, 1.0, 350.0, 1.07),
}
MAP_SIZE = 32


class MirroredTeams(Distribution):
    """Weighted unit types; the enemy copies the allies' composition, extra enemies are drawn likewise."""

    def __init__(self, allies: int, enemies: int, weights: tuple[float, ...]):
        super().__init__(allies, enemies, MAP_SIZE, MAP_SIZE)
        self.log_weights = jnp.log(jnp.array(weights))

    @functools.partial(jax.jit, static_argnums=(0,))
    def generate(self, key: jax.Array) -> jax.Array:
        drawn = jax.random.categorical(key, self.log_weights, shape=(self.n_enemies,)).astype(jnp.uint8)
        return jnp.concatenate([drawn[: self.n_allies], drawn])


@functools.cache
def _game(scenario: str) -> HeuristicEnemySMAX:
    """The JaxMARL environment with this race's unit table and team distribution."""
    race, allies, enemies = smacv2.split(scenario)
    names = list(smacv2.TEAMS[race])
    column = {field: jnp.array([getattr(UNITS[name], field) for name in names]) for field in Unit._fields}
    game = HeuristicEnemySMAX(
        scenario=Scenario(jnp.zeros((allies + enemies,), jnp.uint8), allies, enemies, True, True),
        map_width=MAP_SIZE,
        map_height=MAP_SIZE,
        max_steps=smacv2.EPISODE_LIMIT,
        unit_type_names=names,
        unit_type_shorthands=[name[0] for name in names],
        unit_type_velocities=column["velocity"],
        unit_type_attacks=column["attack"],
        unit_type_attack_ranges=column["attack_range"],
        unit_type_sight_ranges=column["sight_range"],
        unit_type_radiuses=column["radius"],
        unit_type_health=column["health"],
        unit_type_weapon_cooldowns=column["cooldown"],
    )
    game._env.unit_type_generator = MirroredTeams(  # type: ignore[assignment]
        allies, enemies, tuple(smacv2.TEAMS[race].values())
    )
    return game


@functools.cache
def _as_game(scenario: str) -> Game:
    """JaxMARL's environment as pure functions. SMAX's own end of an episode is not used: it has no truncation."""
    env = _game(scenario)
    race, allies, enemies = smacv2.split(scenario)
    kinds = len(smacv2.TEAMS[race])
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

    return Game(reset=lambda key: env.reset(key)[1], step=step, look=look, probes=_probes(env, kinds))


def _probes(env: HeuristicEnemySMAX, kinds: int) -> tuple[Probe, ...]:
    """What a unit may not see: whoever is dead or not nearer than its sight range, and what the enemy has in mind."""
    sight, units = env.unit_type_sight_ranges, env.num_allies + env.num_enemies

    def near(game: Any, agent: jax.Array) -> jax.Array:
        # With room to spare, so that rounding cannot put on one side who is seen on the other.
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


def _spec(scenario: str) -> TaskSpec:
    _race, allies, enemies = smacv2.split(scenario)
    return TaskSpec(
        name="smacv2",
        scenario=scenario,
        backend="smax",
        options={},
        agents=tuple(f"agent_{i}" for i in range(allies)),
        obs_names=smacv2.obs_names(scenario),
        state_size=smacv2.state_size(scenario),
        action_spaces=(Discrete(len(smacv2.MOVES) + enemies),) * allies,
        has_action_mask=True,
        reports_wins=True,
        episode_limit=smacv2.EPISODE_LIMIT,
        control_period_s=smacv2.CONTROL_PERIOD_S,
        fallback_actions=(smacv2.MOVES.index("stop"),) * allies,
        shared="reward",
    )


class SmaxTask(JaxTask):
    """E environments of one SMACv2 scenario in SMAX.

    Reward, shared by the team: the share of enemy health removed this step, plus 1 for a won battle.
    Actions: 0-3 move north, east, south, west; 4 stop; 5+j attack enemy j. A dead agent may only stop.
    """

    def __init__(self, scenario: str, num_envs: int, device: str = "cpu"):
        super().__init__(_spec(scenario), _as_game(scenario), num_envs, device)
