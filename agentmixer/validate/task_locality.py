"""Locality of a task's observations: what an agent is given while the state that the task hides from it is changed."""

from __future__ import annotations

import numpy as np
import torch

from agentmixer.tasks import Task
from agentmixer.tasks.base import Probing
from agentmixer.validate.bit_tally import BitCheck, bit_check
from agentmixer.validate.moments import LOCALITY_SEED

#: Where something was changed.
TASK = "observation"
#: Environments that states are drawn from, and how often they are probed on the way through an episode.
PROBED_ENVS, PROBED_TIMES, STEPS_BETWEEN = 64, 16, 3


def environmental(task: Task, seed: int = LOCALITY_SEED) -> tuple[str, list[BitCheck]]:
    """What each agent is given while the state that the task's rules hide from it is changed, in states that random
    legal play comes through. Returns what could be done, in words, and the checks.

    comparisons: states that a change really altered; bits: the same, for here a whole observation moves or does not.
    What never came up is left out of the checks and named."""
    spec = task.spec
    if not isinstance(task, Probing):
        return f"not available: the states of {spec.name} cannot be changed from outside", []
    if not task.probes:
        return f"nothing to change: {spec.name} {spec.scenario} declares no hidden state", []
    generator = np.random.default_rng(seed)
    counts = {(probe, agent): [0, 0] for probe in task.probes for agent in range(spec.num_agents)}
    step = task.reset(seed)
    for t in range(PROBED_TIMES * STEPS_BETWEEN):
        if t % STEPS_BETWEEN == 0:
            for (probe, agent), count in counts.items():
                found = task.probe(probe, agent, seed + t)
                count[0] += int(found.changed.sum())
                count[1] += int(found.moved.sum())
        mask = np.asarray(step.action_mask)
        step = task.step(torch.from_numpy((generator.random(mask.shape) * mask).argmax(-1).astype(np.int32)))
    checks = [
        bit_check(TASK, probe.name if probe.hidden else f"control: {probe.name}", spec.agents[agent], not probe.hidden,
                changed, changed, moved)
        for (probe, agent), (changed, moved) in counts.items()
        if changed or moved or not probe.hidden
    ]  # fmt: skip
    never = [p.name for p in task.probes if not any(count[0] for (probe, _), count in counts.items() if probe is p)]
    return (
        f"{PROBED_ENVS * PROBED_TIMES:,} states, changed in what {spec.name} hides"
        + (f"; never came up: {', '.join(never)}" if never else ""),
        checks,
    )
