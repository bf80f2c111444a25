"""Two rooms and the passages between them as shapes: the short one is straight, the long one goes round below."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.passage.passage_payoffs import BIG, LONG, SHORT, payoff
from agentmixer.tasks.scene import Drawing, Scene, Shape

WIDTH, HEIGHT = 16.0, 9.0
#: Width of a passage, which is that of a big agent; a small one has half of it.
ROOM = 1.6
#: Floors, as centre and size.
FLOORS = (
    ("room", (2.5, 5.5), (4.0, 6.0)),
    ("other room", (13.5, 5.5), (4.0, 6.0)),
    ("short passage", (8.0, 6.5), (7.0, ROOM)),
    ("long passage", (8.0, 1.2), (12.6, ROOM)),
    ("long passage", (2.5, 2.0), (ROOM, 3.2)),
    ("long passage", (13.5, 2.0), (ROOM, 3.2)),
)
#: Where agents stand, below and above each other: before, where they have crossed by each passage, and stuck in it.
STARTS, CROSSED, STUCK = (2.5, 5.5), {SHORT: (13.5, 6.5), LONG: (13.5, 4.0)}, {SHORT: (8.0, 6.5), LONG: (8.0, 1.2)}


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """Both agents before and after their one decision. Each sees itself, and not the other one."""
    sizes = states.reshape(len(states), 2, 2).argmax(-1)[0]
    reward, both = payoff(), (actions[0, 0], actions[0, 1])
    jammed = both[0] == both[1] and BIG in sizes
    drawing = Drawing(len(states), 2)
    for name, at, to in FLOORS:
        drawing.add(Shape("rectangle", "ground", name, 0.0), at, to)
    for name, at in (("short passage", (8.0, 7.8)), ("long passage", (8.0, 2.6))):
        drawing.add(Shape("text", "wall", name, 0.7), at)
    for i, (name, size, passage) in enumerate(zip(spec.agents, sizes, both, strict=True)):
        radius = ROOM / 2 if size == BIG else ROOM / 4
        apart = np.array([(0.0, 1.5 - 3.0 * i), (0.9 - 1.8 * i, 0.0) if jammed else (0.0, 0.9 - 1.8 * i)])
        places = np.array([STARTS, (STUCK if jammed else CROSSED)[passage]]) + apart
        shape = Shape("circle", "agent", f"{name}, {'big' if size == BIG else 'small'}", radius, i)
        drawing.add(shape, places[np.minimum(np.arange(len(states)), 1)], seen=np.arange(2) == i)
    earned = f"{'stuck' if jammed else 'crossed'}: the team gets {reward[(*sizes, *both)]:g}"
    return drawing.scene(WIDTH, HEIGHT, captions=("before their decision", earned))
