"""Numbers that add up as shapes: bars laid end to end, one an agent, and lines at the target they answered and the next one."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.spec import TaskSpec
from agentmixer.tasks.coordsum.coordsum_facts import SIZES
from agentmixer.tasks.scene import Drawing, Scene, Shape


def scene(spec: TaskSpec, states: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> Scene:
    """One unit is 1. At each moment: the numbers that led to it, the target that these were to add up to, and the target of
    the next step, which every agent sees; another agent's number nobody sees."""
    of, moments = SIZES[spec.scenario], len(states)
    drawing, height = Drawing(moments, of.agents), max(of.targets, of.agents * (of.actions - 1)) * 0.3
    targets = states[:, : of.targets].argmax(1)
    answered = targets[np.maximum(np.arange(moments) - 1, 0)]
    chosen = np.concatenate([np.zeros((1, of.agents), int), actions.astype(int)])
    ends, after = chosen.cumsum(1), np.arange(moments) > 0
    middle, thick = height / 2, height / 4
    for i, name in enumerate(spec.agents):
        at = np.stack([ends[:, i] - chosen[:, i] / 2, np.full(moments, middle)], -1)
        size = np.stack([chosen[:, i], np.full(moments, thick)], -1)
        drawing.add(
            Shape("rectangle", "agent", f"number of {name}", 0.0, i), at, size, after, seen=np.arange(of.agents) == i
        )
    for role, label, place, shown in (
        ("mark", "target answered", answered, after),
        ("goal", "next target", targets, True),
    ):
        x, reach = place.astype(np.float64), thick * (0.9 if role == "mark" else 1.5)
        below, above = (np.stack([x, np.full(moments, middle + side * reach)], -1) for side in (-1, 1))
        drawing.add(Shape("line", role, label, height / 60), below, above, shown)  # type: ignore[arg-type]
    captions = [f"next target {targets[0]}"]
    for t in range(1, moments):
        sum_, before = int(chosen[t].sum()), states[t - 1, -of.actions :]
        hit = sum_ == answered[t]
        how = "missed" if not hit else "guessed" if chosen[t, 0] == before.argmax() else "met"
        captions.append(
            f"{' + '.join(map(str, chosen[t]))} = {sum_}, target {answered[t]} {how}; next target {targets[t]}"
        )
    return drawing.scene(max(of.targets, of.agents * (of.actions - 1)), height, captions=tuple(captions))
