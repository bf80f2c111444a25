"""Predators and prey on their grid as shapes. A cell is 1 wide; row 0 is at the top."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.predator_prey.predator_prey_facts import SIGHT, Size, obs_names
from agentmixer.tasks.scene import Drawing, Scene, Shape


def scene(of: Size, spec: TaskSpec, states: np.ndarray, obs: np.ndarray) -> Scene:
    """Every predator with the square of cells that it sees, every prey, and a mark where one was just caught.

    A predator sees itself and prey in its square; other predators it does not see."""
    grid, moments, window = of.grid, len(states), 2 * SIGHT + 1
    first, names = list(obs_names()).index(f"prey.row{-SIGHT:+d}.col{-SIGHT:+d}"), obs_names()
    assert len(names) == obs.shape[2]
    cells = np.rint(states[:, : 2 * (of.predators + of.preys)] * (grid - 1)).astype(int)
    predators, preys = np.split(cells.reshape(moments, -1, 2), [of.predators], axis=1)
    alive = states[:, -1 - of.preys : -1] > 0.5
    drawing = Drawing(moments, of.predators)
    for k in range(grid + 1):
        for begin, end in (((k, 0), (k, grid)), ((0, k), (grid, k))):
            drawing.add(Shape("line", "ground", "", 0.03), begin, end)
    for i, name in enumerate(spec.agents):
        own = np.arange(of.predators) == i
        shape = Shape("rectangle", "mark", f"what {name} sees", 0.0, i)
        drawing.add(shape, _centre(predators[:, i], grid), (window, window), level=0.15, seen=own)
    for i, name in enumerate(spec.agents):
        own = np.arange(of.predators) == i
        drawing.add(Shape("circle", "agent", name, 0.35, i), _centre(predators[:, i], grid), seen=own)
    for j in range(of.preys):
        offset = preys[:, j, None] - predators + SIGHT  # [M, P, 2], from the upper left cell of each predator's square
        inside = ((offset >= 0) & (offset < window)).all(-1)
        element = first + np.clip(offset[..., 0] * window + offset[..., 1], 0, window**2 - 1)
        told = inside & (np.take_along_axis(obs, element[..., None], 2)[..., 0] != 0)
        at = _centre(preys[:, j], grid)
        drawing.add(Shape("circle", "other", f"prey_{j}", 0.3), at, shown=alive[:, j], seen=told)
        caught = np.append(False, alive[:-1, j] & ~alive[1:, j])
        before = np.maximum(np.arange(moments) - 1, 0)
        drawing.add(Shape("circle", "mark", f"prey_{j} caught", 0.45), at[before], shown=caught, seen=told[before])
    left = alive.sum(1)
    captions = tuple(f"{count} of {of.preys} prey are not caught" for count in left)
    return drawing.scene(grid, grid, captions=captions)


def _centre(cells: np.ndarray, grid: int) -> np.ndarray:
    """Rows and columns [M, 2] as places in the scene."""
    return np.stack([cells[:, 1] + 0.5, grid - cells[:, 0] - 0.5], -1)
