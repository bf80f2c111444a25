"""The static half of the evidence that an agent decides alone: what each output of its graph is computed from."""

from __future__ import annotations

from agentmixer.contract.manifest import NOISE, AgentManifest
from agentmixer.errors import AgentMixerError
from agentmixer.runtime.onnx_graph import Graph


def certificate(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each graph output, the graph inputs among its ancestors, in the graph's order.

    An upper bound: an output that is computed from an input may still ignore it, one that is not cannot know it."""
    ancestors: dict[str, frozenset[str]] = {value.name: frozenset({value.name}) for value in graph.inputs}
    for node in graph.nodes:
        known = frozenset[str]().union(*(ancestors.get(name, frozenset()) for name in node.inputs))
        ancestors.update(dict.fromkeys(node.outputs, known))
    order = [value.name for value in graph.inputs]
    return {value.name: tuple(name for name in order if name in ancestors[value.name]) for value in graph.outputs}


def check_locality(graph: Graph, manifest: AgentManifest) -> dict[str, tuple[str, ...]]:
    """Derive the certificate from the graph again. Returns it.

    Raises AgentMixerError if an output depends on anything but the agent's own observation, mask, noise and
    recurrent state, or on other inputs than the manifest certifies."""
    derived = certificate(graph)
    local = {"obs", "action_mask", NOISE} | ({manifest.state.input} if manifest.state else set())
    for output, inputs in derived.items():
        foreign = [name for name in inputs if name not in local]
        if foreign:
            raise AgentMixerError(
                f"agent {manifest.agent}: {output} depends on {', '.join(foreign)}, which this agent alone cannot know; "
                "export the bundle again"
            )
    if derived != manifest.depends_on:
        raise AgentMixerError(
            f"agent {manifest.agent}: the graph's outputs depend on {_told(derived)}, "
            f"the manifest certifies {_told(manifest.depends_on)}; export the bundle again"
        )
    return derived


def _told(depends_on: dict[str, tuple[str, ...]]) -> str:
    return ", ".join(
        f"{output} on {' and '.join(inputs) or 'nothing'}" for output, inputs in sorted(depends_on.items())
    )
