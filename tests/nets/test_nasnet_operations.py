"""The operations of the NASNet family: sizes, channels, strides, and what they compute, against plain definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segnas.nets.blocks import backbone_norm
from segnas.nets.nasnet_operations import OPERATIONS
from segnas.spaces import nasnet
from segnas.spaces.nasnet_space import AMOEBANET_OPERATIONS, NASNET_OPERATIONS, PNAS_OPERATIONS

NORM = 1 / math.sqrt(1 + 1e-3)  # a fresh batch norm in evaluation mode
CHANNELS = 8


def operation(name: str, in_channels: int = CHANNELS, stride: int = 1) -> nn.Module:
    torch.manual_seed(1)
    return OPERATIONS[name](in_channels, CHANNELS, stride, backbone_norm).double().eval()


def images(height: int, width: int, channels: int = CHANNELS) -> torch.Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_all_operations_of_the_family_are_there():
    assert tuple(OPERATIONS) == nasnet.OPERATIONS
    assert [len(set(names)) for names in (NASNET_OPERATIONS, AMOEBANET_OPERATIONS, PNAS_OPERATIONS)] == [13, 8, 8]
    assert set(AMOEBANET_OPERATIONS) <= set(NASNET_OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("in_channels", [CHANNELS, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (9, 7), (1, 3), (17, 4)])
def test_sizes_are_rounded_up_and_channels_are_the_cells(name, stride, in_channels, height, width):
    x = images(height, width, in_channels)
    kept = x.clone()
    out = operation(name, in_channels, stride)(x)
    assert out.shape == (2, CHANNELS, math.ceil(height / stride), math.ceil(width / stride))
    assert torch.isfinite(out).all()
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [CHANNELS, 5])
def test_parameters(name, stride, n):
    """Of n to c channels; r = c / 4 inside the dense ones; a batch norm has 2 a channel."""
    c, r = CHANNELS, CHANNELS // 4
    one = n * c + 2 * c
    expected = {"conv_1x1": one, "skip_connect": one if stride == 2 or n != c else 0}
    expected |= {name: 0 if n == c else one for name in OPERATIONS if "pool" in name}
    for name_of, kernel in (("sep_conv", 3), ("sep_conv", 5), ("sep_conv", 7), ("dil_sep_conv", 3), ("dil_sep_conv", 5)):
        area = kernel * kernel
        expected[f"{name_of}_{kernel}x{kernel}"] = area * n + n * c + 2 * c + area * c + c * c + 2 * c
    dense = n * r + 2 * r + r * c + 2 * c
    expected |= {f"conv_1x{k}_{k}x1": dense + 2 * (k * r * r + 2 * r) for k in (3, 7)}
    expected["conv_3x3"] = dense + 9 * r * r + 2 * r
    assert sum(parameter.numel() for parameter in operation(name, n, stride).parameters()) == expected[name]


@pytest.mark.parametrize(("name", "kernel", "rate"), [("sep_conv_5x5", 5, 1), ("sep_conv_7x7", 7, 1), ("dil_sep_conv_3x3", 3, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_separable_convolutions_are_applied_twice_and_stride_once(name, kernel, rate, stride):
    module = operation(name, 5, stride)
    first, point1, second, point2 = weights(module)
    x = images(9, 8, 5)
    padding = rate * (kernel // 2)
    out = F.conv2d(x.relu(), first, stride=stride, padding=padding, dilation=rate, groups=5)
    out = (F.conv2d(out, point1) * NORM).relu()
    out = F.conv2d(F.conv2d(out, second, padding=padding, dilation=rate, groups=CHANNELS), point2) * NORM
    assert torch.allclose(module(x), out)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_factorized_convolutions_stride_along_rows_then_columns(kernel, stride):
    module = operation(f"conv_1x{kernel}_{kernel}x1", 5, stride)
    narrow, rows, columns, wide = weights(module)
    x = images(9, 8, 5)
    out = F.conv2d(x.relu(), narrow) * NORM
    out = F.conv2d(out.relu(), rows, stride=(1, stride), padding=(0, kernel // 2)) * NORM
    out = F.conv2d(out.relu(), columns, stride=(stride, 1), padding=(kernel // 2, 0)) * NORM
    assert rows.shape[2:] == (1, kernel)
    assert torch.allclose(module(x), F.conv2d(out.relu(), wide) * NORM)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("name", "before", "behind"), [("max_pool_2x2", 0, 1), ("max_pool_5x5", 2, 2), ("max_pool_7x7", 3, 3)])
def test_maxima_are_over_what_there_is(name, before, behind, stride):
    x = images(7, 8) - 10
    out = operation(name, stride=stride)(x)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            top, left = stride * row, stride * column
            window = x[:, :, max(0, top - before) : top + behind + 1, max(0, left - before) : left + behind + 1]
            assert torch.equal(out[:, :, row, column], window.amax((2, 3)))


@pytest.mark.parametrize("name", ["avg_pool_3x3", "max_pool_3x3"])
def test_a_pool_of_other_channels_is_projected_afterwards(name):
    module = operation(name, 5, 2)
    x = images(7, 8, 5)
    pool = {"avg": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False), "max": lambda y: F.max_pool2d(y, 3, 2, 1)}
    (weight,) = weights(module)
    assert torch.allclose(module(x), F.conv2d(pool[name[:3]](x), weight) * NORM)
    assert not weights(operation(name, stride=2))


def test_identity():
    x = images(5, 4)
    assert torch.equal(operation("skip_connect")(x), x)
    module = operation("skip_connect", stride=2)
    (weight,) = weights(module)
    assert torch.allclose(module(x), F.conv2d(x.relu(), weight, stride=2) * NORM)
