"""Trellis and cell against the architecture they show."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from segnas.report.graphs import Graph, Node, cell_graph, draw, in_words, operation_name
from segnas.report.information import Block
from segnas.report.trellis import path_in_words, trellis

PATH = [0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1]
CELL = (
    Block((0, 1), ("atrous_conv_5x5", "sep_conv_3x3")),
    Block((0, 1), ("sep_conv_3x3", "atrous_conv_3x3")),
    Block((3, 0), ("sep_conv_3x3", "skip_connect")),
    Block((4, 2), ("sep_conv_5x5", "max_pool_3x3")),
    Block((3, 5), ("sep_conv_5x5", "atrous_conv_5x5")),
)


def elements(svg: str, class_: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter() if class_ in element.get("class", "").split()]


@pytest.mark.parametrize("path", [PATH, [0] * 12, [1, 2, 3, 3], [0]])
def test_the_trellis_marks_exactly_the_nodes_of_the_path(path: list[int]) -> None:
    nodes = elements(trellis(path), "node")
    place = {(int(node.get("data-layer", "")), int(node.get("data-level", ""))): node.get("class") for node in nodes}
    chosen = {where for where, kind in place.items() if kind == "node chosen"}
    assert chosen == {(layer + 1, level) for layer, level in enumerate(path)}
    assert set(place) == {(layer, level) for layer in range(1, len(path) + 1) for level in range(4) if level <= layer}


def test_the_trellis_holds_every_possible_move_once() -> None:
    moves = [move for move in elements(trellis(PATH), "move") if move.get("class") == "move"]
    reachable = [(layer, level) for layer in range(12) for level in range(4) if level <= layer]
    expected = sum(0 <= level + move < 4 for _, level in reachable for move in (-1, 0, 1))
    assert len(moves) == expected
    ends = {tuple(move.get(key) for key in ("x1", "y1", "x2", "y2")) for move in moves}
    assert len(ends) == expected


def test_moves_are_as_thick_as_probable() -> None:
    beta = [[[0.0, 0.75, 0.25], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [0.4, 0.6, 0.0]] for _ in PATH]
    moves = [move for move in elements(trellis(PATH, beta), "move") if move.get("class") == "move"]
    told = {(move.findtext("title") or ""): float(move.get("stroke-width", "")) for move in moves}
    straight = told["layer 1: stride 4 to 4, probability 0.750"]
    down = told["layer 1: stride 4 to 8, probability 0.250"]
    assert straight == pytest.approx(3 * down)


def test_the_cell_names_each_operation_at_its_block_and_draws_each_edge() -> None:
    svg = draw(cell_graph(CELL))
    labels = [element.text for element in elements(svg, "ink")]
    assert labels == [operation_name(operation) for block in CELL for operation in block.operations]
    wires = [wire for wire in elements(svg, "wire") if wire.tag == "path"]
    sources = [re.search(r"s(\d)$", wire.get("class", "")) for wire in wires]
    assert [int(source.group(1)) for source in sources if source] == [state for block in CELL for state in block.inputs]


def points(path: str) -> list[tuple[float, float]]:
    """The corners of a path of M, H, V and Q commands with absolute coordinates."""
    places: list[tuple[float, float]] = []
    for command, text in re.findall(r"([MHVQ])([^MHVQ]*)", path):
        numbers = [float(number) for number in text.split()]
        x, y = places[-1] if places else (0.0, 0.0)
        places.append({"H": lambda n=numbers, y=y: (n[0], y), "V": lambda n=numbers, x=x: (x, n[0])}.get(
            command, lambda n=numbers: (n[-2], n[-1]))())  # fmt: skip
    return places


DECODER = Graph(  # what an open node makes can be read before its sum
    ("stride 4", "stride 8", "stride 16", "stride 32"),
    (
        Node("first", (0,), ("sep_conv_3x3",)),
        Node("layer 1", (3, 4), ("sep_conv_5x5_dil6", "global_average_pool"), open=True),
        Node("layer 2", (5, 6), ("skip_connect", "conv_1x1"), open=True),
        Node("layer 3", (1, 7), ("none", "sep_conv_3x3_rate_18x21"), "∥"),
    ),
    (4, 10, 11),
    "classifier",
)


@pytest.mark.parametrize("graph", [cell_graph(CELL), DECODER])
def test_no_edge_passes_under_another_node(graph: Graph) -> None:
    svg = draw(graph)
    boxes = [tuple(float(box.get(key, "")) for key in ("x", "y", "width", "height")) for box in elements(svg, "box")]
    cards = [box for box in boxes if box[2] > 100]
    assert len(cards) == len(graph.nodes)
    wires = [wire for wire in elements(svg, "wire") if wire.tag == "path"]
    targets = [number for number, node in enumerate(graph.nodes) for _ in node.inputs]
    for wire, target in zip(wires, targets, strict=True):
        corners = points(wire.get("d", ""))
        for (x1, y1), (x2, y2) in pairwise(corners):
            for index, (x, y, width, height) in enumerate(cards):
                outside = max(x1, x2) <= x or min(x1, x2) >= x + width or max(y1, y2) <= y or min(y1, y2) >= y + height
                assert outside or index == target


def test_what_an_open_node_makes_has_names_and_places_of_its_own() -> None:
    assert [DECODER.name_of(state) for state in (3, 4, 5, 6, 7, 8)] == [
        "stride 32", "first", "first of layer 1", "second of layer 1", "layer 1", "first of layer 2"]  # fmt: skip
    svg = draw(DECODER, "The decoder")
    begins = [points(wire.get("d", ""))[0] for wire in elements(svg, "wire") if wire.tag == "path"]
    first, second, end = begins[3], begins[4], begins[6]  # layer 2 reads both results of layer 1, layer 3 their sum
    assert first[0] == second[0] == end[0]
    assert first[1] < end[1] < second[1]
    told = elements(svg, "drawing")[0].get("aria-label") or ""
    assert told.startswith("The decoder: first = sep 3×3 of stride 4; layer 1 = sep 5×5 dil6 of stride 32 + global average pool")
    assert told.endswith(
        "layer 3 = none of stride 8 ∥ sep 3×3 rate 18×21 of layer 1; the output concatenates first, layer 2 and layer 3."
    )


@pytest.mark.parametrize("graph", [cell_graph(CELL), DECODER])
def test_edges_of_different_states_never_run_down_the_same_lane(graph: Graph) -> None:
    runs: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for wire in elements(draw(graph), "wire"):
        if wire.tag == "path" and "out" not in wire.get("class", "").split():
            for (x1, y1), (x2, y2) in pairwise(points(wire.get("d", ""))):
                if x1 == x2 and y1 != y2:
                    runs.setdefault((x1, wire.get("d", "").split(" H")[0]), []).append((min(y1, y2), max(y1, y2)))
    assert len({x for x, _ in runs}) > 2
    for (x, source), lines in runs.items():
        for (other_x, other), others in runs.items():
            if x == other_x and source != other:
                assert all(low >= top or high <= bottom for low, high in lines for bottom, top in others)


def test_what_an_only_node_leaves_aside_still_reaches_the_output() -> None:
    svg = draw(cell_graph((Block((0, 0), ("skip_connect", "skip_connect")),), (0, 1, 2)))
    bar = next(box for box in elements(svg, "box") if box.get("width") == "26")
    foot = float(bar.get("y", "")) + float(bar.get("height", ""))
    rows = [float(found.group(1)) for line in elements(svg, "out") if (found := re.search(r"V([\d.]+) H", line.get("d", "")))]
    assert len(rows) == 2
    assert all(row < foot for row in rows)
    assert foot < float(elements(svg, "drawing")[0].get("viewBox", "").split()[3])


def test_names_fit_into_their_boxes() -> None:
    longest = replace(DECODER.nodes[1], operations=("sep_conv_3x3_rate_18x21_and_more", "none"))
    svg = draw(Graph(DECODER.inputs, (DECODER.nodes[0], longest), (4,), "output"))
    for pill, label in zip(elements(svg, "pill"), elements(svg, "ink"), strict=True):
        assert 6 * len(label.text or "") < float(pill.get("width", ""))


def test_words_for_those_who_cannot_see_the_drawings() -> None:
    assert path_in_words([0, 0, 1]) == "From the stem at stride 4 through 3 layers: stride 4 for 2 layers, stride 8 for 1 layer."
    assert "block 3 = sep 3×3 of block 2 + skip of H(l−2)" in in_words(cell_graph(CELL))
    assert elements(trellis([0, 1]), "trellis")[0].get("aria-label") == path_in_words([0, 1])
