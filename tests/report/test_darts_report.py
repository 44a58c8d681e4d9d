"""The page of a run of DARTS: two cells, two tables of alpha, the curvature; and networks that were made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from segnas.report import write_report
from segnas.report.cautions import cautions
from segnas.report.graphs import cell_graph, draw, in_words, operation_name
from segnas.report.information import Block, gather
from segnas.report.networks import darts_captions, form_in_words, network
from segnas.report.published import published_networks
from segnas.report.tables import comparison_table
from segnas.runs.run import Run
from segnas.spaces.cells import edges
from segnas.spaces.darts import OPERATIONS

NORMAL = [
    {"inputs": [1, 0], "operations": ["sep_conv_3x3", "dil_conv_5x5"]},
    {"inputs": [0, 2], "operations": ["skip_connect", "sep_conv_5x5"]},
    {"inputs": [3, 1], "operations": ["max_pool_3x3", "sep_conv_3x3"]},
    {"inputs": [2, 0], "operations": ["dil_conv_3x3", "skip_connect"]},
]
REDUCTION = [{"inputs": [0, 1], "operations": ["skip_connect", "skip_connect"]}] * 4
ARCHITECTURE = {
    "family": "darts",
    "normal": {"blocks": NORMAL, "concat": [2, 4, 5]},
    "reduction": {"blocks": REDUCTION, "concat": [2, 3, 4, 5]},
    "network": {"form": "segmentation", "channels": 12, "layers": 6, "low_level_width": 16},
}


def write_darts(run: Run, partial: bool = False) -> None:
    """What a search of DARTS leaves, or of PC-DARTS, whose curvature was looked at every second epoch."""
    random = np.random.default_rng(5)
    rows = edges(4)
    records = []
    for old in run.read_json("search.json")["epochs"]:
        record = {key: value for key, value in old.items() if key != "entropy_beta"} | {"architecture": ARCHITECTURE}
        if partial and record["epoch"] % 2:
            record["eigenvalue"] = 0.05 * record["epoch"]
        records.append(record)
    alphas = {name: random.dirichlet(np.ones(len(OPERATIONS)), len(rows)).tolist() for name in ("alpha", "alpha_reduction")}
    weights = {}
    if partial:
        shares = [weight for block in range(4) for weight in random.dirichlet(np.ones(block + 2)).tolist()]
        weights = {"edge_weights": shares, "edge_weights_reduction": shares[::-1]}
    run.write_json("search.json", {
        "system": "darts", "epochs": records, **alphas, **weights, "operations": list(OPERATIONS),
        "edges": [list(edge) for edge in rows], "best_epoch": 38, "last_epoch": 40, "seconds": 900.0})  # fmt: skip
    run.write_json("architecture.json", {
        "architecture": ARCHITECTURE, "id": "0a1b2c3d4e5f", "provenance": {"system": "darts", "epoch": 38}})  # fmt: skip


def elements(svg: str, class_: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter() if class_ in element.get("class", "").split()]


def blocks(described: list[dict[str, Any]]) -> tuple[Block, ...]:
    return tuple(Block(tuple(block["inputs"]), tuple(block["operations"])) for block in described)  # type: ignore[arg-type]


def test_both_cells_are_drawn_and_no_path(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_darts(run)
    section = network(gather(run))
    assert section is not None
    drawn = re.findall(r"<svg.*?</svg>", section.body)
    shown = [[label.text for label in elements(svg, "ink")] for svg in drawn]
    assert shown == [[operation_name(name) for block in part for name in block["operations"]] for part in (NORMAL, REDUCTION)]
    assert re.findall(r"<h3>(.*?)</h3>", section.body) == ["The normal cell", "The reduction cell"]
    page = write_report(run).read_text(encoding="utf-8")
    assert 'class="drawing trellis"' not in page
    for words in (
        "The network has the form for segmentation: the stem divides the resolution by 4, 6 cells follow and end at stride 16, "
        "ASPP follows, and a decoder joins features of stride 4.",
        "Number 3 and 5 of the 6 cells are reduction cells: at 1/3 and 2/3 of the depth.",
        "It stands at the 4 other places of the 6 cells.",
        "A block has 12 channels before the first reduction cell.",
    ):
        assert words in page, words


def test_only_the_blocks_of_the_concatenation_have_a_line_to_it() -> None:
    svg = draw(cell_graph(blocks(NORMAL), (2, 4, 5)))
    assert [line.get("class", "").split()[-1] for line in elements(svg, "out")] == ["s2", "s4", "s5"]
    assert in_words(cell_graph(blocks(NORMAL), (2, 4, 5))).endswith("the output concatenates block 1, block 3 and block 4.")
    assert in_words(cell_graph(blocks(NORMAL), (2, 3, 4, 5))) == in_words(cell_graph(blocks(NORMAL)))
    assert len(elements(draw(cell_graph(blocks(NORMAL))), "out")) == 4


def test_an_input_in_the_concatenation_passes_between_the_rows() -> None:
    svg = draw(cell_graph(blocks(NORMAL), (0, 1, 5)))
    rows = [re.search(r"V([\d.]+) H", line.get("d", "")) for line in elements(svg, "out")]
    heights = [float(found.group(1)) for found in rows if found]
    cards = [box for box in elements(svg, "box") if box.get("width") == "138"]
    tops = [float(box.get("y", "")) for box in cards]
    assert len(heights) == 2
    assert all(tops[0] + 74 < height < tops[1] for height in heights)
    assert in_words(cell_graph(blocks(NORMAL), (0, 1, 5))).endswith("concatenates H(l−2), H(l−1) and block 4.")


def test_names_of_operations() -> None:
    names = [operation_name(name) for name in ("dil_conv_3x3", "dil_conv_5x5", "atrous_conv_3x3", "conv_7x1_1x7", "sep_conv_7x7")]
    assert names == ["dilated 3×3", "dilated 5×5", "atrous 3×3", "conv 7×1 1×7", "sep 7×7"]
    names = [operation_name(name) for name in ("conv3x3_dil12", "sep_conv_3x3_rate_6x21", "avg_pool_grid_2x4", "conv_1x1")]
    assert names == ["conv 3×3 dil12", "sep 3×3 rate 6×21", "avg pool grid 2×4", "conv 1×1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"form": "cifar", "layers": 20}, "the stem keeps their resolution, 20 cells follow and end at stride 4, global average"),
        (
            {"form": "imagenet", "layers": 14},
            "divides their resolution by 8, 14 cells follow and end at stride 32, global average",
        ),
        ({"form": "segmentation", "layers": 1}, "by 4, 1 cell follows and ends at stride 8, ASPP follows, and a decoder"),
        ({"form": "segmentation", "layers": 6, "low_level_width": 0}, "ASPP follows, without a decoder."),
    ],
)
def test_forms_in_words(options: dict[str, Any], expected: str) -> None:
    assert expected in form_in_words(options)
    assert form_in_words({"form": "round", "layers": 3}) == ""


def test_reduction_cells_are_numbered_from_one() -> None:
    assert darts_captions({"layers": 20})[1].startswith("Number 7 and 14 of the 20 cells are reduction cells")
    assert darts_captions({"layers": 1})[1].startswith("Number 1 of the 1 cell is a reduction cell")


def test_both_alphas_have_a_table_that_frames_what_was_decoded(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_darts(run)
    page = write_report(run).read_text(encoding="utf-8")
    normal, reduction = page.split("alpha of the normal cell, edge by edge")[1].split("alpha of the reduction cell, edge by edge")
    assert "each edge of the normal cell, percent; framed: decoded" in normal
    assert [part.count(" chosen") for part in (normal, reduction.split("</details>")[0])] == [8, 8]
    framed = re.findall(r'class="[\w ]*chosen"[^>]*title="([^,]*), ([^:]*):', normal)
    assert ("H(l−1) → block 1", "sep 3×3") in framed
    assert ("block 2 → block 3", "max pool 3×3") in framed
    assert "beta: the path" not in page
    assert "share of the edge" not in page
    assert "Curvature" not in page


def test_partial_channels_show_shares_of_edges_and_the_curvature(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_darts(run, partial=True)
    page = write_report(run).read_text(encoding="utf-8")
    stored = run.read_json("search.json")
    shown = re.findall(r'<td class="share">(\d+)</td>', page)
    assert shown == [f"{100 * weight:.0f}" for weight in stored["edge_weights"] + stored["edge_weights_reduction"]]
    assert page.count("right: of each edge among those into its block") == 4  # two captions, each said aloud too
    assert "dominant eigenvalue goes from 0.05 at epoch 1 to 1.95 at 39" in page


def test_the_normal_cell_alone_is_judged_for_its_skips(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_darts(run)
    assert not any("skip-heavy" in item.text for item in cautions(gather(run)))
    heavy = {**ARCHITECTURE, "normal": {"blocks": REDUCTION, "concat": [2, 3, 4, 5]}}
    run.write_json("architecture.json", {"architecture": heavy})
    (told,) = [item.text for item in cautions(gather(run)) if "skip-heavy" in item.text]
    assert told.startswith("The normal cell is skip-heavy: 8 of its 8 operations are skip connections")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ({"family": "unet", "filters": 16, "depth": 4}, "U-Net, designed by hand: 16 channels at the full resolution, twice as "
         "many at each of the 4 levels below, and a decoder that joins each level."),
        ({"family": "deeplab-v3-plus", "filters": 24, "aspp_width": 64, "low_level_width": 12, "decoder_width": 48}, "DeepLabv3+"
         ", designed by hand: a ResNet-18 of 24 channels at stride 4 as encoder, ASPP of 64 channels, decoder of 48."),
        ({"family": "resnet", "filters": 8, "blocks": 3}, "ResNet, designed by hand: three stages of 3 residual blocks, 8 "
         "channels in the first and twice as many in each after it."),
        ({"family": "unet"}, "There is no drawing for the family unet; this is the architecture itself."),
    ],
)  # fmt: skip
def test_networks_made_by_hand_are_told_in_a_line(
    make_run: Callable[[], Run], architecture: dict[str, Any], expected: str
) -> None:
    run = make_run()
    run.write_json("architecture.json", {"architecture": architecture})
    section = network(gather(run))
    assert section is not None
    assert expected in section.body


def test_published_networks_are_of_the_same_task_and_form() -> None:
    names = [item.name for item in published_networks((32, 32), 10, "classification", "cifar")]
    assert [name for name in names if "DARTS" in name] == ["DARTS (first order)", "DARTS (second order)", "PC-DARTS"]
    assert [name for name in names if "PNASNet" in name] == ["PNASNet-5 (3, 48)"]
    assert [item.name for item in published_networks((32, 32), 10, "classification")] == names
    large = [item.name for item in published_networks((224, 224), 1000, "classification", "imagenet")]
    assert [name for name in large if "DARTS" in name] == ["DARTS (second order)"]
    assert [name for name in large if "PNASNet" in name] == ["PNASNet-5 (3, 54)", "PNASNet-5 (4, 216)"]
    assert [item.name for item in published_networks((224, 224), 1000, "classification")] == large
    segmentation = published_networks((65, 97), 12, "segmentation", "segmentation")
    names = [item.name for item in segmentation]
    assert [name for name in names if "Auto-DeepLab" in name] == ["Auto-DeepLab-S", "Auto-DeepLab-M", "Auto-DeepLab-L"]
    assert not [name for name in names if "DARTS" in name or "PNASNet" in name]


def test_published_figures_are_counted_at_this_size_and_missing_ones_are_dashes(make_run: Callable[[], Run]) -> None:
    cost = gather(make_run()).cost
    assert cost is not None
    published = published_networks((32, 32), 10, "classification", "cifar")
    first = published[0]
    assert first.printed_multiply_adds is None
    assert first.parameters == pytest.approx(first.printed_parameters, rel=0.05)
    rows = re.findall(r"<tr>.*?</tr>", comparison_table(cost, published))
    assert all(row.endswith("<td>–</td></tr>") for row in rows[-3:])
    networks = published_networks((224, 224), 1000, "classification", "imagenet")
    (large,) = [network for network in networks if network.name == "DARTS (second order)"]
    assert large.multiply_adds == pytest.approx(large.printed_multiply_adds, rel=0.1)
