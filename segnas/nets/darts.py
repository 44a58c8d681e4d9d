"""The networks of DARTS cells (Liu et al., ICLR 2019, section 3.2): stem, L cells, head, in three forms.

    cifar          conv 3x3 to 3C; cells; global average pooling, linear                        stride 1 to 4
    imagenet       three strided convolutions to C; cells; global average pooling, linear       stride 8 to 32
    segmentation   two strided convolutions to 3C; cells; ReLU, ASPP, decoder, 1x1, resize      stride 4 to 16

The first two follow the published code to the letter: counts and outputs agree with it. The third is no paper's. Cells at L/3 and
2L/3 reduce (stride 2, twice the channels). Every part here is shared with the supernet of darts_supernet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.errors import UserError
from segnas.nets.blocks import FactorizedReduction, Norm, ReLUConvBN
from segnas.nets.cells import BlockGraph, chosen_operations
from segnas.nets.heads import AuxiliarySegmentation, SegmentationHead
from segnas.spaces.darts import Darts, DartsCell, DartsOptions, reductions
from segnas.spaces.forms import Form

STEM_MULTIPLIER = 3
AUXILIARY_WIDTHS = (128, 768)


class Cell(BlockGraph):
    """One cell: the outputs of the two cells before -> the concatenation of its states, (N, len(concat) * channels, h, w)."""

    def __init__(
        self, cell: DartsCell, widths: tuple[int, int], channels: int, reduces: bool, after_reduction: bool, norm: Norm
    ) -> None:
        """widths: channels of the output before the last and of the last; after_reduction: the former is twice as large."""
        super().__init__(cell.blocks)
        self.concat = cell.concat
        self.before = preprocessing(widths[0], channels, after_reduction, norm)
        self.previous = ReLUConvBN(widths[1], channels, norm)
        self.operations = chosen_operations(cell.blocks, channels, 2 if reduces else 1, norm)

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        states = self.states(self.before(before), self.previous(previous))
        return torch.cat([states[state] for state in self.concat], dim=1)


class DartsNetwork(nn.Module):
    """images (N, C, H, W) -> logits: (N, K), or (N, K, H, W) in the segmentation form. Any H and W of at least 33 there.

    With an auxiliary head (`add_auxiliary_head`) it returns (logits, auxiliary logits) while training.
    """

    def __init__(self, architecture: Darts, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        options = architecture.network
        self.options = options
        cell_of = {False: architecture.normal, True: architecture.reduction}
        self.stem: nn.Module = STEMS[options.form](in_channels, options.channels)
        self.cells, widths = stack(
            options.layers,
            options.channels,
            self.stem.widths,  # type: ignore[arg-type]
            options.form == "imagenet",
            lambda widths, channels, reduces, after: Cell(cell_of[reduces], widths, channels, reduces, after, nn.BatchNorm2d),
            lambda reduces: len(cell_of[reduces].concat),
        )
        self.auxiliary_cell = 2 * options.layers // 3
        self.auxiliary_width = widths[self.auxiliary_cell + 2]
        self.low_level = min(reductions(options.layers)) - 1  # the last cell before the first reduction; -1: the stem
        self.register_module("auxiliary", None)  # stands before the head, as in the published code
        self.head = make_head(options, widths[-1], widths[2 + self.low_level], num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        before, previous = self.stem(images)
        low_level = previous
        auxiliary: Tensor | None = None
        for number, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous)
            if number == self.low_level:
                low_level = previous
            if number == self.auxiliary_cell and self.training and self.auxiliary is not None:
                auxiliary = self.auxiliary(previous, images.shape[2:])
        logits: Tensor = self.head(previous, low_level, images.shape[2:])
        return logits if auxiliary is None else (logits, auxiliary)

    def add_auxiliary_head(self, num_classes: int) -> None:
        """A second head after the second reduction, for training alone; the published code weighs its loss by 0.4."""
        self.auxiliary = AUXILIARY_HEADS[self.options.form](self.auxiliary_width, num_classes)

    def set_drop_path(self, keep: float, progress: float) -> None:
        """Drop path for the training steps that follow: all cells keep with 1 - progress * (1 - keep)."""
        for cell in self.cells:
            assert isinstance(cell, Cell)
            cell.keep = 1.0 - progress * (1.0 - keep)


def preprocessing(in_channels: int, channels: int, after_reduction: bool, norm: Norm) -> nn.Module:
    """What brings the output of the cell before the last to the size and channels of this cell."""
    return FactorizedReduction(in_channels, channels, 2, norm) if after_reduction else ReLUConvBN(in_channels, channels, norm)


def stack(
    layers: int,
    channels: int,
    widths: tuple[int, int],
    after_reduction: bool,
    make_cell: Callable[[tuple[int, int], int, bool, bool], nn.Module],
    multiplier: Callable[[bool], int],
) -> tuple[nn.ModuleList, list[int]]:
    """The cells, and the channels of the stem's two outputs and of every cell's.

    make_cell: (input widths, channels, reduces, after a reduction) -> a cell; multiplier: reduces -> how many states a cell
    concatenates. after_reduction: whether the stem halves the size between its two outputs.
    """
    cells, grown = nn.ModuleList(), [*widths]
    for number in range(layers):
        reduces = number in reductions(layers)
        channels = 2 * channels if reduces else channels
        cells.append(make_cell((grown[-2], grown[-1]), channels, reduces, after_reduction))
        grown.append(multiplier(reduces) * channels)
        after_reduction = reduces
    return cells, grown


# Stems: images -> the two inputs of the first cell; `widths`: their channels ---------------------------------------------


class CifarStem(nn.Module):
    """A 3x3 convolution with batch norm, for both inputs."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        width = STEM_MULTIPLIER * channels
        self.widths = (width, width)
        self.layers = nn.Sequential(conv3x3(in_channels, width, 1), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.layers(images)
        return stem, stem


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2; the first cell reads the maps of stride 4 and 8."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.widths = (channels, channels)
        self.first = two_strided(in_channels, channels // 2, channels)
        self.second = nn.Sequential(nn.ReLU(), conv3x3(channels, channels, 2), nn.BatchNorm2d(channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.first(images)
        return stem, self.second(stem)


class SegmentationStem(nn.Module):
    """Two 3x3 convolutions of stride 2, for both inputs: a map of stride 4."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        width = STEM_MULTIPLIER * channels
        self.widths = (width, width)
        self.layers = two_strided(in_channels, channels, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.layers(images)
        return stem, stem


STEMS: dict[Form, type[nn.Module]] = {"cifar": CifarStem, "imagenet": ImageNetStem, "segmentation": SegmentationStem}


def conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def two_strided(in_channels: int, between: int, out_channels: int) -> nn.Sequential:
    """(3x3 convolution of stride 2, batch norm) twice, a ReLU between."""
    first = [conv3x3(in_channels, between, 2), nn.BatchNorm2d(between), nn.ReLU()]
    return nn.Sequential(*first, conv3x3(between, out_channels, 2), nn.BatchNorm2d(out_channels))


# Heads: (features, features of stride 4, image size) -> logits ------------------------------------------------------------


def make_head(options: DartsOptions, width: int, low_level_width: int, num_classes: int) -> nn.Module:
    """The head of a form; width: channels of the last cell; low_level_width: those of the last cell at stride 4."""
    if options.form == "segmentation":
        return SegmentationHead(options, width, low_level_width, num_classes)
    return Classifier(width, num_classes)


class Classifier(nn.Module):
    """Global average pooling and a linear layer: -> (N, K)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor, low_level: Tensor, size: Sequence[int]) -> Tensor:
        out: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


# Auxiliary heads, for training alone: (features, image size) -> logits ------------------------------------------------------


class AuxiliaryClassifier(nn.Module):
    """ReLU, average pooling 5x5, 1x1 and 2x2 convolutions, linear; for maps of 8x8 (stride 3) or 7x7 (stride 2), a little more.

    The published ImageNet form has no batch norm after the second convolution (`last_norm`). Raises UserError for other maps.
    """

    def __init__(self, width: int, num_classes: int, stride: int, last_norm: bool) -> None:
        super().__init__()
        self.stride = stride
        small, large = AUXILIARY_WIDTHS
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, padding=0, count_include_pad=False),
            nn.Conv2d(width, small, 1, bias=False),
            nn.BatchNorm2d(small),
            nn.ReLU(),
            nn.Conv2d(small, large, 2, bias=False),
            nn.BatchNorm2d(large) if last_norm else nn.Identity(),
            nn.ReLU(),
        )
        self.linear = nn.Linear(large, num_classes)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if any((side - 5) // self.stride + 1 != 2 for side in x.shape[2:]):
            raise UserError(
                f"the auxiliary head of this form is not made for images of {size[0]}x{size[1]}; set retrain.auxiliary_weight=0"
            )
        out: Tensor = self.linear(self.features(x).flatten(1))
        return out


AUXILIARY_HEADS: dict[Form, Callable[[int, int], nn.Module]] = {
    "cifar": lambda width, classes: AuxiliaryClassifier(width, classes, stride=3, last_norm=True),
    "imagenet": lambda width, classes: AuxiliaryClassifier(width, classes, stride=2, last_norm=False),
    "segmentation": AuxiliarySegmentation,
}
