"""The search spaces of NASNet, AmoebaNet and PNAS: cells of five blocks over the same skeleton (see nasnet.py for the papers).

| space       | cells             | operations | a block                         | output of a cell: concatenation of         |
|-------------|-------------------|------------|---------------------------------|--------------------------------------------|
| `nasnet`    | normal, reduction | 13         | added or concatenated, searched | the states that no block reads, inputs too |
| `amoebanet` | normal, reduction | 8          | added                           | the same                                   |
| `pnas`      | one for both      | 8          | added, its sides unordered      | all blocks, as in PNASNet-5                |

Published cells of NASNet-A and AmoebaNet concatenate states besides these: their blocks are in the spaces, their outputs are
not. AmoebaNet-B and -D have operations of other spaces. Where a paper names an operation only (a dilated
convolution), it is the one of its authors' code.

The default network of a space is the small one that the paper trains to compare architectures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from segnas.spaces.choice import Choose, NotInSpace, choices_of, replay, search_spaces
from segnas.spaces.nasnet import OPERATIONS, NasNet, NasNetBlock, NasNetCell, NasNetOptions, unused_states

BLOCKS = 5
NASNET_OPERATIONS = OPERATIONS[:13]
AMOEBANET_OPERATIONS = (
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "avg_pool_3x3",
    "max_pool_3x3",
    "dil_sep_conv_3x3",
    "conv_1x7_7x1",
)
PNAS_OPERATIONS = AMOEBANET_OPERATIONS  # the same set
HIDDEN_STATE_MUTATION, OPERATION_MUTATION = 0.475, 0.475  # probabilities; the rest is the identity
CELLS = ("normal", "reduction")
Side = tuple[int, str]  # (state, operation)
T = TypeVar("T")


@search_spaces.register("nasnet")
@dataclass(frozen=True)
class NasNetSpace:
    """Two cells of `blocks` blocks: two inputs, two operations, add or concat (Zoph et al., section 3 and figure 3)."""

    blocks: int = BLOCKS
    operations: tuple[str, ...] = NASNET_OPERATIONS
    network: NasNetOptions = field(default_factory=lambda: NasNetOptions(filters=32, stack_cells=2, stem_filters=96))

    def architecture(self, choose: Choose) -> NasNet:
        """The architecture of one series of choices: first the normal, then the reduction cell."""
        normal, reduction = (_cell([self._block(choose, cell, number) for number in range(self.blocks)]) for cell in CELLS)
        return NasNet(normal, reduction, self.network)

    def _block(self, choose: Choose, cell: str, number: int) -> NasNetBlock:
        name = f"{cell}.blocks.{number}"
        block = _added_block(choose, name, number, self.operations)
        return dataclasses.replace(block, combine=choose(f"{name}.combine", ("add", "concat")))


@search_spaces.register("amoebanet")
@dataclass(frozen=True)
class AmoebaNetSpace:
    """Two cells of `blocks` blocks: two inputs, two operations, always added (Real et al., section "Search space")."""

    blocks: int = BLOCKS
    operations: tuple[str, ...] = AMOEBANET_OPERATIONS
    network: NasNetOptions = field(default_factory=lambda: NasNetOptions(filters=24, stack_cells=3, stem_filters=72))

    def architecture(self, choose: Choose) -> NasNet:
        """The architecture of one series of choices: first the normal, then the reduction cell."""
        normal, reduction = (
            _cell([_added_block(choose, f"{cell}.blocks.{number}", number, self.operations) for number in range(self.blocks)])
            for cell in CELLS
        )
        return NasNet(normal, reduction, self.network)

    def mutate(self, architecture: NasNet, generator: np.random.Generator) -> NasNet:
        """A child by the paper's rule: in one of the cells, one side of one block gets another input, or a random operation.

        The cell, then block and side are uniform. With probability 0.475 the input becomes another earlier state, with 0.475 the
        operation is drawn from all (the old one included), and else nothing changes. Raises NotInSpace for one outside.
        """
        choices_of(self, architecture)
        assert architecture.reduction is not None
        cells = [architecture.normal, architecture.reduction]
        chosen = int(generator.integers(2))
        blocks = list(cells[chosen].blocks)
        kind = generator.random()
        number, side = int(generator.integers(len(blocks))), int(generator.integers(2))
        block: NasNetBlock = blocks[number]
        if kind < HIDDEN_STATE_MUTATION:
            others = [state for state in range(number + 2) if state != block.inputs[side]]
            block = dataclasses.replace(block, inputs=_with(block.inputs, side, others[int(generator.integers(len(others)))]))
        elif kind < HIDDEN_STATE_MUTATION + OPERATION_MUTATION:
            operation = self.operations[int(generator.integers(len(self.operations)))]
            block = dataclasses.replace(block, operations=_with(block.operations, side, operation))
        blocks[number] = block
        cells[chosen] = _cell(blocks)
        return NasNet(cells[0], cells[1], self.network)


@search_spaces.register("pnas")
@dataclass(frozen=True)
class PnasSpace:
    """One cell of `blocks` blocks, added (Liu et al., ECCV 2018, section 3.1), which a search grows block by block.

    A block is the same with its sides exchanged, so that one order is kept: by input, then by operation. That leaves 136 cells of
    one block, as in the paper; `ordered` keeps both (256, and 5.6e14 of five blocks, the number that the paper gives).
    """

    blocks: int = BLOCKS
    operations: tuple[str, ...] = PNAS_OPERATIONS
    network: NasNetOptions = field(default_factory=lambda: NasNetOptions(filters=24, stack_cells=2, stem_filters=72))
    ordered: bool = False

    def architecture(self, choose: Choose) -> NasNet:
        """The architecture of one series of choices."""
        return self._with([self._block(choose, number) for number in range(self.blocks)])

    def sample(self, generator: np.random.Generator) -> NasNet:
        """A random architecture: both sides of each block are uniform, whatever their order."""
        either = dataclasses.replace(self, ordered=True)
        drawn: NasNet = replay(either, lambda name, options: int(generator.integers(len(options))))[0]
        return drawn if self.ordered else self.in_order(drawn)

    @property
    def stages(self) -> int:
        """A stage a block."""
        return self.blocks

    def stage(self, number: int) -> PnasSpace:
        """The space of cells of `number` blocks, 1 .. stages."""
        if not 1 <= number <= self.stages:
            raise ValueError(f"stage {number} of a space with stages 1 to {self.stages}")
        return dataclasses.replace(self, blocks=number)

    def grow(self, architecture: NasNet) -> Iterator[NasNet]:
        """Every architecture with one block more behind those of this one, each once, in a fixed order.

        Raises NotInSpace for an architecture outside of the space of its stage, ValueError for one of the last stage.
        """
        blocks = architecture.normal.blocks
        if len(blocks) >= self.stages:
            raise ValueError(f"a cell of {len(blocks)} blocks is at the last stage")
        choices_of(self.stage(len(blocks)), architecture)
        sides = self._sides(len(blocks))
        for place, first in enumerate(sides):
            for second in sides if self.ordered else sides[place:]:
                yield self._with([*blocks, NasNetBlock((first[0], second[0]), (first[1], second[1]))])

    def in_order(self, architecture: NasNet) -> NasNet:
        """The same network with the sides of each block in the order that the space keeps.

        Raises NotInSpace for an operation that the space does not have.
        """
        blocks = [self._in_order(block) for block in architecture.normal.blocks]
        return dataclasses.replace(architecture, normal=_all_blocks(blocks))

    def _in_order(self, block: NasNetBlock) -> NasNetBlock:
        for operation in block.operations:
            if operation not in self.operations:
                raise NotInSpace(f"the architecture is not in this space: it has the operation {operation}")
        first, second = sorted(zip(block.inputs, map(self.operations.index, block.operations), strict=True))
        return NasNetBlock((first[0], second[0]), (self.operations[first[1]], self.operations[second[1]]))

    def _with(self, blocks: Sequence[NasNetBlock]) -> NasNet:
        return NasNet(_all_blocks(blocks), None, self.network)

    def _sides(self, number: int) -> list[Side]:
        """All (state, operation) of block `number`, in order."""
        return [(state, operation) for state in range(number + 2) for operation in self.operations]

    def _block(self, choose: Choose, number: int) -> NasNetBlock:
        name = f"normal.blocks.{number}"
        if self.ordered:
            return _added_block(choose, name, number, self.operations)
        first = choose(f"{name}.inputs.0", range(number + 2), node=True)
        second = choose(f"{name}.inputs.1", range(first, number + 2), node=True)
        operation = choose(f"{name}.operations.0", self.operations)
        later = self.operations[self.operations.index(operation) :] if first == second else self.operations
        return NasNetBlock((first, second), (operation, choose(f"{name}.operations.1", later)))


def _added_block(choose: Choose, name: str, number: int, operations: tuple[str, ...]) -> NasNetBlock:
    """Two inputs, then two operations, in the papers' order."""
    first, second = (choose(f"{name}.inputs.{side}", range(number + 2), node=True) for side in (0, 1))
    return NasNetBlock((first, second), (choose(f"{name}.operations.0", operations), choose(f"{name}.operations.1", operations)))


def _cell(blocks: Sequence[NasNetBlock]) -> NasNetCell:
    return NasNetCell(tuple(blocks), unused_states(blocks))


def _all_blocks(blocks: Sequence[NasNetBlock]) -> NasNetCell:
    return NasNetCell(tuple(blocks), tuple(range(2, len(blocks) + 2)))


def _with(pair: tuple[T, T], side: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if side == 0 else (pair[0], value)
