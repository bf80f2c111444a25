"""A team whose actions tell what they were decided from: no training, no task, but real processes and frames.

An agent sees (episode, step) and does (episode, step, number of steps its recurrent state has taken this episode). So a
stale action names another step, and a step taken twice or missed shows in the count.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agentmixer.contract.manifest import (
    SCHEMA_VERSION,
    AgentManifest,
    Source,
    StateSpec,
    TeamAgent,
    TeamManifest,
    TensorSpec,
    Tolerances,
    encode,
    sha256,
)
from agentmixer.contract.spec import Box, TaskSpec
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
    nodes = [
        helper.make_node("Add", ["state_in", "one"], ["state_out"]),
        helper.make_node("MatMul", ["obs", "first"], ["seen"]),
        helper.make_node("MatMul", ["state_out", "last"], ["count"]),
        helper.make_node("Add", ["seen", "count"], ["mean"]),
        helper.make_node("Identity", ["mean"], ["action"]),
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
    source = Source("0", "none", "none", 0, 0, "none", "0" * 64, "none", "0" * 64)
    task = TaskSpec(
        name="none",
        scenario="none",
        backend="none",
        options={},
        agents=agents,
        obs_names=(SEEN,) * len(agents),
        state_size=1,
        action_spaces=(SPACE,) * len(agents),
        has_action_mask=False,
        reports_wins=False,
        episode_limit=100,
        control_period_s=control_period_s,
        fallback_actions=(FALLBACK,) * len(agents),
        shared="nothing",
    )
    files = {"policy.onnx": model(), "golden.npz": b""}
    entries = {}
    for index, name in enumerate(agents):
        manifest = AgentManifest(
            schema_version=SCHEMA_VERSION,
            team_id="counting",
            release=0,
            agent=name,
            index=index,
            task="none",
            scenario="none",
            inputs=(TensorSpec("obs", "float32", (2,), SEEN), TensorSpec("state_in", "float32", (1,))),
            outputs=(
                TensorSpec("action", "float32", (3,)),
                TensorSpec("mean", "float32", (3,)),
                TensorSpec("state_out", "float32", (1,)),
            ),
            state=StateSpec("state_in", "state_out", 1),
            mask_rule="none",
            action_space=SPACE,
            action_scaling="graph",
            control_period_s=control_period_s,
            fallback_action=FALLBACK,
            opset=18,
            multiply_adds=2 * 3 + 1 * 3,
            depends_on={"action": ("obs", "state_in"), "mean": ("obs", "state_in"), "state_out": ("state_in",)},
            files={file: sha256(data) for file, data in files.items()},
            source=source,
        )
        folder = path / "agents" / name
        folder.mkdir(parents=True)
        for file, data in (*files.items(), ("agent.json", encode(manifest))):
            (folder / file).write_bytes(data)
        entries[name] = TeamAgent(f"agents/{name}", sha256(encode(manifest)))
    (path / "team.json").write_bytes(
        encode(TeamManifest(SCHEMA_VERSION, "counting", 0, task, entries, source, Tolerances()))
    )
    return read_bundle(path)


def seen(episode: int, step: int, agents: int = 3) -> list[np.ndarray]:
    """What every agent of the team sees in a step."""
    return [np.array([episode, step], np.float32)] * agents
