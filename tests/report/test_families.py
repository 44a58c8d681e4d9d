"""What the report draws of the families of searches by trials: every choice of the architecture is there to be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segnas.report.families import drawn
from segnas.report.graphs import operation_name
from segnas.report.information import gather
from segnas.report.networks import network
from segnas.runs.run import Run
from segnas.spaces.architecture import to_json
from segnas.spaces.choice import all_spaces, sample
from segnas.zoo import load, names


def labels(html: str) -> list[str]:
    return re.findall(r'class="tick middle ink">(.*?)<', html)


def shown(name: str) -> tuple[Any, str]:
    found = load(name).architecture
    html = drawn(to_json(found))
    assert html is not None
    return found, "".join(html)


@pytest.mark.parametrize("name", ["nasnet-a-cifar", "amoebanet-a-mobile", "pnasnet-5-mobile"])
def test_cells_of_blocks(name: str) -> None:
    found, html = shown(name)
    cells = [cell for cell in (found.normal, found.reduction) if cell is not None]
    titles = ["The cell"] if found.reduction is None else ["The normal cell", "The reduction cell"]
    assert re.findall(r"<h3>(.*?)</h3>", html) == titles
    assert labels(html) == [
        operation_name(operation) for cell in cells for block in cell.blocks for operation in block.operations
    ]
    assert len(re.findall(r'class="wire out', html)) == sum(len(set(cell.concat)) for cell in cells)


def test_where_the_cells_stand() -> None:
    _, html = shown("nasnet-a-cifar")  # three stacks of 6, a reduction before the second and the third
    assert "It stands at 18 of the 20 places." in html
    assert "It stands at the other 2" in html
    assert "An operation has 32 channels in the first stack" in html
    _, html = shown("pnasnet-5-mobile")  # three stacks of 3, whose first cells reduce in two, and two cells in the stem
    assert "It stands at all 11 places; 4 of them halve the resolution" in html


def test_dense_prediction_cell() -> None:
    found, html = shown("dpc-cityscapes-top1")
    assert labels(html) == [operation_name(branch.operation) for branch in found.branches]
    sources = [int(state) for state in re.findall(r'<path [^>]*class="wire s(\d)"', html)]
    assert sources == [branch.input + 1 for branch in found.branches]
    assert "features" in html
    assert "a branch has 256 channels" in html


def test_fast_nas() -> None:
    found, html = shown("fast-nas-arch0")
    layers = [operation_name(operation) for layer in found.cell.layers for operation in layer.operations]
    assert labels(html) == ["cell"] * 6 + [operation_name(found.cell.first), *layers]
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["The decoder", "The cell of all blocks"]
    assert "the output adds" in html


def test_template_search() -> None:
    found, html = shown(next(name for name in names() if name.startswith("template-nas")))
    rows = [operation_name(operation) for row in found.structure for operation in found.templates[row.template].operations]
    assert labels(html) == rows
    assert all(f"row {number + 1}" in html for number in range(len(found.structure)))


def test_chain_of_layers() -> None:
    found, html = shown("nas-rl-v1")
    rows = re.findall(r"<tr><th scope=\"row\">(\d+)</th><td>(\d)×(\d)</td><td>.*?</td><td>(\d+)</td><td>(.*?)</td></tr>", html)
    assert [(int(height), int(width), int(filters)) for _, height, width, filters, _ in rows] == [
        (layer.height, layer.width, layer.filters) for layer in found.layers
    ]
    for (*_, reads), layer in zip(rows, found.layers, strict=True):
        named = re.findall(r"\d+|the image", reads)
        assert named == ["the image" if source == 0 else str(source) for source in layer.inputs]


@pytest.mark.parametrize("name", ["nasnet", "amoebanet", "pnas", "dpc", "fast-nas", "template-nas", "nas-rl"])
def test_any_architecture_of_the_space_is_drawn(name: str) -> None:
    space = all_spaces()[name]()
    for seed in range(20):
        assert drawn(to_json(sample(space, np.random.default_rng(seed))))


def test_the_section_of_the_report_has_drawing_and_json(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.write_json("architecture.json", {"architecture": to_json(load("dpc-cityscapes-top1").architecture)})
    section = network(gather(run))
    assert section is not None
    assert section.body.index("<svg") < section.body.index("The architecture as JSON") < section.body.index("branches")


def test_what_is_malformed_or_unknown_is_not_drawn() -> None:
    assert drawn({"family": "dpc", "branches": []}) is None
    assert drawn({"family": "of tomorrow"}) is None
    assert drawn({}) is None
