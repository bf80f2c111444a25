"""One agent's ONNX graph: written from its actor, operator by operator, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from agentmixer import __version__
from agentmixer.contract.manifest import NOISE, OPSET
from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.errors import AgentMixerError
from agentmixer.export.quantize import scales
from agentmixer.runtime.onnx_graph import BATCH, OPERATORS
from agentmixer.train.deployed import DeployedActor, RunningNorm
from agentmixer.train.joint_policy import ILLEGAL

#: What the oldest onnxruntime that a device may have reads of this opset.
IR_VERSION = 10


def export_graph(actor: DeployedActor, metadata: dict[str, str], int8: bool = False) -> onnx.ModelProto:
    """The graph of `actor.forward`, with the actor's inputs and outputs. metadata ends up in the model's metadata_props. int8: write
    matrices as 8-bit whole numbers, whose values the actor's must be (`quantize.quantize`).

    The graph is written here, not traced: tracing takes seconds, and `forward` has a dozen kinds of operators. Tests hold
    this graph against the one that torch traces (Discrete, Box) or against what torch computes (MultiDiscrete, rounded
    values), and export holds it against the actor.
    Raises AgentMixerError if the graph breaks the conventions (see docs/bundle-format.md)."""
    graph = _Graph(int8)
    x = _input_norm(graph, actor.norm, "obs")
    for i, (linear, norm) in enumerate(zip(actor.linears, actor.norms, strict=True)):
        x = graph.layer_norm(f"norms.{i}", norm, graph.add("Relu", graph.linear(f"linears.{i}", linear, x)))
    if actor.memory:
        x = graph.layer_norm("gru_norm", actor.gru_norm, _recur(graph, actor, x))
    if isinstance(actor.space, Box):
        mean = graph.linear("head", actor.head, x, output="mean")
        low, high = graph.constant("low", actor.low), graph.constant("high", actor.high)
        scaled = graph.add("Mul", graph.constant("scale", actor.scale), mean)
        shifted = graph.add("Add", graph.constant("centre", actor.centre), scaled)
        rounded = graph.add("Round", shifted) if actor.space.whole else shifted
        graph.add("Min", graph.add("Max", rounded, low), high, output="action")
    else:
        last = "" if actor.masked else "logits"
        logits = graph.linear("head", actor.head, x, output="" if actor.drawn else last)
        if actor.drawn:
            logits = graph.add("Add", logits, NOISE, output=last)
        if actor.masked:
            illegal = graph.constant("illegal", np.float32(ILLEGAL))
            logits = graph.add("Where", "action_mask", logits, illegal, output="logits")
        _choose(graph, actor.space, logits)
    model = graph.model(actor)
    helper.set_model_props(model, metadata)
    check(model)
    return model


def _input_norm(graph: _Graph, norm: nn.Module, x: str) -> str:
    """LayerNorm, or the running moments: `RunningNorm.forward`."""
    if not isinstance(norm, RunningNorm):
        return graph.layer_norm("norm", norm, x)
    centred = graph.add("Sub", x, graph.constant("norm.mean", norm.mean))
    scaled = graph.add("Mul", centred, graph.constant("norm.scale", norm.scale))
    least = graph.constant("norm.least", np.float32(-norm.limit))
    return graph.add("Clip", scaled, least, graph.constant("norm.greatest", np.float32(norm.limit)))


def _recur(graph: _Graph, actor: DeployedActor, x: str) -> str:
    """`DeployedActor._recur`: writes state_out and returns its name."""
    ours = graph.split("gru_input", actor.gru_input, x)
    before = graph.split("gru_hidden", actor.gru_hidden, "state_in")
    reset, update = (graph.add("Sigmoid", graph.add("Add", a, b)) for a, b in zip(ours[:2], before[:2], strict=True))
    new = graph.add("Tanh", graph.add("Add", ours[2], graph.add("Mul", reset, before[2])))
    kept = graph.add("Mul", update, graph.add("Sub", "state_in", new))
    return graph.add("Add", new, kept, output="state_out")


def _choose(graph: _Graph, space: Discrete | MultiDiscrete, logits: str) -> None:
    """Write the action: of each element the value with the highest logit."""
    if isinstance(space, Discrete):
        output = "" if space.start else "action"
        place = graph.add("ArgMax", logits, output=output, axis=-1, keepdims=0, select_last_index=0)
        if space.start:
            graph.add("Add", place, graph.constant("start", np.int64(space.start)), output="action")
        return
    chosen, at = [], np.cumsum([0, *space.sizes])
    for k, (first, size) in enumerate(zip(at, space.sizes, strict=False)):
        # Only this element's logits remain. They are added to zero, so none of them changes.
        others = np.full(space.n, 2 * ILLEGAL, np.float32)
        others[first : first + size] = 0
        own = graph.add("Add", logits, graph.constant(f"others.{k}", others))
        chosen.append(graph.add("ArgMax", own, axis=-1, keepdims=1, select_last_index=0))
    starts = graph.constant("starts", np.array(space.starts, np.int64) - at[:-1])
    graph.add("Add", graph.add("Concat", *chosen, axis=1), starts, output="action")


class _Graph:
    """A graph in the making. Values are called by the names that the methods return."""

    def __init__(self, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Tensor | np.ndarray | np.generic) -> str:
        """A constant of that name, float32, int8 or int64."""
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        kind = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.int64): TensorProto.INT64}.get(array.dtype)
        if kind is None:
            kind, array = TensorProto.FLOAT, array.astype("<f4")
        self.constants.append(helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One operator with one output, which is called `output` or by a number."""
        return self._node(op, inputs, [output or f"{op.lower()}_{len(self.nodes)}"], attributes)[0]

    def linear(self, name: str, layer: nn.Module, x: str, output: str = "") -> str:
        """`nn.Linear`. x [batch, in] -> [batch, out]."""
        weight, bias = self.matrix(f"{name}.weight", layer.weight), self.constant(f"{name}.bias", layer.bias)  # type: ignore[arg-type]
        return self.add("Gemm", x, weight, bias, output=output, alpha=1.0, beta=1.0, transA=0, transB=1)

    def matrix(self, name: str, weight: Tensor) -> str:
        """A matrix [out, in] of float32; if the graph has int8, whole numbers with one scale an output, multiplied out."""
        if not self.int8:
            return self.constant(name, weight)
        scale = scales(weight.detach().cpu(), 1)
        whole = self.constant(name, (weight.detach().cpu() / scale).round().to(torch.int8))
        return self.add("DequantizeLinear", whole, self.constant(f"{name}.scale", scale[:, 0]), axis=0)

    def layer_norm(self, name: str, layer: nn.Module, x: str) -> str:
        """`nn.LayerNorm` over the last dimension."""
        weights = self.constant(f"{name}.weight", layer.weight), self.constant(f"{name}.bias", layer.bias)  # type: ignore[arg-type]
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=layer.eps, stash_type=1)

    def split(self, name: str, layer: nn.Module, x: str) -> list[str]:
        """The three gates of a linear map: x [batch, in] -> three of [batch, H]."""
        gates = [f"{name}.{gate}" for gate in ("reset", "update", "new")]
        return self._node("Split", [self.linear(name, layer, x)], gates, {"axis": 1, "num_outputs": 3})

    def model(self, actor: DeployedActor) -> onnx.ModelProto:
        """The whole model, with the inputs and outputs of `actor`."""
        sizes = {
            "obs": (TensorProto.FLOAT, [actor.obs]),
            "action_mask": (TensorProto.BOOL, [actor.actions]),
            NOISE: (TensorProto.FLOAT, [actor.actions]),
            "state_in": (TensorProto.FLOAT, [actor.memory]),
            "action": (
                TensorProto.FLOAT if isinstance(actor.space, Box) else TensorProto.INT64,
                [] if isinstance(actor.space, Discrete) else [actor.space.size],
            ),
            "logits": (TensorProto.FLOAT, [actor.actions]),
            "mean": (TensorProto.FLOAT, [actor.actions]),
            "state_out": (TensorProto.FLOAT, [actor.memory]),
        }
        inputs, outputs = (
            [helper.make_tensor_value_info(name, sizes[name][0], [BATCH, *sizes[name][1]]) for name in names]
            for names in (actor.inputs, actor.outputs)
        )
        return helper.make_model(
            helper.make_graph(self.nodes, "policy", inputs, outputs, self.constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="agentmixer",
            producer_version=__version__,
        )

    def _node(self, op: str, inputs: Sequence[str], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attributes))
        return outputs


def check(model: onnx.ModelProto) -> None:
    """The graph conventions. Raises AgentMixerError naming what breaks them."""
    onnx.checker.check_model(model, full_check=True)
    problems = []
    if [(entry.domain, entry.version) for entry in model.opset_import] != [("", OPSET)]:
        problems.append(f"opsets other than {OPSET} of the default domain")
    if model.functions:
        problems.append("functions")
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.domain:
            problems.append(f"operator {node.domain}{node.op_type}")
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            problems.append(f"a subgraph in {node.op_type}")
    if model.graph.sparse_initializer or any(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer
    ):
        problems.append("sparse or external data")
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims[0].dim_param or not all(dim.dim_value > 0 for dim in dims[1:]):
            problems.append(f"dimensions of {value.name} other than the batch that are not fixed")
    if problems:
        raise AgentMixerError(
            f"the exported graph holds {', '.join(sorted(set(problems)))}; the conventions forbid that"
        )
