"""What stands before every session: models checked before onnxruntime sees them."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from agentmixer.contract.manifest import AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.onnx_graph import BATCH, Graph, GraphRefused, Node, Shape, read_graph, refuse

#: Most that one decision may take. A file of 16 MiB holds half as many weights, each used once by a plain network.
MAX_MULTIPLY_ADDS = 1 << 23
#: Most elements that everything computed for one decision may have.
MAX_ELEMENTS = 1 << 18


class Cost(NamedTuple):
    """What one decision takes: multiplications with additions in matrix products, elements of all that is computed,
    and operators."""

    multiply_adds: int
    elements: int
    nodes: int

    @property
    def work(self) -> int:
        """All of it in multiply-adds, roughly: an element costs as much time as 8 of them, an operator as 4,096."""
        return self.multiply_adds + 8 * self.elements + 4096 * self.nodes


def check_model(model: bytes, manifest: AgentManifest) -> Graph:
    """Limits, then the allow-list, then names, types, shapes and cost against the manifest.

    Raises AgentMixerError naming the agent and the first thing that is wrong."""
    try:
        graph = read_graph(model)
        check_contract(graph, manifest)
        check_cost(graph, manifest)
    except GraphRefused as error:
        raise AgentMixerError(f"agent {manifest.agent}: {error}; export the bundle again") from error
    return graph


def check_contract(graph: Graph, manifest: AgentManifest) -> None:
    """The graph's inputs and outputs are the manifest's, by name, order, type and shape. Raises GraphRefused."""
    for kind, declared, actual in (
        ("inputs", manifest.inputs, graph.inputs),
        ("outputs", manifest.outputs, graph.outputs),
    ):
        wanted = [(spec.name, spec.dtype, (BATCH, *spec.shape)) for spec in declared]
        found = [tuple(value) for value in actual]
        if wanted != found:
            refuse(f"has {kind} {found}, which are not the manifest's {wanted}")


def check_cost(graph: Graph, manifest: AgentManifest) -> Cost:
    """A decision takes as many multiply-adds as the manifest says. Raises GraphRefused, see `cost` too."""
    found = cost(graph)
    if found.multiply_adds != manifest.multiply_adds:
        refuse(
            f"takes {found.multiply_adds:,} multiply-adds a decision, where the manifest says {manifest.multiply_adds:,}"
        )
    return found


def cost(graph: Graph) -> Cost:
    """What one decision takes, with every shape and type worked out from the inputs and the batch left open.

    Every value keeps the batch as its first dimension, so no row can depend on another; a matrix of constants that is multiplied
    out has none, and is the same for every decision. Raises GraphRefused for an
    operator that does not fit its operands, an output that is not what the graph declares, or more than
    MAX_MULTIPLY_ADDS or MAX_ELEMENTS."""
    known: dict[str, tuple[str, Shape]] = {value.name: (value.dtype, value.shape) for value in graph.inputs}
    known.update((constant.name, (constant.dtype, constant.shape)) for constant in graph.constants.values())
    elements = multiply_adds = 0
    for node in graph.nodes:
        operands = [known[name] for name in node.inputs]
        results = _results(node, operands)
        if results is None or len(results) != len(node.outputs):
            refuse(f"gives {node.op} operands or attributes that it cannot have")
        known.update(zip(node.outputs, results, strict=True))
        elements += sum(_elements(shape) for _, shape in results if shape[:1] == (BATCH,))
        if node.op in ("MatMul", "Gemm"):
            multiply_adds += _elements(operands[1][1])  # a row meets every element of the matrix once
        if elements > MAX_ELEMENTS:
            refuse(f"computes more than {MAX_ELEMENTS:,} elements a decision")
        if multiply_adds > MAX_MULTIPLY_ADDS:
            refuse(f"takes more than {MAX_MULTIPLY_ADDS:,} multiply-adds a decision")
    for value in graph.outputs:
        if known[value.name] != (value.dtype, value.shape):
            refuse(f"declares '{value.name}' as another type or shape than it computes")
    return Cost(multiply_adds, elements, len(graph.nodes))


def _elements(shape: Shape) -> int:
    return prod(size for size in shape if isinstance(size, int))


_UNARY = ("Neg", "Exp", "Sqrt", "Relu", "Sigmoid", "Tanh", "Round")
_BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max")


def _results(node: Node, operands: list[tuple[str, Shape]]) -> list[tuple[str, Shape]] | None:
    """Types and shapes of what an operator computes; None if its operands do not suit it."""
    types, shapes = [dtype for dtype, _ in operands], [shape for _, shape in operands]
    floats, first = set(types) == {"float32"}, shapes[0]
    led = first[:1] == (BATCH,)
    attribute = node.attributes.get
    match node.op, len(operands):
        case "Identity", 1 if led:
            return [operands[0]]
        case op, 1 if op in _UNARY and floats and led:
            return [operands[0]]
        case op, 2 if op in _BINARY and floats:
            return _broadcast("float32", shapes)
        case "Add", 2 if set(types) == {"int64"}:
            return _broadcast("int64", shapes)
        case "Where", 3 if types == ["bool", "float32", "float32"]:
            return _broadcast("float32", shapes)
        case "Clip", 3 if floats and led and shapes[1:] == [(), ()]:
            return [operands[0]]
        case "MatMul", 2 if floats and led and len(first) == len(shapes[1]) == 2 and first[1] == shapes[1][0]:
            return [("float32", (BATCH, shapes[1][1]))]
        case "Gemm", 2 | 3 if floats and led and len(first) == len(shapes[1]) == 2 and not attribute("transA", 0):
            inner, size = reversed(shapes[1]) if attribute("transB", 0) else shapes[1]
            if first[1] == inner and isinstance(size, int):
                result: Shape = (BATCH, size)
                fits = len(operands) == 2 or _broadcast("float32", [result, shapes[2]]) == [("float32", result)]
                return [("float32", result)] if fits else None
        case "LayerNormalization", 2 | 3 if floats and led and attribute("axis", -1) in (-1, len(first) - 1):
            if len(first) == 2 and all(shape == first[1:] for shape in shapes[1:]) and attribute("stash_type", 1) == 1:
                return [operands[0]]
        case "Split", 1 if led and len(first) == 2 and attribute("axis", 0) in (-1, 1):
            parts, size = len(node.outputs), first[1]
            if isinstance(size, int) and attribute("num_outputs") == parts and size % parts == 0:
                return [(types[0], (BATCH, size // parts))] * parts
        case "ArgMax", 1 if floats and led and len(first) == 2 and attribute("axis", 0) in (-1, 1):
            return [("int64", (BATCH,) if attribute("keepdims", 1) == 0 else (BATCH, 1))]
        case "DequantizeLinear", 2 if types == ["int8", "float32"] and len(first) == 2 and not led:
            if attribute("axis", 1) == 0 and shapes[1] == first[:1]:
                return [("float32", first)]
        case "Concat", _ if set(types) == {"int64"} and attribute("axis", 0) in (-1, 1):
            if all(shape[:1] == (BATCH,) and len(shape) == 2 for shape in shapes):
                return [("int64", (BATCH, sum(size for _, size in shapes if isinstance(size, int))))]
    return None


def _broadcast(dtype: str, shapes: list[Shape]) -> list[tuple[str, Shape]] | None:
    """What operands of these shapes make together, if it leads with the batch and has no more than two dimensions."""
    rank = max(map(len, shapes))
    result: list[int | str] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        larger = set(sizes) - {1}
        if len(larger) > 1:
            return None
        result.append(larger.pop() if larger else 1)
    return [(dtype, tuple(result))] if result[:1] == [BATCH] and len(result) <= 2 else None
