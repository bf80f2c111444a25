"""The certificate names every input that an output is computed from, and no output changes with one it does not name."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from hostile import use
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agentmixer.errors import AgentMixerError
from agentmixer.export.exporter import Exported
from agentmixer.runtime.agent import Agent, make_session
from agentmixer.runtime.bundle import AgentFiles, read_agent
from agentmixer.runtime.certificate import certificate, check_locality
from agentmixer.runtime.golden import parse
from agentmixer.runtime.onnx_graph import Graph, Node, Value, read_graph


@pytest.fixture(scope="module")
def files(exported: Exported) -> AgentFiles:
    return read_agent(exported.path / "agents" / "agent_1")


def drawn(nodes: dict[str, tuple[str, ...]], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Graph:
    values = [tuple(Value(name, "float32", ("batch", 1)) for name in names) for names in (inputs, outputs)]
    return Graph(*values, {}, tuple(Node("Add", used, (name,), {}) for name, used in nodes.items()), {})


def test_by_hand() -> None:
    """a -> p -> r -> y; b -> q -> r; c -> q2 -> z; d is used by nothing."""
    graph = drawn(
        {"p": ("a", "w"), "q": ("b",), "q2": ("c", "w"), "r": ("p", "q"), "y": ("r",), "z": ("q2", "q2")},
        ("a", "b", "c", "d"),
        ("y", "z", "p"),
    )
    assert certificate(graph) == {"y": ("a", "b"), "z": ("c",), "p": ("a",)}


@given(st.data())
def test_an_input_is_named_exactly_if_a_path_leads_from_it(data: st.DataObject) -> None:
    """Against powers of the adjacency matrix, on random graphs."""
    inputs, inner = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    names = [f"x{i}" for i in range(inputs + inner)]
    reach = np.eye(inputs + inner, dtype=int)
    nodes = {}
    for i in range(inputs, inputs + inner):
        used = data.draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=3))
        nodes[names[i]] = tuple(names[j] for j in used)
        reach[used, i] = 1
    paths = np.linalg.matrix_power(reach, inputs + inner) > 0
    found = certificate(drawn(nodes, tuple(names[:inputs]), tuple(names[inputs:])))
    for i in range(inputs, inputs + inner):
        assert found[names[i]] == tuple(names[j] for j in range(inputs) if paths[j, i])


def test_export_certifies_what_the_graph_depends_on(files: AgentFiles) -> None:
    everything = ("obs", "action_mask", "state_in")
    assert files.manifest.depends_on == {"action": everything, "logits": everything, "state_out": ("obs", "state_in")}
    assert check_locality(read_graph(files.model), files.manifest) == files.manifest.depends_on


def test_not_one_bit_of_an_output_moves_with_an_input_it_is_not_certified_for(files: AgentFiles) -> None:
    """And some bit moves with each that it is: noise in place of one input at a time."""
    golden, session = parse(files.golden, files.manifest), make_session(files.model)
    generator = np.random.default_rng(0)
    feed = {"obs": golden.obs, "action_mask": golden.action_mask, "state_in": np.roll(golden.state_out, 1, 0)}
    noise = {
        "obs": generator.normal(size=golden.obs.shape).astype(np.float32),
        "action_mask": np.roll(~golden.action_mask, 1, 1) | (np.arange(10) == 3),
        "state_in": generator.normal(size=golden.state_out.shape).astype(np.float32),
    }
    names = list(files.manifest.depends_on)
    before = dict(zip(names, session.run(names, feed), strict=True))
    for changed in feed:
        after = dict(zip(names, session.run(names, feed | {changed: noise[changed]}), strict=True))
        for output, inputs in files.manifest.depends_on.items():
            assert np.array_equal(before[output], after[output]) == (changed not in inputs), (output, changed)


def test_an_input_that_no_agent_can_know_is_named(files: AgentFiles) -> None:
    """The global state smuggled in as one more input of the graph."""
    model = onnx.load_from_string(files.model)
    model.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", 16]))
    use(model, "state")
    with pytest.raises(AgentMixerError, match="agent agent_1: state_out depends on state, which this agent alone"):
        check_locality(read_graph(model.SerializeToString(deterministic=True)), files.manifest)


def test_a_certificate_that_is_not_the_graphs_keeps_the_agent_from_loading(files: AgentFiles) -> None:
    certified = files.manifest.depends_on | {"state_out": ("obs",)}
    lying = files._replace(manifest=msgspec.structs.replace(files.manifest, depends_on=certified))
    with pytest.raises(AgentMixerError, match=r"state_out on obs and state_in.*certifies .*state_out on obs;"):
        Agent(lying)
