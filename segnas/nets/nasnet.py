"""The networks of NASNet, AmoebaNet and PNASNet cells: stem, three stacks of cells with reductions between, head.

    cifar          conv 3x3; cells; ReLU, global average pooling, dropout, linear                              stride 1 to 4
    imagenet       conv 3x3 of stride 2, unpadded; two reduction cells; the same                               stride 8 to 32
    segmentation   two strided convolutions, as of DARTS cells; cells; ReLU, ASPP, decoder, 1x1, resize        stride 4 to 16

Sources: the papers (see spaces/nasnet.py) and, where they are silent, the code that their authors published, to which all counts
of the first two forms agree. The third is no paper's. A cell reads the last output (state 1, always projected to F channels)
and an earlier one (state 0):

    of twice the size             ReLU, factorized reduction
    of other channels             ReLU, 1x1 convolution, batch norm
    none, in the first cell       the last output, as it is

| the published code                          | here                                                                    |
|---------------------------------------------|-------------------------------------------------------------------------|
| batch norm decay 0.9997 for ImageNet        | torch's default momentum; the published value suits very long trainings |
| He's initialisation                         | torch's                                                                 |
| AmoebaNet's auxiliary head 0.4 times as wide | 128 and 768 channels, as NASNet's                                      |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.errors import UserError
from segnas.nets.blocks import (
    FactorizedReduction,
    Norm,
    PooledBatchNorm,
    ReLUConvBN,
    backbone_norm,
    drop_path,
    drop_path_keep,
)
from segnas.nets.darts import AUXILIARY_WIDTHS, conv3x3, two_strided
from segnas.nets.heads import AuxiliarySegmentation, SegmentationHead
from segnas.nets.nasnet_operations import OPERATIONS, conv_bn
from segnas.spaces.forms import Form
from segnas.spaces.nasnet import NasNet, NasNetCell, NasNetOptions, Place, main_reductions, places

NORMS: dict[Form, Norm] = {"cifar": nn.BatchNorm2d, "imagenet": backbone_norm, "segmentation": backbone_norm}


class Cell(nn.Module):
    """One cell: an earlier and the last output -> the concatenation of its states, (N, width, h, w).

    keep: probability with which drop path keeps an operation's result while training.
    """

    def __init__(self, cell: NasNetCell, place: Place, widths: tuple[int, int], before_is_larger: bool, norm: Norm) -> None:
        """widths: channels of the earlier and of the last output; before_is_larger: the earlier one has twice the size."""
        super().__init__()
        self.cell = cell
        self.keep = 1.0
        channels, stride = place.filters, 2 if place.reduces else 1
        width_of = [channels, channels]  # of each state
        self.before: nn.Module = nn.Identity()
        if before_is_larger:
            self.before = FactorizedReduction(widths[0], channels, 2, norm)
        elif place.back == 0:
            width_of[0] = widths[0]
        elif widths[0] != channels:
            self.before = ReLUConvBN(widths[0], channels, norm)
        self.previous = ReLUConvBN(widths[1], channels, norm)
        self.operations = nn.ModuleList()
        for block in cell.blocks:
            for state, operation in zip(block.inputs, block.operations, strict=True):
                self.operations.append(OPERATIONS[operation](width_of[state], channels, stride if state < 2 else 1, norm))
            width_of.append(channels if block.combine == "add" else 2 * channels)
        self.inputs = nn.ModuleDict()  # states 0 and 1 where the output has them: brought to size and channels of an operation
        for state in (0, 1):
            if state in cell.concat:
                self.inputs[str(state)] = _adapted(width_of[state], channels, stride, norm)
        self.width = sum(channels if state < 2 else width_of[state] for state in cell.concat)

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        states = [self.before(before), self.previous(previous)]
        for number, block in enumerate(self.cell.blocks):
            first, second = (self._apply_operation(2 * number + side, states[block.inputs[side]]) for side in (0, 1))
            states.append(first + second if block.combine == "add" else torch.cat([first, second], dim=1))
        for name, adapt in self.inputs.items():
            states[int(name)] = adapt(states[int(name)])
        return torch.cat([states[state] for state in self.cell.concat], dim=1)

    def is_dropped(self, number: int) -> bool:
        """Whether drop path applies to operation `number`: to all but skip connections, even where those have a convolution."""
        return self.cell.blocks[number // 2].operations[number % 2] != "skip_connect"

    def _apply_operation(self, number: int, x: Tensor) -> Tensor:
        out: Tensor = self.operations[number](x)
        if self.training and self.keep < 1.0 and self.is_dropped(number):
            out = drop_path(out, self.keep)
        return out


class NasNetNetwork(nn.Module):
    """images (N, C, H, W) -> logits: (N, K), or (N, K, H, W) in the segmentation form. Any H and W of at least 33 there.

    With an auxiliary head (`add_auxiliary_head`) it returns (logits, auxiliary logits) while training.
    """

    def __init__(self, architecture: NasNet, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        options = architecture.network
        self.options = options
        self.places = places(architecture)
        first, second = main_reductions(architecture)
        self.low_level = first - 1  # the decoder reads the last cell before the first reduction
        self.auxiliary_cell = second - 1
        self.stem = stem(options, in_channels)
        self.cells, widths = stack(architecture)
        self.auxiliary_width = widths[self.auxiliary_cell]
        self.register_module("auxiliary", None)
        self.head = make_head(options, widths[-1], widths[self.low_level], num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outputs = [self.stem(images)]  # the last three
        low_level = outputs[-1]
        auxiliary: Tensor | None = None
        for number, (cell, place) in enumerate(zip(self.cells, self.places, strict=True)):
            outputs = [*outputs[-2:], cell(outputs[-1 - place.back], outputs[-1])]
            if number == self.low_level:
                low_level = outputs[-1]
            if number == self.auxiliary_cell and self.training and self.auxiliary is not None:
                auxiliary = self.auxiliary(outputs[-1], images.shape[2:])
        logits: Tensor = self.head(outputs[-1], low_level, images.shape[2:])
        return logits if auxiliary is None else (logits, auxiliary)

    def add_auxiliary_head(self, num_classes: int) -> None:
        """A second head before the second reduction, for training alone; the papers weigh its loss by 0.4.

        Raises UserError where the images that the network is made for are too small for it.
        """
        width, image_size = self.auxiliary_width, self.options.image_size
        self.auxiliary: nn.Module | None = (
            AuxiliarySegmentation(width, num_classes)
            if self.options.form == "segmentation"
            else AuxiliaryClassifier(width, num_classes, self._auxiliary_map(), image_size)
        )

    def set_drop_path(self, keep: float, progress: float) -> None:
        """Scheduled drop path for the training steps that follow; `progress` = min(1, step / steps). Evaluation ignores it."""
        for number, cell in enumerate(self.cells):
            assert isinstance(cell, Cell)
            cell.keep = drop_path_keep(keep, number, len(self.cells), progress)

    def _auxiliary_map(self) -> int:
        """The side of the map that the auxiliary head sees, for images of `image_size`."""
        side = self.options.image_size
        if self.options.form == "imagenet":
            side = (side - 3) // 2 + 1
        for place in self.places[: self.auxiliary_cell + 1]:
            side = (side + 1) // 2 if place.reduces else side
        return side


def stem(options: NasNetOptions, in_channels: int) -> nn.Module:
    """images (N, C, H, W) -> (N, stem_filters, h, w), at stride 1, 2 or 4 by the form."""
    width = options.stem_filters
    if options.form == "segmentation":
        return two_strided(in_channels, options.filters, width)
    if options.form == "cifar":
        return nn.Sequential(conv3x3(in_channels, width, 1), NORMS["cifar"](width))
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, bias=False), NORMS["imagenet"](width))


def stack(architecture: NasNet) -> tuple[nn.ModuleList, list[int]]:
    """All cells, and the channels of their outputs."""
    norm = NORMS[architecture.network.form]
    cells = nn.ModuleList()
    widths, levels = [architecture.network.stem_filters], [0]  # of all outputs; level: how often the size was halved
    for place in places(architecture):
        chosen = architecture.reduction if place.reduces and architecture.reduction is not None else architecture.normal
        before = -1 - place.back
        cell = Cell(chosen, place, (widths[before], widths[-1]), levels[before] < levels[-1], norm)
        cells.append(cell)
        widths.append(cell.width)
        levels.append(levels[-1] + place.reduces)
    return cells, widths[1:]


def _adapted(in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Module:
    """What brings an input of a cell to the size and channels of its blocks, for the output; without ReLU."""
    if stride > 1:
        return FactorizedReduction(in_channels, channels, stride, norm, relu=False)
    return nn.Identity() if in_channels == channels else nn.Sequential(*conv_bn(in_channels, channels, norm))


# Heads: (features, features of stride 4, image size) -> logits ------------------------------------------------------------


def make_head(options: NasNetOptions, width: int, low_level_width: int, num_classes: int) -> nn.Module:
    """The head of a form; width: channels of the last cell; low_level_width: of the last cell before the first reduction."""
    if options.form == "segmentation":
        return SegmentationHead(options, width, low_level_width, num_classes)
    return Classifier(width, num_classes, options.dropout)


class Classifier(nn.Module):
    """ReLU, global average pooling, dropout, a linear layer: -> (N, K)."""

    def __init__(self, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, low_level: Tensor, size: Sequence[int]) -> Tensor:
        out: Tensor = self.linear(self.dropout(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1)))
        return out


class AuxiliaryClassifier(nn.Module):
    """ReLU, average pooling 5x5 of stride 3, a 1x1 convolution, one over the whole map, a linear layer: -> (N, K).

    side: of the maps that it is made for, of images of `image_size`. Raises UserError for others.
    """

    def __init__(self, width: int, num_classes: int, side: int, image_size: int) -> None:
        super().__init__()
        if side < 5:
            told = f"images of {image_size}x{image_size} are too small for the auxiliary head"
            raise UserError(f"{told}; set retrain.auxiliary_weight=0")
        self.pooled, self.image_size = pooled_size(side), image_size
        small, large = AUXILIARY_WIDTHS
        self.pool = nn.AvgPool2d(5, 3)
        self.features = nn.Sequential(
            nn.Conv2d(width, small, 1, bias=False),
            PooledBatchNorm(small),
            nn.ReLU(),
            nn.Conv2d(small, large, self.pooled, bias=False),
            PooledBatchNorm(large),
            nn.ReLU(),
        )
        self.linear = nn.Linear(large, num_classes)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if any(pooled_size(side) != self.pooled for side in x.shape[2:]):
            raise UserError(
                f"the auxiliary head is made for images of {self.image_size}x{self.image_size}, not {size[0]}x{size[1]}; "
                "set retrain.auxiliary_weight=0"
            )
        out: Tensor = self.linear(self.features(self.pool(F.relu(x))).flatten(1))
        return out


def pooled_size(side: int) -> int:
    """The side of a map after pooling 5x5 of stride 3, without padding."""
    return (side - 5) // 3 + 1
