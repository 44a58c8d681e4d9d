"""What the report draws of the families of searches by trials: every choice of the architecture is there to be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from segnas.zoo import load


def labels(html: str) -> list[str]:
    return re.findall(r'class="tick middle ink">(.*?)<', html)


def shown(name: str) -> tuple[Any, str]:
    found = load(name).architecture
    html = drawn(to_json(found))
    assert html is not None
    return found, "".join(html)


def told(html: str) -> list[str]:
    """The drawings in words."""
    return re.findall(r'<svg [^>]*aria-label="(.*?)"', html)


def sides(inputs: Sequence[int], operations: Sequence[str], names: Sequence[str], sign: str = "+") -> str:
    """`sep 3×3 of H(l−1) + skip of block 2`."""
    return f" {sign} ".join(f"{operation_name(name)} of {names[state]}" for state, name in zip(inputs, operations, strict=True))


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def assert_cell(words: str, cell: Any) -> None:
    """Every block with its inputs, operations and sign, and what the output is of."""
    names = ["H(l−2)", "H(l−1)", *(f"block {number + 1}" for number in range(len(cell.blocks)))]
    for number, block in enumerate(cell.blocks):
        sign = "+" if block.combine == "add" else "∥"
        assert f"block {number + 1} = {sides(block.inputs, block.operations, names, sign)};" in words
    joined = sorted(set(cell.concat))
    every = joined == list(range(2, len(cell.blocks) + 2))
    assert words.endswith(f"the output concatenates {'all blocks' if every else listed([names[state] for state in joined])}.")


@pytest.mark.parametrize("name", ["nasnet-a-cifar", "amoebanet-a-mobile", "amoebanet-b-cifar", "pnasnet-5-mobile"])
def test_cells_of_blocks(name: str) -> None:
    found, html = shown(name)
    cells = [cell for cell in (found.normal, found.reduction) if cell is not None]
    titles = ["The cell"] if found.reduction is None else ["The normal cell", "The reduction cell"]
    assert re.findall(r"<h3>(.*?)</h3>", html) == titles
    assert labels(html) == [operation_name(name) for cell in cells for block in cell.blocks for name in block.operations]
    assert len(re.findall(r'class="wire out', html)) == sum(len(set(cell.concat)) for cell in cells)
    for words, cell in zip(told(html), cells, strict=True):
        assert_cell(words, cell)


def test_blocks_that_concatenate_are_told_from_those_that_add() -> None:
    found = load("nasnet-a-cifar").architecture
    mixed = replace(found.normal, blocks=tuple(  # type: ignore[attr-defined]
        replace(block, combine="concat" if number == 1 else "add") for number, block in enumerate(found.normal.blocks)))  # type: ignore[attr-defined] # fmt: skip
    html = "".join(drawn(to_json(replace(found, normal=mixed))) or [])  # type: ignore[type-var]
    assert_cell(told(html)[0], mixed)
    assert "A block adds the results of two operations (+) or concatenates those of two (∥)." in html
    assert html.count("∥)") == 1  # the reduction cell has none


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
    for number, branch in enumerate(found.branches):
        source = "features" if branch.input < 0 else f"branch {branch.input + 1}"
        assert f"branch {number + 1} = {operation_name(branch.operation)} of {source};" in told(html)[0]
    assert "a branch has 256 channels" in html


@pytest.mark.parametrize("name", ["fast-nas-arch0", "fast-nas-arch1", "fast-nas-arch2"])
def test_fast_nas(name: str) -> None:
    found, html = shown(name)
    layers = [operation_name(operation) for layer in found.cell.layers for operation in layer.operations]
    assert labels(html) == ["cell"] * 6 + [operation_name(found.cell.first), *layers]
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["The decoder", "The cell of all blocks"]
    maps = ["stride 4", "stride 8", "stride 16", "stride 32", "block 1", "block 2", "block 3"]
    decoder, cell = told(html)
    for number, pair in enumerate(found.connections):
        assert f"block {number + 1} = {sides(pair, ('cell', 'cell'), maps)};" in decoder
    ends = found.collected()
    assert decoder.endswith(f"concatenates {'all blocks' if len(ends) == 3 else listed([maps[state] for state in ends])}.")
    states = ["x", "first"]
    for number in range(3):
        states += [f"first of layer {number + 1}", f"second of layer {number + 1}", f"layer {number + 1}"]
    for number, layer in enumerate(found.cell.layers):
        assert f"layer {number + 1} = {sides(layer.inputs, layer.operations, states)};" in cell
    assert cell.endswith(f"the output adds {listed([states[state] for state in found.cell.loose_ends()])}.")


def test_template_search() -> None:
    found, html = shown("template-nas-arch0")
    rows = [operation_name(operation) for row in found.structure for operation in found.templates[row.template].operations]
    assert labels(html) == rows
    names = []
    for number, row in enumerate(found.structure):
        repeated = f" ×{row.repeats}" if row.repeats > 1 else ""
        names.append(f"row {number + 1}{repeated}{', stride 2' if row.stride == 2 else ''}")
    maps = ["stride 4", "stride 8", *names]
    for row, name in zip(found.structure, names, strict=True):
        template = found.templates[row.template]
        sign = "+" if template.aggregation == "weighted_sum" else "∥"
        assert f"{name} = {sides(row.inputs, template.operations, maps, sign)};" in told(html)[0]
    assert told(html)[0].endswith(f"concatenates {listed([maps[state] for state in found.collected()])}.")
    assert {row.repeats for row in found.structure} > {1}


def test_chain_of_layers() -> None:
    published = load("nas-rl-v1").architecture
    strided = [replace(layer, stride_height=1 + number % 3, stride_width=1 + number % 2)
               for number, layer in enumerate(published.layers)]  # type: ignore[attr-defined] # fmt: skip
    strided[-1] = replace(strided[-1], skips=(1,) + (0,) * 13)  # and several ends
    found: Any = replace(published, layers=tuple(strided))  # type: ignore[type-var]
    html = "".join(drawn(to_json(found)) or [])
    rows = re.findall(r"<tr>(.*?)</tr>", html)[1:]
    for number, (row, layer) in enumerate(zip(rows, found.layers, strict=True), start=1):
        reads = listed(["the image" if source == 0 else str(source) for source in layer.inputs])
        sizes = [f"{layer.height}×{layer.width}", f"{layer.stride_height}×{layer.stride_width}", str(layer.filters)]
        assert re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) == [str(number), *sizes, reads]
    assert len(found.outputs) > 1
    assert f"The classifier reads layers {listed([str(number) for number in found.outputs])}." in html


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
