"""Any pure functional game as a task: batched, compiled, seeded, reset by itself, saved and put back.

A game is three pure functions of one environment. Everything between two actions is one jitted call.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import Probe, Probed, TaskStep


class View(NamedTuple):
    """What a state shows. obs [N, D] float32; state [S] float32; action_mask [N, A] bool; active [N] bool."""

    obs: jax.Array
    state: jax.Array
    action_mask: jax.Array
    active: jax.Array


class Outcome(NamedTuple):
    """What a step did. `state` is the game's own; reward [] float32; terminated [] bool; won [] bool, which
    counts where an episode ended."""

    state: Any
    reward: jax.Array
    terminated: jax.Array
    won: jax.Array


class Game(NamedTuple):
    """One environment as pure functions. The game knows no episode limit: `JaxTask` truncates.

    reset(key) -> state, any tree of arrays; step(key, state, actions [N] int32) -> Outcome;
    look(state) -> View. probes: what its rules hide from an agent, each a change(key, state, agent [] int32).
    """

    reset: Callable[[jax.Array], Any]
    step: Callable[[jax.Array, Any, jax.Array], Outcome]
    look: Callable[[Any], View]
    probes: tuple[Probe, ...] = ()


class _Running(NamedTuple):
    """What one environment carries from step to step; `time` counts the episode's steps."""

    game: Any
    time: jax.Array
    key: jax.Array


class _Compiled(NamedTuple):
    reset: Any
    step: Any


def _task_step(now: View, outcome: Outcome, truncated: jax.Array, final: View) -> TaskStep:
    """One environment's step; `now` shows the next episode where one ended, `final` never does."""
    return TaskStep(
        obs=now.obs,
        state=now.state,
        action_mask=now.action_mask,
        active=now.active,
        reward=outcome.reward,
        terminated=outcome.terminated,
        truncated=truncated,
        won=outcome.won,
        final_obs=final.obs,
        final_state=final.state,
    )


@functools.cache
def _compile(game: Game, episode_limit: int) -> _Compiled:
    """Jitted batched functions, made once a process and game; JAX's disk cache serves the next process."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentmixer" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    def fresh(key: jax.Array) -> Any:
        # Some games start leaves weakly typed; fixing the type here saves compiling `step` twice.
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), game.reset(key))

    def reset(key: jax.Array) -> tuple[_Running, TaskStep]:
        key, now = jax.random.split(key)
        state = fresh(now)
        running = _Running(state, jnp.zeros((), jnp.int32), key)
        seen, no = game.look(state), jnp.zeros((), jnp.bool_)
        return running, _task_step(seen, Outcome(state, jnp.zeros((), jnp.float32), no, no), no, seen)

    def step(running: _Running, actions: jax.Array) -> tuple[_Running, TaskStep]:
        key, step_key, reset_key = jax.random.split(running.key, 3)
        after = game.step(step_key, running.game, actions)
        time = running.time + 1
        truncated = ~after.terminated & (time >= episode_limit)
        ended = after.terminated | truncated
        new = fresh(reset_key)
        last = game.look(after.state)
        state, seen = jax.tree.map(lambda a, b: jnp.where(ended, a, b), (new, game.look(new)), (after.state, last))
        running = _Running(state, jnp.where(ended, 0, time), key)
        return running, _task_step(seen, after, truncated, last)

    # Agent-major outside: agents lead, environments follow.
    axes = TaskStep(1, 0, 1, 1, 0, 0, 0, 0, 1, 0)

    def first(seed: jax.Array, episodes: jax.Array) -> tuple[_Running, TaskStep]:
        root = jax.random.PRNGKey(seed)
        return jax.vmap(lambda episode: reset(jax.random.fold_in(root, episode)), out_axes=(0, axes))(episodes)

    return _Compiled(
        reset=jax.jit(first),
        step=jax.jit(jax.vmap(step, in_axes=(0, 1), out_axes=(0, axes))),
    )


@functools.cache
def _look(game: Game) -> Any:
    return jax.jit(jax.vmap(game.look))


@functools.cache
def _change(probe: Probe) -> Any:
    def change(key: jax.Array, state: Any, agent: jax.Array) -> tuple[Any, jax.Array]:
        after = probe.change(key, state, agent)
        parted = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), state, after))
        return after, jnp.any(jnp.array(parted, jnp.bool_))

    return jax.jit(jax.vmap(change, in_axes=(0, 0, None)))


class JaxTask:
    """E environments of one game. See `tasks.base.Task`.

    Games are compared by identity: the function that makes a game keeps the game (functools.cache), so that each game
    compiles once.
    Raises AgentMixerError if JAX has no such device.
    """

    restarts = False

    def __init__(self, spec: TaskSpec, game: Game, num_envs: int, device: str = "cpu"):
        self.spec, self.num_envs, self._game = spec, num_envs, game
        try:
            self._device = jax.devices("cpu" if device == "cpu" else "gpu")[0]
        except RuntimeError as error:
            raise AgentMixerError(f"device {device}: JAX sees none here ({error}); use --device cpu") from error
        self._torch_device = device
        self._compiled = _compile(game, spec.episode_limit)
        self._running: _Running | None = None
        self._last: TaskStep | None = None

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        numbers = np.arange(self.num_envs) if episodes is None else np.asarray(episodes)
        with jax.default_device(self._device):
            started = self._compiled.reset(np.uint32(seed), numbers.astype(np.uint32))
        # Arrays bound to their device, as `step` returns them; otherwise JAX would compile `step` twice.
        self._running, self._last = jax.device_put(started, self._device)
        return self._last

    def step(self, actions: Any) -> TaskStep:
        mine = jnp.from_dlpack(actions.to(self._torch_device))
        self._running, self._last = self._compiled.step(self._running, mine)
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

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The game's own."""
        return self._game.probes

    def probe(self, probe: Probe, agent: int, seed: int) -> Probed:
        """See `tasks.base.Probing`."""
        if self._running is None:
            raise RuntimeError("reset comes first")
        keys = jax.random.split(jax.random.PRNGKey(seed), self.num_envs)
        state = self._running.game
        after, changed = _change(probe)(keys, state, jnp.int32(agent))
        # The same compiled function for both, so that a bit that moves was moved by the state.
        before, now = (jax.tree.map(np.asarray, _look(self._game)(which)) for which in (state, after))
        moved = np.zeros(self.num_envs, bool)
        for a, b in ((before.obs, now.obs), (before.action_mask, now.action_mask)):
            moved |= (a[:, agent].view(np.uint8) != b[:, agent].view(np.uint8)).any(-1)
        return Probed(np.asarray(changed), moved)

    def close(self) -> None:
        """Nothing to release."""
