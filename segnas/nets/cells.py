"""The cell of a network: a graph of blocks, H_i = O_1(H_j) + O_2(H_k) for the two inputs j, k < i of block i.

The mixed cell of a supernet, with every operation on every edge, is `MixedGraph` in operations.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segnas.nets.blocks import Norm, drop_path
from segnas.nets.operations import OPERATIONS
from segnas.spaces.cells import Block


class BlockGraph(nn.Module):
    """The blocks of a cell; a subclass adds the preprocessing of its two inputs, then `operations` (see `chosen_operations`).

    keep: probability with which drop path keeps an operation's result while training, where `is_dropped` says so.
    """

    operations: nn.ModuleList

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.cell = tuple(blocks)
        self.keep = 1.0

    def states(self, before: Tensor, previous: Tensor) -> list[Tensor]:
        """All states from the two preprocessed inputs: these, then the output of each block."""
        states = [before, previous]
        for number, block in enumerate(self.cell):
            first, second = (self._apply_operation(2 * number + side, states[block.inputs[side]]) for side in (0, 1))
            states.append(first + second)
        return states

    def is_dropped(self, number: int) -> bool:
        """Whether drop path applies to operation `number`: to all but identities."""
        return not isinstance(self.operations[number], nn.Identity)

    def _apply_operation(self, number: int, x: Tensor) -> Tensor:
        out: Tensor = self.operations[number](x)
        if self.training and self.keep < 1.0 and self.is_dropped(number):
            out = drop_path(out, self.keep)
        return out


def chosen_operations(blocks: Sequence[Block], channels: int, stride: int, norm: Norm) -> nn.ModuleList:
    """The operations of the blocks, two a block; stride: of those on states 0 and 1."""
    return nn.ModuleList(
        OPERATIONS[operation](channels, stride if state < 2 else 1, norm)
        for block in blocks
        for state, operation in zip(block.inputs, block.operations, strict=True)
    )
