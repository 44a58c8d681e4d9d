"""The candidate operations on an edge of a cell: name -> (channels, stride, affine) -> module, in the manner of DARTS.

Every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)) and begins with its ReLU. Atrous convolutions
are dense (not depthwise-separable, as in DARTS): only so do the paper's parameter counts come out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segnas.nets.blocks import FactorizedReduction, backbone_norm, halved, resize

OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: skip_connect(channels, stride, affine),
    "sep_conv_3x3": lambda channels, stride, affine: SeparableConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SeparableConv(channels, 5, stride, affine),
    "atrous_conv_3x3": lambda channels, stride, affine: AtrousConv(channels, 3, stride, affine),
    "atrous_conv_5x5": lambda channels, stride, affine: AtrousConv(channels, 5, stride, affine),
}


def search_operation(name: str, channels: int) -> nn.Module:
    """The operation as a supernet mixes it: stride 1, batch norm without affine parameters, and one after each pooling too."""
    operation = OPERATIONS[name](channels, 1, False)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return nn.Sequential(operation, backbone_norm(channels, affine=False))
    return operation


def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    """The identity; at stride 2 a factorized reduction."""
    return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels, stride, affine)


class Zero(nn.Module):
    """No connection: zeros of the size that the stride asks for."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class SeparableConv(nn.Sequential):
    """(ReLU, depthwise kxk, pointwise 1x1, batch norm) twice; the first depthwise convolution takes the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(*_separable(channels, kernel, stride, affine), *_separable(channels, kernel, 1, affine))


def _separable(channels: int, kernel: int, stride: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        backbone_norm(channels, affine),
    ]


class AtrousConv(nn.Module):
    """ReLU, dense kxk convolution of rate 2, batch norm. At stride 2: bilinear to half the size, then rate 1."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        rate = 2 if stride == 1 else 1
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
        self.norm = backbone_norm(channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(self.conv(x if self.stride == 1 else resize(x, halved(x))))
