"""A robot as a figure in three dimensions, rebuilt from recorded states by the kinematics of its model.

States leave out where on the plane the robot is; that is summed up from its velocity, step by step, and so is a little off
after many steps. Everything else is what the physics had, as float32. G is the number of geoms that are drawn."""

from __future__ import annotations

import mujoco
import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.mamujoco.channels import flat_names
from agentmixer.tasks.mamujoco.mamujoco_facts import split
from agentmixer.tasks.mamujoco.mamujoco_layout import layout
from agentmixer.tasks.mamujoco.robots import ROBOTS
from agentmixer.tasks.scene import Drawing, Role, Scene, Shape

#: Marks on the ground, one each metre, on either side of what the camera looks at.
MARKS = 6


def scene(spec: TaskSpec, states: np.ndarray) -> Scene:
    """Capsules and cylinders are lines as thick as they are, spheres circles. A part is the agent's that drives its joint; an
    agent sees a part if its observation tells anything of its joint or body."""
    found = layout(spec.scenario, str(spec.options.get("agent_obsk", "0")))
    model, moments = found.model, len(states)
    names = [flat_names(ROBOTS[split(spec.scenario)[0]].channels, model)[k] for k in found.state]
    poses, moves = _poses(model, found.qpos, names, states, spec.control_period_s)
    geoms = [g for g in range(model.ngeom) if model.geom_type[g] != mujoco.mjtGeom.mjGEOM_PLANE]
    data = mujoco.MjData(model)
    at, axis, torso = (np.empty((moments, count, 3)) for count in (model.ngeom, model.ngeom, 1))
    for t, pose in enumerate(poses):
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        at[t], axis[t], torso[t] = data.geom_xpos, data.geom_xmat.reshape(-1, 3, 3)[:, :, 2], data.xpos[1]
    centre = torso[:, 0] if moves else np.broadcast_to(at[:, geoms].mean((0, 1)), (moments, 3))
    centre = np.stack([centre[:, 0], centre[:, 1], np.full(moments, at[:, geoms, 2].mean())], -1)
    drawing = Drawing(moments, spec.num_agents, 3)
    planes = [g for g in range(model.ngeom) if model.geom_type[g] == mujoco.mjtGeom.mjGEOM_PLANE]
    _ground(drawing, centre, float(model.geom_pos[planes[0], 2]) if planes else 0.0)
    for g in geoms:
        body = model.geom_bodyid[g]
        shape, half = _shape(spec, model, g, found.agent_of)
        seen = [_tells(model, body, observed) for observed in spec.obs_names]
        drawing.add(shape, at[:, g] - axis[:, g] * half, at[:, g] + axis[:, g] * half, seen=np.array(seen))
    reach = float(np.linalg.norm(at[:, geoms] - centre[:, None], axis=-1).max()) * 1.2
    how = ["its place is summed up from its velocity" if moves else ""] * moments
    return drawing.scene(reach, reach, captions=tuple(how), centre=centre.astype(np.float32))


def _poses(
    model: mujoco.MjModel, start: np.ndarray, names: list[str], states: np.ndarray, period: float
) -> tuple[np.ndarray, bool]:
    """qpos at every moment, [M, nq], and whether the robot moves over the plane. names: of the state's elements."""
    told = {name: states[:, k].astype(np.float64) for k, name in enumerate(names)}
    poses, moves = np.repeat(start[None], len(states), 0), False
    for j in range(model.njnt):
        name, first, kind = model.joint(j).name, int(model.jnt_qposadr[j]), model.jnt_type[j]
        width = {0: 7, 1: 4}.get(int(kind), 1)  # free and ball joints; all others have one
        for k in range(width):
            number = "" if width == 1 else f"[{k}]"
            value = told.get(f"{name}.qpos{number}")
            if value is None and f"{name}.qpos.sin" in told:
                value = np.arctan2(told[f"{name}.qpos.sin"], told[f"{name}.qpos.cos"])
            if value is None:
                value = _slid(model, j, told) if kind == mujoco.mjtJoint.mjJNT_SLIDE else None
            if value is None:
                speed = next(
                    (told[key] for key in (f"{name}.qvel{number}", f"{name}.qvel.clipped{number}") if key in told), None
                )
                if speed is None:
                    continue
                steps = (speed[1:] + speed[:-1]) / 2 * period
                value, moves = np.append(0.0, steps.cumsum()) + start[first + k], True
            poses[:, first + k] = value
    return poses, moves


def _slid(model: mujoco.MjModel, joint: int, told: dict[str, np.ndarray]) -> np.ndarray | None:
    """How far a body has slid along a joint's axis, from the body's place if the state tells it. [M]"""
    body = model.jnt_bodyid[joint]
    place = [told.get(f"{model.body(body).name}.xpos[{axis}]") for axis in range(3)]
    if any(part is None for part in place) or model.body_parentid[body] != 0:
        return None
    return np.asarray((np.stack(place, -1) - model.body_pos[body]) @ model.jnt_axis[joint])  # type: ignore[arg-type]


def _shape(spec: TaskSpec, model: mujoco.MjModel, geom: int, agent_of: np.ndarray) -> tuple[Shape, float]:
    """A geom as a shape, and half its length."""
    body, sizes = model.geom_bodyid[geom], model.geom_size[geom]
    joints = [j for j in range(model.njnt) if model.jnt_bodyid[j] == body]
    drivers = {int(model.actuator_trnid[a, 0]): int(agent_of[a]) for a in range(model.nu)}
    driven = [(drivers[j], model.joint(j).name) for j in joints if j in drivers]
    name = model.geom(geom).name or model.body(body).name or f"body_{body}"
    role: Role = "agent" if driven else "goal" if name.strip("_0123456789") in ("target", "goal", "object") else "wall"
    if driven:
        name += ", " + ", ".join(f"{spec.agents[agent]} drives {joint}" for agent, joint in driven)
    agent = driven[0][0] if driven else None
    if int(model.geom_type[geom]) in map(int, (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER)):
        return Shape("line", role, name, 2 * float(sizes[0]), agent), float(sizes[1])
    return Shape("circle", role, name, float(np.max(sizes)), agent), 0.0


def _tells(model: mujoco.MjModel, body: int, observed: tuple[str, ...]) -> bool:
    """Whether an observation has an element about a body or about one of its joints."""
    joints = [model.joint(j).name for j in range(model.njnt) if model.jnt_bodyid[j] == body]
    own = {*joints, model.body(body).name or f"body_{body}"}
    return any(name.partition(".")[0] in own for name in observed)


def _ground(drawing: Drawing, centre: np.ndarray, height: float) -> None:
    """Lines on the ground at whole metres around what the camera looks at, along both axes, so that motion shows."""
    base = np.rint(centre[:, :2])
    for offset in range(-MARKS, MARKS + 1):
        for along in (0, 1):
            begin = np.column_stack([base, np.full(len(base), height)])
            begin[:, 1 - along] += offset
            begin[:, along] -= MARKS
            end = begin.copy()
            end[:, along] += 2 * MARKS
            drawing.add(Shape("line", "ground", "", 0.02), begin, end)
