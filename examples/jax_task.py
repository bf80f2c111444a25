"""A task in JAX. Two agents stand on a ring of 8 cells; each sees how far the other is, and the team wins when they meet."""

import functools
from typing import Any

from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.tasks.base import NoOptions, ScenarioInfo, Task, check_known

CELLS, LIMIT = 8, 12
backends, names_code, Options = ("jax",), False, NoOptions
notes = "Reward: 1 when the agents meet, which ends the episode; else -0.1 a step."


def scenarios() -> list[ScenarioInfo]:
    return [ScenarioInfo("eight_cells", 2, (CELLS,) * 2, 2 * CELLS, "3 discrete", LIMIT, "an example")]


def check(scenario: str, backend: str, options: NoOptions) -> None:
    check_known("ring", scenario, ["eight_cells"])


def make(scenario: str, num_envs: int, backend: str, options: NoOptions, device: str = "cpu") -> Task:
    from agentmixer.tasks.jax_task import JaxTask

    spec = TaskSpec(
        name="ring", scenario=scenario, backend=backend, options={}, agents=("agent_0", "agent_1"),
        obs_names=(tuple(f"other.{i}_ahead" for i in range(CELLS)),) * 2, state_size=2 * CELLS,
        action_spaces=(Discrete(3),) * 2, has_action_mask=False, reports_wins=True, episode_limit=LIMIT,
        control_period_s=1.0, fallback_actions=(1, 1), shared="reward",
    )  # fmt: skip
    return JaxTask(spec, game(), num_envs, device)


@functools.cache  # one game a process, compiled once
def game() -> Any:
    """The rules, for one environment. JAX is imported here, so that `agentmixer tasks` does not need JAX."""
    import jax
    import jax.numpy as jnp

    from agentmixer.tasks.jax_task import Game, Outcome, View

    def reset(key: Any) -> Any:
        first, apart = jax.random.split(key)
        cell = jax.random.randint(first, (), 0, CELLS)
        return jnp.stack([cell, (cell + jax.random.randint(apart, (), 1, CELLS)) % CELLS])

    def step(key: Any, state: Any, actions: Any) -> Outcome:
        state = (state + actions - 1) % CELLS  # 0 back, 1 stay, 2 ahead
        met = state[0] == state[1]
        return Outcome(state, jnp.where(met, 1.0, -0.1), met, met)

    def look(state: Any) -> View:
        obs = jax.nn.one_hot((state[::-1] - state) % CELLS, CELLS)
        return View(obs, jax.nn.one_hot(state, CELLS).ravel(), jnp.ones((2, 3), bool), jnp.ones(2, bool))

    return Game(reset, step, look)
