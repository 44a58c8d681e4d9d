"""The search space of DARTS: a normal and a reduction cell (Liu, Simonyan, Yang, ICLR 2019, arXiv 1806.09055, section 2.1).

A network stacks L cells; those at L/3 and 2L/3 are reduction cells (stride 2, twice the channels), all others normal cells.
A cell has 4 blocks (the paper's intermediate nodes), each the sum of two operations on two different earlier states, and its
output is the concatenation of the blocks. 7 operations, `none` is never chosen.

Cells keep the order of edges and of the concatenation in which they were published: both decide where a weight stands. So
this space asks for two inputs in order, and counts each graph 2^4 times a cell.

The same cells make three networks, the *forms*: `cifar` (stem at stride 1, 36 channels, 20 cells) and `imagenet` (stem at
stride 8, 48 channels, 14 cells) as in the paper's section 3.2, and `segmentation` (stem at stride 4, output stride 16, ASPP),
which is no paper's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from segnas.spaces.architecture import Input, families, require_at_least
from segnas.spaces.cells import Block, require_earlier_states, require_states
from segnas.spaces.choice import Choose, search_spaces
from segnas.spaces.forms import INPUTS, Form, forms_for, task_of_form
from segnas.spaces.width import register_widths

BLOCKS = 4
OPERATIONS = (  # the order of the columns of alpha
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CHOSEN = OPERATIONS[1:]  # what a decoded cell may hold


@dataclass(frozen=True)
class DartsCell:
    """A cell as published: its blocks in order, and the states whose concatenation is its output (2 + i is block i)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    blocks: tuple[Block, ...]
    concat: tuple[int, ...] = (2, 3, 4, 5)

    def __post_init__(self) -> None:
        require_earlier_states(self.blocks, "blocks")
        require_states(self.concat, len(self.blocks) + 2, "concat")


@dataclass(frozen=True)
class DartsOptions:
    """What is not searched.

    form: the kind of network. channels: of one block before the first reduction; layers: number of cells.
    aspp_width, aspp_rates, dropout: the head of the segmentation form. low_level_width, decoder_width: the decoder that joins
    features of stride 4; low_level_width 0: no such skip connection, and no decoder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    form: Form = "cifar"
    channels: int = 36
    layers: int = 20
    aspp_width: int = 256
    aspp_rates: tuple[int, ...] = (6, 12, 18)
    low_level_width: int = 48
    decoder_width: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        least = {"channels": 2, "layers": 1, "aspp_width": 1, "decoder_width": 1, "low_level_width": 0, "aspp_rates": 1}
        require_at_least(self, least)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")


USUAL: dict[Form, tuple[int, int]] = {  # (channels, layers) of a form: the paper's, and ours for segmentation
    "cifar": (36, 20),
    "imagenet": (48, 14),
    "segmentation": (32, 12),
}


@families.register("darts")
@dataclass(frozen=True)
class Darts:
    """One network: its two cells, and what is not searched."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    normal: DartsCell
    reduction: DartsCell
    network: DartsOptions

    @property
    def task(self) -> str:
        """What the form predicts."""
        return task_of_form(self.network.form)

    @property
    def usual_input(self) -> Input:
        """((height, width), classes) that the form's published figures are for."""
        return INPUTS[self.network.form]

    def forms_for(self, task: str) -> list[str]:
        """The forms of network, of the same cells, that predict this."""
        return forms_for(task)

    def in_form(self, form: Form) -> Darts:
        """The same cells as another form of network, of the usual channels and layers of that form."""
        channels, layers = USUAL[form]
        return dataclasses.replace(self, network=DartsOptions(form=form, channels=channels, layers=layers))


register_widths(
    "darts",
    "network.channels",
    {"network.aspp_width": 4, "network.low_level_width": 2, "network.decoder_width": 4},
    smallest=2,  # a factorized reduction has two branches
)


@search_spaces.register("darts")
@dataclass(frozen=True)
class DartsSpace:
    """All pairs of cells of `blocks` blocks over `operations`, each block with two different inputs, in order."""

    blocks: int = BLOCKS
    operations: tuple[str, ...] = CHOSEN
    network: DartsOptions = field(default_factory=DartsOptions)

    def architecture(self, choose: Choose) -> Darts:
        """The architecture of one series of choices: first the normal, then the reduction cell."""
        normal, reduction = (self._cell(choose, name) for name in ("normal", "reduction"))
        return Darts(normal, reduction, self.network)

    def _cell(self, choose: Choose, name: str) -> DartsCell:
        blocks = tuple(self._block(choose, f"{name}.blocks.{number}", number + 2) for number in range(self.blocks))
        return DartsCell(blocks, tuple(range(2, self.blocks + 2)))

    def _block(self, choose: Choose, name: str, states: int) -> Block:
        first = choose(f"{name}.inputs.0", range(states), node=True)
        first_operation = choose(f"{name}.operations.0", self.operations)
        others = [state for state in range(states) if state != first]
        second = choose(f"{name}.inputs.1", others, node=True)
        return Block((first, second), (first_operation, choose(f"{name}.operations.1", self.operations)))


def reductions(layers: int) -> tuple[int, ...]:
    """The numbers of the reduction cells among 0 .. layers - 1."""
    return tuple(sorted({layers // 3, 2 * layers // 3}))


def cell_of(pairs: Sequence[Sequence[tuple[int, str]]]) -> DartsCell:
    """The cell of the (state, operation) pairs of each block, in their order; all blocks are concatenated."""
    blocks = tuple(Block((first[0], second[0]), (first[1], second[1])) for first, second in pairs)
    return DartsCell(blocks, tuple(range(2, len(blocks) + 2)))
