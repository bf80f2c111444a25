"""Models and bundles as someone would make them who means harm, and damage at random."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from agentmixer.contract.manifest import AgentManifest, sha256
from agentmixer.errors import AgentMixerError
from agentmixer.export import graph as conventions
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import AgentFiles
from agentmixer.runtime.guard import check_model
from agentmixer.runtime.onnx_graph import Graph

Model = onnx.ModelProto


def outside(location: str = "secret.bin", size: int = 16, name: str = "stolen", **more: str) -> TensorProto:
    """A tensor whose data lies in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[size], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": str(4 * size), **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(size: int = 16, name: str = "stolen") -> onnx.SparseTensorProto:
    """A sparse tensor whose values lie in a file."""
    indices = helper.make_tensor("at", TensorProto.INT64, [size], list(range(size)))
    return helper.make_sparse_tensor(outside(size=size, name=name), indices, [size])


def use(model: Model, name: str = "stolen", *made_by: onnx.NodeProto) -> None:
    """Add the value `name` (16 elements) to the next recurrent state."""
    nodes = model.graph.node
    last = next(node for node in nodes if "state_out" in node.output)
    last.output[0] = "before"
    rest = [node for node in nodes if "state_out" in node.input]
    for node in rest:
        node.input[list(node.input).index("state_out")] = "before"
    nodes.extend([*made_by, helper.make_node("Add", ["before", name], ["state_out"])])


def _initializer(location: str, **more: str) -> Callable[[Model], object]:
    return lambda m: (m.graph.initializer.append(outside(location, **more)), use(m))


def _node(
    op: str, domain: str | None = None, inputs: tuple[str, ...] = ("before",), **attributes: object
) -> Callable[[Model], object]:
    return lambda m: use(m, "stolen", helper.make_node(op, inputs, ["stolen"], domain=domain, **attributes))


def _branch() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [16])
    constant = helper.make_node("Constant", [], ["inner"], value=outside(name="inner"))
    return helper.make_graph([constant], "branch", [], [value])


def _first(model: Model, op: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """The node's attribute of that name."""
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _function(model: Model) -> None:
    inner = helper.make_node("Neg", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Mine", ["a"], ["b"], [inner], [helper.make_opsetid("", 18)]))


def _cycle(model: Model) -> None:
    first, last = model.graph.node[0], model.graph.node[-1]
    first.input[0] = last.output[0]


#: {what: (change to a real exported model, words of the refusal)}
SHAPES: dict[str, tuple[Callable[[Model], object], str]] = {
    "external data": (_initializer("secret.bin"), "external data"),
    "external data above the folder (CVE-2022-25882)": (_initializer("../secret.bin"), "external data"),
    "external data by absolute path (CVE-2024-27318)": (_initializer("/etc/passwd"), "external data"),
    "external data through a symbolic link (CVE-2026-27489)": (_initializer("link.bin"), "external data"),
    "external data of a hard link (CVE-2026-34447)": (_initializer("hard.bin"), "external data"),
    "attributes injected through external data (CVE-2026-34445)": (
        _initializer("secret.bin", __class__="os", __dict__="x"),
        "external data",
    ),
    "a data location alone": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "a data location",
    ),
    "external data in an attribute": (_node("Constant", inputs=(), value=outside()), "lacks input|a tensor|Constant"),
    "external data in an attribute of an allowed operator": (_node("Relu", value=outside()), "a tensor"),
    "a sparse constant": (
        lambda m: use(m, "stolen", helper.make_node("Relu", ["before"], ["stolen"], sparse_value=sparse())),
        "a sparse tensor",
    ),
    "a sparse initialiser": (lambda m: (m.graph.sparse_initializer.append(sparse()), use(m)), "sparse constants"),
    "a subgraph": (_node("Relu", then_branch=_branch()), "a subgraph"),
    "subgraphs": (_node("Relu", branches=[_branch(), _branch()]), "subgraphs"),
    "control flow": (_node("Loop", body=_branch()), "a subgraph"),
    "a function": (_function, "functions"),
    "training info": (lambda m: m.training_info.add(), "training info"),
    "a foreign domain": (_node("Relu", "com.evil"), "a foreign domain"),
    "a foreign operator set": (lambda m: m.opset_import.append(helper.make_opsetid("com.evil", 1)), "opset_import too often"),
    "another operator set": (lambda m: setattr(m.opset_import[0], "version", 17), "another operator set"),
    "an unknown IR version": (lambda m: setattr(m, "ir_version", 99), "IR version 99"),
    "an operator off the list": (_node("Erf"), "operator 'Erf'"),
    "a random operator": (_node("RandomUniformLike"), "operator 'RandomUniformLike'"),
    "an attribute off the list": (_node("Relu", alpha=1.0), "an attribute 'alpha'"),
    "an attribute of another kind": (_node("ArgMax", axis=1.0, keepdims=0), "attribute 'axis' of another kind"),
    "an attribute by reference": (
        lambda m: setattr(_first(m, "Gemm").attribute[0], "ref_attr_name", "x"),
        "field 21 in a attribute",
    ),
    "a declared size without the bytes": (
        lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [1 << 14, 1 << 14]),
        r"declares 1,073,741,824 bytes .* and holds \d+",
    ),
    "sizes whose product overflows": (
        lambda m: m.graph.initializer.append(
            TensorProto(name="w", data_type=1, dims=[1 << 33, 1 << 33], raw_data=b"")
        ),
        "an impossible shape",
    ),
    "a negative size": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "an impossible shape"),
    "numbers outside raw_data": (
        lambda m: m.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])),
        "field 4 in a constant",
    ),
    "another element type": (
        lambda m: m.graph.initializer.append(TensorProto(name="w", data_type=11, dims=[1], raw_data=bytes(8))),
        "element type 11",
    ),
    "a name used twice": (lambda m: m.graph.node.append(helper.make_node("Relu", ["obs"], ["state_out"])), "two values"),
    "an initialiser under an input's name": (
        lambda m: setattr(m.graph.initializer[0], "name", "obs"),
        "two values 'obs'",
    ),
    "a name nobody produces": (_node("Relu", inputs=("nobody",)), "'nobody' in Relu before"),
    "a cycle": (_cycle, "before anything has produced it"),
    "nodes out of order": (lambda m: m.graph.node.insert(0, m.graph.node.pop()), "before anything has produced it"),
    "a payload that nothing uses": (
        lambda m: m.graph.initializer.append(helper.make_tensor("pm", TensorProto.FLOAT, [2], bytes(8), raw=True)),
        "'pm', which nothing uses",
    ),
    "a hidden input": (
        lambda m: (
            m.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 16])),
            use(m, "state"),
        ),
        "has inputs .*'state'.* not the manifest's",
    ),
    "inputs in another order": (
        lambda m: m.graph.input.append(m.graph.input.pop(0)),
        "has inputs .* not the manifest's",
    ),
    "another size of an input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 96),
        "has inputs .* not the manifest's",
    ),
    "a free dimension": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "d"),
        "does not fix the shape of 'obs'",
    ),
    "a fixed batch": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
        "does not fix the shape of 'obs'",
    ),
    "an output that lies about its shape": (
        lambda m: setattr(attribute(_first(m, "Split"), "num_outputs"), "i", 2),
        "gives Split operands",
    ),
    "rows that see each other": (lambda m: setattr(attribute(_first(m, "ArgMax"), "axis"), "i", 0), "gives ArgMax operands"),
    "a gigabyte from a few bytes": (
        lambda m: (
            m.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [1], np.int64([1 << 28]).tobytes(), raw=True)),
            _node("ConstantOfShape", inputs=("n",))(m),
        ),
        "operator 'ConstantOfShape'|not float32",
    ),
    "more elements than can be": (
        lambda m: (
            m.graph.initializer.append(
                TensorProto(name="wide", data_type=1, dims=[16, 50_000], raw_data=bytes(16 * 50_000 * 4))
            ),
            m.graph.initializer.append(
                TensorProto(name="narrow", data_type=1, dims=[50_000, 16], raw_data=bytes(16 * 50_000 * 4))
            ),
            use(
                m,
                "stolen",
                helper.make_node("MatMul", ["before", "wide"], ["w0"]),
                *(helper.make_node("Relu", [f"w{i}"], [f"w{i + 1}"]) for i in range(150)),
                helper.make_node("MatMul", ["w150", "narrow"], ["stolen"]),
            ),
        ),
        "computes more than 262,144 elements",
    ),
    "one constant in more products than can be": (
        lambda m: (
            m.graph.initializer.extend(
                TensorProto(name=name, data_type=1, dims=dims, raw_data=bytes(dims[0] * dims[1] * 4))
                for name, dims in (("wide", [16, 1024]), ("square", [1024, 1024]), ("narrow", [1024, 16]))
            ),
            use(
                m,
                "stolen",
                helper.make_node("MatMul", ["before", "wide"], ["w0"]),
                *(helper.make_node("MatMul", [f"w{i}", "square"], [f"w{i + 1}"]) for i in range(9)),
                helper.make_node("MatMul", ["w9", "narrow"], ["stolen"]),
            ),
        ),
        "takes more than 8,388,608 multiply-adds a decision",
    ),
    "more work than it says": (
        lambda m: (
            m.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[16, 16], raw_data=bytes(1024))),
            _node("MatMul", inputs=("before", "w"))(m),
        ),
        "multiply-adds a decision, where the manifest says",
    ),
    "more nodes than can be": (
        lambda m: m.graph.node.extend([helper.make_node("Relu", ["obs"], [f"r{i}"]) for i in range(4096)]),
        "node too often",
    ),
    "settings for onnxruntime": (
        lambda m: setattr(m.metadata_props[0], "key", "ort_config"),
        "metadata that export does not write",
    ),
    "a comment": (lambda m: setattr(m, "doc_string", "x"), "a comment"),
    "intermediate shapes": (lambda m: m.graph.value_info.add(name="x"), "shapes of intermediate values"),
    "quantisation notes": (lambda m: m.graph.quantization_annotation.add(), "field 14 in a graph"),
    "an infinite attribute": (
        lambda m: setattr(next(a for a in _first(m, "Gemm").attribute if a.type == AttributeProto.FLOAT), "f", np.inf),
        "not finite",
    ),
}  # fmt: skip


def hostile(model: bytes, what: str) -> tuple[bytes, str]:
    """The real `model` changed as SHAPES says, and the words of its refusal."""
    change, words = SHAPES[what]
    proto = onnx.load_from_string(model)
    change(proto)
    return proto.SerializeToString(deterministic=True), words


#: Fields of onnx.proto that hold messages, by where they are: {"": {7: "graph"}, ...}.
_NESTED = {
    "model": {7: "graph", 8: "leaf", 14: "leaf"},
    "graph": {1: "node", 5: "leaf", 11: "value", 12: "value"},
    "node": {5: "leaf"},
    "value": {2: "type"},
    "type": {1: "tensor"},
    "tensor": {2: "shape"},
    "shape": {1: "leaf"},
}
Field = tuple[int, int, bytes]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def split(data: bytes) -> list[Field]:
    """(number, wire type, payload) of each field of a message of ours; a varint's payload is its bytes."""
    fields, at = [], 0

    def number() -> tuple[int, int]:
        nonlocal at
        start = at
        while data[at] & 0x80:
            at += 1
        at += 1
        return start, sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data[start:at]))

    while at < len(data):
        _, key = number()
        wire = key & 7
        if wire == 0:
            start, _ = number()
            payload = data[start:at]
        else:
            length = number()[1] if wire == 2 else 4
            payload, at = data[at : at + length], at + length
        fields.append((key >> 3, wire, payload))
    return fields


def join(fields: list[Field]) -> bytes:
    return b"".join(
        varint(number << 3 | wire) + (varint(len(payload)) if wire == 2 else b"") + payload
        for number, wire, payload in fields
    )


def _edit(fields: list[Field], rng: random.Random) -> None:
    """One change to one message, whose lengths will be right again."""
    at = rng.randrange(len(fields)) if fields else 0
    kind = rng.choice(["insert", "repeat", "remove", "swap", "number", "value", "empty"]) if fields else "insert"
    if kind == "insert":
        payload = {0: varint(rng.getrandbits(rng.choice([3, 40, 64]))), 2: rng.randbytes(rng.randrange(9)), 5: rng.randbytes(4), 1: rng.randbytes(8)}  # fmt: skip
        wire = rng.choice(list(payload))
        fields.insert(at, (rng.randrange(1, 32), wire, payload[wire]))
    elif kind == "repeat":
        fields.insert(rng.randrange(len(fields) + 1), fields[at])
    elif kind == "remove":
        del fields[at]
    elif kind == "swap":
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    else:
        number, wire, payload = fields[at]
        if kind == "number":
            number = rng.randrange(1, 32)
        elif kind == "empty":
            payload = payload[:1] if wire == 0 else b"" if wire == 2 else payload
        elif wire == 0:
            payload = varint(rng.choice([0, 1, 2, 7, 9, 16, 1 << 31, (1 << 64) - 1, rng.getrandbits(64)]))
        else:
            payload = rng.randbytes(len(payload)) if wire != 2 else payload + rng.randbytes(rng.randrange(1, 5))
        fields[at] = (number, wire, payload)


def _inside(data: bytes, message: str, rng: random.Random) -> bytes:
    fields = split(data)
    nested = [i for i, (number, _, _) in enumerate(fields) if number in _NESTED.get(message, {})]
    if nested and rng.random() < 0.85:
        at = rng.choice(nested)
        number, wire, payload = fields[at]
        fields[at] = (number, wire, _inside(payload, _NESTED[message][number], rng))
    else:
        _edit(fields, rng)
    return join(fields)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, moved, copied or put in at random."""
    kind = rng.choice(["flip", "flip", "cut", "splice", "remove", "insert"])
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if kind == "flip":
        out = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            # Half of the flips go where structure is dense; most bytes of a model are weights.
            out[rng.randrange(len(out) if rng.random() < 0.5 else min(len(out), 3000))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == "cut":
        return data[:a]
    if kind == "splice":
        return data[:a] + data[b : b + rng.randrange(200)] + data[a:]
    if kind == "remove":
        return data[:a] + data[min(b, a + rng.randrange(1, 200)) :]
    return data[:a] + rng.randbytes(rng.randrange(1, 20)) + data[a:]


def mutant(model: bytes, rng: random.Random) -> bytes:
    """`model` damaged: as bytes, or as messages whose lengths are right."""
    return damaged(model, rng) if rng.random() < 0.4 else _inside(model, "model", rng)


def agrees(graph: Graph, model: bytes) -> None:
    """onnx reads the same from these bytes, which are the only way to write it. Raises AssertionError."""
    proto = onnx.load_from_string(model)
    assert proto.SerializeToString(deterministic=True) == model
    for ours, theirs in ((graph.inputs, proto.graph.input), (graph.outputs, proto.graph.output)):
        assert [value.name for value in ours] == [value.name for value in theirs]
        for value, info in zip(ours, theirs, strict=True):
            tensor = info.type.tensor_type
            assert value.shape == tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
            assert np.dtype(value.dtype) == helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    assert [(n.op, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in proto.graph.node
    ]
    for node, other in zip(graph.nodes, proto.graph.node, strict=True):
        assert node.attributes == {a.name: helper.get_attribute_value(a) for a in other.attribute}
    assert list(graph.constants) == [tensor.name for tensor in proto.graph.initializer]
    for tensor in proto.graph.initializer:
        constant = graph.constants[tensor.name]
        want = onnx.numpy_helper.to_array(tensor)
        assert constant.shape == want.shape
        assert constant.data == want.astype("<f4").tobytes()
    assert graph.metadata == {entry.key: entry.value for entry in proto.metadata_props}


def judge(model: bytes, files: AgentFiles) -> str:
    """What becomes of a damaged model: "refused", or "allowed" where it is as good as one that export wrote.

    Raises AssertionError if it is allowed and should not be; anything but a refusal propagates."""
    try:
        graph = check_model(model, files.manifest)
        agent = Agent(files._replace(model=model))
    except AgentMixerError as error:
        return _reasoned(error)
    agrees(graph, model)
    conventions.check(onnx.load_from_string(model))
    _decides(agent, files.manifest)
    return "allowed"


def _reasoned(error: AgentMixerError) -> str:
    """Every refusal names the agent and says what to do."""
    assert str(error).startswith("agent ")
    assert "again" in str(error)
    return "refused"


def _decides(agent: Agent, manifest: AgentManifest) -> None:
    obs = np.zeros(manifest.tensor("obs").shape, np.float32)
    masks = [np.ones(manifest.tensor("action_mask").shape, bool)] if manifest.mask_rule == "forbid" else []
    try:
        agent.act(obs, *masks)
    except AgentMixerError as error:
        assert "overflowed" in str(error)  # noqa: PT017 - a damaged weight may be enormous


def spell(tree: object) -> bytes:
    """A manifest's JSON as export spells it."""
    return msgspec.json.format(msgspec.json.encode(tree, order="sorted"), indent=1) + b"\n"


def reseal(bundle: Path) -> None:
    """Make every digest right again, as someone would who can write the whole bundle."""
    team = json.loads((bundle / "team.json").read_text())
    for name, entry in team["agents"].items():
        file = bundle / "agents" / name / "agent.json"
        manifest = json.loads(file.read_text())
        manifest["files"] = {f: sha256((file.parent / f).read_bytes()) for f in manifest["files"]}
        file.write_bytes(spell(manifest))
        entry["sha256"] = sha256(file.read_bytes())
    (bundle / "team.json").write_bytes(spell(team))


def _scalars(tree: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    if isinstance(tree, dict):
        return [path for key, value in tree.items() for path in _scalars(value, (*at, key))]
    if isinstance(tree, list):
        return [path for i, value in enumerate(tree[:3]) for path in _scalars(value, (*at, i))]
    return [at]


def break_bundle(bundle: Path, rng: random.Random, elsewhere: Path) -> str:
    """Break a bundle at random. elsewhere: an empty folder for what links lead to. Returns what was done."""
    agents = sorted((bundle / "agents").iterdir())
    folder = rng.choice(agents)
    name = rng.choice(["agent.json", "policy.onnx", "golden.npz", "profile.npz", "team.json"])
    file = bundle / name if name == "team.json" else folder / name
    kind = rng.choice(
        ["bytes", "bytes", "json", "json", "golden", "golden", "model", "missing", "symlink", "hard link", "fifo",
         "folder", "extra", "swap", "empty", "folder link", "large"]
    )  # fmt: skip
    if kind == "bytes":
        before = file.read_bytes()
        while (after := damaged(before, rng)) == before:
            pass
        file.write_bytes(after)
    elif kind == "json":
        file = bundle / "team.json" if name == "team.json" else folder / "agent.json"
        tree = json.loads(file.read_text())
        path = rng.choice([path for path in _scalars(tree) if path[0] not in ("source", "files")])
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        before = inner[path[-1]]
        choices = [None, -1, 0, 1e308, "", "../../x", [], {}, True, 1 << 70, "\x1b[2J"]
        inner[path[-1]] = rng.choice([value for value in choices if type(value) is not type(before) or value != before])
        file.write_bytes(json.dumps(tree).encode() if 1 << 70 in (inner[path[-1]],) else spell(tree))
        name = f"{file.name} {path}"
    elif kind in ("golden", "model"):
        file = folder / ("golden.npz" if kind == "golden" else "policy.onnx")
        data = file.read_bytes()
        if kind == "golden":
            after = damaged(data, rng)
        else:
            after = hostile(data, rng.choice([s for s in SHAPES if "more " not in s]))[0]
        file.write_bytes(after)
        reseal(bundle)
    elif kind == "missing":
        file.unlink()
    elif kind in ("symlink", "hard link"):
        file.rename(elsewhere / "moved")
        (os.symlink if kind == "symlink" else os.link)(elsewhere / "moved", file)
    elif kind == "fifo":
        file.unlink()
        os.mkfifo(file)
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "extra":
        (file.parent / rng.choice(["x", "run.py", ".hidden", "\x1b[2J", "secret.bin"])).touch()
    elif kind == "swap":
        a, b = rng.sample(agents, 2)
        for f in ("agent.json", "policy.onnx", "golden.npz", "profile.npz"):
            (a / f).rename(elsewhere / f)
            (b / f).rename(a / f)
            (elsewhere / f).rename(b / f)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "folder link":
        moved = rng.choice([folder, bundle / "agents"])
        shutil.move(moved, elsewhere / "moved")
        moved.symlink_to(elsewhere / "moved")
    else:
        with open(file, "r+b") as opened:
            opened.truncate(1 << 40)  # sparse: takes no room
    return f"{kind}: {folder.name} {name}"
