"""A bundle of any size, made by hand in a moment: no training, no task. Agents multiply their observation by a matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from bundle_by_hand import write_by_hand
from onnx import TensorProto, helper, numpy_helper

from agentmixer.contract.manifest import TensorSpec, WhenUnusual
from agentmixer.contract.spec import Discrete
from agentmixer.runtime import profile
from agentmixer.runtime.agent import make_session
from agentmixer.runtime.golden import Golden, dump, silence


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
    return Golden(seen, mask, np.ones(steps, bool), action, logits, np.zeros((steps, 0), np.float32), silence(steps))


def made_bundle(
    path: Path, agents: tuple[str, ...] = ("a", "b"), obs: int = 6, hidden: int = 8, actions: int = 4, between: int = 1,
    steps: int = 200,
) -> Path:  # fmt: skip
    """Write such a team to `path`."""
    elements = tuple(f"x{i}" for i in range(obs))
    models = {name: model(obs, hidden, actions, between, seed) for seed, name in enumerate(agents)}
    goldens = {
        name: dump(trace(policy, obs, actions, steps, seed)) for seed, (name, policy) in enumerate(models.items())
    }
    inputs = (TensorSpec("obs", "float32", (obs,), elements), TensorSpec("action_mask", "bool", (actions,)))
    outputs = (TensorSpec("action", "int64", ()), TensorSpec("logits", "float32", (actions,)))
    return write_by_hand(path, ("made", 1), models, goldens, (inputs, outputs), Discrete(actions), 0)


def linear_bundle(
    path: Path, weights: np.ndarray, seen: np.ndarray, agents: tuple[str, ...] = ("a",),
    elements: tuple[str, ...] = (), when_unusual: WhenUnusual = "report", fresh: np.ndarray | None = None,
) -> Path:  # fmt: skip
    """A team whose agents have the logits obs @ weights, [D, A], where nothing is masked, and have seen `seen`, [T, D].

    elements: their names; x0, x1 and so on unless given; fresh [T]: where an episode began; at the start alone unless given."""
    size, actions = weights.shape
    elements = elements or tuple(f"x{i}" for i in range(size))

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        kind = TensorProto.INT64 if name == "action" else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=-1, keepdims=0, select_last_index=0),
    ]
    constant = numpy_helper.from_array(weights.astype(np.float32), "weights")
    graph = helper.make_graph(
        nodes, "policy", [value("obs", size)], [value("action"), value("logits", actions)], [constant]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    policy, rows = made.SerializeToString(deterministic=True), seen.astype(np.float32)
    action, logits = make_session(policy).run(["action", "logits"], {"obs": rows})
    fresh = np.arange(len(rows)) == 0 if fresh is None else fresh
    silent = silence(len(rows))
    golden = Golden(
        rows, np.ones(logits.shape, bool), fresh, action, logits, np.zeros((len(rows), 0), np.float32), silent
    )
    figures = profile.measure(rows, fresh, rows, action, Discrete(actions))
    outputs = (TensorSpec("action", "int64", ()), TensorSpec("logits", "float32", (actions,)))
    return write_by_hand(
        path, ("linear", 1), dict.fromkeys(agents, policy), dict.fromkeys(agents, dump(golden)),
        ((TensorSpec("obs", "float32", (size,), elements),), outputs), Discrete(actions), 0,
        figures=profile.dump(figures), when_unusual=when_unusual,
    )  # fmt: skip
