"""The space of dense prediction cells (Chen et al., NeurIPS 2018, arXiv 1809.04184, section 3.2).

The cell stands between an encoder and a decoder, where DeepLab has its ASPP. It has 5 branches; each reads the encoder's features
or the output of an earlier branch, and applies one of 81 operations, all to the same number of channels:

    conv_1x1                     a 1x1 convolution
    sep_conv_3x3_rate_6x21       a separable 3x3 convolution, 6 apart in height, 21 in width; rates of 1, 3, 6, 9, 12, 15, 18, 21
    avg_pool_grid_2x4            spatial pyramid pooling: the mean over a window of half the height and a quarter of the width, a
                                 1x1 convolution; grids of 1, 2, 4, 8

The outputs of all branches are concatenated. Branch i has i + 1 inputs to choose from: 5! 81^5 = 4.2e11 cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, Literal

from pydantic import ConfigDict

from segnas.errors import did_you_mean
from segnas.spaces.architecture import families, require_at_least
from segnas.spaces.choice import Choose, search_spaces
from segnas.spaces.width import register_widths

FEATURES = -1  # as the input of a branch: the encoder's features
BRANCHES = 5
RATES = (1, 3, 6, 9, 12, 15, 18, 21)
GRIDS = (1, 2, 4, 8)
POINTWISE, ATROUS, POOLING = "conv_1x1", "sep_conv_3x3_rate_", "avg_pool_grid_"
OPERATIONS = (
    POINTWISE,
    *(f"{ATROUS}{down}x{across}" for down, across in product(RATES, repeat=2)),
    *(f"{POOLING}{rows}x{columns}" for rows, columns in product(GRIDS, repeat=2)),
)


def rates_or_grid(operation: str) -> tuple[int, int]:
    """(height, width) at the end of the name of an operation other than the 1x1 convolution."""
    height, width = operation.rsplit("_", 1)[-1].split("x")
    return int(height), int(width)


@dataclass(frozen=True)
class Branch:
    """One branch. input: -1 for the encoder's features, k for the output of branch k (from 0)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    input: int
    operation: str

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ValueError(f"unknown operation '{self.operation}'{did_you_mean(self.operation, OPERATIONS)}")


@dataclass(frozen=True)
class DpcOptions:
    """What is not searched.

    encoder: the network that makes the features; encoder_width: the factor of its channels. output_stride: of the features; the
    cell's rates are those for 16, and doubled at 8. cell_width: channels of each branch and of the cell's output.
    low_level_width, decoder_width: channels of the decoder's projection of features of stride 4 and of its two convolutions.
    dropout: of the concatenated branches.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    encoder: Literal["mobilenet-v2"] = "mobilenet-v2"
    encoder_width: float = 1.0
    output_stride: Literal[8, 16] = 16
    cell_width: int = 256
    low_level_width: int = 48
    decoder_width: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require_at_least(self, {"cell_width": 1, "low_level_width": 1, "decoder_width": 1})
        if not 0 < self.encoder_width <= 4:
            raise ValueError(f"encoder_width must be above 0 and at most 4, not {self.encoder_width:g}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")


@families.register("dpc")
@dataclass(frozen=True)
class Dpc:
    """One network: the branches of its cell in order, and what is not searched."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    branches: tuple[Branch, ...]
    network: DpcOptions

    def __post_init__(self) -> None:
        if not self.branches:
            raise ValueError("branches is empty; it needs at least one branch")
        for number, branch in enumerate(self.branches):
            if not FEATURES <= branch.input < number:
                raise ValueError(f"branches.{number}.input is {branch.input}, but it must lie in {FEATURES} to {number - 1}")


register_widths("dpc", "network.cell_width", {"network.low_level_width": 2, "network.decoder_width": 4})


@search_spaces.register("dpc")
@dataclass(frozen=True)
class DpcSpace:
    """All cells of so many branches; the rest of the network is fixed."""

    branches: int = BRANCHES
    network: DpcOptions = field(default_factory=DpcOptions)

    def architecture(self, choose: Choose) -> Dpc:
        """The architecture of one series of choices: of each branch its input, then its operation."""
        return Dpc(tuple(self._branch(choose, number) for number in range(self.branches)), self.network)

    def _branch(self, choose: Choose, number: int) -> Branch:
        source = choose(f"branches.{number}.input", range(FEATURES, number), node=True)
        return Branch(source, choose(f"branches.{number}.operation", OPERATIONS))
