"""Heads of dense prediction: atrous spatial pyramid pooling (DeepLabv3) and the DeepLabv3+ decoder, with dense convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ConvBNReLU, PooledBatchNorm, resize


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
