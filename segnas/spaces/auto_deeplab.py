"""The search space of Auto-DeepLab: a path through resolutions and a cell (Liu et al., CVPR 2019, arXiv 1901.02985).

A network is L cells in a row. Each runs at stride 4, 8, 16 or 32 (level 0 to 3), at most one level away from the cell
before it; the stem ends at stride 4. All cells are the same small graph of B blocks, each the sum of two operations on
earlier states. With L = 12, B = 5 and 8 operations: 75,025 paths times 556,627,761,561,600 cells (`none` and equal inputs
are legal here; only the decoding of a supernet avoids them). The paper's 2.9e4 paths count 11 moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from segnas.spaces.architecture import families, require_at_least
from segnas.spaces.cells import Block, require_earlier_states
from segnas.spaces.choice import Choose, search_spaces
from segnas.spaces.width import register_widths

LEVELS = 4  # output strides 4, 8, 16, 32
OPERATIONS = (  # the order of the columns of alpha
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "atrous_conv_3x3",
    "atrous_conv_5x5",
)


@dataclass(frozen=True)
class NetworkOptions:
    """The widths that are not searched; the defaults are the paper's (filters 20, 32, 48 for S, M, L).

    filters: channels of one block at stride 4; doubled at each level below.
    stem: channels of the stem's three convolutions.
    aspp_width, aspp_rates: channels of each ASPP branch and dilation of its 3x3 branches. The rates are stated for an
        encoder of stride 8 and scaled by 8 / stride of the last cell (at least 1).
    low_level_width, decoder_width: channels of the decoder's 1x1 projection of low-level features and of its 3x3 convolutions.
    dropout: rate after the ASPP's projection.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    filters: int = 20
    stem: tuple[int, int, int] = (64, 64, 128)
    aspp_width: int = 256
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    low_level_width: int = 48
    decoder_width: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        widths = ("filters", "aspp_width", "low_level_width", "decoder_width", "stem", "aspp_rates")
        require_at_least(self, dict.fromkeys(widths, 1))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")


@families.register("auto-deeplab")
@dataclass(frozen=True)
class AutoDeepLab:
    """One network of the space.

    path: the level of each cell; 0, 1, 2, 3 are output strides 4, 8, 16, 32. The stem stands before it at level 0.
    cell: the blocks of every cell, in order; the cell's output is the concatenation of all of them.
    network: the widths, which are not searched.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: tuple[int, ...]
    cell: tuple[Block, ...]
    network: NetworkOptions

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty; it needs the level of at least one cell")
        level = 0
        for place, following in enumerate(self.path):
            if following not in moves(level):
                allowed = ", ".join(map(str, moves(level)))
                raise ValueError(f"path.{place} is {following}, but level {level} is followed by one of {allowed}")
            level = following
        require_earlier_states(self.cell, "cell")


GROWING = ("stem", "aspp_width", "low_level_width", "decoder_width")  # in proportion to the filters
register_widths("auto-deeplab", "network.filters", {f"network.{name}": 4 for name in GROWING})


@search_spaces.register("auto-deeplab")
@dataclass(frozen=True)
class AutoDeepLabSpace:
    """All paths of `layers` cells times all cells of `blocks` blocks over `operations`, with fixed `network` options."""

    layers: int = 12
    blocks: int = 5
    operations: tuple[str, ...] = OPERATIONS
    network: NetworkOptions = field(default_factory=NetworkOptions)

    def architecture(self, choose: Choose) -> AutoDeepLab:
        """The architecture of one series of choices: first the path, then the cell."""
        path: list[int] = []
        level = 0
        for layer in range(self.layers):
            level = choose(f"path.{layer}", moves(level))
            path.append(level)
        cell = tuple(self._block(choose, number) for number in range(self.blocks))
        return AutoDeepLab(tuple(path), cell, self.network)

    def _block(self, choose: Choose, number: int) -> Block:
        states = range(number + 2)
        name = f"cell.{number}"
        first = choose(f"{name}.inputs.0", states, node=True), choose(f"{name}.operations.0", self.operations)
        second = choose(f"{name}.inputs.1", states, node=True), choose(f"{name}.operations.1", self.operations)
        return Block(inputs=(first[0], second[0]), operations=(first[1], second[1]))


def moves(level: int) -> tuple[int, ...]:
    """The levels that a cell after one at `level` may have: one finer, the same, one coarser, within 0 to 3."""
    return tuple(range(max(0, level - 1), min(LEVELS - 1, level + 1) + 1))


def level_sizes(size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Height and width at each level, for a map of `size` at stride 4: by successive ceil(n / 2)."""
    sizes = [(size[0], size[1])]
    for _ in range(1, LEVELS):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return tuple(sizes)
