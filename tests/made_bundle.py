"""A bundle of any size, made by hand in a moment: no training, no task. Agents multiply their observation by a matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from agentmixer.contract.manifest import (
    SCHEMA_VERSION,
    AgentManifest,
    Source,
    TeamAgent,
    TeamManifest,
    TensorSpec,
    Tolerances,
    encode,
    sha256,
)
from agentmixer.contract.spec import Discrete, TaskSpec
from agentmixer.runtime.agent import make_session
from agentmixer.runtime.certificate import certificate
from agentmixer.runtime.golden import Golden, dump
from agentmixer.runtime.guard import cost
from agentmixer.runtime.onnx_graph import read_graph


def model(obs: int, hidden: int, actions: int, between: int, seed: int) -> bytes:
    """obs -> hidden -> `between` further operators -> logits, illegal ones at -1e10 -> the greatest."""

    def value(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    def weights(name: str, *shape: int) -> TensorProto:
        data = generator.normal(size=shape, scale=shape[0] ** -0.5 if shape else 1.0).astype(np.float32)
        return helper.make_tensor(name, TensorProto.FLOAT, shape, data.tobytes(), raw=True)

    generator = np.random.default_rng(seed)
    nodes = [helper.make_node("MatMul", ["obs", "first"], ["h0"])]
    nodes += [helper.make_node("Tanh", [f"h{i}"], [f"h{i + 1}"]) for i in range(between)]
    nodes += [
        helper.make_node("MatMul", [f"h{between}", "last"], ["raw"]),
        helper.make_node("Where", ["action_mask", "raw", "illegal"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=-1, keepdims=0, select_last_index=0),
    ]
    illegal = helper.make_tensor("illegal", TensorProto.FLOAT, (), np.float32(-1e10).tobytes(), raw=True)
    graph = helper.make_graph(
        nodes,
        "policy",
        [value("obs", TensorProto.FLOAT, obs), value("action_mask", TensorProto.BOOL, actions)],
        [value("action", TensorProto.INT64), value("logits", TensorProto.FLOAT, actions)],
        [weights("first", obs, hidden), weights("last", hidden, actions), illegal],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString(deterministic=True)


def trace(policy: bytes, obs: int, actions: int, steps: int, seed: int) -> Golden:
    """What the model does on noise."""
    generator = np.random.default_rng(seed)
    seen = generator.normal(size=(steps, obs)).astype(np.float32)
    mask = generator.random((steps, actions)) < 0.7
    mask[:, 0] = True
    action, logits = make_session(policy).run(["action", "logits"], {"obs": seen, "action_mask": mask})
    return Golden(seen, mask, np.ones(steps, bool), action, logits, np.zeros((steps, 0), np.float32))


def made_bundle(
    path: Path, agents: tuple[str, ...] = ("a", "b"), obs: int = 6, hidden: int = 8, actions: int = 4, between: int = 1,
    steps: int = 200,
) -> Path:  # fmt: skip
    """Write such a team to `path`."""
    source = Source("0", "none", "none", 0, 0, "none", "0" * 64, "none", "0" * 64)
    names = tuple(f"x{i}" for i in range(obs))
    task = TaskSpec(
        name="none",
        scenario="none",
        backend="none",
        options={},
        agents=agents,
        obs_names=(names,) * len(agents),
        state_size=1,
        action_spaces=(Discrete(actions),) * len(agents),
        has_action_mask=True,
        reports_wins=False,
        episode_limit=10,
        control_period_s=0.2,
        fallback_actions=(0,) * len(agents),
        shared="nothing",
    )
    entries = {}
    for index, name in enumerate(agents):
        policy = model(obs, hidden, actions, between, index)
        graph = read_graph(policy)
        files = {"policy.onnx": policy, "golden.npz": dump(trace(policy, obs, actions, steps, index))}
        manifest = AgentManifest(
            schema_version=SCHEMA_VERSION,
            team_id="made",
            release=1,
            agent=name,
            index=index,
            task="none",
            scenario="none",
            inputs=(TensorSpec("obs", "float32", (obs,), names), TensorSpec("action_mask", "bool", (actions,))),
            outputs=(TensorSpec("action", "int64", ()), TensorSpec("logits", "float32", (actions,))),
            state=None,
            mask_rule="forbid",
            action_space=Discrete(actions),
            action_scaling="none",
            control_period_s=0.2,
            fallback_action=0,
            opset=18,
            multiply_adds=cost(graph).multiply_adds,
            depends_on=certificate(graph),
            files={file: sha256(data) for file, data in files.items()},
            source=source,
        )
        folder = path / "agents" / name
        folder.mkdir(parents=True)
        for file, data in (*files.items(), ("agent.json", encode(manifest))):
            (folder / file).write_bytes(data)
        entries[name] = TeamAgent(f"agents/{name}", sha256(encode(manifest)))
    (path / "team.json").write_bytes(
        encode(TeamManifest(SCHEMA_VERSION, "made", 1, task, entries, source, Tolerances()))
    )
    return path
