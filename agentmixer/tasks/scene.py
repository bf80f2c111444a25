"""What a step of an episode looks like, in shapes: what replays, pictures and pages draw.

A task family that can be drawn has a function `scene(spec, states, obs, actions) -> Scene | None` (see `tasks.registry.scene`).
It reads the arrays of a recorded episode, states [T + 1, S], obs [T + 1, N, D] and actions [T, N] or [T, N, W], and needs no
simulator that runs. T is the number of steps, N of agents, K of shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

#: What a shape is to the team. Whoever draws chooses a colour for each.
Role = Literal["agent", "other", "goal", "wall", "ground", "mark"]


class Shape(NamedTuple):
    """One thing in a scene: what does not change over an episode.

    circle: `size` is the radius; rectangle: width and height are `Scene.to`; line: from `Scene.at` to `Scene.to`, `size` thick;
    text: `label`, `size` high. All in the scene's units. label: what a reader calls the shape, for example "agent_2, stalker"."""

    kind: Literal["circle", "rectangle", "line", "text"]
    role: Role
    label: str
    size: float
    #: The agent that the shape stands for, or None.
    agent: int | None = None


class Scene(NamedTuple):
    """An episode as moving shapes. Index 0 of T + 1 is the start, index t what step t led to. In two dimensions, y points up.

    width, height: what is visible, from (0, 0); in three dimensions how far the camera sees around `centre`.
    """

    width: float
    height: float
    shapes: tuple[Shape, ...]
    #: [T + 1, K, 2] or [T + 1, K, 3] float32: the centre of a circle or rectangle, the start of a line, the middle of a text.
    at: np.ndarray
    #: The same shape: the end of a line; a rectangle's width and height in the first two; else unused.
    to: np.ndarray
    #: [T + 1, K] bool.
    shown: np.ndarray
    #: [T + 1, K] float32 in 0..1, NaN where a shape has none: health as a bar, or how strongly a cell is filled.
    level: np.ndarray
    #: [T + 1, N, K] bool: what each agent sees, worked out from its own observation.
    seen: np.ndarray
    #: [N] float32: how far each agent sees around itself; NaN where that is no circle.
    sight: np.ndarray
    #: A line of text for each of T + 1 moments; may be empty.
    captions: tuple[str, ...] = ()
    #: [T + 1, 3] float32: what the camera looks at in three dimensions; None in two.
    centre: np.ndarray | None = None


class Drawing:
    """A scene put together shape by shape. M = T + 1 is the number of moments, N of agents."""

    def __init__(self, moments: int, agents: int, dimensions: int = 2):
        self._lead = (moments, agents, dimensions)
        self._shapes: list[Shape] = []
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(
        self, shape: Shape, at: ArrayLike, to: ArrayLike = 0.0, shown: ArrayLike = True, level: ArrayLike = np.nan,
        seen: ArrayLike = True,
    ) -> None:  # fmt: skip
        """Add a shape. What is given of it need not have all axes: at, to [M, 2 or 3]; shown, level [M]; seen [M, N], whether
        each agent sees it, or [M, 1] whether everybody does."""
        moments, agents, dimensions = self._lead
        self._shapes.append(shape)
        parts = (at, (moments, dimensions), np.float32), (to, (moments, dimensions), np.float32), (shown, (moments,), bool), (
            level, (moments,), np.float32), (seen, (moments, agents), bool)  # fmt: skip
        self._parts.append(tuple(np.broadcast_to(np.asarray(value, dtype), lead) for value, lead, dtype in parts))

    def scene(
        self, width: float, height: float, sight: ArrayLike = np.nan, captions: tuple[str, ...] = (),
        centre: np.ndarray | None = None,
    ) -> Scene:  # fmt: skip
        """What was put together. Nobody sees what is not shown. sight: [N], or one number for everybody."""
        at, to, shown, level, seen = (np.stack(part, -1) for part in zip(*self._parts, strict=True))
        at, to = np.moveaxis(at, -1, 1), np.moveaxis(to, -1, 1)
        reach = np.broadcast_to(np.asarray(sight, np.float32), self._lead[1:2])
        shapes, seen = tuple(self._shapes), seen & shown[:, None]
        return Scene(width, height, shapes, at, to, shown, level, seen, reach, captions, centre)


def seen_parts(names: Sequence[str], obs: np.ndarray) -> dict[str, np.ndarray]:
    """Of whom an agent's observation tells anything: what stands before the "." of its elements' names -> [M] bool, whether
    one of these elements is not zero. obs [M, D]."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name.partition(".")[0], []).append(index)
    return {whom: (obs[:, columns] != 0).any(-1) for whom, columns in groups.items()}
