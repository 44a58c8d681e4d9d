"""NASNet architectures as values: JSON, what is refused, forms, widths, and where the cells stand."""

from __future__ import annotations

import copy
import json

import pytest
from nasnet_golden import NETWORKS, published

from segnas import zoo
from segnas.errors import UserError
from segnas.spaces.architecture import from_json, identity, task_of, to_json, usual_input_of
from segnas.spaces.forms import FORMS, with_form
from segnas.spaces.nasnet import USUAL, NasNet, NasNetBlock, NasNetCell, NasNetOptions, main_reductions, places, unused_states
from segnas.spaces.width import filters_of, smallest_filters, with_filters


def test_json_keeps_the_value_and_its_identity():
    for name in ("nasnet-a-mobile", "pnasnet-5-large"):
        found = zoo.load(name).architecture
        again = from_json(json.loads(json.dumps(to_json(found))))
        assert again == found
        assert identity(again) == identity(found)
    assert to_json(found)["reduction"] is None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("normal", "blocks"), [], "blocks is empty"),
        (("normal", "blocks", 1, "inputs", 0), 3, r"blocks\.1\.inputs\.0 is 3, but block 1 has states 0 to 2"),
        (("normal", "blocks", 2, "operations", 0), "sep_conv_9x9", r"unknown operation 'sep_conv_9x9'; did you mean"),
        (("normal", "blocks", 2, "combine"), "mean", r"combine"),
        (("reduction", "concat", 3), 7, r"concat\.3 is 7, but the cell has states 0 to 6"),
        (("reduction", "concat"), [], r"concat is empty"),
        (("network", "form"), "imagnet", "form"),
        (("network", "filters"), 7, "filters must be at least 8, not 7"),
        (("network", "stack_cells"), 0, "stack_cells must be at least 1, not 0"),
        (("network", "image_size"), 2, "image_size must be at least 3, not 2"),
        (("network", "low_level_width"), -1, "low_level_width must be at least 0"),
        (("network", "aspp_rates"), [6, 0], r"aspp_rates\.1 must be at least 1"),
        (("network", "dropout"), 1.0, "dropout must be at least 0 and below 1"),
        (("network", "layers"), 3, r"unknown key 'network\.layers'"),
    ],
)
def test_malformed_json_is_met_with_one_line(place, value, message):
    values = to_json(zoo.load("nasnet-a-mobile").architecture)
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
    values = copy.deepcopy(to_json(zoo.load("nasnet-a-mobile").architecture))
    del values[key]
    with pytest.raises(UserError, match=f"the key '{key}' is missing"):
        from_json(values)


def test_a_network_of_one_cell_has_no_reduction_to_skip():
    values = to_json(zoo.load("pnasnet-5-mobile").architecture)
    values["network"]["skip_reduction_layer_input"] = True
    with pytest.raises(UserError, match="skip_reduction_layer_input is for networks that have a reduction cell"):
        from_json(values)


@pytest.mark.parametrize("name", ["nasnet-a-large", "pnasnet-5-cifar"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_keeps_the_cells_and_says_its_task(name, form):
    original = zoo.load(name).architecture
    found = with_form(original, form)
    assert (found.normal, found.reduction, found.network) == (original.normal, original.reduction, USUAL[form])
    assert USUAL[form].form == form
    assert found.task == task_of(found) == ("segmentation" if form == "segmentation" else "classification")
    assert form in found.forms_for(found.task)
    expected = {"cifar": ((32, 32), 10), "imagenet": ((224, 224), 1000), "segmentation": ((1025, 2049), 19)}
    assert usual_input_of(found) == expected[form]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name in zoo.names()])
def test_figures_are_for_the_images_of_the_paper(name):
    golden = NETWORKS[name]
    assert usual_input_of(zoo.load(name).architecture) == ((golden["image_size"],) * 2, golden["classes"])


def test_the_usual_classifiers_are_nasnet_a():
    assert USUAL["cifar"] == published("nasnet-a-cifar").network
    assert USUAL["imagenet"] == published("nasnet-a-mobile").network


def test_all_widths_follow_the_filters():
    found = zoo.load("nasnet-a-mobile").architecture
    assert (filters_of(found), smallest_filters(found)) == (44, 8)
    half = with_filters(found, 22).network
    assert (half.filters, half.stem_filters, half.aspp_width, half.low_level_width) == (22, 16, 128, 24)
    with pytest.raises(UserError, match="filters=7 is too few"):
        with_filters(found, 7)


def test_places_of_the_cells():
    block = NasNetBlock((0, 1), ("skip_connect", "sep_conv_3x3"))
    cell = NasNetCell((block,), (2,))

    def told(reduction: NasNetCell | None, **options: object) -> list[tuple[bool, int, int]]:
        found = NasNet(cell, reduction, NasNetOptions(**{"filters": 10, "stack_cells": 2, **options}))
        return [(place.reduces, place.filters, place.back) for place in places(found)]

    cifar = [(False, 10, 0), (False, 10, 1), (True, 20, 1), (False, 20, 1), (False, 20, 1), (True, 40, 1)]
    cifar += [(False, 40, 1), (False, 40, 1)]
    assert told(cell) == told(cell, form="segmentation") == cifar
    assert [back for *_, back in told(cell, skip_reduction_layer_input=True)] == [0, 1, 1, 2, 1, 1, 2, 1]
    one = [(False, 10, 0), (False, 10, 1), (True, 20, 1), (False, 20, 1), (True, 40, 1), (False, 40, 1)]
    assert told(None) == one
    stem = [(True, 2, 0), (True, 5, 1)]
    assert told(cell, form="imagenet") == [*stem, (False, 10, 1), *cifar[1:]]
    assert told(None, form="imagenet") == [*stem, (False, 10, 1), *one[1:]]
    assert main_reductions(NasNet(cell, cell, NasNetOptions(form="imagenet", filters=8, stack_cells=3))) == (5, 9)
    assert main_reductions(NasNet(cell, None, NasNetOptions(stack_cells=3))) == (3, 6)


def test_states_that_no_block_reads():
    operations = ("skip_connect", "skip_connect")
    assert unused_states([NasNetBlock((1, 1), operations)]) == (0, 2)
    blocks = [NasNetBlock((0, 1), operations), NasNetBlock((1, 0), operations), NasNetBlock((2, 2), operations)]
    assert unused_states(blocks) == (3, 4)
