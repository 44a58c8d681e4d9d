"""The network of an Auto-DeepLab architecture, as it is trained from scratch after the search.

Source: Liu et al., CVPR 2019 (arXiv 1901.02985); where the paper is silent, the code published by its authors. Parameter
counts are those of the paper's table: 10.15 M, 21.62 M and 44.42 M for 20, 32 and 48 filters and 19 classes.

    stem -> cell 0 .. cell L-1 -> ReLU -> ASPP -> decoder (with low-level features of stride 4) -> logits

Sizes: the stem ends at ceil(n / 4), and each level below has ceil(n / 2) of the one above. A cell at level s takes
    state 1: H^{l-1}, enlarged to level s's size if it comes from 2s, then ReLU-1x1-BN at its own size
    state 0: H^{l-2}, resized to the size of state 1, then ReLU-1x1-BN
and, if H^{l-1} comes from s/2, strides every operation on these two by 2.

| the published code            | here                                                                              |
|-------------------------------|-----------------------------------------------------------------------------------|
| batch norm decay 0.9997       | torch's default momentum; the published value suits 1.5 M steps                   |
| strided `skip` is a 1x1 conv  | a factorized reduction, as in DARTS (the published cell has no skip)              |
| sizes 2^k m + 1 only          | any size: see above; the same for sizes of that form                              |
| depthwise fan-in k k C        | initialised with its true fan-in k k                                              |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ReLUConvBN, Stem, backbone_norm, drop_path_keep, resize
from segnas.nets.cells import BlockGraph, chosen_operations
from segnas.nets.heads import ASPP, Decoder
from segnas.spaces.auto_deeplab import AutoDeepLab, level_sizes
from segnas.spaces.cells import Block

ASPP_STRIDE = 8  # the encoder stride for which the rates of the ASPP are stated
NEVER_DROPPED = ("none", "skip_connect")


class Cell(BlockGraph):
    """One cell: H^{l-2} and H^{l-1} -> the concatenation of its blocks, (N, blocks * channels, h, w)."""

    def __init__(self, cell: Sequence[Block], before_channels: int, previous_channels: int, channels: int, stride: int) -> None:
        """stride: 2 when H^{l-1} comes from the next finer level, else 1."""
        super().__init__(cell)
        self.before = ReLUConvBN(before_channels, channels)
        self.previous = ReLUConvBN(previous_channels, channels)
        self.operations = chosen_operations(cell, channels, stride, backbone_norm)

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        """before: H^{l-2} at any size; previous: H^{l-1} at this cell's size, or at twice that when the stride is 2."""
        states = self.states(self.before(resize(before, previous.shape[2:])), self.previous(previous))
        return torch.cat(states[2:], dim=1)

    def is_dropped(self, number: int) -> bool:
        """Skip connections are never dropped, as in the published code, not even where they are a reduction."""
        return self.cell[number // 2].operations[number % 2] not in NEVER_DROPPED


class AutoDeepLabNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W of at least 33.

    Its parts in order: `stem`, `cells.0` ..., `aspp`, `decoder`, `logits`.
    """

    def __init__(self, architecture: AutoDeepLab, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.path = architecture.path
        self.low_level = low_level_cell(architecture.path)
        options = architecture.network
        self.stem = Stem(in_channels, options.stem)
        self.cells = nn.ModuleList()
        widths = [options.stem[1], options.stem[2]]  # channels of H^{l-2} and H^{l-1}, growing
        for before, level in zip((0, *self.path[:-1]), self.path, strict=True):
            channels = options.filters * 2**level
            self.cells.append(Cell(architecture.cell, widths[-2], widths[-1], channels, stride=2 if level > before else 1))
            widths.append(len(architecture.cell) * channels)
        self.aspp = ASPP(widths[-1], options.aspp_width, aspp_rates(options.aspp_rates, self.path[-1]), options.dropout)
        low_level_channels = widths[2 + self.low_level] if self.low_level >= 0 else options.stem[2]
        self.decoder = Decoder(options.aspp_width, low_level_channels, options.low_level_width, options.decoder_width)
        self.logits = nn.Conv2d(options.decoder_width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        before, previous = self.stem(images)
        sizes = level_sizes(previous.shape[2:])
        low_level = previous
        level = 0
        for number, cell in enumerate(self.cells):
            entry = resize(previous, sizes[self.path[number]]) if self.path[number] < level else previous
            before, previous = previous, cell(before, entry)
            level = self.path[number]
            if number == self.low_level:
                low_level = previous
        features = self.decoder(self.aspp(F.relu(previous)), low_level)
        return resize(self.logits(features), images.shape[2:])

    def set_drop_path(self, keep: float, progress: float) -> None:
        """Scheduled drop path for the training steps that follow; `progress` = min(1, step / steps). Evaluation ignores it."""
        for number, cell in enumerate(self.cells):
            assert isinstance(cell, Cell)
            cell.keep = drop_path_keep(keep, number, len(self.cells), progress)


def low_level_cell(path: Sequence[int]) -> int:
    """The cell whose output the decoder reads: the last of the leading run at stride 4, never the final cell; -1: the stem.

    Cell 2 for the published path.
    """
    run = 0
    while run < len(path) - 1 and path[run] == 0:
        run += 1
    return run - 1


def aspp_rates(rates: Sequence[int], level: int) -> tuple[int, ...]:
    """Rates stated for an encoder of stride 8, for one that ends at `level`: the same reach in the image, at least 1."""
    stride = 4 * 2**level
    return tuple(max(1, round(rate * ASPP_STRIDE / stride)) for rate in rates)
