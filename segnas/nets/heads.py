"""Heads of dense prediction: atrous spatial pyramid pooling (DeepLabv3) and the DeepLabv3+ decoder, with dense convolutions.

`SegmentationHead` is both as the segmentation forms of classifiers' cells have them, `AuxiliarySegmentation` their second head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ConvBNReLU, PooledBatchNorm, resize


class HeadOptions(Protocol):
    """What a family's options say of a segmentation head; low_level_width 0: no decoder."""

    @property
    def aspp_width(self) -> int: ...

    @property
    def aspp_rates(self) -> tuple[int, ...]: ...

    @property
    def low_level_width(self) -> int: ...

    @property
    def decoder_width(self) -> int: ...

    @property
    def dropout(self) -> float: ...


class ASPP(nn.Module):
    """Image pooling, a 1x1 and one dense 3x3 convolution a rate, side by side; concat, 1x1 projection, dropout.

    (N, in, H, W) -> (N, width, H, W). Three rates make the paper's five branches; one rate makes the search's three.
    """

    def __init__(self, in_channels: int, width: int, rates: Sequence[int], dropout: float = 0.1) -> None:
        super().__init__()
        self.pooled = ConvBNReLU(in_channels, width, 1)
        self.pooled.norm = PooledBatchNorm(width)
        self.pointwise = ConvBNReLU(in_channels, width, 1)
        self.atrous = nn.ModuleList(ConvBNReLU(in_channels, width, 3, rate) for rate in rates)
        self.project = ConvBNReLU((2 + len(rates)) * width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, x.shape[2], x.shape[3])
        branches = [pooled, self.pointwise(x), *(branch(x) for branch in self.atrous)]
        out: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))
        return out


class Decoder(nn.Module):
    """Joins the encoder's features with low-level ones: 1x1 on the latter, concat at their size, two dense 3x3 convolutions.

    (N, in, h, w), (N, low, H, W) -> (N, width, H, W).
    """

    def __init__(self, in_channels: int, low_level_channels: int, low_level_width: int, width: int) -> None:
        super().__init__()
        self.low_level = ConvBNReLU(low_level_channels, low_level_width, 1)
        self.fuse = nn.Sequential(ConvBNReLU(in_channels + low_level_width, width, 3), ConvBNReLU(width, width, 3))

    def forward(self, x: Tensor, low_level: Tensor) -> Tensor:
        x = resize(x, low_level.shape[2:])
        out: Tensor = self.fuse(torch.cat([x, self.low_level(low_level)], dim=1))
        return out


class SegmentationHead(nn.Module):
    """ReLU, ASPP, the decoder with features of stride 4 (or none), a 1x1 convolution: -> (N, K, *size)."""

    def __init__(self, options: HeadOptions, width: int, low_level_width: int, num_classes: int) -> None:
        super().__init__()
        self.aspp = ASPP(width, options.aspp_width, options.aspp_rates, options.dropout)
        self.decoder: Decoder | None = None
        if options.low_level_width:
            self.decoder = Decoder(options.aspp_width, low_level_width, options.low_level_width, options.decoder_width)
        self.logits = nn.Conv2d(options.decoder_width if options.low_level_width else options.aspp_width, num_classes, 1)

    def forward(self, x: Tensor, low_level: Tensor, size: Sequence[int]) -> Tensor:
        features = self.aspp(F.relu(x))
        if self.decoder is not None:
            features = self.decoder(features, F.relu(low_level))
        return resize(self.logits(features), size)


class AuxiliarySegmentation(nn.Module):
    """ReLU, a 3x3 convolution to a quarter of the width, a 1x1 convolution: the auxiliary head of PSPNet and its followers."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = ConvBNReLU(width, max(1, width // 4), 3)
        self.logits = nn.Conv2d(max(1, width // 4), num_classes, 1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return resize(self.logits(self.features(F.relu(x))), size)
