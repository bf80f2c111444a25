"""A team whose actions tell what they were decided from: no training, no task, but real processes and frames.

An agent sees (episode, step) and does (episode, step, number of steps its recurrent state has taken this episode). So a
stale action names another step, and a step taken twice or missed shows in the count.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from bundle_by_hand import write_by_hand
from onnx import TensorProto, helper, numpy_helper

from agentmixer.contract.manifest import TensorSpec
from agentmixer.contract.spec import Box
from agentmixer.runtime.actions import ranges
from agentmixer.runtime.bundle import Bundle, read_bundle

SEEN = ("episode", "step")
SPACE = Box((-1.0,) * 3, (1e6,) * 3)
#: No decision ever looks like it.
FALLBACK = (-1.0, -1.0, -1.0)


def model() -> bytes:
    def tensor(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

    # Places observation and count side by side, since only products and sums are on the list of operators.
    constants = {"one": np.ones((1, 1)), "first": np.eye(2, 3), "last": np.eye(3)[2:]}
    constants |= {"centre": ranges(SPACE).centre, "scale": ranges(SPACE).scale}
    nodes = [
        helper.make_node("Add", ["state_in", "one"], ["state_out"]),
        helper.make_node("MatMul", ["obs", "first"], ["seen"]),
        helper.make_node("MatMul", ["state_out", "last"], ["count"]),
        helper.make_node("Add", ["seen", "count"], ["action"]),
        helper.make_node("Sub", ["action", "centre"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["mean"]),
    ]
    inputs = [tensor("obs", 2), tensor("state_in", 1)]
    outputs = [tensor("action", 3), tensor("mean", 3), tensor("state_out", 1)]
    graph = helper.make_graph(
        nodes,
        "policy",
        inputs,
        outputs,
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def counting_bundle(path: Path, agents: tuple[str, ...] = ("a", "b", "c"), control_period_s: float = 1.0) -> Bundle:
    """Write such a team to `path` and read it back."""
    inputs = (TensorSpec("obs", "float32", (2,), SEEN), TensorSpec("state_in", "float32", (1,)))
    outputs = tuple(
        TensorSpec(name, "float32", (size,)) for name, size in (("action", 3), ("mean", 3), ("state_out", 1))
    )
    models, goldens = dict.fromkeys(agents, model()), dict.fromkeys(agents, b"")
    write_by_hand(
        path, ("counting", 0), models, goldens, (inputs, outputs), SPACE, FALLBACK,
        memory=1, control_period_s=control_period_s, episode_limit=100,
    )  # fmt: skip
    return read_bundle(path)


def seen(episode: int, step: int, agents: int = 3) -> list[np.ndarray]:
    """What every agent of the team sees in a step."""
    return [np.array([episode, step], np.float32)] * agents
