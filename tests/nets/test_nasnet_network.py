"""Networks of NASNet, AmoebaNet and PNASNet cells: published counts to the digit, wiring, forms, heads and drop path."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from nasnet_golden import NETWORKS, architecture, published
from torch import nn

from segnas.costs.counts import count
from segnas.errors import UserError
from segnas.nets.build import build
from segnas.nets.nasnet import Cell, NasNetNetwork
from segnas.spaces.choice import sample
from segnas.spaces.nasnet import NasNet, NasNetBlock, NasNetCell, NasNetOptions
from segnas.spaces.nasnet_space import AmoebaNetSpace, NasNetSpace, PnasSpace

HEAD = {"aspp_width": 4, "decoder_width": 5, "low_level_width": 3}
TINY = {
    "cifar": {"form": "cifar", "filters": 4, "stack_cells": 2, "stem_filters": 6, "image_size": 18},
    "imagenet": {"form": "imagenet", "filters": 8, "stack_cells": 1, "stem_filters": 6, "image_size": 67},
    "segmentation": {"form": "segmentation", "filters": 4, "stack_cells": 1, "stem_filters": 6, **HEAD},
}
CELLS = ("NASNet-A", "AmoebaNet-A", "AmoebaNet-B", "AmoebaNet-C", "AmoebaNet-D", "PNASNet-5")


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_are_exact(name):
    golden, found = NETWORKS[name], published(name)
    counts = count(found, (golden["image_size"],) * 2, golden["classes"])
    assert counts.parameters == golden["params"]
    if "macs" in golden:
        assert counts.multiply_adds == golden["macs"]
    if "aux_head_params" in golden:
        with torch.device("meta"):
            network = build(found, golden["classes"])
            network.add_auxiliary_head(golden["classes"])
        assert sum(parameter.numel() for parameter in network.auxiliary.parameters()) == golden["aux_head_params"]
        assert network.head.linear.in_features == golden["penultimate"]


@pytest.mark.parametrize(("filters", "billions"), [("", 0.455), ("-80", 2.195), ("-128", 5.580)])
def test_multiply_adds_of_amoebanet_b_on_cifar(filters, billions):
    assert round(count(published(f"amoebanet-b-cifar{filters}"), (32, 32), 10).multiply_adds / 1e9, 3) == billions


def spied(network: nn.Module) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[torch.Tensor]]:
    """The inputs and the outputs of the cells, as they run."""
    inputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    outputs: list[torch.Tensor] = []

    def note(module: nn.Module, given: tuple[torch.Tensor, torch.Tensor], out: torch.Tensor) -> None:
        inputs.append(given)
        outputs.append(out)

    for cell in network.cells:
        cell.register_forward_hook(note)
    return inputs, outputs


@pytest.mark.parametrize("name", ["nasnet-a-mobile", "nasnet-a-large", "amoebanet-a-xl", "pnasnet-5-large", "nasnet-a-cifar"])
def test_maps_have_the_published_sizes(name):
    golden, found = NETWORKS[name], published(name)
    with torch.device("meta"):
        network = build(found, 10).eval()
    _, outputs = spied(network)
    network(torch.empty(1, 3, *(golden["image_size"],) * 2, device="meta"))
    sides = [out.shape[2] for out in outputs]
    of_cells = {224: [56, 28, 14, 7], 331: [83, 42, 21, 11], 299: [75, 38, 19, 10], 32: [32, 16, 8]}
    assert sorted(set(sides), reverse=True) == of_cells[golden["image_size"]]
    assert sides[-1] == golden["final_side"]


def wiring(found: NasNet) -> list[tuple[int, int]]:
    """For each cell, the numbers of the outputs that it reads, the earlier first; 0 is the stem, 1 + i cell i."""
    network = build(found, 3).eval()
    inputs, outputs = spied(network)
    stems: list[torch.Tensor] = []
    network.stem.register_forward_hook(lambda module, given, out: stems.append(out))
    network(torch.randn(1, 3, 67, 67))
    number = {id(out): place for place, out in enumerate([*stems, *outputs])}
    return [(number[id(before)], number[id(previous)]) for before, previous in inputs]


def test_a_cell_reads_the_two_outputs_before_and_the_first_the_stem_twice():
    usual = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]
    found = architecture("NASNet-A", **TINY["cifar"])  # cells: N N R N N R N N
    assert wiring(found) == usual
    assert wiring(architecture("PNASNet-5", **TINY["cifar"])) == usual[:6]
    stem = architecture("NASNet-A", **TINY["imagenet"])  # S S N R N R N
    assert wiring(stem) == usual[:7]


def test_the_cell_after_a_reduction_may_skip_the_input_of_the_reduction():
    skipping = architecture("NASNet-A", **TINY["cifar"], skip_reduction_layer_input=True)
    assert wiring(skipping) == [(0, 0), (0, 1), (1, 2), (1, 3), (3, 4), (4, 5), (4, 6), (6, 7)]
    stem = architecture("NASNet-A", **TINY["imagenet"], skip_reduction_layer_input=True)
    assert wiring(stem) == [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4), (4, 5), (4, 6)]


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("form", TINY)
def test_every_form_trains_all_its_parameters(cells, form):
    options = TINY[form]
    network = build(architecture(cells, **options), 3).train()
    network.add_auxiliary_head(3)
    side = options.get("image_size", 65)
    logits, auxiliary = network(torch.randn(2, 3, side, side))
    dense = (side, side) if form == "segmentation" else ()
    assert logits.shape == auxiliary.shape == (2, 3, *dense)
    (logits.square().sum() + auxiliary.square().sum()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    alone = network.eval()(torch.randn(1, 3, side, side))
    assert alone.shape == (1, 3, *dense)


@pytest.mark.parametrize("space", [NasNetSpace, AmoebaNetSpace, PnasSpace])
@pytest.mark.parametrize("form", TINY)
def test_random_architectures_of_the_spaces_train_all_their_parameters(space, form):
    options = NasNetOptions(**TINY[form])
    generator = np.random.default_rng(0)
    for _ in range(3):
        network = build(sample(space(network=options), generator), 3).train()
        network(torch.randn(2, 3, 67, 67)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("cells", ["NASNet-A", "PNASNet-5"])
@pytest.mark.parametrize("size", [(33, 33), (64, 47), (50, 97)])
@pytest.mark.parametrize("low_level_width", [0, 3])
def test_the_segmentation_form_takes_any_size_and_single_images(cells, size, low_level_width):
    network = build(architecture(cells, **{**TINY["segmentation"], "low_level_width": low_level_width}), 3).train()
    assert network(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_the_segmentation_form_goes_from_stride_4_to_16_and_its_decoder_reads_the_last_cell_at_stride_4():
    options = {**TINY["segmentation"], "stack_cells": 2}
    for cells, strides in (("AmoebaNet-A", [4, 4, 8, 8, 8, 16, 16, 16]), ("PNASNet-5", [4, 4, 8, 8, 16, 16])):
        network = build(architecture(cells, **options), 3).eval()
        _, outputs = spied(network)
        read: list[torch.Tensor] = []
        network.head.register_forward_hook(lambda module, inputs, out, read=read: read.append(inputs[1]))
        network(torch.randn(1, 3, 64, 96))
        assert [(64 // out.shape[2], 96 // out.shape[3]) for out in outputs] == [(stride, stride) for stride in strides]
        assert read[0] is outputs[1]


@pytest.mark.parametrize("cells", CELLS)
def test_a_single_small_image_trains_with_its_auxiliary_head(cells):
    """The auxiliary head ends at one pixel: a single image has no variance there."""
    network = build(architecture(cells, **TINY["cifar"]), 3).train()
    network.add_auxiliary_head(3)
    logits, auxiliary = network(torch.randn(1, 3, 18, 18))
    assert logits.shape == auxiliary.shape == (1, 3)


@pytest.mark.parametrize("cells", ["NASNet-A", "PNASNet-5"])
@pytest.mark.parametrize(("form", "place"), [("cifar", (4, 3)), ("imagenet", (4, 3)), ("segmentation", (2, 1))])
def test_the_auxiliary_head_stands_behind_the_last_normal_cell_before_the_second_reduction(cells, form, place):
    """Normal cell 2N - 1 counted from 0: in the tiny forms N N R N [N] R, S S N R [N] R and N R [N] R."""
    network = build(architecture(cells, **TINY[form]), 3).train()
    network.add_auxiliary_head(3)
    _, outputs = spied(network)
    read: list[torch.Tensor] = []
    network.auxiliary.register_forward_hook(lambda module, inputs, out: read.append(inputs[0]))
    side = TINY[form].get("image_size", 65)
    network(torch.randn(2, 3, side, side))
    assert read[0] is outputs[place[cells == "PNASNet-5"]]


AUXILIARY = [("cifar", 18, True), ("cifar", 32, False), ("cifar", 8, False), ("imagenet", 131, False)]


@pytest.mark.parametrize(("form", "size", "fits"), AUXILIARY)
def test_an_auxiliary_head_for_other_images_is_refused_in_one_line(form, size, fits):
    network = build(architecture("NASNet-A", **TINY[form]), 3).train()
    network.add_auxiliary_head(3)
    if fits:
        assert len(network(torch.randn(2, 3, size, size))) == 2
        return
    made = TINY[form]["image_size"]
    told = f"made for images of {made}x{made}, not {size}x{size}; set retrain.auxiliary_weight=0"
    with pytest.raises(UserError, match=told):
        network(torch.randn(2, 3, size, size))


def test_images_too_small_for_an_auxiliary_head_are_refused():
    network = build(architecture("NASNet-A", **{**TINY["cifar"], "image_size": 8}), 3)
    with pytest.raises(UserError, match="images of 8x8 are too small for the auxiliary head; set retrain"):
        network.add_auxiliary_head(3)


@pytest.mark.parametrize(("cells", "cells_in_all"), [("NASNet-A", 3 * 1 + 2 + 2), ("PNASNet-5", 3 * 1 + 2)])
def test_drop_path_keeps_less_in_later_cells_and_later_steps_and_spares_skip_connections(cells, cells_in_all):
    network = build(architecture(cells, **TINY["imagenet"]), 3).train()
    assert isinstance(network, NasNetNetwork)
    network.set_drop_path(0.6, 0.5)
    found = [cell for cell in network.cells if isinstance(cell, Cell)]
    assert len(found) == cells_in_all
    for number, cell in enumerate(found):
        of_layer = 1 - (number + 1) / cells_in_all * (1 - 0.6)
        assert cell.keep == pytest.approx(1 - 0.5 * (1 - of_layer))
        names = [operation for block in cell.cell.blocks for operation in block.operations]
        assert [cell.is_dropped(place) for place in range(len(names))] == [name != "skip_connect" for name in names]
        assert "skip_connect" in names
    x = torch.randn(2, 3, 67, 67)
    torch.manual_seed(0)
    first, second = network(x), network(x)
    assert not torch.equal(first, second)
    network.set_drop_path(0.6, 0.0)
    assert torch.equal(network(x), network(x))


def test_dropped_operations_are_zero_or_scaled():
    """At keep 0.5 a cell of one separable convolution and one identity gives the latter alone, or twice the former besides."""
    torch.manual_seed(0)
    block = NasNetBlock((1, 1), ("skip_connect", "avg_pool_3x3"))
    found = NasNet(NasNetCell((block,), (2,)), None, NasNetOptions(**TINY["cifar"]))
    cell = build(found, 3).cells[1].train()
    x = torch.randn(64, cell.previous.conv.in_channels, 4, 4)
    previous = cell.previous(x).detach()
    whole = cell(torch.randn(64, 6, 4, 4), x) - previous
    cell.keep = 0.5
    dropped = cell(torch.randn(64, 6, 4, 4), x) - previous
    kept = dropped.abs().amax((1, 2, 3)) > 1e-4
    assert 16 < kept.sum() < 48
    assert torch.allclose(dropped[kept], 2 * whole[kept], atol=1e-4)


def test_a_block_may_concatenate():
    """Twice the channels: what reads it is projected, and the cell's output has them all."""
    blocks = (
        NasNetBlock((1, 0), ("sep_conv_3x3", "skip_connect"), "concat"),
        NasNetBlock((2, 2), ("max_pool_3x3", "sep_conv_3x3")),
        NasNetBlock((1, 2), ("skip_connect", "skip_connect"), "concat"),
    )
    network = build(NasNet(NasNetCell(blocks, (3, 4)), NasNetCell(blocks, (2, 3, 4)), NasNetOptions(**TINY["cifar"])), 3).eval()
    assert [cell.width // 4 for cell in network.cells] == [3, 3, 10, 6, 6, 20, 12, 12]
    cell = network.cells[1]
    given = {}
    cell.register_forward_hook(lambda module, inputs, out: given.update(before=inputs[0], previous=inputs[1], out=out))
    network(torch.randn(2, 3, 8, 8))
    assert given["out"].shape == (2, 12, 8, 8)
    before, previous = cell.before(given["before"]), cell.previous(given["previous"])
    first = torch.cat([cell.operations[0](previous), before], 1)
    second = cell.operations[2](first) + cell.operations[3](first)
    third = torch.cat([previous, cell.operations[5](first)], 1)
    assert torch.allclose(given["out"], torch.cat([second, third], 1), atol=1e-6)


def test_batch_norms_have_the_epsilon_of_their_form():
    for form, epsilon in (("cifar", 1e-5), ("imagenet", 1e-3)):
        network = build(architecture("NASNet-A", **TINY[form]), 3)
        assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {epsilon}


def test_dropout_stands_before_the_classifier():
    found = architecture("NASNet-A", **TINY["cifar"], dropout=0.5)
    network = build(found, 3).train()
    x = torch.randn(2, 3, 18, 18)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    plain = dataclasses.replace(found, network=dataclasses.replace(found.network, dropout=0.0))
    network = build(plain, 3).train()
    assert torch.equal(network(x), network(x))
