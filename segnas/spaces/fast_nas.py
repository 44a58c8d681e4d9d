"""The search space of Fast NAS: the decoder of a fixed encoder (Nekrasov et al., CVPR 2019, arXiv 1810.10804, section 3).

The encoder, MobileNet-v2, gives four maps (strides 4, 8, 16, 32). The decoder merges them in three blocks, each the sum of two
earlier maps, both passed through a cell of their own; all cells share one design:

    f0 = x,  f1 = O_0(f0);   layer j = 1 .. 3 reads states p, q of f0 .. f(3j-2):   f(3j-1) = O_p(f_p),  f(3j) = O_q(f_q),
    f(3j+1) = f(3j-1) + f(3j);   the cell's output is the sum of those of f1, f4, f7, f10 that no layer reads

Positions within the cell have 2, 5 and 8 choices, connections of the blocks 4, 5 and 6, operations 11: (4 5 6)^2 (2 5 8)^2 11^7 =
1.80e15 architectures. The public code was changed later to 1, 4 and 7 positions, in which its own `arch1` cannot be written.

`published` and `from_published` are the nested lists of numbers `[cell, connections]` of that code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict

from segnas.errors import did_you_mean
from segnas.spaces.architecture import families, require_at_least
from segnas.spaces.choice import Choose, search_spaces
from segnas.spaces.width import register_widths

TAPS = 4  # maps of the encoder
LAYERS = 3  # of a cell, after its first operation
BLOCKS = 3  # of the decoder
OPERATIONS = (  # the order of their numbers in published configurations
    "conv1x1",
    "conv3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "global_average_pool",
    "conv3x3_dil3",
    "conv3x3_dil12",
    "sep_conv_3x3_dil3",
    "sep_conv_5x5_dil6",
    "skip_connect",
    "none",
)


@dataclass(frozen=True)
class FastNasLayer:
    """One layer of the cell: `operations[0](f[inputs[0]])`, `operations[1](f[inputs[1]])` and their sum are three new states."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: tuple[int, int]
    operations: tuple[str, str]


@dataclass(frozen=True)
class FastNasCell:
    """The design that all cells share: the operation on the cell's input, then the layers in order."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    first: str
    layers: tuple[FastNasLayer, ...]

    def __post_init__(self) -> None:
        named = {"first": self.first}
        for number, layer in enumerate(self.layers):
            for side in (0, 1):
                named[f"layers.{number}.operations.{side}"] = layer.operations[side]
                if not 0 <= layer.inputs[side] < positions(number):
                    last = positions(number) - 1
                    raise ValueError(
                        f"layers.{number}.inputs.{side} is {layer.inputs[side]}; this layer reads states 0 to {last}"
                    )
        for name, operation in named.items():
            if operation not in OPERATIONS:
                raise ValueError(f"{name} is the unknown operation '{operation}'{did_you_mean(operation, OPERATIONS)}")

    def loose_ends(self) -> tuple[int, ...]:
        """The states whose sum is the cell's output: the first operation's and the layers' sums, where no layer reads them."""
        read = {state for layer in self.layers for state in layer.inputs}
        return tuple(state for state in range(1, 3 * len(self.layers) + 2, 3) if state not in read)


@dataclass(frozen=True)
class FastNasOptions:
    """What is not searched; the defaults are those of the published networks (in the search 48, 1 and true).

    agg_size: channels of every map in the decoder. repeats: of the depthwise and pointwise pair in a separable convolution.
    auxiliary_cell: heads for training alone have a cell of their own before their convolution.
    encoder_width: channels of the encoder's stem; all its channels are in proportion (32: MobileNet-v2 at width 1).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    agg_size: int = 64
    repeats: int = 2
    auxiliary_cell: bool = False
    encoder_width: int = 32

    def __post_init__(self) -> None:
        require_at_least(self, {"agg_size": 1, "repeats": 1, "encoder_width": 1})


@families.register("fast-nas")
@dataclass(frozen=True)
class FastNas:
    """One decoder.

    cell: of all blocks. connections: the two maps that each block merges; 0 to 3 are the encoder's, finest first, 4 + i is the
    output of block i. network: what is not searched.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    cell: FastNasCell
    connections: tuple[tuple[int, int], ...]
    network: FastNasOptions

    def __post_init__(self) -> None:
        if not self.connections:
            raise ValueError("connections is empty; it needs the two inputs of at least one block")
        for block, pair in enumerate(self.connections):
            for side, index in enumerate(pair):
                if not 0 <= index < TAPS + block:
                    raise ValueError(
                        f"connections.{block}.{side} is {index}, but block {block} reads maps 0 to {TAPS + block - 1}"
                    )

    def collected(self) -> tuple[int, ...]:
        """The numbers of the maps that the classifier reads: those of blocks that no block reads, in order."""
        read = {index for pair in self.connections for index in pair}
        return tuple(TAPS + block for block in range(len(self.connections)) if TAPS + block not in read)

    def published(self) -> list[Any]:
        """`[cell, connections]` in the numbers of the public code."""
        numbers = {name: number for number, name in enumerate(OPERATIONS)}
        layers = [[*layer.inputs, *(numbers[name] for name in layer.operations)] for layer in self.cell.layers]
        return [[numbers[self.cell.first], *layers], [list(pair) for pair in self.connections]]


register_widths("fast-nas", "network.agg_size", {"network.encoder_width": 8})


@search_spaces.register("fast-nas")
@dataclass(frozen=True)
class FastNasSpace:
    """All connections of `blocks` blocks times all cells of `layers` layers over `operations`."""

    blocks: int = BLOCKS
    layers: int = LAYERS
    operations: tuple[str, ...] = OPERATIONS
    network: FastNasOptions = field(default_factory=FastNasOptions)

    def architecture(self, choose: Choose) -> FastNas:
        """The architecture of one series of choices: first the connections, then the cell, as the published controller draws."""
        connections = []
        for block in range(self.blocks):
            first = choose(f"connections.{block}.0", range(TAPS + block), node=True)
            connections.append((first, choose(f"connections.{block}.1", range(TAPS + block), node=True)))
        operation = choose("cell.first", self.operations)
        cell = FastNasCell(operation, tuple(self._layer(choose, number) for number in range(self.layers)))
        return FastNas(cell, tuple(connections), self.network)

    def _layer(self, choose: Choose, number: int) -> FastNasLayer:
        name = f"cell.layers.{number}"
        first, second = (choose(f"{name}.inputs.{side}", range(positions(number)), node=True) for side in (0, 1))
        operations = tuple(choose(f"{name}.operations.{side}", self.operations) for side in (0, 1))
        return FastNasLayer((first, second), (operations[0], operations[1]))


def positions(layer: int) -> int:
    """How many states layer 0, 1, 2, ... of a cell may read: 2, 5, 8, ..."""
    return 3 * layer + 2


def from_published(values: Sequence[Any], network: FastNasOptions | None = None) -> FastNas:
    """The architecture of `[cell, connections]` in the numbers of the public code; ValueError for what is none."""
    (first, *layers), connections = values
    listed = (FastNasLayer((a, b), (OPERATIONS[c], OPERATIONS[d])) for a, b, c, d in layers)
    pairs = tuple((a, b) for a, b in connections)
    return FastNas(FastNasCell(OPERATIONS[first], tuple(listed)), pairs, network or FastNasOptions())
