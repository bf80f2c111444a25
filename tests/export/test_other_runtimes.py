"""Exported graphs in runtimes other than ONNX Runtime, as they are: they decide as the trace does."""

from __future__ import annotations

import numpy as np
import pytest
from traced_agents import KINDS, traced

from agentmixer.contract.manifest import Tolerances
from agentmixer.runtime.golden import StepFunction, replay


def openvino_step(model: bytes) -> StepFunction:
    """The step function of a graph in OpenVINO, on the processor, in float32."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install openvino")
    core = openvino.Core()
    graph = core.read_model(model)
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    # The graph's names: an input of what was compiled may have others too.
    names = [port.any_name for port in graph.inputs]

    def step(obs: np.ndarray, mask: np.ndarray, state: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
        given = {"obs": obs, "action_mask": mask, "noise": noise, "state_in": state}
        answers = compiled({name: given[name] for name in names})
        out = [np.array(answers[port]) for port in compiled.outputs]
        return out if "state_in" in names else [*out, state]

    return step


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_decides_as_the_trace(kind: str) -> None:
    spec, index, settings = KINDS[kind]
    agent = traced(spec, index, **settings)
    parity = replay(agent.golden, openvino_step(agent.model), agent.manifest.action_space, Tolerances())
    assert parity.passed and parity.different_actions == parity.near_ties
