"""Reading an ONNX model without trusting it: the wire format of what export writes, and nothing else.

ONNX is protobuf: numbered fields, nested messages. Here every message is a table of the fields that export
writes. What is in no table (external data, functions, subgraphs, sparse tensors, other domains ...) is refused
because it is in no table, so a way to hide something that nobody has thought of yet is refused as well.
Bytes are accepted in one order and one length only, so that no two readers can understand them differently.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from agentmixer.contract.manifest import OPSET
from agentmixer.errors import AgentMixerError

MAX_FILE = 1 << 24
MAX_NODES = 1 << 10
#: A constant has no more elements than its file has room for.
MAX_CONSTANT = MAX_FILE // 4
#: Inputs of one operator: a MultiDiscrete action is put together from so many elements.
MAX_INPUTS = 256
MAX_NAME = 256
MAX_TEXT = 4096

#: What onnxruntime 1.20, the oldest a device may have, reads of opset 18.
IR_VERSIONS = (8, 9, 10)
#: onnxruntime takes settings from some other keys.
METADATA = ("agent", "checkpoint_sha256", "scenario", "task")
DTYPES = {1: "float32", 3: "int8", 7: "int64", 9: "bool"}
#: What a constant may be.
_BYTES_EACH = {"float32": 4, "int8": 1, "int64": 8}
#: The one dimension that is not a number.
BATCH = "batch"
Shape = tuple[int | str, ...]

#: Operators a policy may use, each with its attributes and their kind: deterministic, stateless, one row at a time,
#: no control flow, no subgraphs.
OPERATORS: dict[str, dict[str, type[int] | type[float]]] = {
    **{op: {} for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "MatMul", "Where", "Clip")},
    **{op: {} for op in ("Neg", "Exp", "Sqrt", "Relu", "Sigmoid", "Tanh", "Round", "Identity")},
    "Gemm": {"alpha": float, "beta": float, "transA": int, "transB": int},
    "LayerNormalization": {"axis": int, "epsilon": float, "stash_type": int},
    "Split": {"axis": int, "num_outputs": int},
    "Concat": {"axis": int},
    "DequantizeLinear": {"axis": int},
    "ArgMax": {"axis": int, "keepdims": int, "select_last_index": int},
}


class GraphRefused(AgentMixerError):
    """The model holds something that export does not write. The message says what, as in "the model ..."."""


class Value(NamedTuple):
    """A graph input or output. shape leads with BATCH."""

    name: str
    dtype: str
    shape: Shape


class Constant(NamedTuple):
    """An initialiser, float32, int8 or int64. data: its elements, row by row, little-endian; a view into the model's bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class Node(NamedTuple):
    """One operator. inputs and outputs are names of values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | float]


class Graph(NamedTuple):
    """A policy's graph. Every name is produced once and before it is used; nodes are in that order."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: dict[str, Constant]
    nodes: tuple[Node, ...]
    metadata: dict[str, str]


def refuse(reason: str) -> NoReturn:
    """Raises GraphRefused."""
    raise GraphRefused(f"the model {reason}")


def read_graph(model: bytes) -> Graph:
    """The graph in `model`, the bytes of an ONNX file.

    Raises GraphRefused, naming the first thing in it that export does not write."""
    if len(model) > MAX_FILE:
        refuse(f"has {len(model):,} bytes, more than {MAX_FILE:,}")
    fields = _message(memoryview(model), "model")
    if fields["ir_version"] not in IR_VERSIONS:
        refuse(f"has IR version {fields['ir_version']}, not one of {', '.join(map(str, IR_VERSIONS))}")
    if fields["opset_import"] != {"domain": "", "version": OPSET}:
        refuse(f"imports another operator set than version {OPSET} of the default domain")
    metadata = {entry["key"]: entry["value"] for entry in fields["metadata_props"]}
    if len(metadata) != len(fields["metadata_props"]) or not set(metadata) <= set(METADATA):
        refuse("holds metadata that export does not write")
    inside = fields["graph"]
    constants = [_constant(tensor) for tensor in inside["initializer"]]
    graph = Graph(
        tuple(_value(value) for value in inside["input"]),
        tuple(_value(value) for value in inside["output"]),
        {constant.name: constant for constant in constants},
        tuple(_node(node) for node in inside["node"]),
        metadata,
    )
    if len(graph.constants) != len(constants):
        refuse("names two constants alike")
    _wired(graph)
    return graph


def _wired(graph: Graph) -> None:
    """Names are produced once, before they are used, and for something. Raises GraphRefused."""
    known, used = set(graph.constants), set[str]()
    for value in graph.inputs:
        _introduce(value.name, known)
    for node in graph.nodes:
        for name in node.inputs:
            if name not in known:
                refuse(f"uses '{name}' in {node.op} before anything has produced it")
            used.add(name)
        for name in node.outputs:
            _introduce(name, known)
    produced = {name for node in graph.nodes for name in node.outputs}
    outputs = [value.name for value in graph.outputs]
    if len(set(outputs)) != len(outputs):
        refuse("names two outputs alike")
    for name in outputs:
        if name not in produced:
            refuse(f"has an output '{name}' that no operator produces")
    for name in sorted(known - used - set(outputs) - {value.name for value in graph.inputs}):
        refuse(f"holds '{name}', which nothing uses")


def _introduce(name: str, known: set[str]) -> None:
    if name in known:
        refuse(f"names two values '{name}'")
    known.add(name)


def _value(fields: dict[str, Any]) -> Value:
    tensor = fields["type"]["tensor_type"]
    shape: list[int | str] = []
    for i, dimension in enumerate(tensor["shape"]["dim"]):
        size, name = dimension["dim_value"], dimension["dim_param"]
        if (
            (name != BATCH or size is not None)
            if i == 0
            else (name is not None or not 1 <= (size or 0) <= MAX_CONSTANT)
        ):
            refuse(f"does not fix the shape of '{fields['name']}', all but the batch that leads it")
        shape.append(name if i == 0 else size)
    if not shape:
        refuse(f"does not fix the shape of '{fields['name']}', all but the batch that leads it")
    return Value(fields["name"], _dtype(tensor["elem_type"], fields["name"]), tuple(shape))


def _dtype(number: int, name: str) -> str:
    if number not in DTYPES:
        refuse(f"gives '{name}' element type {number}; known are {', '.join(DTYPES.values())}")
    return DTYPES[number]


def _constant(fields: dict[str, Any]) -> Constant:
    name, shape, data = fields["name"], tuple(fields["dims"]), fields["raw_data"]
    dtype = _dtype(fields["data_type"], name)
    if dtype not in _BYTES_EACH:
        refuse(f"holds a constant '{name}' that is none of float32, int8 and int64")
    elements = 1
    for size in shape:
        if not 1 <= size <= MAX_CONSTANT:
            refuse(f"declares an impossible shape for '{name}'")
        elements *= size
    if (size := elements * _BYTES_EACH[dtype]) != len(data):
        refuse(f"declares {size:,} bytes for '{name}' and holds {len(data):,}")
    return Constant(name, dtype, shape, data)


def _node(fields: dict[str, Any]) -> Node:
    op = fields["op_type"]
    if op not in OPERATORS:
        refuse(f"uses operator '{op}', which is not on the list")
    attributes: dict[str, int | float] = {}
    for attribute in fields["attribute"]:
        name = attribute["name"]
        kind = OPERATORS[op].get(name)
        if kind is None or name in attributes:
            refuse(f"gives {op} an attribute '{name}' that is not on the list, or twice")
        integer = kind is int
        value, other = (attribute["i"], attribute["f"]) if integer else (attribute["f"], attribute["i"])
        if attribute["type"] != (2 if integer else 1) or value is None or other is not None:
            refuse(f"gives {op} an attribute '{name}' of another kind")
        attributes[name] = value
    return Node(op, tuple(fields["input"]), tuple(fields["output"]), attributes)


class _Field(NamedTuple):
    """One field of a message, there `least` to `most` times. many: read as a list; otherwise None where absent."""

    name: str
    read: Callable[[Any], Any]
    wire: int
    least: int
    most: int
    many: bool


_VARINT, _BYTES, _FLOAT = 0, 2, 5


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(data: memoryview) -> str:
    if len(data) > MAX_TEXT:
        refuse(f"holds a text of {len(data):,} bytes, more than {MAX_TEXT:,}")
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        refuse("holds a text that is not UTF-8")


def _name(data: memoryview) -> str:
    name = _text(data)
    return (
        name if name.isprintable() and 0 < len(name) <= MAX_NAME else refuse("holds a name that export does not write")
    )


def _empty(data: memoryview) -> None:
    if len(data):
        refuse("holds a comment")


def _nested(message: str) -> Callable[[memoryview], dict[str, Any]]:
    return lambda data: _message(data, message)


def _float(data: memoryview) -> float:
    value: float = struct.unpack("<f", data)[0]
    return value if abs(value) < float("inf") else refuse("holds an attribute that is not finite")


def _one(name: str, read: Callable[[Any], Any], wire: int = _BYTES, required: bool = True) -> _Field:
    return _Field(name, read, wire, int(required), 1, False)


def _many(name: str, read: Callable[[Any], Any], least: int, most: int, wire: int = _BYTES) -> _Field:
    return _Field(name, read, wire, least, most, True)


#: Field numbers are those of onnx.proto.
_MESSAGES: dict[str, dict[int, _Field]] = {
    "model": {
        1: _one("ir_version", int, _VARINT),
        2: _one("producer_name", _text, required=False),
        3: _one("producer_version", _text, required=False),
        6: _one("doc_string", _empty, required=False),
        7: _one("graph", _nested("graph")),
        8: _one("opset_import", _nested("operator set")),
        14: _many("metadata_props", _nested("metadata entry"), 0, len(METADATA)),
    },
    "operator set": {1: _one("domain", _text), 2: _one("version", int, _VARINT)},
    "metadata entry": {1: _one("key", _name), 2: _one("value", _text)},
    "graph": {
        1: _many("node", _nested("node"), 1, MAX_NODES),
        2: _one("name", _name),
        5: _many("initializer", _nested("constant"), 0, MAX_NODES),
        10: _one("doc_string", _empty, required=False),
        11: _many("input", _nested("value"), 1, 8),
        12: _many("output", _nested("value"), 1, 8),
    },
    "node": {
        1: _many("input", _name, 1, MAX_INPUTS),
        2: _many("output", _name, 1, 16),
        3: _one("name", _text, required=False),
        4: _one("op_type", _name),
        5: _many("attribute", _nested("attribute"), 0, 8),
        6: _one("doc_string", _empty, required=False),
    },
    "attribute": {
        1: _one("name", _name),
        2: _one("f", _float, _FLOAT, required=False),
        3: _one("i", _signed, _VARINT, required=False),
        20: _one("type", int, _VARINT),
    },
    "constant": {
        1: _many("dims", _signed, 0, 2, _VARINT),
        2: _one("data_type", int, _VARINT),
        8: _one("name", _name),
        9: _one("raw_data", memoryview),
        12: _one("doc_string", _empty, required=False),
    },
    "value": {
        1: _one("name", _name),
        2: _one("type", _nested("type")),
        3: _one("doc_string", _empty, required=False),
    },
    "type": {1: _one("tensor_type", _nested("tensor type"))},
    "tensor type": {1: _one("elem_type", int, _VARINT), 2: _one("shape", _nested("shape"))},
    "shape": {1: _many("dim", _nested("dimension"), 0, 2)},
    "dimension": {
        1: _one("dim_value", _signed, _VARINT, required=False),
        2: _one("dim_param", _text, required=False),
    },
}

#: What some numbers that are in no table mean, for whoever is told of them.
_REFUSED = {
    ("model", 20): "training info",
    ("model", 25): "functions",
    ("graph", 13): "shapes of intermediate values",
    ("graph", 15): "sparse constants",
    ("node", 7): "a foreign domain",
    ("attribute", 5): "a tensor",
    ("attribute", 6): "a subgraph",
    ("attribute", 11): "subgraphs",
    ("attribute", 22): "a sparse tensor",
    ("attribute", 23): "sparse tensors",
    ("constant", 13): "external data",
    ("constant", 14): "a data location",
}


def _message(data: memoryview, kind: str) -> dict[str, Any]:
    """The fields of one message by name. Raises GraphRefused for what its table does not allow.

    Depth is bounded by the tables, which refer to each other without a cycle; length by each field's `most`."""
    table = _MESSAGES[kind]
    found: dict[str, Any] = {field.name: [] if field.many else None for field in table.values()}
    counts = dict.fromkeys(table, 0)
    at = last = 0
    while at < len(data):
        key, at = _varint(data, at, kind)
        number, wire = key >> 3, key & 7
        field = table.get(number)
        if field is None:
            refuse(f"holds {_REFUSED.get((kind, number), f'field {number}')} in a {kind}")
        if wire != field.wire:
            refuse(f"holds {field.name} in another encoding")
        counts[number] += 1
        if counts[number] > field.most or number < last:
            refuse(f"holds {field.name} too often, or out of order, in a {kind}")
        last = number
        raw: int | memoryview
        if wire == _VARINT:
            raw, at = _varint(data, at, kind)
        else:
            length, at = _varint(data, at, kind) if wire == _BYTES else (4, at)
            if length > len(data) - at:
                refuse(f"ends in the middle of {field.name}")
            raw, at = data[at : at + length], at + length
        value = field.read(raw)
        if field.many:
            found[field.name].append(value)
        else:
            found[field.name] = value
    for number, field in table.items():
        if counts[number] < field.least:
            refuse(f"lacks {field.name} in a {kind}")
    return found


def _varint(data: memoryview, at: int, kind: str) -> tuple[int, int]:
    """The number at `at` and where the next byte lies. Only its shortest form is taken."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >> 64:
                break
            return value, at
        shift += 7
    refuse(f"holds a broken number in a {kind}")
