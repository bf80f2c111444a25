"""What a step of an episode looks like, in shapes: what replays, pictures and pages draw.

A task family that can be drawn has a function `scene(spec, states, obs, actions) -> Scene` (see `tasks.registry.scene`). It reads
the arrays of a recorded episode, and needs no simulator that runs. T is the number of steps, N of agents, K of shapes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

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
