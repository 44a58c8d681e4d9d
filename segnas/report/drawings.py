"""Draw it: the path through the trellis of resolutions and the graph of a cell, as inline SVG styled by report.css."""

from __future__ import annotations

from collections.abc import Sequence

from segnas.report.information import Block, HierarchicalArchitecture, Search
from segnas.report.markup import Markup, join, listing, short, tag

BETA_WIDTH = 7.0  # stroke width of a move with probability 1

KINDS = {"sep": "separable", "atrous": "atrous", "dil": "atrous", "max": "pool", "avg": "pool", "skip": "skip"}


def operation_name(operation: str) -> str:
    """`sep_conv_3x3` -> `sep 3×3`, `dil_conv_5x5` -> `dilated 5×5`, `skip_connect` -> `skip`; others without underscores."""
    if operation.startswith("dil_"):
        operation = operation.replace("dil_", "dilated_", 1)
    words = operation.replace("_conv_", " ").replace("skip_connect", "skip").replace("_", " ").split(" ")
    return " ".join(word.replace("x", "×") if word[:1].isdigit() else word for word in words)


def state_name(state: int) -> str:
    """The plain-text name of an input of a block: 0 = H^{l-2}, 1 = H^{l-1}, 2 + i = block i (shown from 1 on)."""
    return ("H(l−2)", "H(l−1)")[state] if state < 2 else f"block {state - 1}"


# The trellis ----------------------------------------------------------------------------------------------------------

COLUMN, ROW = 64.0, 62.0
TRELLIS_LEFT, TRELLIS_TOP = 112.0, 44.0


def trellis(path: Sequence[int], beta: Sequence[Sequence[Sequence[float]]] = ()) -> Markup:
    """Layers from left to right, strides 4, 8, 16, ... from top to bottom; `path` bold among all possible moves.

    beta: (layers, levels, 3) probabilities of the moves to s/2, s and 2s out of the column before each layer; where given,
    a move is as thick as it is probable.
    """
    layers, levels = len(path), max(4, max(path) + 1)
    width = TRELLIS_LEFT + COLUMN * layers + 118
    height = TRELLIS_TOP + ROW * (levels - 1) + 26
    weighted = beta if len(beta) == layers else ()
    return tag(
        "svg",
        _trellis_frame(layers, levels),
        _moves(layers, levels, weighted),
        _chosen_moves(path, weighted),
        _nodes(path, levels),
        _stem_and_head(path),
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"min-width:{0.72 * width:.0f}px;max-width:{1.1 * width:.0f}px",
        role="img",
        aria_label=path_in_words(path),
        class_="drawing trellis",
    )


def path_in_words(path: Sequence[int]) -> str:
    """`From the stem at stride 4 through 12 layers: stride 4 for 3 layers, stride 8 for 1 layer, ...`."""
    stays: list[list[int]] = []
    for level in path:
        if stays and stays[-1][0] == level:
            stays[-1][1] += 1
        else:
            stays.append([level, 1])
    told = ", ".join(f"stride {4 << level} for {number} {'layer' if number == 1 else 'layers'}" for level, number in stays)
    return f"From the stem at stride 4 through {len(path)} layers: {told}."


def _place(layer: int, level: int) -> tuple[float, float]:
    """Where the node of a layer (0 is the stem) stands."""
    return TRELLIS_LEFT + COLUMN * layer, TRELLIS_TOP + ROW * level


def _possible(layer: int, level: int, levels: int) -> bool:
    return 0 <= level < levels and level <= layer


def _trellis_frame(layers: int, levels: int) -> Markup:
    parts = []
    for level in range(levels):
        _, y = _place(0, level)
        parts.append(tag("text", f"stride {4 << level}", x=0.0, y=y + 4, class_="axis"))
        parts.append(tag("line", x1=62.0, x2=_place(layers, level)[0] + 18, y1=y, y2=y, class_="rail"))
    for layer in range(1, layers + 1):
        parts.append(tag("text", str(layer), x=_place(layer, 0)[0], y=14.0, class_="tick middle"))
    parts.append(tag("text", "layer", x=0.0, y=14.0, class_="axis"))
    return join(parts)


def _moves(layers: int, levels: int, beta: Sequence[Sequence[Sequence[float]]]) -> Markup:
    parts = []
    for layer in range(layers):
        for level in range(levels):
            for move in (-1, 0, 1):
                if not _possible(layer, level, levels) or not _possible(layer + 1, level + move, levels):
                    continue
                parts.append(_move(layer, level, move, "move", beta))
    return join(parts)


def _chosen_moves(path: Sequence[int], beta: Sequence[Sequence[Sequence[float]]]) -> Markup:
    steps = zip((0, *path), path, strict=False)
    return join(_move(layer, before, level - before, "move chosen", beta) for layer, (before, level) in enumerate(steps))


def _move(layer: int, level: int, move: int, kind: str, beta: Sequence[Sequence[Sequence[float]]]) -> Markup:
    (x1, y1), (x2, y2) = _place(layer, level), _place(layer + 1, level + move)
    told, width = f"layer {layer + 1}: stride {4 << level} to {4 << (level + move)}", 1.0
    if beta and level < len(beta[layer]):
        probability = beta[layer][level][move + 1]
        told, width = f"{told}, probability {probability:.3f}", max(0.4, BETA_WIDTH * probability)
    return tag("line", tag("title", told), x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, stroke_width=width)


def _nodes(path: Sequence[int], levels: int) -> Markup:
    parts = []
    for layer in range(1, len(path) + 1):
        for level in range(min(levels, layer + 1)):
            x, y = _place(layer, level)
            chosen = path[layer - 1] == level
            where = {"data_layer": layer, "data_level": level}
            title = tag("title", f"layer {layer}, stride {4 << level}{', chosen' if chosen else ''}")
            kind = "node chosen" if chosen else "node"
            parts.append(tag("circle", title, cx=x, cy=y, r=14.0 if chosen else 4.5, class_=kind, **where))
            if chosen:
                parts.append(tag("text", str(4 << level), x=x, y=y + 4.5, class_="on middle"))
    return join(parts)


def _stem_and_head(path: Sequence[int]) -> Markup:
    x, y = _place(0, 0)
    end_x, end_y = _place(len(path), path[-1])
    return join(
        [
            tag("rect", x=x - 27, y=y - 15, width=54.0, height=30.0, rx=6.0, class_="box"),
            tag("text", "stem", x=x, y=y + 4.5, class_="label middle"),
            tag("line", x1=end_x + 14, x2=end_x + 42, y1=end_y, y2=end_y, class_="move chosen"),
            tag("rect", x=end_x + 42, y=end_y - 22, width=74.0, height=44.0, rx=6.0, class_="box"),
            tag("text", "ASPP and", x=end_x + 79, y=end_y - 3, class_="label middle"),
            tag("text", "decoder", x=end_x + 79, y=end_y + 13, class_="label middle"),
        ]
    )


# The cell -------------------------------------------------------------------------------------------------------------

CARD_WIDTH, CARD_HEIGHT = 138.0, 74.0
CARD_COLUMN, CARD_ROW = 206.0, 88.0
INPUT_WIDTH, INPUT_HEIGHT = 70.0, 34.0
CELL_LEFT, CELL_TOP = 4.0, 8.0
LANE = 10.0  # between the vertical runs of two sources in one gutter


def cell(blocks: Sequence[Block], concat: Sequence[int] | None = None) -> Markup:
    """A cell as a graph: inputs left, one row a block, each operation at the end of the edge it works on, outputs concatenated.

    concat: the states that make the output; None for all blocks.

    Every block has a row of its own and stands one column to the right of its latest input, so an edge that runs down a gutter
    and then along its block's row never passes under another block.
    """
    columns = _columns(blocks)
    last_x = CELL_LEFT + INPUT_WIDTH + 60 + CARD_COLUMN * (max(columns) - 1) + CARD_WIDTH
    concat_x = last_x + 56
    height = CELL_TOP + CARD_ROW * len(blocks) + 2
    cards = [_card(index, block, columns) for index, block in enumerate(blocks)]
    edges = [_edge(state, index, slot, columns) for index, block in enumerate(blocks) for slot, state in enumerate(block.inputs)]
    joined = _joined(blocks, concat)
    outputs = [_output(state, columns, concat_x) for state in joined]
    width = concat_x + 122
    return tag(
        "svg",
        *outputs,
        *edges,
        *_inputs(),
        *cards,
        _concatenation(concat_x, len(blocks)),
        viewBox=f"0 0 {width:g} {height:g}",
        style=f"min-width:{0.72 * width:.0f}px;max-width:{1.1 * width:.0f}px",
        role="img",
        aria_label=cell_in_words(blocks, concat),
        class_="drawing cell",
    )


def cell_in_words(blocks: Sequence[Block], concat: Sequence[int] | None = None) -> str:
    """Each block as a sum of two operations on named inputs, and what the output concatenates."""
    told = [
        f"block {index + 1} = "
        + " + ".join(
            f"{operation_name(operation)} of {state_name(state)}"
            for operation, state in zip(block.operations, block.inputs, strict=True)
        )
        for index, block in enumerate(blocks)
    ]
    joined = _joined(blocks, concat)
    every = joined == list(range(2, len(blocks) + 2))
    output = "all blocks" if every else listing(state_name(state) for state in joined)
    return f"The cell: {'; '.join(told)}; the output concatenates {output}."


def _joined(blocks: Sequence[Block], concat: Sequence[int] | None) -> list[int]:
    """The states of the output, each once."""
    return list(range(2, len(blocks) + 2)) if concat is None else sorted(set(concat))


def _columns(blocks: Sequence[Block]) -> list[int]:
    """The column of each block: 1 + the longest way from the inputs."""
    columns: list[int] = []
    for block in blocks:
        columns.append(1 + max((columns[state - 2] if state > 1 else 0) for state in block.inputs))
    return columns


def _card_place(index: int, columns: Sequence[int]) -> tuple[float, float]:
    return CELL_LEFT + INPUT_WIDTH + 60 + CARD_COLUMN * (columns[index] - 1), CELL_TOP + CARD_ROW * index


def _source(state: int, columns: Sequence[int]) -> tuple[float, float]:
    """Where the edges of a state begin."""
    if state < 2:
        return CELL_LEFT + INPUT_WIDTH, CELL_TOP + 20 + state * (INPUT_HEIGHT + 16)
    x, y = _card_place(state - 2, columns)
    return x + CARD_WIDTH, y + CARD_HEIGHT / 2


def _pill_y(index: int, slot: int, columns: Sequence[int]) -> float:
    return _card_place(index, columns)[1] + 30 + 25 * slot


def _edge(state: int, index: int, slot: int, columns: Sequence[int]) -> Markup:
    x1, y1 = _source(state, columns)
    x2, y2 = _card_place(index, columns)[0] + 8, _pill_y(index, slot, columns)
    column = columns[state - 2] if state > 1 else 0
    neighbours = [0, 1] if state < 2 else [other + 2 for other, at in enumerate(columns) if at == column]
    lane = x1 + 16 + LANE * (len(neighbours) - 1 - neighbours.index(state))
    kind = f"wire s{min(state, 6)}"
    if abs(y2 - y1) < 1:
        return tag("path", d=f"M{short(x1)} {short(y1)} H{short(x2)}", class_=kind)
    turn = min(8.0, abs(y2 - y1) / 2)
    down = turn if y2 > y1 else -turn
    path = (
        f"M{short(x1)} {short(y1)} H{short(lane - turn)} Q{short(lane)} {short(y1)} {short(lane)} {short(y1 + down)} "
        f"V{short(y2 - down)} Q{short(lane)} {short(y2)} {short(lane + turn)} {short(y2)} H{short(x2)}"
    )
    return tag("path", d=path, class_=kind)


def _inputs() -> list[Markup]:
    parts = []
    for state, power in enumerate(("l−2", "l−1")):
        y = CELL_TOP + 20 + state * (INPUT_HEIGHT + 16)
        half = INPUT_HEIGHT / 2
        parts.append(tag("rect", x=CELL_LEFT, y=y - half, width=INPUT_WIDTH, height=INPUT_HEIGHT, rx=6.0, class_=f"box s{state}"))
        name = join([Markup("H"), tag("tspan", power, dy=-5.0, class_="power")])
        parts.append(tag("text", name, x=CELL_LEFT + INPUT_WIDTH / 2, y=y + 6, class_="label middle"))
    return parts


def _card(index: int, block: Block, columns: Sequence[int]) -> Markup:
    x, y = _card_place(index, columns)
    parts = [
        tag("rect", x=x, y=y, width=CARD_WIDTH, height=CARD_HEIGHT, rx=8.0, class_=f"box s{min(index + 2, 6)}"),
        tag("text", f"block {index + 1}", x=x + 10, y=y + 14, class_="tick"),
        tag("text", "+", x=x + CARD_WIDTH - 14, y=y + CARD_HEIGHT / 2 + 6, class_="label middle"),
    ]
    for slot, operation in enumerate(block.operations):
        middle = _pill_y(index, slot, columns)
        kind = f"pill {KINDS.get(operation.split('_')[0], 'other')}"
        parts.append(tag("rect", x=x + 8, y=middle - 10, width=CARD_WIDTH - 36, height=20.0, rx=10.0, class_=kind))
        parts.append(
            tag("text", operation_name(operation), x=x + 8 + (CARD_WIDTH - 36) / 2, y=middle + 4, class_="tick middle ink")
        )
    return join(parts)


def _output(state: int, columns: Sequence[int], concat_x: float) -> Markup:
    """The line from a state to the concatenation; that of an input runs between the first and the second row of blocks."""
    x, y = _source(state, columns)
    if state > 1:
        return tag("line", x1=x, x2=concat_x, y1=y, y2=y, class_=f"wire out s{min(state, 6)}")
    row = CELL_TOP + CARD_HEIGHT + LANE / 2 * state + 3
    return tag("path", d=f"M{short(x)} {short(y)} h6 V{short(row)} H{short(concat_x)}", class_=f"wire out s{state}")


def _concatenation(x: float, blocks: int) -> Markup:
    height = CARD_ROW * (blocks - 1) + CARD_HEIGHT
    middle = CELL_TOP + height / 2
    name = join([Markup("H"), tag("tspan", "l", dy=-5.0, class_="power")])
    return join(
        [
            tag("rect", x=x, y=CELL_TOP, width=26.0, height=height, rx=8.0, class_="box"),
            tag(
                "text",
                "concatenate",
                x=0.0,
                y=4.0,
                transform=f"translate({short(x + 13)} {short(middle)}) rotate(90)",
                class_="tick middle",
            ),
            tag("line", x1=x + 26, x2=x + 62, y1=middle, y2=middle, class_="wire strong"),
            tag("text", name, x=x + 82, y=middle + 5, class_="label middle"),
        ]
    )


def trellis_caption(architecture: HierarchicalArchitecture, search: Search | None) -> str:
    """What the marks of the trellis mean, and sizes where the architecture states them."""
    thick = ", the thicker the more probable after the search" if search is not None and search.beta else ""
    caption = f"A circle is a layer with its stride; light lines are the other moves that the space allows{thick}."
    filters = architecture.network.get("filters")
    if isinstance(filters, int):
        blocks = len(architecture.cell)
        subject = "The cell's one block" if blocks == 1 else f"Each of the {blocks} blocks"
        caption += f" {subject} has {filters} channels at stride 4, twice as many at each halving."
    return caption
