"""Networks of DARTS cells against counts and outputs of the published code, in float64, and the segmentation form."""

from __future__ import annotations

import pytest
import torch
from darts_golden import GOLDEN, architecture, close, fill, images, labels
from torch import nn
from torch.nn import functional as F

from segnas.costs.counts import count
from segnas.errors import UserError
from segnas.nets.build import build
from segnas.nets.darts import Cell, DartsNetwork
from segnas.spaces.darts import reductions

NAMES = tuple(GOLDEN["genotypes"])
FORMS = {
    "cifar_C36_L20": ({"form": "cifar", "channels": 36, "layers": 20}, 10),
    "imagenet_C48_L14": ({"form": "imagenet", "channels": 48, "layers": 14}, 1000),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_counts_are_exact(name, form):
    options, classes = FORMS[form]
    expected = GOLDEN["counts"][name][form]
    found = count(architecture(name, **options), (expected["input"], expected["input"]), classes)
    assert found.parameters == expected["params"]
    assert found.multiply_adds == expected["mult_adds"]
    with torch.device("meta"):
        network = build(architecture(name, **options), classes)
        network.add_auxiliary_head(classes)
    assert sum(parameter.numel() for parameter in network.auxiliary.parameters()) == expected["params_auxiliary_head"]


@pytest.mark.parametrize("key", [key for key in GOLDEN["func_eval"] if key.startswith("NetworkCIFAR")])
def test_outputs_and_gradients_of_the_cifar_form(key):
    _, name, rule, _ = key.split("/")
    expected = GOLDEN["func_eval"][key]
    network = build(architecture(name, form="cifar", channels=4, layers=5), 10)
    network.add_auxiliary_head(10)
    fill(network, rule[-1]).train()
    logits, auxiliary = network(images(2, 32))
    assert close(logits, expected["train_logits"], 1e-9)
    assert close(auxiliary, expected["train_logits_aux"], 1e-9)
    loss = F.cross_entropy(logits, labels(2)) + 0.4 * F.cross_entropy(auxiliary, labels(2))
    assert close(loss, expected["loss_with_aux_0p4"], 1e-9)
    loss.backward()
    norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in network.parameters()))
    assert close(norm, expected["grad_global_l2"], 1e-9)
    assert close(network.eval()(images(2, 32)), expected["eval_logits_after_one_train_forward"], 1e-9)


@pytest.mark.parametrize("key", [key for key in GOLDEN["func_eval"] if key.startswith("NetworkImageNet")])
def test_outputs_of_the_imagenet_form(key):
    _, name, rule, _ = key.split("/")
    expected = GOLDEN["func_eval"][key]
    network = fill(build(architecture(name, form="imagenet", channels=4, layers=5), 10), rule[-1]).train()
    with torch.no_grad():
        assert close(network(images(2, 224)), expected["train_logits"], 1e-9)
        assert close(network.eval()(images(2, 224)), expected["eval_logits_after_one_train_forward"], 1e-9)


@pytest.mark.parametrize("layers", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("size", [(33, 33), (64, 47), (50, 97)])
@pytest.mark.parametrize("low_level_width", [0, 3])
def test_the_segmentation_form_takes_any_size(layers, size, low_level_width):
    options = {"aspp_width": 4, "decoder_width": 5, "low_level_width": low_level_width}
    network = build(architecture("DARTS_V2", form="segmentation", channels=2, layers=layers, **options), 3)
    assert network(torch.randn(2, 3, *size)).shape == (2, 3, *size)
    network.add_auxiliary_head(3)
    logits, auxiliary = network(torch.randn(2, 3, *size))
    assert logits.shape == auxiliary.shape == (2, 3, *size)
    assert isinstance(network.eval()(torch.randn(1, 3, *size)), torch.Tensor)


def test_the_segmentation_form_goes_from_stride_4_to_16_and_its_decoder_reads_the_last_cell_at_stride_4():
    network = build(architecture("DARTS_V1", form="segmentation", channels=2, layers=6), 3).eval()
    assert isinstance(network, DartsNetwork)
    sizes: list[tuple[int, ...]] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, out: sizes.append(tuple(out.shape[1:])))
    read: list[torch.Tensor] = []
    network.head.register_forward_hook(lambda module, inputs, out: read.append(inputs[1]))
    network(torch.randn(1, 3, 64, 96))
    assert sizes == [(8, 16, 24)] * 2 + [(16, 8, 12)] * 2 + [(32, 4, 6)] * 2
    assert reductions(6) == (2, 4)
    assert tuple(read[0].shape[1:]) == (8, 16, 24)


def test_drop_path_spares_identities_alone_and_keeps_alike_in_all_cells():
    network = build(architecture("DARTS_V2", form="cifar", channels=4, layers=6), 10).train()
    network.set_drop_path(0.8, 0.5)
    cells = [cell for cell in network.cells if isinstance(cell, Cell)]
    assert {cell.keep for cell in cells} == {0.9}
    for cell in cells:
        for number, operation in enumerate(cell.operations):
            assert cell.is_dropped(number) == (not isinstance(operation, nn.Identity))
    torch.manual_seed(0)
    first, second = (network(torch.ones(2, 3, 32, 32)) for _ in range(2))
    assert not torch.equal(first, second)
    network.set_drop_path(0.8, 0.0)
    assert torch.equal(network(torch.ones(2, 3, 32, 32)), network(torch.ones(2, 3, 32, 32)))


AUXILIARY = [("cifar", 32, True), ("cifar", 48, False), ("cifar", 20, False), ("imagenet", 32, False)]


@pytest.mark.parametrize(("form", "size", "fits"), AUXILIARY)
def test_an_auxiliary_head_for_other_images_is_refused_in_one_line(form, size, fits):
    network = build(architecture("DARTS_V1", form=form, channels=2, layers=3), 3).train()
    network.add_auxiliary_head(3)
    if fits:
        assert len(network(torch.randn(2, 3, size, size))) == 2
        return
    with pytest.raises(UserError, match=f"not made for images of {size}x{size}; set retrain.auxiliary_weight=0"):
        network(torch.randn(2, 3, size, size))
