"""No model reaches onnxruntime that export could not have written, and no file is read that is not what it seems."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import box_spec, tiny_algorithm, tiny_spec
from hostile import SHAPES, agrees, hostile, judge, mutant, outside, sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.export.graph import export_graph
from agentmixer.files import read_regular
from agentmixer.runtime import agent as agents
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import AgentFiles, read_agent, read_bundle
from agentmixer.runtime.guard import check_model, cost
from agentmixer.runtime.onnx_graph import MAX_FILE, GraphRefused, read_graph
from agentmixer.train.deployed import DeployedActor


@pytest.fixture(scope="module")
def files(exported: Exported) -> AgentFiles:
    return read_agent(exported.path / "agents" / "agent_0")


def kinds() -> list[tuple[str, bool, str]]:
    return list(itertools.product(("masked", "box"), (True, False), ("layer", "running")))


@pytest.mark.parametrize(("actions", "recurrent", "norm"), kinds(), ids=str)
def test_every_kind_of_exported_model_is_read_as_onnx_reads_it(actions: str, recurrent: bool, norm: str) -> None:
    spec = tiny_spec() if actions == "masked" else box_spec()
    actor = tiny_algorithm(spec, recurrent_actor=recurrent, input_norm=norm, share_parameters=False).team.actor
    for p in actor.parameters():
        nn.init.normal_(p)
    model = export_graph(DeployedActor(actor, spec, 1), {"agent": "b"}).SerializeToString(deterministic=True)
    graph = read_graph(model)
    agrees(graph, model)
    assert len(graph.inputs) == 1 + (actions == "masked") + recurrent
    # As many elements as onnx's own shape inference finds, with a batch of one.
    proto = onnx.load_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    sizes = {
        value.name: np.prod([d.dim_value for d in value.type.tensor_type.shape.dim], dtype=int)
        for value in (*inferred.value_info, *inferred.output)
    }
    assert cost(graph).elements == sum(sizes.values())
    # Every weight of a matrix meets a row once; in these networks each is used in one product.
    matrices = [p for name, p in DeployedActor(actor, spec, 1).named_parameters() if p.dim() == 2]
    assert cost(graph).multiply_adds == sum(p.numel() for p in matrices)
    assert cost(graph).nodes == len(proto.graph.node)


def test_exported_models_pass(exported: Exported) -> None:
    for found in read_bundle(exported.path).agents.values():
        agrees(check_model(found.model, found.manifest), found.model)


@pytest.mark.parametrize("what", SHAPES)
def test_what_export_does_not_write_is_refused_before_a_session_is_made(
    what: str, files: AgentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    monkeypatch.setattr(agents, "make_session", lambda model: made.append(model))
    model, words = hostile(files.model, what)
    with pytest.raises(AgentMixerError, match=rf"agent agent_0: the model .*({words})"):
        Agent(files._replace(model=model))
    assert made == []


def test_a_model_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(GraphRefused, match="more than 16,777,216"):
        read_graph(bytes(MAX_FILE + 1))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 20, b"\x08\x80\x00", b"\x3a\x00", b"PK\x03\x04"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(GraphRefused):
        read_graph(data)


def test_a_number_has_one_spelling(files: AgentFiles) -> None:
    """IR version 10 as 0x8A 0x00 is what protobuf reads as 10 too; here it is refused."""
    assert files.model[:2] == b"\x08\x0a"
    longer = b"\x08\x8a\x00" + files.model[2:]
    assert onnx.load_from_string(longer) == onnx.load_from_string(files.model)
    with pytest.raises(GraphRefused, match="a broken number"):
        read_graph(longer)


def test_a_graph_in_two_parts_is_refused(files: AgentFiles) -> None:
    """protobuf merges a message that comes twice, so the second half could add to a graph that looks complete."""
    extra = onnx.ModelProto()
    extra.graph.node.append(helper.make_node("Relu", ["obs"], ["more"]))
    both = files.model + extra.SerializeToString()
    assert len(onnx.load_from_string(both).graph.node) == len(read_graph(files.model).nodes) + 1
    with pytest.raises(GraphRefused, match="graph too often, or out of order"):
        read_graph(both)


# What the libraries do without the guard: if one of these stops holding, the guard has less to do, not more.

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
ADD = helper.make_node("Add", ["x", "stolen"], ["y"])
SESSION = """
import sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
source = sys.argv[1] if sys.argv[2] == "path" else open(sys.argv[1], "rb").read()
print(onnxruntime.InferenceSession(source, options).run(None, {"x": np.zeros((1, 3), np.float32)})[0][0])
"""


def model_of(*nodes: onnx.NodeProto, **more: object) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "policy", [X], [Y], **more)  # type: ignore[arg-type]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def session_in(folder: Path, model: onnx.ModelProto, how: str) -> str:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", SESSION, "m.onnx", how]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("how", "where", "model"),
    [
        ("path", "linked.bin", model_of(ADD, initializer=[outside("linked.bin", 3)])),
        ("bytes", "secret.bin", model_of(helper.make_node("Constant", [], ["stolen"], sparse_value=sparse(3)), ADD)),
        ("bytes", "secret.bin", model_of(ADD, sparse_initializer=[sparse(3)])),
    ],
    ids=["hard link", "sparse constant", "sparse initialiser"],
)
def test_onnxruntime_reads_files_that_a_model_names_and_the_guard_does_not_let_it(
    tmp_path: Path, how: str, where: str, model: onnx.ModelProto
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(np.float32([41, 42, 43]).tobytes())
    os.link(tmp_path / "elsewhere" / "secret", tmp_path / where)
    assert session_in(tmp_path, model, how).split() == ["[41.", "42.", "43.]"]
    with pytest.raises(GraphRefused, match=r"external data|sparse"):
        read_graph(model.SerializeToString())


def test_onnx_accepts_a_gigabyte_in_a_few_bytes_and_the_guard_does_not() -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [1], np.int64([1 << 28]).tobytes(), raw=True)
    graph = onnx.GraphProto(name="g", initializer=[shape])
    graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["y"]))
    graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 << 28]))
    model = onnx.ModelProto(ir_version=10, graph=graph, opset_import=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 100
    with pytest.raises(GraphRefused):
        read_graph(model.SerializeToString())


def test_onnx_accepts_operators_that_nobody_knows_and_the_guard_does_not() -> None:
    model = model_of(helper.make_node("Evil", ["x"], ["y"], domain="com.evil"))
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(GraphRefused, match="a foreign domain"):
        read_graph(model.SerializeToString())


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.randoms(use_true_random=False))
def test_a_damaged_model_is_refused_or_means_what_onnx_reads(files: AgentFiles, rng: random.Random) -> None:
    judge(mutant(files.model, rng), files)


def test_some_damage_is_harmless_and_most_is_not(files: AgentFiles) -> None:
    """The property above says something only if both happen."""
    verdicts = [judge(mutant(files.model, random.Random(seed)), files) for seed in range(150)]
    assert verdicts.count("refused") > 75
    assert verdicts.count("allowed") > 5


def test_a_regular_file_is_read_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert read_regular(file, 3) == b"abc"
    with pytest.raises(AgentMixerError, match="more than 2 bytes"):
        read_regular(file, 2)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "fifo")
    for name, words in (("link", "is a link"), ("fifo", "not a regular"), ("", "not a regular"), ("x", "missing")):
        with pytest.raises(AgentMixerError, match=words):
            read_regular(tmp_path / name, 3)
    os.link(file, tmp_path / "second")
    with pytest.raises(AgentMixerError, match="has 2 names"):
        read_regular(file, 3)


def test_a_session_has_one_thread_and_no_other_provider(files: AgentFiles) -> None:
    options = make_session(files.model).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert make_session(files.model).get_providers() == ["CPUExecutionProvider"]
