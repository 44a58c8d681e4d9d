"""The networks of NAS with reinforcement learning: convolutions that read the concatenation of any layers before them.

Source: Zoph and Le, ICLR 2017 (arXiv 1611.01578), section 3.3 and appendix, figure 7. The published network of 15 layers has
4,201,630 parameters for 10 classes here; the paper prints 4.2 M.

    image -> layers 1 .. L: convolution, batch norm, ReLU -> concatenation of what no layer reads -> mean over the map -> logits

| the paper                                       | here                                                                 |
|-------------------------------------------------|----------------------------------------------------------------------|
| zeros around smaller inputs; where is not said  | evenly on both sides, an odd row or column below and to the right    |
| what the classifier is made of is not said      | global average pooling and a linear layer                            |
| an image too small for a stride                 | its map keeps one row or column: sizes are ceil(n / stride)          |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.spaces.nas_rl import ConvolutionLayer, NasRl


class ConvolutionUnit(nn.Sequential):
    """Convolution without bias, batch norm, ReLU. (N, in, H, W) -> (N, filters, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_channels: int, layer: ConvolutionLayer) -> None:
        super().__init__()
        kernel, stride = (layer.height, layer.width), (layer.stride_height, layer.stride_width)
        padding = (layer.height // 2, layer.width // 2)
        self.conv = nn.Conv2d(in_channels, layer.filters, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(layer.filters)
        self.relu = nn.ReLU()


class NasRlNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K), for any H and W. Its parts in order: `layers.0`, `layers.1`, ..., `logits`."""

    def __init__(self, architecture: NasRl, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.inputs = [layer.inputs for layer in architecture.layers]
        self.outputs = architecture.outputs
        channels = [in_channels, *(layer.filters for layer in architecture.layers)]
        self.layers = nn.ModuleList(
            ConvolutionUnit(sum(channels[number] for number in layer.inputs), layer) for layer in architecture.layers
        )
        self.logits = nn.Linear(sum(channels[number] for number in self.outputs), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = [images]
        for layer, inputs in zip(self.layers, self.inputs, strict=True):
            maps.append(layer(concatenated([maps[number] for number in inputs])))
        logits: Tensor = self.logits(concatenated([maps[number] for number in self.outputs]).mean((2, 3)))
        return logits


def concatenated(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, C_i, H_i, W_i) -> (N, sum of C_i, largest H_i, largest W_i); smaller ones stand in the middle of zeros."""
    height, width = (max(x.shape[axis] for x in maps) for axis in (2, 3))
    return torch.cat([_padded(x, height, width) for x in maps], dim=1)


def _padded(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2] == height and x.shape[3] == width:
        return x
    down, across = height - x.shape[2], width - x.shape[3]
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
