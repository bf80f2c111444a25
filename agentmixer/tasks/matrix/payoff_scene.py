"""A matrix game of two agents as a table of cells, filled by their payoff, with the joint action that was played marked."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.matrix.payoffs import CHANCE, PAYOFFS, payoff
from agentmixer.tasks.scene import Drawing, Scene, Shape

#: Most actions an agent for which cells are drawn.
MOST = 32


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene | None:
    """Rows are the first agent's actions, from the top, columns the second's. Cells show mean payoffs; those of a file are not
    known here, and cells are empty then. None for more agents, or too many cells. No agent sees anything of it: their observation is constant."""
    sizes = [space.n for space in spec.action_spaces]
    if len(sizes) != 2 or max(sizes) > MOST:
        return None
    rows, columns = sizes
    known = spec.scenario in PAYOFFS or spec.scenario in CHANCE
    cells = payoff(spec.scenario) if known else np.full((rows, columns), np.nan)
    low, spread = np.min(cells), np.ptp(cells) or 1.0
    drawing, left = Drawing(len(states), 2), 1.5  # room for the names of actions
    for row, column in np.ndindex(rows, columns):
        at, value = (left + column + 0.5, rows - row - 0.5), cells[row, column]
        shape = Shape("rectangle", "goal", f"{spec.agents[0]} does {row}, {spec.agents[1]} does {column}", 0.0)
        drawing.add(shape, at, (0.94, 0.94), level=(value - low) / spread, seen=False)
        if np.isfinite(value):
            drawing.add(Shape("text", "wall", f"{value:g}", 0.28), at, seen=False)
    for row in range(rows):
        drawing.add(
            Shape("text", "agent", f"{spec.agents[0]}: {row}", 0.15, 0), (left / 2, rows - row - 0.5), seen=False
        )
    for column in range(columns):
        shape = Shape("text", "agent", f"{spec.agents[1]}: {column}", 0.15, 1)
        drawing.add(shape, (left + column + 0.5, rows + 0.25), seen=False)
    played, after = actions[0].astype(int), np.arange(len(states)) > 0
    at = (left + played[1] + 0.5, rows - played[0] - 0.5)
    drawing.add(Shape("circle", "mark", "played", 0.42), at, shown=after, seen=False)
    told = f"{spec.agents[0]} does {played[0]}, {spec.agents[1]} does {played[1]}"
    worth = cells[tuple(played)]
    captions = ("before their decision", told + (f": worth {worth:g}" if np.isfinite(worth) else ""))
    return drawing.scene(left + columns, rows + 0.5, captions=captions)
