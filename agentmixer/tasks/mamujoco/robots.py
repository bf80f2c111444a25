"""The robots of Multi-Agent MuJoCo: rewards, ends of episodes and initial states of Gymnasium's v5 environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np

from agentmixer.tasks.mamujoco.channels import Channel, Values

#: values, speed along x [E], controls [E, actuators], model -> reward [E], terminated [E].
Outcome = Callable[[Values, np.ndarray, np.ndarray, mujoco.MjModel], tuple[np.ndarray, np.ndarray]]
#: generator, initial qpos, number of velocities -> qpos, qvel.
Start = Callable[[np.random.Generator, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


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
