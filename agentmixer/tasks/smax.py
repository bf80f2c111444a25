"""SMACv2 scenarios played in SMAX (JaxMARL), batched and compiled.

Everything between two actions (enemy, physics, auto-reset, observation, mask) is one jitted call.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import smacv2
from agentmixer.tasks.base import TaskStep


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


class _Running(NamedTuple):
    """What one environment carries from step to step."""

    game: Any
    key: jax.Array


class _Compiled(NamedTuple):
    reset: Any
    step: Any


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
def _compile(scenario: str) -> _Compiled:
    """Jitted batched functions, made once a process and scenario; JAX's disk cache serves the next process."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentmixer" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    game = _game(scenario)
    race, allies, enemies = smacv2.split(scenario)
    agents = game.agents
    kinds = len(smacv2.TEAMS[race])
    # SMAX's state has raw map positions and type numbers; the rest is of order one already.
    unit = [1.0, 1.0 / MAP_SIZE, 1.0 / MAP_SIZE, 1.0] + [1.0] * kinds
    units = allies + enemies
    scale = jnp.array(unit * units + [1.0] * units + [1.0 / kinds] * units, jnp.float32)

    def pack(obs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return jnp.stack([obs[agent] for agent in agents]), obs["world_state"].astype(jnp.float32) * scale

    def look(running: _Running, obs: jax.Array, state: jax.Array) -> TaskStep:
        masks = game.get_avail_actions(running.game)
        mask = jnp.stack([masks[agent] for agent in agents]).astype(jnp.bool_)
        no = jnp.zeros((), jnp.bool_)
        active = running.game.state.unit_alive[:allies]
        return TaskStep(obs, state, mask, active, jnp.zeros((), jnp.float32), no, no, no, obs, state)

    def reset(key: jax.Array) -> tuple[_Running, TaskStep]:
        key, now = jax.random.split(key)
        obs, fresh = game.reset(now)
        # JaxMARL starts some leaves weakly typed; fixing the type here saves compiling `step` twice.
        fresh = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), fresh)
        running = _Running(fresh, key)
        return running, look(running, *pack(obs))

    def step(running: _Running, actions: jax.Array) -> tuple[_Running, TaskStep]:
        key, step_key, reset_key = jax.random.split(running.key, 3)
        chosen = {agent: actions[i] for i, agent in enumerate(agents)}
        obs, after, reward, _, _ = game.step_env(step_key, running.game, chosen)
        final_obs, final_state = pack(obs)
        ours = jnp.any(after.state.unit_alive[:allies])
        theirs = jnp.any(after.state.unit_alive[allies:])
        terminated = ~ours | ~theirs
        truncated = ~terminated & (after.state.step >= smacv2.EPISODE_LIMIT)
        ended = terminated | truncated
        fresh_obs, fresh = game.reset(reset_key)
        running = _Running(jax.tree.map(lambda a, b: jnp.where(ended, a, b), fresh, after), key)
        obs_now, state_now = (
            jnp.where(ended, a, b) for a, b in zip(pack(fresh_obs), (final_obs, final_state), strict=True)
        )
        seen = look(running, obs_now, state_now)
        return running, seen._replace(
            reward=reward[agents[0]].astype(jnp.float32),
            terminated=terminated,
            truncated=truncated,
            won=ours & ~theirs,
            final_obs=final_obs,
            final_state=final_state,
        )

    # Agent-major outside: agents lead, environments follow.
    axes = TaskStep(1, 0, 1, 1, 0, 0, 0, 0, 1, 0)

    def first(seed: jax.Array, episodes: jax.Array) -> tuple[_Running, TaskStep]:
        root = jax.random.PRNGKey(seed)
        return jax.vmap(lambda episode: reset(jax.random.fold_in(root, episode)), out_axes=(0, axes))(episodes)

    return _Compiled(
        reset=jax.jit(first),
        step=jax.jit(jax.vmap(step, in_axes=(0, 1), out_axes=(0, axes))),
    )


class SmaxTask:
    """E environments of one SMACv2 scenario in SMAX. See `tasks.base.Task`.

    Reward, shared by the team: the share of enemy health removed this step, plus 1 for a won battle.
    Actions: 0-3 move north, east, south, west; 4 stop; 5+j attack enemy j. A dead agent may only stop.
    """

    def __init__(self, scenario: str, num_envs: int, device: str = "cpu"):
        _race, allies, enemies = smacv2.split(scenario)
        self.num_envs = num_envs
        self.spec = TaskSpec(
            name="smacv2",
            scenario=scenario,
            backend="smax",
            agents=tuple(f"agent_{i}" for i in range(allies)),
            obs_names=smacv2.obs_names(scenario),
            state_size=smacv2.state_size(scenario),
            action_spaces=(Discrete(len(smacv2.MOVES) + enemies),) * allies,
            has_action_mask=True,
            episode_limit=smacv2.EPISODE_LIMIT,
            control_period_s=smacv2.CONTROL_PERIOD_S,
            fallback_action=smacv2.MOVES.index("stop"),
            shared="reward",
        )
        platform = "cpu" if device == "cpu" else "gpu"
        try:
            self._device = jax.devices(platform)[0]
        except RuntimeError as error:
            raise AgentMixerError(f"device {device}: JAX sees none here ({error}); use --device cpu") from error
        self._compiled = _compile(scenario)
        self._running: _Running | None = None
        self._last: TaskStep | None = None

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        numbers = np.arange(self.num_envs) if episodes is None else np.asarray(episodes)
        with jax.default_device(self._device):
            self._running, self._last = self._compiled.reset(np.uint32(seed), numbers.astype(np.uint32))
        return self._last

    def step(self, actions: Any) -> TaskStep:
        self._running, self._last = self._compiled.step(self._running, jnp.from_dlpack(actions))
        return self._last

    def snapshot(self) -> dict[str, np.ndarray]:
        leaves = jax.tree.leaves((self._running, self._last))
        return {f"{i:03d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        self.reset(0)  # for the shape of the tree
        structure = jax.tree.structure((self._running, self._last))
        leaves = [jax.device_put(arrays[name], self._device) for name in sorted(arrays)]
        self._running, self._last = jax.tree.unflatten(structure, leaves)
        return self._last
