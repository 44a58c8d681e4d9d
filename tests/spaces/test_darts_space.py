"""The DARTS space: its size, the published cells in it, what leaves it legal, what it refuses, and the forms of its networks."""

from __future__ import annotations

import json
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch
from darts_golden import GOLDEN, architecture

from segnas import zoo
from segnas.errors import UserError
from segnas.nets.build import build
from segnas.spaces import choice
from segnas.spaces.architecture import from_json, identity, task_of, to_json
from segnas.spaces.auto_deeplab import NetworkOptions
from segnas.spaces.cells import Block
from segnas.spaces.choice import NotInSpace
from segnas.spaces.darts import (
    CHOSEN,
    OPERATIONS,
    USUAL,
    Darts,
    DartsCell,
    DartsOptions,
    DartsSpace,
    cell_of,
    reductions,
)
from segnas.spaces.forms import FORMS, INPUTS, with_form

PUBLISHED = ("darts-v1", "darts-v2", "pc-darts")
SPACE = DartsSpace()


def test_the_size_is_that_of_ordered_pairs_of_inputs_and_operations():
    """Block i has n = i + 2 states: n (n - 1) pairs of different inputs in order, 7 x 7 operations; two cells."""
    cell = (2 * 1 * 49) * (3 * 2 * 49) * (4 * 3 * 49) * (5 * 4 * 49)
    assert choice.size(SPACE) == cell**2
    assert choice.size(DartsSpace(blocks=1, operations=("skip_connect",))) == 4


def test_every_architecture_of_a_small_space_is_enumerated_once():
    space = DartsSpace(blocks=2, operations=("skip_connect",))
    found = list(choice.enumerate_space(space))
    pairs = [list(permutations(range(2), 2)), list(permutations(range(3), 2))]
    cells = [tuple(Block(pair, ("skip_connect",) * 2) for pair in inputs) for inputs in product(*pairs)]
    expected = {(DartsCell(normal, (2, 3)), DartsCell(reduction, (2, 3))) for normal, reduction in product(cells, cells)}
    assert len(found) == len(expected) == choice.size(space)
    assert {(one.normal, one.reduction) for one in found} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_cells_are_in_the_space_and_come_back(name):
    published = zoo.load(name).architecture
    indices = choice.encode(SPACE, published)
    assert len(indices) == 2 * 4 * 4
    assert choice.from_indices(SPACE, indices) == published
    for cell in ("normal", "reduction"):
        for number, block in enumerate(getattr(published, cell).blocks):
            first, second = block.inputs
            assert indices[f"{cell}.blocks.{number}.inputs.0"] == first
            assert indices[f"{cell}.blocks.{number}.inputs.1"] == second - (second > first), "an index among the others"
            for side in (0, 1):
                assert CHOSEN[indices[f"{cell}.blocks.{number}.operations.{side}"]] == block.operations[side]


@pytest.mark.parametrize(("name", "golden"), zip(PUBLISHED, ("DARTS_V1", "DARTS_V2", "PC_DARTS_cifar"), strict=True))
def test_the_zoo_holds_the_published_genotypes(name, golden):
    assert zoo.load(name).architecture == architecture(golden, form="cifar", channels=36, layers=20)


def test_nasnets_cells_are_built_but_lie_outside():
    """Five blocks, of which one adds twice the same state, and a concatenation of the unused blocks."""
    nasnet = architecture("NASNet", channels=4, layers=3)
    assert len(nasnet.normal.blocks) == 5
    assert build(nasnet, 10)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(NotInSpace, match=r"not in this space: normal\.blocks\.1\.inputs\.1 is 0; allowed: 1, 2$") as caught:
        choice.encode(DartsSpace(network=nasnet.network), nasnet)
    assert "\n" not in str(caught.value)


def different(cell: DartsCell, **changes: object) -> DartsCell:
    return DartsCell(**{**vars(cell), **changes})  # type: ignore[arg-type]


def test_an_architecture_outside_says_where():
    published = zoo.load("darts-v2").architecture
    blocks = list(published.normal.blocks)
    blocks[2] = Block((1, 0), ("none", "skip_connect"))
    changed = Darts(different(published.normal, blocks=tuple(blocks)), published.reduction, published.network)
    with pytest.raises(NotInSpace, match=r'normal\.blocks\.2\.operations\.0 is "none"; allowed: "max_pool_3x3"'):
        choice.encode(SPACE, changed)
    shorter = Darts(published.normal, different(published.reduction, concat=(2, 3, 5)), published.network)
    with pytest.raises(NotInSpace, match=r"differs at reduction\.concat\.2, which the space fixes"):
        choice.encode(SPACE, shorter)
    wider = Darts(published.normal, published.reduction, DartsOptions(channels=16))
    with pytest.raises(NotInSpace, match=r"differs at network\.channels"):
        choice.encode(SPACE, wider)


def assert_legal(found: Darts) -> None:
    """In the space; each block reads two different earlier states, through two operations that are not `none`."""
    assert choice.from_indices(SPACE, choice.encode(SPACE, found)) == found
    for cell in (found.normal, found.reduction):
        assert len(cell.blocks) == 4
        assert cell.concat == (2, 3, 4, 5)
        for number, block in enumerate(cell.blocks):
            assert len(set(block.inputs)) == 2
            assert all(0 <= state < number + 2 for state in block.inputs)
            assert all(name in OPERATIONS and name != "none" for name in block.operations)


def test_samples_mutants_and_children_are_legal():
    generator = np.random.default_rng(0)
    parents = [choice.sample(SPACE, generator) for _ in range(20)]
    assert len(set(parents)) == 20
    for first, second in pairwise(parents):
        assert_legal(first)
        mutant = choice.mutate(SPACE, first, generator)
        assert mutant != first
        assert_legal(mutant)
        child = choice.crossover(SPACE, first, second, generator)
        assert_legal(child)
        inherited = [choice.encode(SPACE, parent) for parent in (first, second)]
        for name, index in choice.encode(SPACE, child).items():
            if "operations" in name:
                assert index in [indices[name] for indices in inherited]


def test_a_block_keeps_the_order_of_its_inputs():
    """Both orders are architectures of their own: they decide where a weight stands."""
    first = cell_of([[(0, "sep_conv_3x3"), (1, "skip_connect")]])
    second = cell_of([[(1, "skip_connect"), (0, "sep_conv_3x3")]])
    assert first != second
    assert first.concat == (2,)
    options = DartsOptions(channels=2, layers=1)
    assert identity(Darts(first, first, options)) != identity(Darts(second, second, options))


def test_json_keeps_the_value_and_its_identity():
    published = zoo.load("pc-darts").architecture
    again = from_json(json.loads(json.dumps(to_json(published))))
    assert again == published
    assert hash(again) == hash(published)
    assert identity(again) == identity(published)
    assert isinstance(again.normal.blocks[0].inputs, tuple)
    assert isinstance(again.reduction.concat, tuple)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("normal", "blocks"), [], "blocks is empty"),
        (("normal", "blocks", 1, "inputs", 0), 3, r"blocks\.1\.inputs\.0 is 3, but block 1 has states 0 to 2"),
        (("reduction", "blocks", 0, "inputs", 1), -1, r"reduction: blocks\.0\.inputs\.1 is -1"),
        (("normal", "blocks", 2, "operations", 0), "conv3x3", r"normal\.blocks\.2: unknown operation 'conv3x3'; did you mean"),
        (("normal", "blocks", 0, "inputs"), [0, 1, 1], r"normal\.blocks\.0\.inputs: tuple"),
        (("normal", "blocks", 0, "edge"), 1, r"unknown key 'normal\.blocks\.0\.edge'; allowed: inputs, operations"),
        (("normal", "concat"), [], "concat is empty"),
        (("reduction", "concat", 3), 6, r"concat\.3 is 6, but the cell has states 0 to 5"),
        (("network", "form"), "imagnet", "form"),
        (("network", "channels"), 1, "channels must be at least 2, not 1"),
        (("network", "layers"), 0, "layers must be at least 1, not 0"),
        (("network", "low_level_width"), -1, "low_level_width must be at least 0"),
        (("network", "aspp_rates"), [6, 0], r"aspp_rates\.1 must be at least 1"),
        (("network", "dropout"), 1.0, "dropout must be at least 0 and below 1"),
        (("network", "chanels"), 3, r"unknown key 'network\.chanels'; did you mean"),
        (("reduce",), 3, "unknown key 'reduce'"),
    ],
)
def test_malformed_json_is_met_with_one_line(place, value, message):
    values = to_json(zoo.load("darts-v1").architecture)
    target = values
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    with pytest.raises(UserError, match=message) as caught:
        from_json(values, where="mine.json")
    assert str(caught.value).startswith("mine.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["normal", "reduction", "network"])
def test_no_part_of_an_architecture_has_a_default(key):
    values = to_json(zoo.load("darts-v1").architecture)
    del values[key]
    with pytest.raises(UserError, match=f"the key '{key}' is missing"):
        from_json(values)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_keeps_the_cells_and_says_its_task(form):
    published = zoo.load("darts-v2").architecture
    found = with_form(published, form)
    assert (found.normal, found.reduction) == (published.normal, published.reduction)
    assert (found.network.form, found.network.channels, found.network.layers) == (form, *USUAL[form])
    dense = form == "segmentation"
    assert found.task == task_of(found) == ("segmentation" if dense else "classification")
    (height, width), classes = INPUTS[form]
    with torch.device("meta"):
        network = build(with_narrow(found), classes)
        shape = network(torch.empty(2, 3, *((65, 97) if dense else (height, width)))).shape
    assert shape == ((2, classes, 65, 97) if dense else (2, classes))


def with_narrow(found: Darts) -> Darts:
    return Darts(found.normal, found.reduction, DartsOptions(form=found.network.form, channels=4, layers=3))


def test_the_forms_of_the_papers_have_their_sizes():
    assert [USUAL[form] for form in ("cifar", "imagenet")] == [(36, 20), (48, 14)]
    golden = GOLDEN["counts"]["DARTS_V2"]
    assert [golden[name]["input"] for name in ("cifar_C36_L20", "imagenet_C48_L14")] == [INPUTS[f][0][0] for f in FORMS[:2]]


def test_an_unknown_form_and_another_family_are_met_with_one_line():
    published = zoo.load("darts-v2").architecture
    with pytest.raises(UserError, match="unknown form 'segmentaton'; did you mean 'segmentation'"):
        with_form(published, "segmentaton")
    with pytest.raises(UserError, match="the networks of this family come in one form; leave out --form"):
        with_form(zoo.load("auto-deeplab-s").architecture, "cifar")
    with pytest.raises(UserError, match="come in one form"):
        with_form(NetworkOptions(), "cifar")


@pytest.mark.parametrize(("layers", "expected"), [(1, (0,)), (2, (0, 1)), (3, (1, 2)), (8, (2, 5)), (14, (4, 9)), (20, (6, 13))])
def test_a_third_and_two_thirds_of_the_way_reduce(layers, expected):
    assert reductions(layers) == expected
