"""What can be observed of a robot: MjData arrays, some transformed, laid side by side, each element with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from agentmixer.contract.spec import Element

#: MjData array -> its values in all environments, [E, ...].
Values = dict[str, np.ndarray]


class Channel(NamedTuple):
    """Something an agent may observe: an MjData array, perhaps transformed. `names` replace the array's own."""

    field: str
    tag: str = ""
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray
    names: tuple[str, ...] = ()


def flatten(channels: Sequence[Channel], now: Values) -> np.ndarray:
    """All channels side by side, [E, F] float64."""
    return np.concatenate([c.transform(now[c.field]).reshape(len(now[c.field]), -1) for c in channels], axis=1)


def flat_names(channels: Sequence[Channel], model: mujoco.MjModel) -> list[str]:
    """One name an element of `flatten`: joint or body, quantity, and its number where there are several."""
    positions, velocities = {0: 7, 1: 4}, {0: 6, 1: 3}  # free and ball joints; all others have one
    names: list[str] = []
    for channel in channels:
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


#: Of quantities other than a joint's, the unit and the frame. Where a quantity mixes units, nothing is said.
_QUANTITIES = {
    "xpos": Element("m", frame="world"),
    "fingertip_from_target": Element("m", frame="world"),
    "sin": Element("1", -1.0, 1.0),
    "cos": Element("1", -1.0, 1.0),
}


def elements(channels: Sequence[Channel], model: mujoco.MjModel) -> list[Element]:
    """What each element of `flatten` is, in the order of `flat_names`: units and, where a joint has limits, its range."""
    slide, hinge = int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE)
    kinds = {model.joint(j).name: (int(kind), j) for j, kind in enumerate(model.jnt_type)}
    found = []
    for name in flat_names(channels, model):
        part, _, quantity = name.partition(".")
        quantity, _, number = quantity.partition("[")
        quantity, _, tag = quantity.partition(".")
        kind, j = kinds.get(part, (-1, -1))
        known = _QUANTITIES.get(tag) or _QUANTITIES.get(quantity) or _QUANTITIES.get(part) or Element()
        if not tag and kind in (slide, hinge) and quantity in ("qpos", "qvel"):
            unit = ("m" if kind == slide else "rad") + ("/s" if quantity == "qvel" else "")
            limited = quantity == "qpos" and bool(model.jnt_limited[j])
            low, high = map(float, model.jnt_range[j]) if limited else (None, None)
            known = Element(unit, low, high, "joint")
        elif not tag and kind == int(mujoco.mjtJoint.mjJNT_FREE):  # positions [3] to [6] are a quaternion
            angular = number[0] in "3456"
            of_the_whole = {
                "qpos": Element("1" if angular else "m", frame="world"),
                "qvel": Element("rad/s", frame="body") if angular else Element("m/s", frame="world"),
            }
            known = of_the_whole.get(quantity, known)
        found.append(known)
    return found
