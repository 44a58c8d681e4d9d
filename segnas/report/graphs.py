"""Draw it: the graph of a cell or of a decoder, as inline SVG styled by report.css.

Inputs stand left, each node has a row of its own and stands one column to the right of its latest source, so an edge that runs
down a gutter and then along its node's row never passes under another node. States are numbered as architectures number them:
the inputs first, then what the nodes make.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from segnas.report.information import Block
from segnas.report.markup import Markup, join, listing, short, tag

KINDS = {"sep": "separable", "atrous": "atrous", "dil": "atrous", "max": "pool", "avg": "pool", "global": "pool", "skip": "skip"}
CARD_WIDTH, GUTTER = 138.0, 68.0  # of a node, unless an operation's name needs more; between two columns
PILL_LEFT, PILL_RIGHT, PILL_TOP, PILL_ROW = 8.0, 28.0, 30.0, 25.0  # where the operations stand in their node
CARD_FOOT, CARD_GAP = 19.0, 14.0
LETTER = 6.7  # width of one in an operation's name
INPUT_WIDTH, INPUT_HEIGHT, INPUT_ROW = 70.0, 34.0, 50.0
LEFT, TOP = 4.0, 8.0
BAR_HEIGHT = 96.0  # of the concatenation, at least: its name, and inputs that pass below the only node
LANE, LANES = 10.0, 40.0  # between the vertical runs of two sources in one gutter; all of them
COLORS = 6  # s0 to s6


@dataclass(frozen=True)
class Node:
    """A step: `operations[i]` on the state `inputs[i]`, and the sum of the results.

    sign: what joins them. open: the results of the operations are states, too, before the one that they make together.
    """

    name: str
    inputs: tuple[int, ...]
    operations: tuple[str, ...]
    sign: str = "+"
    open: bool = False


@dataclass(frozen=True)
class Graph:
    """What is drawn. inputs: their names. joined: the states that make the output, each once, and how: concatenated or added."""

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    joined: tuple[int, ...]
    output: str
    how: str = "concatenate"
    sources: tuple[tuple[int, int | None], ...] = field(init=False)  # of each state after the inputs: (node, slot or its end)

    def __post_init__(self) -> None:
        sources: list[tuple[int, int | None]] = []
        for number, node in enumerate(self.nodes):
            sources += [(number, slot) for slot in range(len(node.operations))] if node.open else []
            sources.append((number, None))
        object.__setattr__(self, "sources", tuple(sources))

    def name_of(self, state: int) -> str:
        """`H(l−2)`, `block 3`, or of an open node `first of layer 2`."""
        if state < len(self.inputs):
            return self.inputs[state]
        number, slot = self.sources[state - len(self.inputs)]
        name = self.nodes[number].name
        return name if slot is None else f"{('first', 'second')[slot]} of {name}"


def operation_name(operation: str) -> str:
    """`sep_conv_3x3` -> `sep 3×3`, `dil_conv_5x5` -> `dilated 5×5`, `skip_connect` -> `skip`; others without underscores."""
    if operation.startswith("dil_"):
        operation = operation.replace("dil_", "dilated_", 1)
    operation = re.sub(r"([a-z])(\d+x\d+)", r"\1 \2", operation)  # conv3x3
    words = operation.replace("_conv_", " ").replace("skip_connect", "skip").replace("_", " ").split(" ")
    return " ".join(word.replace("x", "×") if word[:1].isdigit() else word for word in words)


def state_name(state: int) -> str:
    """The plain-text name of an input of a block: 0 = H^{l-2}, 1 = H^{l-1}, 2 + i = block i (shown from 1 on)."""
    return CELL_INPUTS[state] if state < 2 else f"block {state - 1}"


CELL_INPUTS = ("H(l−2)", "H(l−1)")


def cell_graph(blocks: Sequence[Block], concat: Sequence[int] | None = None, signs: Sequence[str] = ()) -> Graph:
    """A cell of blocks. concat: the states that make the output; None for all blocks. signs: of each block, else a sum."""
    nodes = tuple(
        Node(state_name(2 + number), block.inputs, block.operations, signs[number] if signs else "+")
        for number, block in enumerate(blocks)
    )
    joined = range(2, len(blocks) + 2) if concat is None else sorted(set(concat))
    return Graph(CELL_INPUTS, nodes, tuple(joined), "H(l)")


def in_words(graph: Graph, name: str = "The cell") -> str:
    """Each node as a sum of operations on named inputs, and what the output is of."""
    told = []
    for node in graph.nodes:
        terms = [
            f"{operation_name(operation)} of {graph.name_of(state)}"
            for operation, state in zip(node.operations, node.inputs, strict=True)
        ]
        told.append(f"{node.name} = {f' {node.sign} '.join(terms)}")
    ends = [len(graph.inputs) + at for at, (_, slot) in enumerate(graph.sources) if slot is None]
    every = list(graph.joined) == ends and all(node.name.startswith("block ") for node in graph.nodes)
    joined = "all blocks" if every else listing(graph.name_of(state) for state in graph.joined)
    return f"{name}: {'; '.join(told)}; the output {graph.how}s {joined}."


def draw(graph: Graph, name: str = "The cell") -> Markup:
    """The graph; `name` begins its description for those who do not see it."""
    return _Drawing(graph).draw(name)


class _Drawing:
    """Where the parts of a graph stand."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        longest = max(len(operation_name(operation)) for node in graph.nodes for operation in node.operations)
        titles = max(len(node.name) for node in graph.nodes)
        self.card = max(CARD_WIDTH, PILL_LEFT + PILL_RIGHT + LETTER * longest + 12, LETTER * titles + 20)
        self.heights = [PILL_TOP + PILL_ROW * (len(node.operations) - 1) + CARD_FOOT for node in graph.nodes]
        self.tops = [TOP + sum(self.heights[:number]) + CARD_GAP * number for number in range(len(graph.nodes))]
        self.columns: list[int] = []
        for node in graph.nodes:
            self.columns.append(1 + max(self._column(state) for state in node.inputs))
        self.end = self._left(max(self.columns)) + self.card + 56  # where the concatenation begins
        self.bottom = max(self.tops[-1] + self.heights[-1], TOP + BAR_HEIGHT)

    def draw(self, name: str) -> Markup:
        graph = self.graph
        cards = [self._card(number) for number in range(len(graph.nodes))]
        edges = [
            self._edge(state, number, slot) for number, node in enumerate(graph.nodes) for slot, state in enumerate(node.inputs)
        ]
        outputs = [self._output(state) for state in graph.joined]
        width = self.end + 82 + LETTER * len(graph.output) / 2 + 24
        height = max(self.bottom + 16, TOP + INPUT_ROW * len(graph.inputs))
        return tag(
            "svg",
            *outputs,
            *edges,
            *self._inputs(),
            *cards,
            self._concatenation(),
            viewBox=f"0 0 {width:g} {height:g}",
            style=f"min-width:{0.72 * width:.0f}px;max-width:{1.1 * width:.0f}px",
            role="img",
            aria_label=in_words(graph, name),
            class_="drawing cell",
        )

    def _column(self, state: int) -> int:
        """0 of the inputs."""
        inputs = len(self.graph.inputs)
        return 0 if state < inputs else self.columns[self.graph.sources[state - inputs][0]]

    def _left(self, column: int) -> float:
        return LEFT + INPUT_WIDTH + 60 + (self.card + GUTTER) * (column - 1)

    def _pill_y(self, number: int, slot: int) -> float:
        return self.tops[number] + PILL_TOP + PILL_ROW * slot

    def _source(self, state: int) -> tuple[float, float]:
        """Where the edges of a state begin."""
        inputs = len(self.graph.inputs)
        if state < inputs:
            return LEFT + INPUT_WIDTH, TOP + 20 + state * INPUT_ROW
        number, slot = self.graph.sources[state - inputs]
        x = self._left(self.columns[number])
        if slot is None:
            return x + self.card, self.tops[number] + self.heights[number] / 2
        return x + self.card, self._pill_y(number, slot)

    def _edge(self, state: int, number: int, slot: int) -> Markup:
        (x1, y1), x2, y2 = self._source(state), self._left(self.columns[number]) + PILL_LEFT, self._pill_y(number, slot)
        states = range(len(self.graph.inputs) + len(self.graph.sources))
        neighbours = [other for other in states if self._column(other) == self._column(state)]
        lane = x1 + 16 + min(LANE, LANES / max(1, len(neighbours) - 1)) * (len(neighbours) - 1 - neighbours.index(state))
        kind = f"wire {color(state)}"
        if abs(y2 - y1) < 1:
            return tag("path", d=f"M{short(x1)} {short(y1)} H{short(x2)}", class_=kind)
        turn = min(8.0, abs(y2 - y1) / 2)
        down = turn if y2 > y1 else -turn
        path = (
            f"M{short(x1)} {short(y1)} H{short(lane - turn)} Q{short(lane)} {short(y1)} {short(lane)} {short(y1 + down)} "
            f"V{short(y2 - down)} Q{short(lane)} {short(y2)} {short(lane + turn)} {short(y2)} H{short(x2)}"
        )
        return tag("path", d=path, class_=kind)

    def _inputs(self) -> list[Markup]:
        parts = []
        for state, name in enumerate(self.graph.inputs):
            y, half = TOP + 20 + state * INPUT_ROW, INPUT_HEIGHT / 2
            box = tag("rect", x=LEFT, y=y - half, width=INPUT_WIDTH, height=INPUT_HEIGHT, rx=6.0, class_=f"box {color(state)}")
            middle = LEFT + INPUT_WIDTH / 2
            parts += [box, tag("text", _raised(name), x=middle, y=y + (6 if "(" in name else 5), class_="label middle")]
        return parts

    def _card(self, number: int) -> Markup:
        node, x, y = self.graph.nodes[number], self._left(self.columns[number]), self.tops[number]
        height, pill = self.heights[number], self.card - PILL_LEFT - PILL_RIGHT
        last = max(state for state, (at, _) in enumerate(self.graph.sources) if at == number) + len(self.graph.inputs)
        parts = [
            tag("rect", x=x, y=y, width=self.card, height=height, rx=8.0, class_=f"box {color(last)}"),
            tag("text", node.name, x=x + 10, y=y + 14, class_="tick"),
        ]
        if len(node.operations) > 1:
            parts.append(tag("text", node.sign, x=x + self.card - 14, y=y + height / 2 + 6, class_="label middle"))
        for slot, operation in enumerate(node.operations):
            middle, named = self._pill_y(number, slot), operation_name(operation)
            kind = f"pill {kind_of(operation)}"
            parts.append(tag("rect", x=x + PILL_LEFT, y=middle - 10, width=pill, height=20.0, rx=10.0, class_=kind))
            parts.append(tag("text", named, x=x + PILL_LEFT + pill / 2, y=middle + 4, class_="tick middle ink"))
        return join(parts)

    def _output(self, state: int) -> Markup:
        """The line from a state to the concatenation; that of an input runs between the first and the second row of nodes."""
        x, y = self._source(state)
        if state >= len(self.graph.inputs):
            return tag("line", x1=x, x2=self.end, y1=y, y2=y, class_=f"wire out {color(state)}")
        row = self.tops[0] + self.heights[0] + LANE / 2 * state + 3
        return tag("path", d=f"M{short(x)} {short(y)} h6 V{short(row)} H{short(self.end)}", class_=f"wire out {color(state)}")

    def _concatenation(self) -> Markup:
        x, middle = self.end, (TOP + self.bottom) / 2
        turned = f"translate({short(x + 13)} {short(middle)}) rotate(90)"
        return join(
            [
                tag("rect", x=x, y=TOP, width=26.0, height=self.bottom - TOP, rx=8.0, class_="box"),
                tag("text", self.graph.how, x=0.0, y=4.0, transform=turned, class_="tick middle"),
                tag("line", x1=x + 26, x2=x + 62, y1=middle, y2=middle, class_="wire strong"),
                tag("text", _raised(self.graph.output), x=x + 68, y=middle + 5, class_="label"),
            ]
        )


def color(state: int) -> str:
    """The class of a state's hue."""
    return f"s{min(state, COLORS)}"


def kind_of(operation: str) -> str:
    """The class of an operation's hue."""
    spread = "_dil" in operation or ("_rate_" in operation and not operation.endswith("_1x1"))
    return "atrous" if spread else KINDS.get(operation.split("_")[0], "other")


def _raised(name: str) -> Markup:
    """`H(l−2)` with its power above; other names as they are."""
    base, bracket, power = name.removesuffix(")").partition("(")
    return join([base, tag("tspan", power, dy=-5.0, class_="power") if bracket else ""])
