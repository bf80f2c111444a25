"""One agent's graph as a picture: its inputs, what is computed from them, its outputs; and beside them what the agent cannot see.

Operators that follow one another with nothing between are one block. A block stands lower than all that it needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from agentmixer.contract.spec import TaskSpec
from agentmixer.report.charts import svg
from agentmixer.runtime.onnx_graph import Graph, Node, Value

#: Where the graph is drawn, and where what the agent cannot see; the wall stands between.
WIDTH, WALL, UNSEEN = 400, 262, 276
#: Width that a line takes which passes a layer.
NARROW = 12
#: Height of a line of text, and what is free between two layers.
LINE, BETWEEN = 15, 26
#: A graph of more blocks, or of more beside each other, is drawn as one block.
MOST_BLOCKS, MOST_BESIDE = 40, 4


class Block(NamedTuple):
    """A box of the picture. kind: "in", "node", "out" or "pass"; lines: its text; needs: names of the values that it takes; makes:
    of those that it gives."""

    kind: str
    lines: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...]


#: A block with its left, top, width and height.
Placed = tuple[Block, float, float, float, float]


def graph_picture(
    name: str, agent: str, graph: Graph, task: TaskSpec, depends_on: dict[str, tuple[str, ...]]
) -> Markup:
    """The picture. name: its id on the page; depends_on: as `runtime.certificate.certificate` derives it."""
    layers = _layers(_blocks(graph))
    drawn = [[block for block in layer if block.kind != "pass"] for layer in layers]
    if sum(map(len, drawn)) > MOST_BLOCKS or max(map(len, drawn)) > MOST_BESIDE:
        layers = _layers(_one_block(graph))
    placed, height = _placed(layers)
    height = max(height, 250)
    parts = [*_edges(placed), *(_box(*one) for one in placed if one[0].kind != "pass"), *_unseen(task, height)]
    outputs = "; ".join(
        f"{output} is computed from {', '.join(inputs) or 'nothing'}" for output, inputs in depends_on.items()
    )
    told = f"{outputs}. The global state, the other agents' observations, the Policy Modifier and the critics lead nowhere into it."
    return svg(name, f"The graph of {agent}", told, WIDTH, height, parts)


def _blocks(graph: Graph) -> list[Block]:
    """Inputs, chains of operators, outputs."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    outputs = {value.name for value in graph.outputs}
    chains: list[list[Node]] = []
    ends: dict[str, int] = {}  # the value that a chain ends with, if the next operator may join it
    for node in graph.nodes:
        fed = [name for name in node.inputs if name not in graph.constants]
        chain = ends.pop(fed[0], None) if len(set(fed)) == 1 else None
        if chain is None:
            chains.append([])
            chain = len(chains) - 1
        chains[chain].append(node)
        if len(node.outputs) == 1 and uses[node.outputs[0]] == 1 and node.outputs[0] not in outputs:
            ends[node.outputs[0]] = chain
    nodes = []
    for joined in chains:
        inside = {name for node in joined for name in node.outputs}
        needs = [name for node in joined for name in node.inputs if name not in graph.constants and name not in inside]
        nodes.append(
            Block("node", tuple(_told(node, graph) for node in joined), tuple(dict.fromkeys(needs)), tuple(inside))
        )
    return [*_ends(graph, "in"), *nodes, *_ends(graph, "out")]


def _one_block(graph: Graph) -> list[Block]:
    counts = Counter(node.op for node in graph.nodes).most_common()
    inputs, made = tuple(value.name for value in graph.inputs), tuple(value.name for value in graph.outputs)
    lines = (f"{len(graph.nodes):,} operators", *(f"{count:,} {op}" for op, count in counts))
    return [*_ends(graph, "in"), Block("node", lines, inputs, made), *_ends(graph, "out")]


def _ends(graph: Graph, kind: str) -> list[Block]:
    if kind == "in":
        return [Block("in", (value.name, _size(value)), (), (value.name,)) for value in graph.inputs]
    return [Block("out", (value.name, _size(value)), (value.name,), ()) for value in graph.outputs]


def _size(value: Value) -> str:
    """What a value holds for one agent."""
    return f"{value.shape[1]:,} {value.dtype}" if len(value.shape) > 1 else value.dtype


def _told(node: Node, graph: Graph) -> str:
    """An operator, with the shape of the matrix that it multiplies by."""
    op = {"LayerNormalization": "LayerNorm"}.get(node.op, node.op)
    shapes = [graph.constants[name].shape for name in node.inputs if name in graph.constants]
    matrices = [shape for shape in shapes if len(shape) == 2]
    return f"{op} {matrices[0][0]:,}×{matrices[0][1]:,}" if matrices and node.op in ("Gemm", "MatMul") else op


def _layers(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks by how many stand above them at least; outputs lowest. Where a value passes a layer, there is a block of kind
    "pass" in it, so that a line never runs behind another block. In a layer, blocks stand below what they need."""
    maker = {name: number for number, block in enumerate(blocks) for name in block.makes}
    depth: list[int] = []
    for block in blocks:
        depth.append(max((depth[maker[name]] + 1 for name in block.needs), default=0))
    last = max(depth)
    depth = [last if block.kind == "out" else at for block, at in zip(blocks, depth, strict=True)]
    layers: list[list[Block]] = [[] for _ in range(last + 1)]
    passing: set[str] = set()
    used = dict.fromkeys(range(len(blocks)), last)
    for number, block in enumerate(blocks):
        needs = []
        for name in block.needs:
            source = maker[name]
            used[source] = min(used[source], depth[number])
            for at in range(depth[source] + 1, depth[number]):
                made = f"\0{source} {at}"  # no name in a graph has such a character
                if made not in passing:
                    passing.add(made)
                    layers[at].append(Block("pass", (), (name,), (made,)))
                name = made
            needs.append(name)
        layers[depth[number]].append(block._replace(needs=tuple(needs)))
    first = {blocks[number].makes: at for number, at in used.items() if blocks[number].kind == "in"}
    layers[0].sort(key=lambda block: first.get(block.makes, 0))
    place: dict[str, float] = {}
    for layer in layers:
        if place:
            layer.sort(key=lambda block: sum(place[name] for name in block.needs) / max(len(block.needs), 1))
        place |= {name: (i + 0.5) / len(layer) for i, block in enumerate(layer) for name in block.makes}
    return layers


def _placed(layers: Sequence[Sequence[Block]]) -> tuple[list[Placed], float]:
    """Left, top, width and height of each block, and the height of all."""
    placed: list[Placed] = []
    top = 30.0
    for layer in layers:
        narrow = sum(block.kind == "pass" for block in layer)
        room = (WALL - 8 - NARROW * narrow) / max(len(layer) - narrow, 1)
        deepest = max(len(block.lines) * LINE + 10 for block in layer)
        left = 4.0
        for block in layer:
            if block.kind == "pass":
                placed.append((block, left, top, NARROW, deepest))
                left += NARROW
            else:
                width = min(room - 5, 120.0)
                placed.append((block, left + (room - width) / 2, top, width, len(block.lines) * LINE + 10))
                left += room
        top += deepest + BETWEEN
    return placed, top - BETWEEN + 8


def _edges(placed: Sequence[Placed]) -> list[Markup]:
    """From the lower edge of what makes a value to the upper edge of what needs it. What comes from an input alone is lit."""
    maker: dict[str, Placed] = {}
    lit: set[str] = set()
    found = []
    for one in placed:
        block, left, top, width, height = one
        sources = {id(maker[name][0]): (name, maker[name]) for name in block.needs}
        for i, (name, (source, x, y, wide, high)) in enumerate(sources.values()):
            a, b, c = x + wide / 2, y + high, left + width * (i + 1) / (len(sources) + 1)
            bend = (top - b) / 2
            path = f"M{a:.1f} {b:.1f}C{a:.1f} {b + bend:.1f} {c:.1f} {top - bend:.1f} {c:.1f} {top:.1f}"
            if block.kind == "pass":
                path += f"V{top + height:.1f}"
            bright = source.kind == "in" or name in lit
            if bright and block.kind == "pass":
                lit.update(block.makes)
            found.append(Markup('<path class="edge{}" d="{}"/>').format(" lit" if bright else "", path))
        maker |= dict.fromkeys(block.makes, one)
    return found


def _box(block: Block, left: float, top: float, width: float, height: float) -> Markup:
    text = Markup("").join(
        Markup('<tspan x="{:.1f}" y="{:.1f}">{}</tspan>').format(
            left + width / 2, top + 16 + LINE * i, _fitted(line, width)
        )
        for i, line in enumerate(block.lines)
    )
    return Markup(
        '<g class="box {}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="6"/><text text-anchor="middle">{}</text></g>'
    ).format(block.kind, left, top, width, height, text)


def _fitted(text: str, width: float) -> str:
    room = int(width / 5.4)
    return text if len(text) <= room else text[: room - 1] + "…"


def _unseen(task: TaskSpec, height: float) -> list[Markup]:
    """The wall, and behind it what takes part in training only, or belongs to others."""
    others = task.num_agents - 1
    boxes = [
        ("global state", f"{task.state_size:,} numbers"),
        ("observations of", f"{others:,} other{'s' if others != 1 else ''}")
        if others
        else ("no other agent", "in this team"),
        ("Policy Modifier", "training only"),
        ("critics", "training only"),
    ]
    parts = [
        Markup('<text class="label" x="{}" y="16" text-anchor="middle">what it is given</text>').format(WALL / 2),
        Markup('<text class="label" x="{}" y="16" text-anchor="middle">what it cannot see</text>').format(
            (UNSEEN + WIDTH - 4) / 2
        ),
        Markup('<line class="wall" x1="{0}" x2="{0}" y1="4" y2="{1:g}"/>').format(WALL + 4, height - 4),
    ]
    for number, lines in enumerate(boxes):
        parts.append(_box(Block("unseen", lines, (), ()), UNSEEN, 30 + 52 * number, WIDTH - 4 - UNSEEN, 40))
    return parts
