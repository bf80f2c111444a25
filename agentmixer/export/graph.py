"""One agent's ONNX graph: exported by torch, stripped of everything that is not computation, checked."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch

from agentmixer.contract.manifest import OPSET
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.onnx_graph import OPERATORS
from agentmixer.train.deployed import DeployedActor


def export_graph(actor: DeployedActor, metadata: dict[str, str]) -> onnx.ModelProto:
    """Trace `actor` into a graph with its inputs and outputs. metadata ends up in the model's metadata_props.

    Raises AgentMixerError if the graph breaks the conventions (see docs/bundle-format.md)."""
    batch = torch.export.Dim("batch")
    # Two rows, so that the tracer cannot take the batch for a constant one.
    examples = {
        "obs": torch.zeros(2, actor.obs),
        "action_mask": torch.ones(2, actor.actions, dtype=torch.bool),
        "state_in": torch.zeros(2, actor.memory),
    }
    names = actor.inputs
    # As forward(obs, *rest) takes them: what follows the observation is one tuple, absent if empty.
    rest = tuple({0: batch} for _ in names[1:])
    shapes = ({0: batch}, rest) if rest else ({0: batch},)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about operators of packages that are not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                actor.eval(), tuple(examples[name] for name in names), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=names, output_names=actor.outputs,
                dynamic_shapes=shapes,
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    strip(model)
    onnx.helper.set_model_props(model, metadata)
    check(model)
    return model


class Exporter:
    """Exports the actors of one team. An actor that is built like one before it gets that one's graph with its own
    weights, for tracing takes seconds and gives the same graph again."""

    def __init__(self) -> None:
        self._traced: dict[object, onnx.ModelProto] = {}

    def graph(self, actor: DeployedActor, metadata: dict[str, str]) -> onnx.ModelProto:
        """See `export_graph`."""
        weights = {name: value.cpu().numpy() for name, value in actor.state_dict().items()}
        bounds = tuple(tuple(weights[name].tolist()) for name in _BOUNDS if name in weights)  # folded into constants
        built = (*actor.inputs, *actor.outputs, *((name, value.shape) for name, value in weights.items()), bounds)
        model = onnx.ModelProto()
        if built in self._traced:
            model.CopyFrom(self._traced[built])
            for tensor in model.graph.initializer:
                if tensor.name in weights:
                    tensor.raw_data = weights[tensor.name].astype("<f4").tobytes()
            onnx.helper.set_model_props(model, metadata)
            check(model)
            return model
        model = export_graph(actor, metadata)
        # Weights that happen to be equal share a constant, which another actor's need not be.
        if {tensor.name for tensor in model.graph.initializer} >= weights.keys() - set(_BOUNDS):
            self._traced[built] = model
        return model


#: What of an actor's state no graph holds under its own name.
_BOUNDS = ("low", "high")


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter noted down beside the computation: stack traces with paths, node names of
    the source, shapes of intermediate values."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.name = "policy"
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


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
