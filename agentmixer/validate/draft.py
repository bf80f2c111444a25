"""A bundle taken apart, so that its graphs, manifests, golden traces and profiles can be made wrong, and put together again."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from agentmixer.contract.manifest import NOISE
from agentmixer.contract.spec import Box, Discrete, MultiDiscrete
from agentmixer.export.bundle_writer import AgentParts, certified, write_bundle
from agentmixer.export.graph import check as check_graph
from agentmixer.runtime.bundle import Bundle
from agentmixer.runtime.golden import Golden, parse
from agentmixer.runtime.onnx_graph import GraphRefused

#: What a leak adds up to: far too little to be noticed by how well the team plays.
LEAK = 1e-3


class DoesNotApply(Exception):
    """A bundle cannot be made wrong in this way; the message says why."""


def _tidy(graph: onnx.GraphProto) -> None:
    """Remove what nothing uses: that a change left it behind is not what is to be noticed."""
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        idle = [node for node in graph.node if not used & set(node.output)]
        unused = [tensor for tensor in graph.initializer if tensor.name not in used]
        if not idle and not unused:
            return
        for node in idle:
            graph.node.remove(node)
        for tensor in unused:
            graph.initializer.remove(tensor)


class Draft:
    """A bundle taken apart, one agent of it (`name`) to be made wrong: graphs, manifests, golden traces, profiles and team."""

    def __init__(self, bundle: Bundle):
        self.bundle, self.team = bundle, bundle.team
        self.models = {name: onnx.load_from_string(files.model) for name, files in bundle.agents.items()}
        self.manifests = {name: files.manifest for name, files in bundle.agents.items()}
        self.goldens = {name: files.golden for name, files in bundle.agents.items()}
        self.profiles = {name: files.profile for name, files in bundle.agents.items()}
        self.name = next(iter(bundle.agents))

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph to make wrong."""
        return self.models[self.name].graph

    def golden(self) -> Golden:
        """What torch recorded of that agent."""
        files = self.bundle.agents[self.name]
        return parse(files.golden, files.manifest)

    def other(self) -> str:
        """Another agent."""
        names = list(self.bundle.agents)
        if len(names) < 2:
            raise DoesNotApply("a team of one")
        return names[1]

    def write(self, path: Path) -> None:
        """The bundle with every digest and certificate made anew. Every graph still follows the conventions."""
        agents = {}
        for name, model in self.models.items():
            check_graph(model)
            _tidy(model.graph)
            data, manifest = model.SerializeToString(deterministic=True), self.manifests[name]
            with contextlib.suppress(GraphRefused):  # such a graph has no certificate; its check will say so
                manifest = certified(manifest, data)
            agents[name] = AgentParts(manifest, data, self.goldens[name], self.profiles[name])
        write_bundle(path, self.team, agents)

    # How a graph is changed.

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant in the graph; returns its name."""
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def producer(self, value: str) -> int:
        """Position of the node that makes `value`."""
        return next(i for i, node in enumerate(self.graph.node) if value in node.output)

    def redirect(self, old: str, new: str, first: int = 0) -> None:
        """Nodes from position `first` on take `new` where they took `old`."""
        for node in list(self.graph.node)[first:]:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def prepend(self, *nodes: onnx.NodeProto) -> None:
        """Nodes before all others, in order."""
        for node in reversed(nodes):
            self.graph.node.insert(0, node)

    def memory(self) -> None:
        """Raise DoesNotApply without memory."""
        if self.manifests[self.name].state is None:
            raise DoesNotApply("no memory")

    def mask(self) -> None:
        """Raise DoesNotApply without a mask."""
        if self.manifests[self.name].mask_rule == "none":
            raise DoesNotApply("no mask")

    def noise(self) -> onnx.NodeProto:
        """The node that adds noise to the logits. Raises DoesNotApply if the actions are not drawn."""
        if not self.manifests[self.name].noise:
            raise DoesNotApply("actions that are not drawn")
        return next(node for node in self.graph.node if NOISE in node.input)

    def whole_numbers(self) -> Discrete | MultiDiscrete:
        """The agent's action space. Raises DoesNotApply if its actions are real-valued."""
        space = self.manifests[self.name].action_space
        if isinstance(space, Box):
            raise DoesNotApply("real-valued actions")
        return space

    def real_values(self) -> None:
        """Raise DoesNotApply unless the agent's actions are real-valued."""
        if not isinstance(self.manifests[self.name].action_space, Box):
            raise DoesNotApply("discrete actions")

    def add_hidden_input(self) -> None:
        """The graph reads the global state and adds a little of it to its logits or means."""
        manifest, size = self.manifests[self.name], self.team.task.state_size
        actions = manifest.tensor(manifest.policy).shape[0]
        self.graph.input.append(helper.make_tensor_value_info("state", onnx.TensorProto.FLOAT, ["batch", size]))
        index = self.producer(manifest.policy)
        self.graph.node[index].output[0] = "without_state"
        self.redirect(manifest.policy, "without_state", index + 1)
        weight = self.constant("leak", np.full((size, actions), LEAK, np.float32))
        self.graph.node.insert(index + 1, helper.make_node("MatMul", ["state", weight], ["from_state"]))
        added = helper.make_node("Add", ["without_state", "from_state"], [manifest.policy])
        self.graph.node.insert(index + 2, added)
        self.redirect("without_state", manifest.policy, index + 3)
