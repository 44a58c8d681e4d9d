"""What the decoders of Fast NAS and of template search are made of: operations, resizing, the classifier on collected maps.

Source: Nekrasov et al., CVPR 2019 (arXiv 1810.10804) and WACV 2020 (arXiv 1904.02365), to the letter of their published code.
All maps are resized bilinearly with half-pixel centres (elsewhere in segnas corners are aligned), and the ReLU comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ConvBNReLU, PooledBatchNorm

# (channels in, channels out, stride, repeats of a separable convolution) -> module
Operation = Callable[[int, int, int, int], nn.Module]


class Separable(nn.Sequential):
    """`repeats` times depthwise kxk, pointwise 1x1, batch norm, ReLU; the stride is applied each time, as published.

    (N, in, H, W) -> (N, out, H / stride^repeats, W / stride^repeats), rounded up at each step.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int, stride: int, repeats: int) -> None:
        layers: list[nn.Module] = []
        for before in [in_channels] + [out_channels] * (repeats - 1):
            padding = rate * (kernel // 2)
            layers += [
                nn.Conv2d(before, before, kernel, stride, padding, dilation=rate, groups=before, bias=False),
                nn.Conv2d(before, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class GlobalAveragePool(nn.Module):
    """The mean over the map, 1x1 convolution, batch norm, ReLU, at every pixel: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(in_channels, out_channels, 1)
        self.project.norm = PooledBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(x.mean((2, 3), keepdim=True))
        return out.expand(-1, -1, *x.shape[2:])


class MaxPool(nn.Sequential):
    """1x1 convolution, batch norm, 3x3 maximum: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.MaxPool2d(3, stride, padding=1))


class Repeat(nn.Module):
    """The channels over and over: (N, in, H, W) -> (N, times * in, H, W)."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x if self.times == 1 else x.repeat(1, self.times, 1, 1)


class Nothing(nn.Module):
    """Zeros of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _separable(kernel: int, rate: int = 1) -> Operation:
    return lambda before, after, stride, repeats: Separable(before, after, kernel, rate, stride, repeats)


def _dense(kernel: int, rate: int = 1) -> Operation:
    return lambda before, after, stride, repeats: ConvBNReLU(before, after, kernel, rate)


OPERATIONS: dict[str, Operation] = {  # dense convolutions and `none` are of Fast NAS alone, where stride and channels stay
    "conv1x1": _dense(1),
    "conv3x3": _dense(3),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "global_average_pool": lambda before, after, stride, repeats: GlobalAveragePool(before, after),
    "max_pool_3x3": lambda before, after, stride, repeats: MaxPool(before, after, stride),
    "conv3x3_dil3": _dense(3, 3),
    "conv3x3_dil12": _dense(3, 12),
    "sep_conv_3x3_dil3": _separable(3, 3),
    "sep_conv_5x5_dil6": _separable(5, 6),
    "skip_connect": lambda before, after, stride, repeats: Repeat(after // before),
    "none": lambda before, after, stride, repeats: Nothing(),
}


class Classifier(nn.Module):
    """The maps of blocks that no block reads -> logits at the size of the largest.

    Concatenated one after the other, what is there growing to the size of the next where that is larger; ReLU, 1x1 to `width`
    channels, 3x3 with bias. Maps (N, channels[i], h, w) -> (N, K, H, W).
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(sum(channels), width, 1)
        self.logits = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        joined = maps[0]
        for following in maps[1:]:
            joined = torch.cat(at_larger(joined, following), dim=1)
        logits: Tensor = self.logits(self.project(F.relu(joined)))
        return logits


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with half-pixel centres, (N, C, h, w) -> (N, C, *size); `x` itself when the size is right."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=False)


def at_larger(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the size of the larger one."""
    size = max(tuple(first.shape[2:]), tuple(second.shape[2:]))
    return resized(first, size), resized(second, size)


def at_smaller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the size of the smaller one."""
    size = min(tuple(first.shape[2:]), tuple(second.shape[2:]))
    return resized(first, size), resized(second, size)


Conv1x1 = partial(ConvBNReLU, kernel=1)  # (channels in, channels out): convolution, batch norm, ReLU
