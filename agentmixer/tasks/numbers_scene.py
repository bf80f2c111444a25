"""The plain drawing of a task that cannot be drawn otherwise: what each agent observes and does, as bars.

A row an agent: its observation's elements on the left, its action's on the right. A bar is full at the largest value, either
way, that this element has in the episode, of real-valued actions at the bound."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.spec import Box, TaskSpec
from agentmixer.tasks.scene import Drawing, Role, Scene, Shape

#: Most elements of an observation that are drawn.
MOST = 48
#: A cell's width and height, and the room for a name to the left of a row.
WIDE, HIGH, NAME = 1.0, 3.0, 10.0


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """Observations and actions as bars. An agent sees its own row alone."""
    moments, agents = len(obs), spec.num_agents
    drawing, step = Drawing(moments, agents), HIGH + 1.0
    elements = min(MOST, max(spec.obs_sizes))
    for i, (agent, names, space) in enumerate(zip(spec.agents, spec.obs_names, spec.action_spaces, strict=True)):
        middle, own = (agents - i - 0.5) * step, np.arange(agents) == i
        drawing.add(Shape("text", "agent", agent, 1.0, i), (NAME / 2, middle), seen=own)
        values = [(f"{agent} observes {name}", obs[:, i, k]) for k, name in enumerate(names[:elements])]
        done = np.concatenate([np.zeros((1, space.size)), actions[:, i].reshape(len(actions), -1)[:, : space.size]])
        values += [(f"{agent} does, element {k}", done[:, k]) for k in range(space.size)]
        for k, (label, value) in enumerate(values):
            acting = k - min(len(names), elements)
            most = float(np.abs(value).max())
            if acting >= 0:
                if isinstance(space, Box):
                    most = min(max(abs(space.low[acting]), abs(space.high[acting])), max(most, 1.0) * 1e3)
                else:
                    n, start = space.choices[acting]
                    value, most = value - start, float(n - 1)
            left = NAME + (k if acting < 0 else elements + 2 + acting) * WIDE
            level = np.clip(np.abs(value) / (most or 1.0), 0, 1)
            bar = np.stack([np.full(moments, WIDE * 0.7), HIGH * level], -1)
            at = np.stack([np.full(moments, left + WIDE / 2), middle - HIGH / 2 + HIGH * level / 2], -1)
            role: Role = "mark" if acting >= 0 else "agent"
            shown = np.arange(moments) > 0 if acting >= 0 else True
            drawing.add(Shape("rectangle", role, label, 0.0, i), at, bar, shown, seen=own)
    width = NAME + (elements + 2 + spec.action_size) * WIDE + 1.0
    return drawing.scene(width, agents * step)
