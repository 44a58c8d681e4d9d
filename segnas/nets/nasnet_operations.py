"""The operations of NASNet, AmoebaNet and PNASNet, name -> (in_channels, channels, stride, norm) -> module.

Every operation maps (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride)). They differ from those of the
same names in operations.py in that the channels of a state may differ from the cell's: state 0 of a first cell is not projected,
and a block that concatenates has twice as many. As in the published code:

    separable convolutions, dilated or not   (ReLU, depthwise, pointwise, batch norm) twice, the stride in the first
    dense convolutions (1x3-3x1, 3x3, ...)   through a quarter of the channels, each layer with ReLU before and batch norm after
    pooling                                  followed by a 1x1 convolution and batch norm where the channels differ
    identity                                 ReLU, 1x1 convolution, batch norm where stride or channels differ

Maps are padded alike on all sides; the published code has half a pixel more at bottom and right for even sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import Norm

Kernel = tuple[int, int]


def conv_bn(in_channels: int, channels: int, norm: Norm, kernel: Kernel = (1, 1), stride: Kernel = (1, 1)) -> list[nn.Module]:
    """Convolution and batch norm; odd kernels."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return [nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False), norm(channels)]


def identity(in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """The identity; with other channels or a stride, ReLU, 1x1 convolution, batch norm."""
    return nn.Identity() if stride == 1 and in_channels == channels else pointwise(in_channels, channels, stride, norm)


def pointwise(in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """ReLU, 1x1 convolution, batch norm."""
    return nn.Sequential(nn.ReLU(), *conv_bn(in_channels, channels, norm, stride=(stride, stride)))


def separable(kernel: int, rate: int, in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """(ReLU, depthwise kxk convolution of a dilation, pointwise convolution, batch norm) twice."""
    layers: list[nn.Module] = []
    padding = rate * (kernel // 2)
    for width, step in ((in_channels, stride), (channels, 1)):
        depthwise = nn.Conv2d(width, width, kernel, step, padding, dilation=rate, groups=width, bias=False)
        layers += [nn.ReLU(), depthwise, *conv_bn(width, channels, norm)]
    return nn.Sequential(*layers)


def bottleneck(kernels: Sequence[Kernel], in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """1x1 to a quarter of the channels, the dense kernels there, 1x1 back; each is ReLU, convolution, batch norm.

    The stride stands along the axes in which a kernel extends.
    """
    narrow = max(1, channels // 4)
    layers = [nn.ReLU(), *conv_bn(in_channels, narrow, norm)]
    for kernel in kernels:
        step = (stride if kernel[0] > 1 else 1, stride if kernel[1] > 1 else 1)
        layers += [nn.ReLU(), *conv_bn(narrow, narrow, norm, kernel, step)]
    return nn.Sequential(*layers, nn.ReLU(), *conv_bn(narrow, channels, norm))


def pool(layer: Callable[[int], nn.Module], in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """Pooling; where the channels differ, a 1x1 convolution with batch norm after it. layer: stride -> module."""
    if in_channels == channels:
        return layer(stride)
    return nn.Sequential(layer(stride), *conv_bn(in_channels, channels, norm))


class MaxPool2x2(nn.Module):
    """The maximum of 2x2, at the border of what there is: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, self.stride)


def average(stride: int) -> nn.Module:
    """The average of 3x3, at the border of what there is."""
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def maximum(kernel: int) -> Callable[[int], nn.Module]:
    """The maximum of kxk, at the border of what there is."""
    return lambda stride: nn.MaxPool2d(kernel, stride, padding=kernel // 2)


OPERATIONS: dict[str, Callable[[int, int, int, Norm], nn.Module]] = {
    "skip_connect": identity,
    "conv_1x3_3x1": partial(bottleneck, ((1, 3), (3, 1))),
    "conv_1x7_7x1": partial(bottleneck, ((1, 7), (7, 1))),
    "dil_sep_conv_3x3": partial(separable, 3, 2),
    "avg_pool_3x3": partial(pool, average),
    "max_pool_3x3": partial(pool, maximum(3)),
    "max_pool_5x5": partial(pool, maximum(5)),
    "max_pool_7x7": partial(pool, maximum(7)),
    "conv_1x1": pointwise,
    "conv_3x3": partial(bottleneck, ((3, 3),)),
    "sep_conv_3x3": partial(separable, 3, 1),
    "sep_conv_5x5": partial(separable, 5, 1),
    "sep_conv_7x7": partial(separable, 7, 1),
    "max_pool_2x2": partial(pool, MaxPool2x2),
    "dil_sep_conv_5x5": partial(separable, 5, 2),
}
