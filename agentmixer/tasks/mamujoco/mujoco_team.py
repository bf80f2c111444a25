"""Multi-Agent MuJoCo, batched: one model, one MjData an environment, stepped by native threads.

mamujoco_v1 is the reference: `mamujoco_layout` learns from it who observes and moves what. Physics runs here, and
observations and rewards are computed for all environments at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks.base import TaskStep, cores
from agentmixer.tasks.mamujoco.channels import Values, elements, flat_names, flatten
from agentmixer.tasks.mamujoco.mamujoco_facts import split
from agentmixer.tasks.mamujoco.mamujoco_layout import layout
from agentmixer.tasks.mamujoco.robots import ROBOTS

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Number repetitions: mamujoco_v1 shows some joints twice to one agent."""
    count: dict[str, int] = {}
    out = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        out.append(name if count[name] == 1 else f"{name}.again{count[name]}")
    return tuple(out)


class MujocoTeam:
    """E environments of one Multi-Agent MuJoCo scenario. See `tasks.base.Task`.

    Reward, shared by the team: that of the robot's Gymnasium v5 environment. Actions are the robot's own
    controls (torques, as a share of each motor's gear), within the bounds of the specification.
    """

    restarts = False

    def __init__(self, scenario: str, num_envs: int, agent_obsk: str = "0", threads: int | None = None):
        """threads: how many step physics; one a processor core unless given."""
        self.num_envs = num_envs
        self._robot = ROBOTS[split(scenario)[0]]
        self._layout = layout(scenario, agent_obsk)
        model, obs = self._layout.model, self._layout.obs
        names = flat_names(self._robot.channels, model)
        known = elements(self._robot.channels, model)
        agents, places = self._layout.agent_of, self._layout.element_of
        # actuators[i][a]: the actuator that element a of agent i drives.
        actuators = [np.flatnonzero(agents == i)[np.argsort(places[agents == i])] for i in range(len(obs))]
        self.spec = TaskSpec(
            name="mamujoco",
            scenario=scenario,
            backend="mujoco",
            options={"agent_obsk": agent_obsk},
            agents=tuple(f"agent_{i}" for i in range(len(obs))),
            obs_names=tuple(_distinct(names[j] for j in index) for index in obs),
            state_size=len(self._layout.state),
            action_spaces=tuple(
                Box(tuple(low.tolist()), tuple(high.tolist()))
                for low, high in (model.actuator_ctrlrange[own].T for own in actuators)
            ),
            has_action_mask=False,
            reports_wins=False,
            episode_limit=self._layout.limit,
            control_period_s=model.opt.timestep * self._layout.frame_skip,
            fallback_actions=tuple((0.0,) * len(own) for own in actuators),
            shared="reward",
            obs_elements=tuple(tuple(known[j] for j in index) for index in obs),
            action_names=tuple(tuple(model.joint(model.actuator_trnid[j, 0]).name for j in own) for own in actuators),
        )
        # Missing elements point at a column of zeros behind all others.
        self._obs_index = np.full((len(obs), max(map(len, obs))), len(names))
        for row, index in zip(self._obs_index, obs, strict=True):
            row[: len(index)] = index
        widest = max(map(len, actuators))
        has = np.array([np.arange(widest) < len(own) for own in actuators])
        self._mask = np.repeat(has[:, None], num_envs, axis=1)

        self._data = [mujoco.MjData(model) for _ in range(num_envs)]
        self._now: Values = {f: np.empty((num_envs, *getattr(self._data[0], f).shape)) for f in self._robot.fields}
        self._pairs = [
            [(self._now[f][e : e + 1], getattr(data, f)) for f in self._robot.fields]
            for e, data in enumerate(self._data)
        ]
        self._ctrl = np.zeros((num_envs, model.nu))
        self._seed = 0
        self._episodes = np.arange(num_envs)
        self._resets = np.zeros(num_envs, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._x = np.zeros(num_envs)
        self._last: TaskStep | None = None
        threads = min(threads or cores(), num_envs)
        self._chunks = [range(first, num_envs, threads) for first in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mujoco")

    def reset(self, seed: int, episodes: np.ndarray | None = None, numbers: np.ndarray | None = None) -> TaskStep:
        """See `Task.reset`. numbers: the episode in each stream to start with, the first unless given."""
        everyone = np.arange(self.num_envs)
        self._seed = seed
        self._episodes = everyone if episodes is None else np.array(episodes, np.int64)
        self._resets[:] = 0 if numbers is None else numbers
        self._start(everyone)
        obs, state = self._look(everyone)
        active, reward = np.ones(self._mask.shape[:2], bool), np.zeros(self.num_envs, np.float32)
        no = np.zeros(self.num_envs, bool)
        self._last = TaskStep(obs, state, self._mask, active, reward, no, no, no, obs, state)
        return self._last

    def step(self, actions: Any) -> TaskStep:
        given = np.asarray(actions)
        if given.shape != self._mask.shape:
            raise AgentMixerError(
                f"actions have shape {given.shape}; {self.spec.scenario} takes [agents, environments, elements] = {self._mask.shape}"
            )
        self._ctrl[:] = given[self._layout.agent_of, :, self._layout.element_of].T
        list(self._pool.map(self._advance, self._chunks))
        self._elapsed += 1
        before, self._x = self._x, self._robot.position(self._now, self._layout.model).copy()
        speed = (self._x - before) / self.spec.control_period_s
        reward, terminated = self._robot.outcome(self._now, speed, self._ctrl, self._layout.model)
        obs, state = final_obs, final_state = self._look(np.arange(self.num_envs))
        self._check(obs, state, reward)
        ended = np.flatnonzero(terminated | (self._elapsed >= self.spec.episode_limit))
        truncated = np.zeros_like(terminated)
        truncated[ended] = ~terminated[ended]
        if len(ended):
            self._start(ended)
            obs, state = obs.copy(), state.copy()
            obs[:, ended], state[ended] = self._look(ended)
        assert self._last is not None
        self._last = self._last._replace(
            obs=obs,
            state=state,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
            final_state=final_state,
        )
        return self._last

    def snapshot(self) -> dict[str, np.ndarray]:
        physics = np.empty((self.num_envs, mujoco.mj_stateSize(self._layout.model, STATE)))
        for data, row in zip(self._data, physics, strict=True):
            mujoco.mj_getState(self._layout.model, data, row, STATE)
        assert self._last is not None
        return {
            "physics": physics,
            "seed": np.array(self._seed),
            "episodes": self._episodes.copy(),
            "resets": self._resets.copy(),
            "elapsed": self._elapsed.copy(),
            "x": self._x.copy(),
            **{f"last_{name}": array.copy() for name, array in self._last._asdict().items()},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> TaskStep:
        for data, row in zip(self._data, arrays["physics"], strict=True):
            mujoco.mj_setState(self._layout.model, data, row, STATE)
        self._seed = int(arrays["seed"])
        self._episodes, self._resets, self._elapsed, self._x = (
            np.array(arrays[name]) for name in ("episodes", "resets", "elapsed", "x")
        )
        self._last = TaskStep(**{name: np.array(arrays[f"last_{name}"]) for name in TaskStep._fields})
        return self._last

    def close(self) -> None:
        self._pool.shutdown()

    def _advance(self, chunk: range) -> None:
        """Step some environments; MuJoCo releases the interpreter's lock while it computes."""
        model, frame_skip, forces = self._layout.model, self._layout.frame_skip, "cfrc_ext" in self._now
        for e in chunk:
            data = self._data[e]
            data.ctrl[:] = self._ctrl[e]
            mujoco.mj_step(model, data, frame_skip)
            if forces:
                mujoco.mj_rnePostConstraint(model, data)
            self._read(e)

    def _read(self, e: int) -> None:
        for row, array in self._pairs[e]:
            row[0] = array

    def _start(self, rows: np.ndarray) -> None:
        """New episodes in these environments, each from its own seed, stream and number."""
        for e in rows:
            key = [self._seed, int(self._episodes[e]), int(self._resets[e])]
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
            data = self._data[e]
            mujoco.mj_resetData(self._layout.model, data)
            data.qpos[:], data.qvel[:] = self._robot.start(rng, self._layout.qpos, self._layout.model.nv)
            mujoco.mj_forward(self._layout.model, data)
            self._read(e)
        self._resets[rows] += 1
        self._elapsed[rows] = 0
        self._x[rows] = self._robot.position(self._now, self._layout.model)[rows]

    def _look(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """obs [N, len(rows), D] and state [len(rows), S], float32."""
        flat = flatten(self._robot.channels, {field: values[rows] for field, values in self._now.items()})
        flat = np.pad(flat.astype(np.float32), ((0, 0), (0, 1)))
        return np.stack([flat[:, index] for index in self._obs_index]), flat[:, self._layout.state]

    def _check(self, obs: np.ndarray, state: np.ndarray, reward: np.ndarray) -> None:
        sound = np.isfinite(obs).all((0, 2)) & np.isfinite(state).all(1) & np.isfinite(reward)
        if not sound.all():
            e = int(np.flatnonzero(~sound)[0])
            raise AgentMixerError(
                f"the physics of {self.spec.scenario} broke down in environment {e} at step {self._elapsed[e]} of its "
                "episode; keep actions finite and within their bounds"
            )
