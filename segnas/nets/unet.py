"""U-Net: an encoder that halves its map and doubles its channels, and a decoder that reads every map on the way back.

Source: Ronneberger et al., MICCAI 2015 (arXiv 1505.04597).

    levels 0 .. depth, each two 3x3 convolutions, a max pool between them
    -> back up: enlarge, concatenate with the level of that size, two 3x3 convolutions -> logits

| the paper                                            | here                                                       |
|------------------------------------------------------|------------------------------------------------------------|
| no normalisation                                     | batch norm before every ReLU                               |
| unpadded convolutions, the output is smaller         | padded, the output is as large as the image                |
| a transposed 2x2 convolution halves the channels     | bilinear, all channels stay and are concatenated           |
| sizes that halve evenly                              | any size: levels have ceil(n / 2) of the one above         |
| dropout at the lowest level, He's initialisation     | no dropout, torch's initialisation                         |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnas.nets.blocks import ConvBNReLU, resize
from segnas.spaces.hand_made import UNet


class UNetNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W.

    Its parts in order: `down.0` ... `down.<depth>`, `up.0` ... (up.0 is the coarsest), `logits`.
    """

    def __init__(self, architecture: UNet, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        widths = [architecture.filters * 2**level for level in range(architecture.depth + 1)]
        self.down = nn.ModuleList(
            _two_convolutions(before, width) for before, width in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(_two_convolutions(2 * width + width, width) for width in reversed(widths[:-1]))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.logits = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.down[0](images)
        passed = []  # the maps of levels 0 .. depth - 1
        for level in self.down[1:]:
            passed.append(x)
            x = level(self.pool(x))
        for level, beside in zip(self.up, reversed(passed), strict=True):
            x = level(torch.cat([beside, resize(x, beside.shape[2:])], dim=1))
        logits: Tensor = self.logits(x)
        return logits


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvBNReLU(in_channels, out_channels, 3), ConvBNReLU(out_channels, out_channels, 3))
