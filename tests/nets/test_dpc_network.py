"""Dense prediction cells against published counts and golden outputs in float64, and the network around them."""

from __future__ import annotations

import pytest
import torch
from dpc_golden import GOLDEN, architecture, features, fill
from torch import nn
from torch.nn import functional as F

from segnas import zoo
from segnas.costs.counts import count
from segnas.costs.layers import layer_calls
from segnas.nets.build import build
from segnas.nets.dpc import DenseCell, DpcNetwork, PyramidPooling
from segnas.spaces.dpc import Dpc

PUBLISHED = zoo.load("dpc-cityscapes-top1")
ENCODERS = {"mobilenetv2_320": (320, "mobilenet-v2"), "xception_2048": (2048, "xception")}
NARROW = {"encoder_width": 0.1, "cell_width": 4, "low_level_width": 3, "decoder_width": 5}
POOLED = [(-1, "conv_1x1"), (-1, "avg_pool_grid_1x1"), (1, "sep_conv_3x3_rate_3x1"), (0, "avg_pool_grid_8x2")]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_counts_of_the_published_cell_are_exact(encoder: str) -> None:
    channels, printed = ENCODERS[encoder]
    golden = GOLDEN["counts"][encoder]
    cell = DenseCell(PUBLISHED.architecture, channels)
    assert sum(parameter.numel() for parameter in cell.parameters()) == golden["params_incl_bn"]
    sizes = {"1025x2049": (65, 129), "1024x2048": (64, 128), "513x513": (33, 33), "360x480": (23, 30)}
    for image, size in sizes.items():
        calls = layer_calls(cell, (1, channels, *size))
        branches = [call for call in calls if call.name.startswith("branches.")]
        assert sum(call.multiply_adds for call in calls) == golden["macs"][image]["total"]
        assert sum(call.multiply_adds for call in branches) == golden["macs"][image]["excl_proj"]
        assert sum(call.layer.weight.numel() for call in calls) == golden["conv_params"]
        assert sum(call.layer.weight.numel() for call in branches) == golden["conv_params_excl_proj"]
    figures = PUBLISHED.paper["cell"][printed]
    assert golden["conv_params_excl_proj"] / 1e6 == pytest.approx(figures["parameters_m"], rel=0.015)
    assert golden["macs"]["1025x2049"]["excl_proj"] / 1e9 == pytest.approx(figures["multiply_adds_g"], rel=0.005)


@pytest.mark.parametrize("name", GOLDEN["outputs"])
def test_outputs_are_the_golden_ones(name: str) -> None:
    golden = GOLDEN["outputs"][name]
    cell = fill(DenseCell(architecture(golden["cell"]), golden["input"][1]), name[-2:])
    with torch.no_grad():
        found = cell(features(tuple(golden["input"])))
    assert list(found.shape) == golden["shape"]
    expected = torch.tensor(golden["y[0,:4,2,:4]"], dtype=torch.float64)
    assert torch.allclose(found[0, :4, 2, :4], expected, rtol=0, atol=1e-12)
    assert found.mean().item() == pytest.approx(golden["mean"], rel=1e-12)
    assert found.std().item() == pytest.approx(golden["std"], rel=1e-12)
    assert found.sum().item() == pytest.approx(golden["sum"], rel=1e-12)


def test_the_golden_cell_is_the_published_one() -> None:
    assert architecture(GOLDEN["outputs"]["top1_cin320_F1"]["cell"]) == PUBLISHED.architecture


@pytest.mark.parametrize("grid", [(1, 1), (2, 4), (8, 8)])
@pytest.mark.parametrize("image", [(129, 257), (100, 64), (17, 16)])
def test_the_window_is_the_published_one_for_an_image_of_any_size(image: tuple[int, int], grid: tuple[int, int]) -> None:
    pooling = PyramidPooling(2, 3, grid).eval()
    x = torch.randn(1, 2, *(int((side - 1) / 16 + 1) for side in image))
    window = [int((side - 1) / (16 * cells) + 1) for side, cells in zip(image, grid, strict=True)]
    expected = pooling.pointwise(F.avg_pool2d(x, window, stride=1))
    expected = F.interpolate(expected, size=x.shape[2:], mode="bilinear", align_corners=True)
    assert torch.allclose(pooling(x), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(33, 33), (64, 47), (50, 97), (1, 1)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_network_takes_any_size(size: tuple[int, int], output_stride: int) -> None:
    network = build(architecture(POOLED, output_stride=output_stride, **NARROW), 7).eval()
    assert network(torch.randn(2, 3, *size)).shape == (2, 7, *size)


def test_one_image_trains_and_every_weight_has_a_gradient() -> None:
    network = build(architecture(POOLED, **NARROW), 3)
    F.cross_entropy(network(torch.randn(1, 3, 64, 64)), torch.randint(3, (1, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_strides_and_rates() -> None:
    """At output stride 8 the map is twice as large and the rates are doubled: they reach as far in the image."""

    def seen(output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, ...]]]:
        network = build(
            Dpc(PUBLISHED.architecture.branches, architecture(POOLED, output_stride=output_stride, **NARROW).network), 3
        )
        assert isinstance(network, DpcNetwork)
        low_level, *_, last = network.encoder(torch.zeros(1, 3, 64, 96))
        convolutions = (module for module in network.head.cell.branches.modules() if isinstance(module, nn.Conv2d))
        return (
            tuple(low_level.shape[2:]),
            tuple(last.shape[2:]),
            [conv.dilation for conv in convolutions if conv.kernel_size == (3, 3)],
        )

    rates = [(1, 6), (18, 15), (6, 3), (1, 1), (6, 21)]
    assert seen(16) == ((16, 24), (4, 6), rates)
    assert seen(8) == ((16, 24), (8, 12), [(2 * down, 2 * across) for down, across in rates])


def test_the_dropout_is_before_the_projection() -> None:
    cell = DenseCell(architecture(POOLED, dropout=0.5, **NARROW), 6).train()
    seen: list[torch.Tensor] = []
    cell.project.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    cell.branches.eval()
    cell(torch.rand(2, 6, 16, 16))
    assert seen[0].shape[1] == 4 * len(POOLED)
    cell.dropout.p = 0.0
    cell(torch.rand(2, 6, 16, 16))
    assert (seen[0] == 0).float().mean() > (seen[1] == 0).float().mean() + 0.1


def test_the_parts_of_the_whole_network() -> None:
    found = count(PUBLISHED.architecture, (65, 97), 19)
    assert list(found.by_part) == ["encoder", "head"]
    encoder = 3_504_872 - 1_281_000 - (320 * 1280 + 2 * 1280)  # MobileNet-v2 without its classifier and last convolution
    assert found.by_part["encoder"]["parameters"] == encoder
    low_level = 24 * 48 + 2 * 48
    fused = (256 + 48) * (9 + 2) + (256 + 48) * 256 + 2 * 256 + 256 * (9 + 2) + 256 * 256 + 2 * 256
    logits = 256 * 19 + 19
    cell = GOLDEN["counts"]["mobilenetv2_320"]["params_incl_bn"]
    assert found.by_part["head"]["parameters"] == cell + low_level + fused + logits
