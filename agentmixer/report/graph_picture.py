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
#: Height of a line of text, and what is free between two layers.
LINE, BETWEEN = 15, 26
#: A graph of more blocks, or of more beside each other, is drawn as one block.
MOST_BLOCKS, MOST_BESIDE = 40, 4


class Block(NamedTuple):
    """A box of the picture. kind: "in", "node" or "out"; lines: its text; needs: names of the values that it takes; makes:
    of those that it gives."""

    kind: str
    lines: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[str, ...]


def graph_picture(
    name: str, agent: str, graph: Graph, task: TaskSpec, depends_on: dict[str, tuple[str, ...]]
) -> Markup:
    """The picture. name: its id on the page; depends_on: as `runtime.certificate.certificate` derives it."""
    blocks = _blocks(graph)
    layers = _layers(blocks)
    if len(blocks) > MOST_BLOCKS or max(map(len, layers)) > MOST_BESIDE:
        blocks = _one_block(graph)
        layers = _layers(blocks)
    boxes, height = _placed(blocks, layers)
    height = max(height, 250)
    parts = [*_edges(blocks, boxes), *(_box(blocks[number], *box) for number, box in boxes.items())]
    parts += _unseen(task, height)
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


def _layers(blocks: Sequence[Block]) -> list[list[int]]:
    """Blocks by how many stand above them at least; outputs lowest. In a layer, each stands under what it needs."""
    maker = {name: number for number, block in enumerate(blocks) for name in block.makes}
    depth: list[int] = []
    for block in blocks:
        depth.append(max((depth[maker[name]] + 1 for name in block.needs), default=0))
    last = max(depth)
    for number, block in enumerate(blocks):
        if block.kind == "out":
            depth[number] = last
    layers = [[number for number, at in enumerate(depth) if at == layer] for layer in range(last + 1)]
    place: dict[int, float] = {}
    for layer in layers:

        def wanted(number: int) -> float:
            above = [place[maker[name]] for name in blocks[number].needs]
            return sum(above) / len(above) if above else float(number)

        layer.sort(key=wanted)
        place.update({number: (i + 0.5) / len(layer) for i, number in enumerate(layer)})
    return layers


def _placed(
    blocks: Sequence[Block], layers: Sequence[Sequence[int]]
) -> tuple[dict[int, tuple[float, float, float, float]], float]:
    """Left, top, width and height of each block, and the height of all."""
    boxes: dict[int, tuple[float, float, float, float]] = {}
    top = 30.0
    for layer in layers:
        room = (WALL - 8) / len(layer)
        width = min(room - 8, 120.0)
        heights = [len(blocks[number].lines) * LINE + 10 for number in layer]
        for i, (number, height) in enumerate(zip(layer, heights, strict=True)):
            boxes[number] = (4 + (i + 0.5) * room - width / 2, top, width, height)
        top += max(heights) + BETWEEN
    return boxes, top - BETWEEN + 8


def _edges(blocks: Sequence[Block], boxes: dict[int, tuple[float, float, float, float]]) -> list[Markup]:
    """From the lower edge of what makes a value to the upper edge of what needs it, behind all boxes."""
    maker = {name: number for number, block in enumerate(blocks) for name in block.makes}
    found = []
    for number, block in enumerate(blocks):
        sources = list(dict.fromkeys(maker[name] for name in block.needs))
        for i, source in enumerate(sources):
            left, top, width, height = boxes[source]
            a, b = left + width / 2, top + height
            left, top, width, _ = boxes[number]
            c, d = left + width * (i + 1) / (len(sources) + 1), top
            bend = min((d - b) / 2, 40)
            path = f"M{a:.1f} {b:.1f} C{a:.1f} {b + bend:.1f} {c:.1f} {d - bend:.1f} {c:.1f} {d:.1f}"
            lit = " lit" if blocks[source].kind == "in" else ""
            found.append(Markup('<path class="edge{}" d="{}"/>').format(lit, path))
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
    room = int(width / 5.6)
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
