"""JaxMARL's SMAX with the units and teams of SMACv2's scenarios."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from agentmixer.tasks.smacv2.smacv2_facts import EPISODE_LIMIT, MAP_SIZE, TEAMS, UNITS, Unit, split


@contextlib.contextmanager
def packages_left_empty(*names: str) -> Iterator[None]:
    """Let modules inside these packages be imported without what the packages' own `__init__` imports.

    JaxMARL's packages import every environment: seconds of work, of which SMAX needs a tenth. A package that was imported
    before is left as it is. Afterwards, importing a package that was left empty runs its `__init__` as usual."""
    empty = {}
    for name in names:
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            empty[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for name, module in empty.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with packages_left_empty("jaxmarl", "jaxmarl.environments"):
    from jaxmarl.environments.smax import HeuristicEnemySMAX
    from jaxmarl.environments.smax.distributions import Distribution
    from jaxmarl.environments.smax.smax_env import Scenario


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
def environment(scenario: str) -> HeuristicEnemySMAX:
    """The JaxMARL environment with this race's unit table and team distribution."""
    race, allies, enemies = split(scenario)
    names = list(TEAMS[race])
    column = {field: jnp.array([getattr(UNITS[name], field) for name in names]) for field in Unit._fields}
    env = HeuristicEnemySMAX(
        scenario=Scenario(jnp.zeros((allies + enemies,), jnp.uint8), allies, enemies, True, True),
        map_width=MAP_SIZE,
        map_height=MAP_SIZE,
        max_steps=EPISODE_LIMIT,
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
    env._env.unit_type_generator = MirroredTeams(  # type: ignore[assignment]
        allies, enemies, tuple(TEAMS[race].values())
    )
    return env
