"""Networks of dense prediction cells: encoder, cell, the decoder of DeepLabv3+.

Source: Chen et al., NeurIPS 2018 (arXiv 1809.04184); where the paper is silent, the code published by its authors.

    images -> encoder -> features at stride 16 -> cell -> decoder (with low-level features of stride 4) -> logits

A branch's pooling divides its input into a grid only in name: it takes the mean over windows of one grid cell's size, one at
every place (stride 1, inside the map), then a 1x1 convolution, and resizes to the map's size. The window is ceil(size / grid)
pixels of the map, which for an image of any size is the same as the published int((image - 1) / (stride * grid)) + 1.

| the paper and its code                                  | here                                                              |
|---------------------------------------------------------|-------------------------------------------------------------------|
| encoder Xception-65 or -71; MobileNet-v2 in the search  | MobileNet-v2                                                      |
| low-level features from inside an inverted residual     | the output of the last stage at stride 4                          |
| normal initialisation with fixed deviations             | torch's, as in every network here                                 |
| batch norm decay 0.9997; no decay of depthwise weights  | as the recipe of the training says                                |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ConvBNReLU, PooledBatchNorm, resize
from segnas.nets.mobilenet_v2 import MobileNetV2
from segnas.spaces.dpc import ATROUS, FEATURES, POINTWISE, Dpc, DpcOptions, rates_or_grid

RATE_STRIDE = 16  # the output stride for which a cell's rates are stated


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, batch norm, ReLU, 1x1, batch norm, ReLU. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=rates, dilation=rates, groups=in_channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(in_channels)
        self.depthwise_relu = nn.ReLU()
        self.pointwise = ConvBNReLU(in_channels, out_channels, 1)


class PyramidPooling(nn.Module):
    """Means over windows of ceil(H / rows) x ceil(W / columns), 1x1 with batch norm and ReLU, resized. -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.pointwise = ConvBNReLU(in_channels, out_channels, 1)
        self.pointwise.norm = PooledBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        window = [-(-side // cells) for side, cells in zip(size, self.grid, strict=True)]
        return resize(self.pointwise(F.avg_pool2d(x, window, stride=1)), size)


class DenseCell(nn.Module):
    """The cell: (N, in, H, W) -> (N, width, H, W). Its parts: `branches`, and `project` of their concatenation."""

    def __init__(self, architecture: Dpc, in_channels: int) -> None:
        super().__init__()
        options = architecture.network
        self.inputs = [branch.input for branch in architecture.branches]
        self.branches = nn.ModuleList(
            _operation(branch.operation, in_channels if branch.input == FEATURES else options.cell_width, options)
            for branch in architecture.branches
        )
        self.dropout = nn.Dropout(options.dropout)
        self.project = ConvBNReLU(len(self.branches) * options.cell_width, options.cell_width, 1)

    def forward(self, features: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch, source in zip(self.branches, self.inputs, strict=True):
            outputs.append(branch(features if source == FEATURES else outputs[source]))
        projected: Tensor = self.project(self.dropout(torch.cat(outputs, dim=1)))
        return projected


def _operation(name: str, in_channels: int, options: DpcOptions) -> nn.Module:
    if name == POINTWISE:
        return ConvBNReLU(in_channels, options.cell_width, 1)
    height, width = rates_or_grid(name)
    if name.startswith(ATROUS):
        factor = RATE_STRIDE // options.output_stride
        return SeparableConv(in_channels, options.cell_width, (factor * height, factor * width))
    return PyramidPooling(in_channels, options.cell_width, (height, width))


class SeparableDecoder(nn.Module):
    """The decoder of DeepLabv3+: 1x1 on low-level features, concat at their size, two separable 3x3 convolutions.

    (N, in, h, w), (N, low, H, W) -> (N, width, H, W).
    """

    def __init__(self, in_channels: int, low_level_channels: int, low_level_width: int, width: int) -> None:
        super().__init__()
        self.low_level = ConvBNReLU(low_level_channels, low_level_width, 1)
        self.fuse = nn.Sequential(SeparableConv(in_channels + low_level_width, width), SeparableConv(width, width))

    def forward(self, x: Tensor, low_level: Tensor) -> Tensor:
        x = resize(x, low_level.shape[2:])
        out: Tensor = self.fuse(torch.cat([x, self.low_level(low_level)], dim=1))
        return out


class DpcHead(nn.Module):
    """All behind the encoder: low-level features (N, low, H, W) and features (N, in, h, w) -> logits (N, K, H, W)."""

    def __init__(self, architecture: Dpc, channels: tuple[int, int], num_classes: int) -> None:
        """channels: of the low-level features and of the features."""
        super().__init__()
        options = architecture.network
        self.cell = DenseCell(architecture, channels[1])
        self.decoder = SeparableDecoder(options.cell_width, channels[0], options.low_level_width, options.decoder_width)
        self.logits = nn.Conv2d(options.decoder_width, num_classes, 1)

    def forward(self, low_level: Tensor, features: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.decoder(self.cell(features), low_level))
        return logits


class DpcNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W. Its parts in order: `encoder`, `head`."""

    def __init__(self, architecture: Dpc, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.encoder = make_encoder(architecture.network, in_channels)
        self.head = DpcHead(architecture, (self.encoder.channels[0], self.encoder.channels[-1]), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        low_level, *_, features = self.encoder(images)
        return resize(self.head(low_level, features), images.shape[2:])


def make_encoder(options: DpcOptions, in_channels: int = 3) -> MobileNetV2:
    """The encoder: its first map, of stride 4, and its last, of the output stride, are what is read."""
    return MobileNetV2(in_channels, options.encoder_width, first_expansion=False, output_stride=options.output_stride)
