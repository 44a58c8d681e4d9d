"""What is drawn of the families that searches by trials find: cells and decoders as graphs, a chain of layers as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from segnas.errors import UserError
from segnas.report import tables
from segnas.report.graphs import Graph, Node, cell_graph, draw
from segnas.report.information import Block
from segnas.report.markup import Markup, listing, plural, tag
from segnas.report.sections import paragraph
from segnas.spaces import dpc, fast_nas, nas_rl, nasnet, template_nas
from segnas.spaces.architecture import from_json

CONCATENATED = "∥"  # between two operations whose results are not added
FAST_NAS_MAPS = ("stride 4", "stride 8", "stride 16", "stride 32")
TEMPLATE_MAPS = ("stride 4", "stride 8")


def drawn(architecture: dict[str, Any]) -> list[Markup] | None:
    """What the report shows of an architecture above its JSON; None where its family is not among these, or it is malformed."""
    try:
        found = from_json(architecture)
    except UserError:
        return None
    draw_it: Callable[[Any], list[Markup]] | None = DRAWN.get(type(found))
    return draw_it(found) if draw_it else None


def _titled(title: str, graph: Graph, *notes: str) -> list[Markup]:
    shown = tables.scrolling(draw(graph, title), title[0].lower() + title[1:])
    return [tag("h3", title), shown, *(paragraph(note, "note") for note in notes)]


# NASNet, AmoebaNet, PNASNet -------------------------------------------------------------------------------------------


def _nasnet(found: nasnet.NasNet) -> list[Markup]:
    places = nasnet.places(found)
    reducing, network = sum(place.reduces for place in places), found.network
    inputs = "H(l−1) and H(l−2) are the outputs of the two cells before, brought to the cell's own size"
    if network.skip_reduction_layer_input:
        inputs += "; in the cell after a reduction cell H(l−2) is the output of the third cell before"
    widths = f"An operation has {plural(network.filters, 'channel')} in the first stack, and twice as many after each reduction."
    if found.reduction is None:
        where = f"It stands at all {plural(len(places), 'place')}; {reducing} of them halve the resolution, with stride 2."
        return _titled("The cell", _nasnet_cell(found.normal), f"{where} {_joins(found.normal)} {inputs}. {widths}")
    where = f"It stands at {len(places) - reducing} of the {plural(len(places), 'place')}."
    other = f"It stands at the other {reducing}: operations on H(l−1) and H(l−2) have stride 2."
    return [
        *_titled("The normal cell", _nasnet_cell(found.normal), f"{where} {_joins(found.normal)} {inputs}. {widths}"),
        *_titled("The reduction cell", _nasnet_cell(found.reduction), f"{other} {_joins(found.reduction)}"),
    ]


def _joins(cell: nasnet.NasNetCell) -> str:
    """What becomes of the results of a block's two operations."""
    told = {"add": "adds the results of two operations (+)", "concat": f"concatenates those of two ({CONCATENATED})"}
    found = {block.combine for block in cell.blocks}
    return f"A block {' or '.join(words for combine, words in told.items() if combine in found)}."


def _nasnet_cell(cell: nasnet.NasNetCell) -> Graph:
    blocks = [Block(block.inputs, block.operations) for block in cell.blocks]
    return cell_graph(blocks, cell.concat, ["+" if block.combine == "add" else CONCATENATED for block in cell.blocks])


# Dense prediction cells -----------------------------------------------------------------------------------------------


def _dpc(found: dpc.Dpc) -> list[Markup]:
    nodes = [
        Node(f"branch {number + 1}", (branch.input + 1,), (branch.operation,)) for number, branch in enumerate(found.branches)
    ]
    graph = Graph(("features",), tuple(nodes), tuple(range(1, len(nodes) + 1)), "decoder")
    network = found.network
    return _titled(
        "The dense prediction cell",
        graph,
        f"The features are those of the encoder at stride {network.output_stride}; a branch has {network.cell_width} channels. "
        "A rate says how far apart a convolution reads, in height and in width"
        f"{' (at stride 16; here twice as far)' if network.output_stride == 8 else ''}; a grid, into how many parts it pools.",
    )


# Fast NAS and template search -----------------------------------------------------------------------------------------


def _fast_nas(found: fast_nas.FastNas) -> list[Markup]:
    blocks = [Node(f"block {number + 1}", pair, ("cell", "cell")) for number, pair in enumerate(found.connections)]
    decoder = Graph(FAST_NAS_MAPS, tuple(blocks), found.collected(), "classifier")
    layers = [
        Node(f"layer {number + 1}", layer.inputs, layer.operations, open=True) for number, layer in enumerate(found.cell.layers)
    ]
    cell = Graph(("x",), (Node("first", (0,), (found.cell.first,)), *layers), found.cell.loose_ends(), "output", "add")
    return [
        *_titled(
            "The decoder",
            decoder,
            f"The encoder gives four maps. A block adds two, each passed through a cell of {found.network.agg_size} channels.",
        ),
        *_titled(
            "The cell of all blocks",
            cell,
            "A layer reads the input, what an operation made, or a sum. The output adds the sums, and the result of the first "
            "operation, where no layer reads them.",
        ),
    ]


def _template_nas(found: template_nas.TemplateNas) -> list[Markup]:
    nodes = []
    for number, row in enumerate(found.structure):
        template = found.templates[row.template]
        name = f"row {number + 1}"
        name += f" ×{row.repeats}" if row.repeats > 1 else ""
        name += f", stride {row.stride}" if row.stride > 1 else ""
        sign = "+" if template.aggregation == "weighted_sum" else CONCATENATED
        nodes.append(Node(name, row.inputs, template.operations, sign))
    graph = Graph(TEMPLATE_MAPS, tuple(nodes), found.collected(), "classifier")
    used = len({row.template for row in found.structure})
    return _titled(
        "The decoder",
        graph,
        f"The encoder gives two maps. A row applies one of {plural(len(found.templates), 'template')} ({used} in use); ×2 is "
        f"twice: on its second input and its own result. + weighs channels and adds, {CONCATENATED} puts them side by side.",
    )


# NAS with reinforcement learning --------------------------------------------------------------------------------------


def _nas_rl(found: nas_rl.NasRl) -> list[Markup]:
    rows = list(_layer_rows(found))
    table = tables.table("The layers", ("layer", "filter", "stride", "channels", "reads"), rows, "layers")
    read = listing((str(number) for number in found.outputs), limit=len(found.outputs))
    noun = "layer" if len(found.outputs) == 1 else "layers"
    return [table, paragraph(f"What several layers give is concatenated. The classifier reads {noun} {read}.", "note")]


def _layer_rows(found: nas_rl.NasRl) -> Iterable[tuple[str, ...]]:
    for number, layer in enumerate(found.layers, start=1):
        reads = listing(("the image" if source == 0 else str(source) for source in layer.inputs), limit=len(layer.inputs))
        filters, stride = f"{layer.height}×{layer.width}", f"{layer.stride_height}×{layer.stride_width}"
        yield str(number), filters, stride, str(layer.filters), reads


DRAWN: dict[type, Callable[[Any], list[Markup]]] = {
    nasnet.NasNet: _nasnet,
    dpc.Dpc: _dpc,
    fast_nas.FastNas: _fast_nas,
    template_nas.TemplateNas: _template_nas,
    nas_rl.NasRl: _nas_rl,
}
