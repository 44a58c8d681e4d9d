"""Cells: small graphs of blocks, each the sum of two operations on earlier states (NASNet, Zoph et al., CVPR 2018).

States 0 and 1 are the outputs of the two cells before, 2 + i is block i. Auto-DeepLab and DARTS describe their cells so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pydantic import ConfigDict

from segnas.errors import did_you_mean

OPERATIONS = (  # every operation that a network can be built of; a space offers some of them
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
    "atrous_conv_3x3",
    "atrous_conv_5x5",
)


@dataclass(frozen=True)
class Block:
    """One block of a cell: `operations[0](state inputs[0]) + operations[1](state inputs[1])`.

    inputs: state numbers; 0 is the output of the cell before the last, 1 that of the last, 2 + i is the output of block i.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: tuple[int, int]
    operations: tuple[str, str]

    def __post_init__(self) -> None:
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise ValueError(f"unknown operation '{operation}'{did_you_mean(operation, OPERATIONS)}")


class Reads(Protocol):
    """Any family's block: it reads two states."""

    @property
    def inputs(self) -> tuple[int, int]: ...


def require_earlier_states(blocks: Sequence[Reads], where: str) -> None:
    """Raise ValueError unless there is a block and each reads states before it. where: the path of the blocks in the JSON."""
    if not blocks:
        raise ValueError(f"{where} is empty; it needs at least one block")
    for number, block in enumerate(blocks):
        for place, state in enumerate(block.inputs):
            if not 0 <= state < number + 2:
                raise ValueError(f"{where}.{number}.inputs.{place} is {state}, but block {number} has states 0 to {number + 1}")


def require_states(chosen: Sequence[int], states: int, where: str) -> None:
    """Raise ValueError unless there is one and all are among 0 .. states - 1. where: their path in the JSON of the cell."""
    if not chosen:
        raise ValueError(f"{where} is empty; it needs at least one state")
    for place, state in enumerate(chosen):
        if not 0 <= state < states:
            raise ValueError(f"{where}.{place} is {state}, but the cell has states 0 to {states - 1}")


def edge_offset(block: int) -> int:
    """The number of the first edge into `block`; the edge from state s into it is `edge_offset(block) + s`."""
    return sum(earlier + 2 for earlier in range(block))


def edges(blocks: int) -> tuple[tuple[int, int], ...]:
    """(block, state) of every edge of the full cell, in the order of the rows of alpha (14 for 4 blocks, 20 for 5)."""
    return tuple((block, state) for block in range(blocks) for state in range(block + 2))


def states_of(blocks: int) -> list[list[int]]:
    """The states that each block may read, in the order of its edges."""
    return [list(range(block + 2)) for block in range(blocks)]
