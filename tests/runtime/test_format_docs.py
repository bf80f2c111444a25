"""What docs/bundle-format.md and docs/deploying.md say for somebody who writes another runtime is what the code does."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import tiny_spec
from counting_bundle import counting_bundle, model
from hostile import spell
from made_bundle import made_bundle
from msgspec import inspect
from traced_agents import traced

from agentmixer.contract.manifest import (
    OPSET,
    SCHEMA_VERSION,
    AgentManifest,
    Source,
    StateSpec,
    TeamAgent,
    TeamManifest,
    TensorSpec,
    Tolerances,
    decode,
)
from agentmixer.contract.spec import Box, Discrete, Element, MultiDiscrete, TaskSpec
from agentmixer.errors import AgentMixerError
from agentmixer.runtime import frames, golden, profile
from agentmixer.runtime.actions import array_type
from agentmixer.runtime.agent import Agent
from agentmixer.runtime.bundle import read_agent
from agentmixer.runtime.frames import HEADER, MAX_FRAME, MAX_REASON, NOWHERE, Frame, Kind, action_of, pack, unpack
from agentmixer.runtime.launch import Ready
from agentmixer.runtime.onnx_graph import read_graph
from agentmixer.runtime.process import serve
from agentmixer.runtime.sandbox import Isolation

DOCS = Path(__file__).parents[2] / "docs"
FORMAT, DEPLOYING = (DOCS / "bundle-format.md").read_text(), (DOCS / "deploying.md").read_text()


def table(text: str, begin: str) -> list[list[str]]:
    """Cells of the first table after the words `begin`, without its head. The words stand once in the text."""
    assert text.count(begin) == 1, begin
    lines = iter(text[text.index(begin) :].splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def json_type(kind: inspect.Type) -> str:
    """What a field's type is called in the tables."""
    match kind:
        case inspect.UnionType(types=types):
            (one, *others) = dict.fromkeys(json_type(own) for own in types if not isinstance(own, inspect.NoneType))
            return " or ".join([one, *others])
        case inspect.IntType() | inspect.LiteralType(values=(int(), *_)):
            return "integer"
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "Boolean"
        case inspect.VarTupleType():
            return "array"
    assert isinstance(kind, inspect.DictType | inspect.StructType), kind
    return "object"


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        ("## agent.json", AgentManifest),
        ("### A tensor of `inputs` and `outputs`", TensorSpec),
        ("### An element in `obs_elements`", Element),
        ("### `state`", StateSpec),
        ("### `action_space`, discrete", Discrete),
        ("### `action_space`, rows of whole numbers", MultiDiscrete),
        ("### `action_space`, real-valued", Box),
        ("### `source`", Source),
        ("## team.json\n", TeamManifest),
        ("### `task`", TaskSpec),
        ("### An agent's entry in `agents`", TeamAgent),
        ("### `tolerances`", Tolerances),
    ],
)
def test_every_field_of_a_manifest_is_in_the_tables(begin: str, kind: type[msgspec.Struct]) -> None:
    told = {name: row for row in table(FORMAT, begin) for name in names(row[0])}
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = {field.encode_name: field.type for field in info.fields}
    tag = {info.tag_field} if info.tag_field else set()
    assert set(told) == set(fields) | tag
    for name, of in fields.items():
        _, type_, _, null, _ = told[name]
        assert re.sub(" of [^,]*?(?= or |$)", "", type_) == json_type(of), name
        nullable = isinstance(of, inspect.UnionType) and any(isinstance(t, inspect.NoneType) for t in of.types)
        assert null == ("yes" if nullable else "no"), name
    if info.tag_field:
        assert names(told[info.tag_field][4]) == [info.tag]


def test_numbers_in_the_tables() -> None:
    for begin in ("## agent.json", "## team.json\n"):
        assert {names(row[0])[0]: row[4] for row in table(FORMAT, begin)}["schema_version"] == str(SCHEMA_VERSION)
    assert {names(row[0])[0]: row[4] for row in table(FORMAT, "## agent.json")}["opset"] == str(OPSET)
    for row in table(FORMAT, "### `tolerances`"):
        stated = re.fullmatch(r"0 to (\S+); (\S+) unless stated otherwise", row[4])
        assert stated
        name, most, usual = names(row[0])[0], *map(float, stated.groups())
        assert getattr(Tolerances(), name) == usual
        msgspec.convert({name: most}, Tolerances)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: most * 1.001}, Tolerances)


def test_no_field_may_be_left_out(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "bundle", ("a",))
    for file, kind in (("agents/a/agent.json", AgentManifest), ("team.json", TeamManifest)):
        tree = json.loads((bundle / file).read_text())
        places = [tree, *(part for part in tree.values() if isinstance(part, dict)), *tree.get("inputs", ())]
        for place in [place for place in places if place is not tree.get("depends_on")]:
            for name in list(place):
                value = place.pop(name)
                if place is not tree.get("files") and place is not tree.get("agents"):
                    with pytest.raises(AgentMixerError, match=r"not a valid manifest|not spelled"):
                        decode(spell(tree), kind, Path("file"))
                place[name] = value
        decode(spell(tree), kind, Path("file"))


def test_shapes_in_a_manifest_have_no_batch(tmp_path: Path) -> None:
    """Every row of the table, in a discrete bundle and in a real-valued bundle with memory."""
    made_bundle(tmp_path / "discrete", ("a",))
    counting_bundle(tmp_path / "real-valued", ("a",))
    found = {}
    for space in ("discrete", "real-valued"):
        files = read_agent(tmp_path / space / "agents/a")
        graph = read_graph(files.model)
        sizes = {2: "D", 6: "D", 4: "A", 3: "A", 1: "H"}
        for value in graph.inputs + graph.outputs:
            letters = [sizes[size] for size in files.manifest.tensor(value.name).shape]
            assert value.shape == ("batch", *files.manifest.tensor(value.name).shape)
            shapes = (letters, ["batch", *letters], ["1", *letters])
            key = f"{value.name}, {space}" if value.name == "action" else value.name
            found[key] = [f"`[{', '.join(shape)}]`" for shape in shapes]
    row = len(array_type(MultiDiscrete((2, 3), (0, 0)))[1]) * "W"
    found["action, rows of whole numbers"] = [f"`[{', '.join([*lead, *row])}]`" for lead in ([], ["batch"], ["1"])]
    drawn = read_graph(traced(tiny_spec(), 0, sampled=True).model)
    given, logits = {value.name: value.shape for value in drawn.inputs}["noise"], drawn.outputs[1].shape
    assert given == logits and drawn.outputs[1].name == "logits"
    found["noise"] = found["logits"]
    told = {}
    for first, *shapes in table(FORMAT, "**Batch.**"):
        told.update({name + first.rpartition("`")[2]: shapes for name in names(first)})
    assert told == found


def test_arrays_of_a_golden_trace(tmp_path: Path) -> None:
    rows = table(FORMAT, "## golden.npz")
    assert [names(row[0])[0] for row in rows] == list(golden.Golden._fields)
    bundle = made_bundle(tmp_path / "bundle", ("a",), obs=6, actions=4, steps=200)
    sizes = {"T": 200, "D": 6, "A": 4, "H": 0}
    with np.load(bundle / "agents/a/golden.npz") as arrays:
        assert arrays.files == list(golden.Golden._fields)[:-1]  # noise is there only where actions are drawn
        for (name, array), row in zip(arrays.items(), rows[:-1], strict=True):
            assert row[1].split(",")[0] == str(array.dtype), name
            shape = re.match(r"\[([^]]+)\]", row[2])
            assert shape and tuple(sizes[letter] for letter in shape[1].split(", ")) == array.shape, name


def test_arrays_of_a_profile(tmp_path: Path) -> None:
    rows = table(FORMAT, "## profile.npz")
    bundle = made_bundle(tmp_path / "bundle", ("a",), obs=6, actions=4)
    sizes = {"K": 6, "A": 4}
    with np.load(bundle / "agents/a/profile.npz") as arrays:
        assert [names(row[0])[0] for row in rows] == arrays.files == list(profile.NAMES)
        for (name, array), row in zip(arrays.items(), rows, strict=True):
            assert row[1] == str(array.dtype), name
            shape = re.match(r"\[([^]]+)\]", row[2])
            assert shape and tuple(sizes.get(size) or int(size) for size in shape[1].split(", ")) == array.shape, name


def test_actions_and_numbers_are_compared_as_written() -> None:
    """absolute + relative * |the trace's number|, and a near tie between the trace's logits."""
    tolerances = Tolerances(absolute=1e-4, relative=1e-3, near_tie=1e-3)
    trace = golden.Golden(
        np.zeros((1, 1), np.float32), np.ones((1, 2), bool), np.ones(1, bool), np.zeros(1, np.int64),
        np.float32([[100.0, 99.9995]]), np.zeros((1, 0), np.float32), golden.silence(1),
    )  # fmt: skip

    def passed(action: int, logits: list[float], reference: golden.Golden = trace) -> bool:
        out = [np.array([action]), np.float32([logits]), np.zeros((1, 0), np.float32)]
        return golden.replay(reference, lambda *_: out, Discrete(2), tolerances).passed

    assert passed(0, [100.099, 99.9995]) and not passed(0, [100.102, 99.9995])
    assert passed(1, [100.0, 99.9995])
    assert not passed(2, [100.0, 99.9995]) and not passed(-1, [100.0, 99.9995])
    far = trace._replace(policy=np.float32([[100.0, 99.99]]))
    assert not passed(1, [99.99, 99.99], far)  # the replay's own logits tie, the trace's do not
    assert not passed(0, [float("nan"), 99.9995])


def test_the_header_of_a_frame() -> None:
    letters = {"uint16": "H", "uint32": "I", "uint64": "Q"}
    *rows, payload = table(DEPLOYING, "## Frames")
    described = "<"
    for at, size, kind, *_ in rows:
        assert int(at) == struct.calcsize(described)
        described += letters.get(kind) or f"{size}s"
        assert int(at) + int(size) == struct.calcsize(described)
    assert described == HEADER.format
    assert int(payload[0]) == HEADER.size
    told = {row[3]: row[4] for row in rows}
    assert told["magic"] == f"`{frames.MAGIC.decode()}`"
    assert told["version"] == str(frames.VERSION) and f"Frames version {frames.VERSION}." in DEPLOYING
    assert f"D is at most {(MAX_FRAME - HEADER.size) // 4:,}" in DEPLOYING


def test_the_checksum_of_a_frame() -> None:
    assert f"`123456789` is 0x{zlib.crc32(b'123456789'):08X}" in DEPLOYING
    data = pack(Kind.REFUSE, 1, bytes(8), b"why")
    assert int.from_bytes(data[48:52], "little") == zlib.crc32(data[:48] + data[52:])


def test_the_kinds_of_frames() -> None:
    rows = table(DEPLOYING, "The CRC-32 of the nine bytes")
    assert [(int(row[0]), row[1]) for row in rows] == [(kind.value, kind.name) for kind in Kind]
    assert all(f"at most {MAX_REASON:,} bytes" in row[3] for row in rows if row[1] in ("READY", "REFUSE", "FALLBACK"))


def test_the_payload_of_ready() -> None:
    rows = table(DEPLOYING, "READY's payload is an object")
    info = inspect.type_info(Isolation)
    assert isinstance(info, inspect.StructType)
    assert {names(row[0])[0]: row[1] for row in rows} == {field.name: json_type(field.type) for field in info.fields}
    assert msgspec.json.decode(b'{"agent":"a","isolation":{}}', type=Ready).isolation == Isolation()
    for more in (b'{"agent":"a","isolation":{"x":1}}', b'{"agent":"a","isolation":{},"x":1}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(more, type=Ready)


class Served:
    """An agent of `counting_bundle` that answers over a link: an action's last element counts the steps of its memory."""

    def __init__(self, folder: Path):
        files = read_agent(folder)
        self.space, self.digest = files.manifest.action_space, bytes.fromhex(files.digest)[:8]
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.thread = threading.Thread(target=serve, args=(theirs, files, Agent(files)))
        self.thread.start()

    def answer(self, data: bytes) -> Frame:
        self.link.send(data)
        return unpack(self.link.recv(MAX_FRAME))

    def observe(self, episode: int, step: int, *obs: float) -> Frame:
        seen = np.float32(obs or (episode, step)).tobytes()
        return self.answer(pack(Kind.OBSERVE, 0, self.digest, seen, episode, step, obs_bytes=len(seen)))

    def count(self, frame: Frame) -> int:
        assert frame.kind == Kind.ACT
        return int(action_of(frame, self.space)[0][2])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    assert b"state_in" in model()
    counting_bundle(tmp_path / "bundle", ("a",))
    agent = Served(tmp_path / "bundle/agents/a")
    yield agent
    agent.link.send(pack(Kind.STOP, 0, agent.digest))
    agent.thread.join(10)
    agent.link.close()


def test_a_skipped_tick_leaves_the_memory_as_it_was(served: Served) -> None:
    assert served.count(served.observe(0, 0)) == 1
    assert served.count(served.observe(0, 5)) == 2  # steps 1 to 4 never came
    assert served.count(served.observe(3, 7)) == 1  # a later episode, whatever its step


def test_what_is_refused_before_its_step_is_taken_may_come_again(served: Served) -> None:
    assert served.count(served.observe(1, 1)) == 1
    damaged = bytearray(pack(Kind.OBSERVE, 0, served.digest, bytes(8), 1, 2, obs_bytes=8))
    damaged[-1] ^= 1
    refused = served.answer(bytes(damaged))
    assert (refused.kind, refused.episode, refused.step) == (Kind.REFUSE, *NOWHERE)
    for data in (
        pack(Kind.OBSERVE, 1, served.digest, bytes(8), 1, 2, obs_bytes=8),
        pack(Kind.OBSERVE, 0, bytes(8), bytes(8), 1, 2, obs_bytes=8),
        pack(Kind.ACT, 0, served.digest, bytes(16), 1, 2),
        pack(Kind.OBSERVE, 0, served.digest, bytes(7), 1, 2, obs_bytes=7),
        pack(Kind.OBSERVE, 0, served.digest, bytes(8) + b"\2", 1, 2, obs_bytes=8, mask_bytes=1),
    ):
        refused = served.answer(data)
        assert (refused.kind, refused.episode, refused.step) == (Kind.REFUSE, 1, 2)
    assert served.count(served.observe(1, 2)) == 2


def test_a_refusal_or_a_fallback_of_a_decision_takes_the_step_and_no_memory(served: Served) -> None:
    assert served.count(served.observe(0, 0)) == 1
    assert served.observe(0, 1, float("nan"), 0.0).kind == Kind.REFUSE
    assert served.observe(0, 1).kind == Kind.REFUSE
    assert served.observe(0, 2, 1.0).kind == Kind.REFUSE  # one element too few
    assert served.observe(0, 3, 1e7, 0.0).kind == Kind.FALLBACK  # out of bounds
    assert served.observe(0, 3).kind == Kind.REFUSE
    assert served.count(served.observe(0, 4)) == 2
