"""The networks of Fast NAS: MobileNet-v2, a decoder of searched blocks, a classifier, and heads for training alone.

Source: Nekrasov et al., CVPR 2019 (arXiv 1810.10804), section 3; counts and outputs agree with the published code.

    images -> encoder -> 4 maps -> decoder (1x1 each, then the blocks) -> classifier on the blocks that no block reads -> logits

What the classifier gives is at the size of the largest of these blocks (stride 4 or more), and `forward` resizes it to the
image's. `from_taps` goes on from the encoder's maps, for searches that compute them once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segnas.nets.fast_nas_parts import OPERATIONS, Classifier, Conv1x1, at_larger, resized
from segnas.nets.mobilenet_v2 import STEM, MobileNetV2
from segnas.spaces.fast_nas import FastNas, FastNasCell


class Cell(nn.Module):
    """The searched cell: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, cell: FastNasCell, channels: int, repeats: int) -> None:
        """repeats: of the depthwise and pointwise pair in separable convolutions."""
        super().__init__()
        self.cell = cell
        names = [cell.first, *(name for layer in cell.layers for name in layer.operations)]
        self.operations = nn.ModuleList(OPERATIONS[name](channels, channels, 1, repeats) for name in names)

    def forward(self, x: Tensor) -> Tensor:
        states = [x, self.operations[0](x)]
        for number, layer in enumerate(self.cell.layers):
            first, second = (self.operations[1 + 2 * number + side](states[layer.inputs[side]]) for side in (0, 1))
            states += [first, second, first + second]
        out, *others = (states[end] for end in self.cell.loose_ends())
        for other in others:
            out = out + other
        return out


class Block(nn.Module):
    """Two maps, each through a cell and a 1x1 convolution of its own, then their sum at the size of the larger one."""

    def __init__(self, cell: FastNasCell, channels: int, repeats: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Cell(cell, channels, repeats) for _ in range(2))
        self.projections = nn.ModuleList(Conv1x1(channels, channels) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = (self.projections[side](self.cells[side](x)) for side, x in enumerate((first, second)))
        one, other = at_larger(one, other)
        return one + other


class Decoder(nn.Module):
    """The maps of the encoder -> the outputs of all blocks, in order; all of `channels` channels."""

    def __init__(self, architecture: FastNas, tapped: Sequence[int]) -> None:
        """tapped: channels of the encoder's maps."""
        super().__init__()
        options, self.connections = architecture.network, architecture.connections
        self.adapt = nn.ModuleList(Conv1x1(channels, options.agg_size) for channels in tapped)
        self.blocks = nn.ModuleList(Block(architecture.cell, options.agg_size, options.repeats) for _ in self.connections)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        maps = [adapt(tap) for adapt, tap in zip(self.adapt, taps, strict=True)]
        for block, (first, second) in zip(self.blocks, self.connections, strict=True):
            maps.append(block(maps[first], maps[second]))
        return maps[len(taps) :]


class FastNasNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W.

    With auxiliary heads (`add_auxiliary_head`) it returns (logits, one auxiliary logits a block) while training.
    Its parts in order: `encoder`, `decoder`, `auxiliary`, `classifier`.
    """

    def __init__(self, architecture: FastNas, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.architecture = architecture
        options = architecture.network
        self.encoder = MobileNetV2(in_channels, options.encoder_width / STEM)
        self.decoder = Decoder(architecture, self.encoder.channels)
        self.register_module("auxiliary", None)  # stands before the classifier, as in the published code
        self.collected = [index - len(self.encoder.channels) for index in architecture.collected()]
        self.classifier = Classifier([options.agg_size] * len(self.collected), options.agg_size, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        logits, auxiliary = self.from_taps(self.encoder(images))
        logits = resized(logits, images.shape[2:])
        if not auxiliary:
            return logits
        return logits, tuple(resized(one, images.shape[2:]) for one in auxiliary)

    def from_taps(self, taps: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits at the size of the largest map that the classifier reads, and those of the auxiliary heads, each at the size of
        its block; none without such heads, or in evaluation mode."""
        blocks = self.decoder(taps)
        logits = self.classifier([blocks[number] for number in self.collected])
        if not self.training or self.auxiliary is None:
            return logits, ()
        return logits, tuple(head(block) for head, block in zip(self.auxiliary, blocks, strict=True))

    def add_auxiliary_head(self, num_classes: int) -> None:
        """A head on every block, for training alone: a cell of the same design if the options say so, and a 3x3 convolution."""
        options = self.architecture.network
        heads = []
        for _ in self.architecture.connections:
            cell = [Cell(self.architecture.cell, options.agg_size, options.repeats)] if options.auxiliary_cell else []
            heads.append(nn.Sequential(*cell, nn.Conv2d(options.agg_size, num_classes, 3, padding=1)))
        self.auxiliary = nn.ModuleList(heads)
