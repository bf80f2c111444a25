"""Any pure functional game as a task: batched, compiled, seeded, reset by itself, saved and put back.

A game is three pure functions of one environment. Everything between two actions is one jitted call.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.files import write_whole
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
    look(state) -> View. probes: what its rules hide from an agent, each a change(key, state, agent [] int32). key: what says
    all that the functions compute (`key_of`). A game that has one is traced once a machine and number of environments, for
    what JAX makes of it is kept on disk; tracing a game of many units takes seconds.
    """

    reset: Callable[[jax.Array], Any]
    step: Callable[[jax.Array, Any, jax.Array], Outcome]
    look: Callable[[Any], View]
    probes: tuple[Probe, ...] = ()
    key: str = ""


def key_of(*parameters: object, files: Iterable[Path]) -> str:
    """A key for `Game.key`: a digest of the parameters, of the files that hold the game's code, and of the versions of what
    traces and compiles it."""
    software = [version(package) for package in ("jax", "jaxlib", "numpy")]
    digest = hashlib.sha256(repr((parameters, software, platform.machine())).encode())
    for file in (Path(__file__), *sorted(files)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


class _Running(NamedTuple):
    """What one environment carries from step to step; `time` counts the episode's steps."""

    game: Any
    time: jax.Array
    key: jax.Array


class _Compiled(NamedTuple):
    """reset(seed, episodes) and step(*running, actions), both -> the leaves of what runs, then those of the `TaskStep`."""

    reset: Any
    step: Any


def _cache() -> Path:
    """Where what was compiled is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentmixer" / "jax"


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
def _compile(game: Game, episode_limit: int, agents: int, num_envs: int, processor: str) -> _Compiled:
    """Jitted batched functions, made once a process, game and number of environments. The next process finds on disk what
    JAX compiled, and what it traced of a game that has a key."""
    jax.config.update("jax_compilation_cache_dir", str(_cache()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    functions = _functions(game, episode_limit)
    if not game.key or processor != "cpu":
        jax.eval_shape(functions.reset, np.uint32(0), np.zeros(num_envs, np.uint32))  # for the tree of what runs
        return _Compiled(*map(jax.jit, functions))
    file = _cache() / f"traced-{key_of(game.key, episode_limit, num_envs, files=())[:32]}"
    kept = _read(file) or _trace(functions, agents, num_envs, file)
    return _Compiled(*(jax.jit(one.call) for one in kept))


def _trace(functions: _Compiled, agents: int, num_envs: int, file: Path) -> tuple[jax.export.Exported, ...]:
    """Both functions as JAX sees them, kept in `file` where it can be written."""
    reset = jax.export.export(jax.jit(functions.reset))(np.uint32(0), np.zeros(num_envs, np.uint32))
    running = reset.out_avals[: -len(TaskStep._fields)]
    step = jax.export.export(jax.jit(functions.step))(*running, jax.ShapeDtypeStruct((agents, num_envs), np.int32))
    parts = [bytes(one.serialize()) for one in (reset, step)]
    with contextlib.suppress(OSError, AgentMixerError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, len(parts[0]).to_bytes(8, "little") + b"".join(parts))
    return reset, step


def _read(file: Path) -> tuple[jax.export.Exported, ...] | None:
    """What `_trace` has kept; None if there is nothing that can be used."""
    try:
        data = file.read_bytes()
        middle = 8 + int.from_bytes(data[:8], "little")
        return tuple(jax.export.deserialize(bytearray(part)) for part in (data[8:middle], data[middle:]))
    except Exception:  # whatever is wrong with a file that only saves time, the game is traced anew
        return None


def _functions(game: Game, episode_limit: int) -> _Compiled:
    """The batched functions; `reset` is traced first, and `step` then knows the tree of what runs."""

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

    batched = jax.vmap(step, in_axes=(0, 1), out_axes=(0, axes))
    trees: list[Any] = []

    def reset_leaves(seed: jax.Array, episodes: jax.Array) -> list[jax.Array]:
        started = first(seed, episodes)
        trees[:] = [jax.tree.structure(started[0])]
        return jax.tree.leaves(started)

    def step_leaves(*arguments: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(batched(jax.tree.unflatten(trees[0], arguments[:-1]), arguments[-1]))

    return _Compiled(reset_leaves, step_leaves)


@functools.cache
def _tree(game: Game) -> Any:
    """How the arrays of a game's state hang together."""
    return jax.tree.structure(jax.eval_shape(game.reset, jax.random.PRNGKey(0)))


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
        self._compiled = _compile(game, spec.episode_limit, spec.num_agents, num_envs, self._device.platform)
        #: The leaves of `_Running`, of all environments.
        self._running: list[jax.Array] = []
        self._last: TaskStep | None = None

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        numbers = np.arange(self.num_envs) if episodes is None else np.asarray(episodes)
        with jax.default_device(self._device):
            started = self._compiled.reset(np.uint32(seed), numbers.astype(np.uint32))
        # Arrays bound to their device, as `step` returns them; otherwise JAX would compile `step` twice.
        return self._taken(jax.device_put(started, self._device))

    def step(self, actions: Any) -> TaskStep:
        mine = jnp.from_dlpack(actions.to(self._torch_device))
        return self._taken(self._compiled.step(*self._running, mine))

    def _taken(self, leaves: list[jax.Array]) -> TaskStep:
        middle = len(leaves) - len(TaskStep._fields)
        self._running, self._last = leaves[:middle], TaskStep(*leaves[middle:])
        return self._last

    def snapshot(self) -> dict[str, np.ndarray]:
        leaves = (*self._running, *(self._last or ()))
        return {f"{i:03d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        return self._taken([jax.device_put(arrays[name], self._device) for name in sorted(arrays)])

    def state(self) -> Any:
        """The game's own state, of all environments."""
        if not self._running:
            raise RuntimeError("reset comes first")
        return jax.tree.unflatten(_tree(self._game), self._running[:-2])

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The game's own."""
        return self._game.probes

    def probe(self, probe: Probe, agent: int, seed: int) -> Probed:
        """See `tasks.base.Probing`."""
        keys, state = jax.random.split(jax.random.PRNGKey(seed), self.num_envs), self.state()
        after, changed = _change(probe)(keys, state, jnp.int32(agent))
        # The same compiled function for both, so that a bit that moves was moved by the state.
        before, now = (jax.tree.map(np.asarray, _look(self._game)(which)) for which in (state, after))
        moved = np.zeros(self.num_envs, bool)
        for a, b in ((before.obs, now.obs), (before.action_mask, now.action_mask)):
            moved |= (a[:, agent].view(np.uint8) != b[:, agent].view(np.uint8)).any(-1)
        return Probed(np.asarray(changed), moved)

    def close(self) -> None:
        """Nothing to release."""
