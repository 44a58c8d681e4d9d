"""The Auto-DeepLab space: its size, its edges, the published network in it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segnas import zoo
from segnas.errors import UserError
from segnas.spaces import choice
from segnas.spaces.architecture import from_json, identity, to_json
from segnas.spaces.auto_deeplab import (
    LEVELS,
    OPERATIONS,
    AutoDeepLab,
    AutoDeepLabSpace,
    Block,
    NetworkOptions,
    level_sizes,
    moves,
)
from segnas.spaces.cells import edge_offset, edges

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "autodeeplab.json").read_text())
PUBLISHED = zoo.load("auto-deeplab-s").architecture


def walks(number_of_moves: int) -> int:
    """The walks on the trellis that begin at level 0, by a power of its adjacency matrix."""
    adjacency = np.array([[abs(i - j) <= 1 for j in range(LEVELS)] for i in range(LEVELS)], dtype=np.int64)
    return int(np.linalg.matrix_power(adjacency, number_of_moves)[0].sum())


def test_size_is_exact():
    cells, paths = GOLDEN["search"]["cells"], GOLDEN["search"]["paths_from_stem4_12_transitions"]
    assert (cells, paths) == (556_627_761_561_600, 75_025)
    assert paths == walks(12)
    assert choice.size(AutoDeepLabSpace()) == cells * paths


@pytest.mark.parametrize("layers", [1, 4, 11])
def test_the_number_of_paths_is_that_of_walks(layers):
    cells = (2 * 3) ** 2 * 8**4
    assert choice.size(AutoDeepLabSpace(layers=layers, blocks=2)) == cells * walks(layers)


def test_every_path_is_enumerated_once():
    space = AutoDeepLabSpace(layers=6, blocks=1, operations=("skip_connect",))
    paths = [architecture.path for architecture in choice.enumerate_space(space)]
    assert len(set(paths)) == walks(6)
    assert len(paths) == walks(6) * 4  # two inputs of two states each


def test_the_published_network_is_in_the_space():
    indices = choice.encode(AutoDeepLabSpace(), PUBLISHED)
    assert list(PUBLISHED.path) == GOLDEN["architecture"]["network_path"]
    rows = [edge_offset(b) + indices[f"cell.{b}.inputs.{j}"] for b in range(5) for j in range(2)]
    columns = [indices[f"cell.{b}.operations.{j}"] for b in range(5) for j in range(2)]
    assert [list(pair) for pair in zip(rows, columns, strict=True)] == GOLDEN["architecture"]["edge_op_indices_darts_20_edges"]


def test_edges_are_in_darts_order():
    assert len(edges(5)) == GOLDEN["search"]["edges_per_cell"] == 20
    assert edges(2) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert all(edges(5)[edge_offset(block) + state] == (block, state) for block, state in edges(5))


def test_moves_and_sizes():
    assert [moves(level) for level in range(LEVELS)] == [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]
    assert level_sizes((257, 32)) == ((257, 32), (129, 16), (65, 8), (33, 4))
    assert level_sizes((7, 10)) == ((7, 10), (4, 5), (2, 3), (1, 2))


def test_json_keeps_the_value_and_its_identity():
    again = from_json(json.loads(json.dumps(to_json(PUBLISHED))))
    assert again == PUBLISHED
    assert hash(again) == hash(PUBLISHED)
    assert identity(again) == identity(PUBLISHED)
    assert isinstance(again, AutoDeepLab)
    assert isinstance(again.path, tuple)
    assert isinstance(again.cell[0].inputs, tuple)
    assert isinstance(again.network.stem, tuple)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("path", 2), 3, r"path\.2 is 3, but level 0 is followed by one of 0, 1"),
        (("path", 0), 2, r"path\.0 is 2, but level 0"),
        (("path", 8), 4, r"path\.8 is 4, but level 2 is followed by one of 1, 2, 3"),
        (("path", 1), "x", r"path\.1: input should be a valid integer"),
        (("path",), [], "path is empty"),
        (("cell",), [], "cell is empty"),
        (("cell", 1, "inputs", 0), 3, r"cell\.1\.inputs\.0 is 3, but block 1 has states 0 to 2"),
        (("cell", 0, "inputs", 1), -1, r"cell\.0\.inputs\.1 is -1"),
        (("cell", 2, "operations", 0), "conv", r"cell\.2: unknown operation 'conv'; did you mean 'sep_conv_7x7'"),
        (("cell", 0, "inputs"), [0, 1, 1], r"cell\.0\.inputs: tuple"),
        (("cell", 0, "extra"), 1, r"unknown key 'cell\.0\.extra'; allowed: inputs, operations"),
        (("network", "filters"), 0, "filters must be at least 1, not 0"),
        (("network", "stem"), [4, 0, 4], r"stem\.1 must be at least 1"),
        (("network", "dropout"), 1.0, "dropout must be at least 0 and below 1"),
        (("network", "width"), 3, r"unknown key 'network\.width'; did you mean"),
        (("widht",), 3, "unknown key 'widht'; allowed: cell, network, path"),
    ],
)
def test_malformed_json_is_met_with_one_line(place, value, message):
    values = to_json(PUBLISHED)
    target = values
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    with pytest.raises(UserError, match=message) as caught:
        from_json(values, where="mine.json")
    assert str(caught.value).startswith("mine.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["path", "cell", "network"])
def test_no_part_of_an_architecture_has_a_default(key):
    values = to_json(PUBLISHED)
    del values[key]
    with pytest.raises(UserError, match=f"the key '{key}' is missing"):
        from_json(values)


def test_none_and_equal_inputs_are_legal():
    block = Block(inputs=(1, 1), operations=(OPERATIONS[0], OPERATIONS[0]))
    architecture = AutoDeepLab(path=(0, 1), cell=(block,), network=NetworkOptions())
    assert choice.encode(AutoDeepLabSpace(layers=2, blocks=1), architecture)["cell.0.operations.0"] == 0
