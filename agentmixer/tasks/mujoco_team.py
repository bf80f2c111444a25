"""Multi-Agent MuJoCo, batched: one model, one MjData an environment, stepped by native threads.

mamujoco_v1 is the reference. It is built once, to learn which quantities each agent observes and which
actuators it moves; after that physics runs here, and observations and rewards are computed for all
environments at once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.tasks import mamujoco
from agentmixer.tasks.base import TaskStep, cores

#: MjData array -> its values in all environments, [E, ...].
Values = dict[str, np.ndarray]
#: values, speed along x [E], controls [E, actuators], model -> reward [E], terminated [E].
Outcome = Callable[[Values, np.ndarray, np.ndarray, mujoco.MjModel], tuple[np.ndarray, np.ndarray]]
#: generator, initial qpos, number of velocities -> qpos, qvel.
Start = Callable[[np.random.Generator, np.ndarray, int], tuple[np.ndarray, np.ndarray]]

# MuJoCo would print its warnings and write MUJOCO_LOG.TXT into the working directory.
mujoco.set_mju_user_warning(logging.getLogger("mujoco").debug)

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Channel(NamedTuple):
    """Something an agent may observe: an MjData array, perhaps transformed. `names` replace the array's own."""

    field: str
    tag: str = ""
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray
    names: tuple[str, ...] = ()


class Robot(NamedTuple):
    """A Gymnasium v5 environment: its rewards, ends and initial states, and what can be observed of it."""

    outcome: Outcome
    start: Start
    channels: tuple[Channel, ...]
    #: MjData arrays that only the reward needs.
    unseen: tuple[str, ...] = ()
    #: values, model -> the x coordinate whose speed is rewarded, [E].
    position: Callable[[Values, mujoco.MjModel], np.ndarray] = lambda now, _model: now["qpos"][:, 0]

    @property
    def fields(self) -> tuple[str, ...]:
        """The MjData arrays read after every step."""
        return tuple(dict.fromkeys([channel.field for channel in self.channels] + list(self.unseen)))


def _squares(values: np.ndarray) -> np.ndarray:
    """Sum of squares of each environment, [E]."""
    return np.square(values).reshape(len(values), -1).sum(1)


def _never(reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return reward, np.zeros(len(reward), bool)


def _ant(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.ant_v5."""
    height = now["qpos"][:, 2]
    healthy = (height >= 0.2) & (height <= 1.0)
    contact = 5e-4 * _squares(np.clip(now["cfrc_ext"], -1.0, 1.0))
    return speed + healthy - 0.5 * _squares(ctrl) - contact, ~healthy


def _half_cheetah(
    now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel
) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.half_cheetah_v5."""
    return _never(speed - 0.1 * _squares(ctrl))


def _hopper(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.hopper_v5."""
    rest = np.concatenate([now["qpos"][:, 2:], now["qvel"]], axis=1)
    upright = (now["qpos"][:, 1] > 0.7) & (np.abs(now["qpos"][:, 2]) < 0.2)
    healthy = upright & (np.abs(rest) < 100.0).all(1)
    return speed + healthy - 1e-3 * _squares(ctrl), ~healthy


def _walker(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.walker2d_v5."""
    height, angle = now["qpos"][:, 1], now["qpos"][:, 2]
    healthy = (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)
    return speed + healthy - 1e-3 * _squares(ctrl), ~healthy


def _humanoid(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.humanoid_v5."""
    height = now["qpos"][:, 2]
    healthy = (height > 1.0) & (height < 2.0)
    contact = np.minimum(5e-7 * _squares(now["cfrc_ext"]), 10.0)
    return 1.25 * speed + 5.0 * healthy - 0.1 * _squares(ctrl) - contact, ~healthy


def _standup(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.humanoidstandup_v5."""
    impact = np.minimum(5e-7 * _squares(now["cfrc_ext"]), 10.0)
    return _never(now["qpos"][:, 2] / model.opt.timestep - 0.1 * _squares(ctrl) - impact + 1.0)


def _swimmer(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.swimmer_v5."""
    return _never(speed - 1e-4 * _squares(ctrl))


def _reacher(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.reacher_v5."""
    return _never(-np.linalg.norm(_fingertip(now["xpos"]), axis=1) - _squares(ctrl))


def _pusher(now: Values, speed: np.ndarray, ctrl: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium.envs.mujoco.pusher_v5."""
    tips, thing, goal = (now["xpos"][:, model.body(name).id] for name in ("tips_arm", "object", "goal"))
    near, far = np.linalg.norm(thing - tips, axis=1), np.linalg.norm(thing - goal, axis=1)
    return _never(-0.5 * near - far - 0.1 * _squares(ctrl))


def _fingertip(xpos: np.ndarray) -> np.ndarray:
    """Vector from Reacher's target (body 4) to its fingertip (body 3), [E, 3]."""
    return xpos[:, 3] - xpos[:, 4]


def _mass_centre(now: Values, model: mujoco.MjModel) -> np.ndarray:
    return now["xipos"][:, :, 0] @ model.body_mass / model.body_mass.sum()


def _noise(scale: float, normal: bool) -> Start:
    """Uniform noise on positions; on velocities normal or uniform."""

    def start(rng: np.random.Generator, qpos: np.ndarray, nv: int) -> tuple[np.ndarray, np.ndarray]:
        moved = qpos + rng.uniform(-scale, scale, len(qpos))
        return moved, scale * rng.standard_normal(nv) if normal else rng.uniform(-scale, scale, nv)

    return start


def _reacher_start(rng: np.random.Generator, qpos: np.ndarray, nv: int) -> tuple[np.ndarray, np.ndarray]:
    """The target lies evenly in a circle of 0.2 m."""
    qpos = qpos + rng.uniform(-0.1, 0.1, len(qpos))
    goal = rng.uniform(-0.2, 0.2, 2)
    while np.linalg.norm(goal) >= 0.2:
        goal = rng.uniform(-0.2, 0.2, 2)
    qpos[-2:] = goal
    qvel = rng.uniform(-0.005, 0.005, nv)
    qvel[-2:] = 0.0
    return qpos, qvel


def _pusher_start(rng: np.random.Generator, qpos: np.ndarray, nv: int) -> tuple[np.ndarray, np.ndarray]:
    """The object lies more than 0.17 m from the goal."""
    qpos = qpos.copy()
    thing = rng.uniform((-0.3, -0.2), (0.0, 0.2))
    while np.linalg.norm(thing) <= 0.17:
        thing = rng.uniform((-0.3, -0.2), (0.0, 0.2))
    qpos[-4:] = (*thing, 0.0, 0.0)
    qvel = rng.uniform(-0.005, 0.005, nv)
    qvel[-4:] = 0.0
    return qpos, qvel


def _clipped(field: str, bound: float) -> Channel:
    return Channel(field, ".clipped", lambda values: np.clip(values, -bound, bound))


_QPOS, _QVEL = Channel("qpos"), Channel("qvel")
_BODIES = tuple(Channel(field) for field in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"))
_ANT = Robot(
    _ant,
    _noise(0.1, normal=True),
    (_QPOS, _QVEL, _clipped("cfrc_ext", 1.0)),
    ("xpos",),
    lambda now, _model: now["xpos"][:, 1, 0],
)
_SWIMMER = Robot(_swimmer, _noise(0.1, normal=False), (_QPOS, _QVEL))
_HUMANOID_SEES = (_QPOS, _QVEL, *_BODIES)

#: The keyword arguments of every environment are its defaults, as mamujoco_v1 leaves them.
ROBOTS: dict[str, Robot] = {
    "Ant": _ANT,
    "HalfCheetah": Robot(_half_cheetah, _noise(0.1, normal=True), (_QPOS, _QVEL)),
    "Hopper": Robot(_hopper, _noise(5e-3, normal=False), (_QPOS, _QVEL, _clipped("qvel", 10.0))),
    "Humanoid": Robot(_humanoid, _noise(1e-2, normal=False), _HUMANOID_SEES, ("xipos",), _mass_centre),
    "HumanoidStandup": Robot(_standup, _noise(1e-2, normal=False), _HUMANOID_SEES),
    "ManySegmentAnt": _ANT,
    "ManySegmentSwimmer": _SWIMMER,
    "Pusher": Robot(_pusher, _pusher_start, (_QPOS, _QVEL, Channel("xpos"))),
    "Reacher": Robot(
        _reacher,
        _reacher_start,
        (
            _QPOS,
            _QVEL,
            Channel("qpos", ".sin", np.sin),
            Channel("qpos", ".cos", np.cos),
            Channel("xpos", "", _fingertip, tuple(f"fingertip_from_target.{axis}" for axis in "xyz")),
        ),
    ),
    "Swimmer": _SWIMMER,
    "Walker2d": Robot(_walker, _noise(5e-3, normal=False), (_QPOS, _QVEL, _clipped("qvel", 10.0))),
}


def flatten(robot: Robot, now: Values) -> np.ndarray:
    """All channels side by side, [E, F] float64."""
    return np.concatenate([c.transform(now[c.field]).reshape(len(now[c.field]), -1) for c in robot.channels], axis=1)


def flat_names(robot: Robot, model: mujoco.MjModel) -> list[str]:
    """One name an element of `flatten`: joint or body, quantity, and its number where there are several."""
    positions, velocities = {0: 7, 1: 4}, {0: 6, 1: 3}  # free and ball joints; all others have one
    names: list[str] = []
    for channel in robot.channels:
        if channel.names:
            names += channel.names
            continue
        if channel.field in ("qpos", "qvel", "qfrc_actuator"):
            widths = positions if channel.field == "qpos" else velocities
            parts = [(model.joint(j).name, widths.get(int(kind), 1)) for j, kind in enumerate(model.jnt_type)]
        else:
            width = {"cinert": 10, "cvel": 6, "cfrc_ext": 6, "xpos": 3}[channel.field]
            parts = [(model.body(b).name or f"body_{b}", width) for b in range(model.nbody)]
        for part, width in parts:
            numbers = [""] if width == 1 else [f"[{i}]" for i in range(width)]
            names += [f"{part}.{channel.field}{channel.tag}{number}" for number in numbers]
    return names


def reference(scenario: str, agent_obsk: str = "0") -> Any:
    """mamujoco_v1's own environment (a PettingZoo parallel environment) for one of our scenarios."""
    robot, factorisation = mamujoco.split(scenario)
    with contextlib.redirect_stderr(io.StringIO()):  # importing it announces changes to unrelated tasks
        import gymnasium
        from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer, mujoco_multi, obsk

    settings: dict[str, Any] = {"agent_obsk": None if agent_obsk == "none" else int(agent_obsk)}
    if scenario in mamujoco.REGROUPED:
        listed, groups = mamujoco.REGROUPED[scenario]
        parts, edges, common = obsk.get_parts_and_edges(robot, listed)
        joints = {node.label: node for part in parts for node in part}
        groups = groups or tuple((label,) for label in joints)
        partition = [tuple(joints[label] for label in group) for group in groups]
        settings["agent_factorization"] = {"partition": partition, "edges": edges, "globals": common}
    if robot.startswith("ManySegment"):
        # mamujoco_v1 would write the model's file into its own package.
        agents, segments = map(int, factorisation.split("x"))
        kind = {
            "ManySegmentAnt": ("Ant-v5", many_segment_ant),
            "ManySegmentSwimmer": ("Swimmer-v5", many_segment_swimmer),
        }
        name, generator = kind[robot]
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.xml")
            generator.gen_asset(n_segs=agents * segments, asset_path=path)
            settings["gym_env"] = gymnasium.make(name, xml_file=path)
    built = mujoco_multi.parallel_env(robot, factorisation, **settings)
    if built.agent_obsk is not None:
        # Labels order an agent's joints; Pusher has two alike, which would come in any order.
        built.k_dicts = [
            {k: sorted(nodes, key=lambda node: (node.label, node.act_ids)) for k, nodes in seen.items()}
            for seen in built.k_dicts
        ]
    return built


class Layout(NamedTuple):
    """Who sees and moves what. Indices point into `flatten`; `agent_of[j]` and `element_of[j]` name the action
    element that drives actuator j."""

    model: mujoco.MjModel
    qpos: np.ndarray
    frame_skip: int
    limit: int
    obs: tuple[np.ndarray, ...]
    state: np.ndarray
    agent_of: np.ndarray
    element_of: np.ndarray


@functools.cache
def layout(scenario: str, agent_obsk: str) -> Layout:
    """Learn from mamujoco_v1 which quantity each element of each observation is.

    Its physics arrays are filled with random numbers, once small and once large, and every element is
    recognised by its two values: small ones tell quantities apart, large ones whether they are clipped.
    Raises AgentMixerError if mamujoco_v1 observes something that is not among the robot's channels."""
    robot = ROBOTS[mamujoco.split(scenario)[0]]
    built = reference(scenario, agent_obsk)
    single = built.single_agent_env.unwrapped
    qpos, rng = single.init_qpos.copy(), np.random.default_rng(0)
    flat, seen = [], []
    for low, high in ((-1.0, 1.0), (20.0, 30.0)):
        for field in robot.fields:
            array = getattr(single.data, field)
            array[...] = rng.uniform(low, high, array.shape)
        flat.append(flatten(robot, {field: getattr(single.data, field)[None] for field in robot.fields})[0])
        seen.append([built._get_obs_agent(i) for i in range(len(built.possible_agents))] + [built.state()])
    indices = []
    for one in zip(*seen, strict=True):
        apart = np.abs(np.array(flat)[:, :, None] - np.array(one)[:, None]).max(0)
        if apart.min(0).max() > 1e-9:
            raise AgentMixerError(
                f"the installed gymnasium-robotics observes something new in {scenario}; install gymnasium-robotics 1.4"
            )
        indices.append(apart.argmin(0))

    parts = built.agent_action_partitions
    owner = {node.act_ids: (agent, element) for agent, part in enumerate(parts) for element, node in enumerate(part)}
    agent_of, element_of = zip(*(owner[actuator] for actuator in range(single.model.nu)), strict=True)
    limit = built.single_agent_env.spec.max_episode_steps
    model, frame_skip = single.model, single.frame_skip
    built.close()
    # Broken physics must stay visible; MuJoCo would quietly start over.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return Layout(
        model, qpos, frame_skip, limit, tuple(indices[:-1]), indices[-1], np.array(agent_of), np.array(element_of)
    )


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
        self._robot = ROBOTS[mamujoco.split(scenario)[0]]
        self._layout = layout(scenario, agent_obsk)
        model, obs = self._layout.model, self._layout.obs
        names = flat_names(self._robot, model)
        agents, elements = self._layout.agent_of, self._layout.element_of
        # actuators[i][a]: the actuator that element a of agent i drives.
        actuators = [np.flatnonzero(agents == i)[np.argsort(elements[agents == i])] for i in range(len(obs))]
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

    def reset(self, seed: int, episodes: np.ndarray | None = None) -> TaskStep:
        everyone = np.arange(self.num_envs)
        self._seed = seed
        self._episodes = everyone if episodes is None else np.array(episodes, np.int64)
        self._resets[:] = 0
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
        flat = flatten(self._robot, {field: values[rows] for field, values in self._now.items()})
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
