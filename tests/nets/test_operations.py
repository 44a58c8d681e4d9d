"""Every candidate operation: sizes, strides, and what it computes, against plain definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segnas.nets.blocks import backbone_norm, search_norm
from segnas.nets.operations import OPERATIONS, search_operation
from segnas.spaces import cells

NORM = 1 / math.sqrt(1 + 1e-3)  # a fresh batch norm in evaluation mode


def operation(name: str, channels: int = 4, stride: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return OPERATIONS[name](channels, stride, backbone_norm).double().eval()


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 4, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_all_operations_of_the_space_are_there():
    assert tuple(OPERATIONS) == cells.OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (9, 7), (2, 3), (17, 4)])
def test_sizes_are_rounded_up_and_inputs_are_left_alone(name, stride, height, width):
    x = images(height, width)
    kept = x.clone()
    out = operation(name, stride=stride)(x)
    assert out.shape == (2, 4, math.ceil(height / stride), math.ceil(width / stride))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_stride_changes_no_parameter_count_but_that_of_skip(name):
    counts = [sum(p.numel() for p in operation(name, stride=stride).parameters()) for stride in (1, 2)]
    expected = {"sep_conv_3x3": 2 * (36 + 16 + 8), "sep_conv_5x5": 2 * (100 + 16 + 8)}
    expected |= {"sep_conv_7x7": 2 * (196 + 16 + 8), "conv_7x1_1x7": 2 * 7 * 16 + 8}
    expected |= {"dil_conv_3x3": 36 + 16 + 8, "dil_conv_5x5": 100 + 16 + 8}
    expected |= {"atrous_conv_3x3": 9 * 16 + 8, "atrous_conv_5x5": 25 * 16 + 8}
    if name == "skip_connect":
        assert counts == [0, 16 + 8]
    else:
        assert counts == [expected.get(name, 0)] * 2


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_separable_convolution(kernel, stride):
    module = operation(f"sep_conv_{kernel}x{kernel}", stride=stride)
    first, point1, second, point2 = (m.weight for m in module if isinstance(m, nn.Conv2d))
    x = images(9, 8)
    out = F.conv2d(x.relu(), first, stride=stride, padding=kernel // 2, groups=4)
    out = (F.conv2d(out, point1) * NORM).relu()
    out = F.conv2d(F.conv2d(out, second, padding=kernel // 2, groups=4), point2) * NORM
    assert torch.allclose(module(x), out)


@pytest.mark.parametrize("kernel", [3, 5])
def test_atrous_convolution_is_dense_with_rate_2(kernel):
    module = operation(f"atrous_conv_{kernel}x{kernel}")
    x = images(9, 8)
    spread = torch.zeros(4, 4, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.float64)
    spread[:, :, ::2, ::2] = module.conv.weight  # a dilated kernel is one with zeros between
    assert torch.allclose(module(x), F.conv2d(x.relu(), spread, padding=kernel - 1) * NORM)


@pytest.mark.parametrize(("height", "width"), [(9, 17), (8, 6)])
def test_strided_atrous_convolution_halves_first_and_has_rate_1(height, width):
    module = operation("atrous_conv_3x3", stride=2)
    x = images(height, width)
    halves = (math.ceil(height / 2), math.ceil(width / 2))
    half = F.interpolate(x.relu(), size=halves, mode="bilinear", align_corners=True)
    assert torch.allclose(module(x), F.conv2d(half, module.conv.weight, padding=1) * NORM)
    if height % 2 and width % 2:  # aligned corners of 2n + 1 -> n + 1 pick every second pixel
        assert torch.allclose(half, x.relu()[:, :, ::2, ::2])


def test_none_is_zero_even_where_its_input_is_infinite():
    x = images(5, 4)
    x[0, 0, 0, 0] = torch.inf
    assert not operation("none", stride=2)(x).any()


def test_pools_ignore_what_is_beyond_the_border():
    x = torch.full((1, 4, 5, 6), -3.0, dtype=torch.float64)
    for stride in (1, 2):
        assert (operation("avg_pool_3x3", stride=stride)(x) == -3.0).all()
        assert (operation("max_pool_3x3", stride=stride)(x) == -3.0).all()


def test_skip_is_the_identity():
    x = images(5, 4)
    assert torch.equal(operation("skip_connect")(x), x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_a_supernet_have_no_affine_parameters_and_normalise_pools(name):
    torch.manual_seed(0)
    module = search_operation(name, 4, 1, search_norm).train()
    assert not [p for n, p in module.named_parameters() if p.dim() == 1]
    out = module(torch.randn(3, 4, 6, 6) * 5 + 2)
    if name not in ("none", "skip_connect"):
        assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(out.var((0, 2, 3), unbiased=False), torch.ones(4), atol=0.15)  # below 1: epsilon is 1e-3
