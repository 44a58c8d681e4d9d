"""Draw it: the path of Auto-DeepLab through the trellis of resolutions, as inline SVG styled by report.css."""

from __future__ import annotations

from collections.abc import Sequence

from segnas.report.information import HierarchicalArchitecture, Search
from segnas.report.markup import Markup, join, tag

BETA_WIDTH = 7.0  # stroke width of a move with probability 1
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
