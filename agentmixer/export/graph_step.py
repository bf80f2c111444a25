"""One step of an exported graph in ONNX Runtime, as a replay of golden traces asks for it."""

from __future__ import annotations

import numpy as np

from agentmixer.contract.manifest import NOISE
from agentmixer.runtime.agent import make_session
from agentmixer.runtime.golden import StepFunction


def graph_step(model: bytes) -> StepFunction:
    """The step function of an exported graph; any batch."""
    session = make_session(model)
    names = [node.name for node in session.get_inputs()]
    memory = "state_in" in names

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        given = {"obs": obs, "action_mask": mask, NOISE: noise, "state_in": state}
        out = session.run(None, {name: given[name] for name in names})
        return out if memory else [*out, state]

    return step
