"""NASNet, AmoebaNet and PNASNet: networks of two cells, or of one, that share a skeleton.

    NASNet     Zoph, Vasudevan, Shlens, Le, CVPR 2018, arXiv 1707.07012: normal and reduction cell
    AmoebaNet  Real, Aggarwal, Huang, Le, AAAI 2019, arXiv 1802.01548: the same, blocks that add alone
    PNASNet    Liu et al., ECCV 2018, arXiv 1712.00559: one cell; where it reduces, its stride is 2 (`reduction` is None)

A cell has blocks, each of two operations on two earlier states, added or concatenated; its output is the concatenation of the
states in `concat`. A network is a stem and three stacks of N normal cells with a reduction (stride 2, twice the filters)
before the second and the third; a network of one cell replaces the first cell of these two stacks. In three *forms*:

    cifar          3x3 convolution; cells                                                          stride 1 to 4
    imagenet       3x3 convolution of stride 2, two reduction cells of F/4 and F/2 filters; cells  stride 8 to 32
    segmentation   two strided convolutions; cells; ASPP and decoder; no paper's                   stride 4 to 16

| papers and published code                    | here                                                                       |
|----------------------------------------------|----------------------------------------------------------------------------|
| state 0 is the last output, 1 the one before | 0 is the output of the cell before the last, 1 of the last, as everywhere  |
| `none` is the identity                       | `skip_connect`                                                             |
| AmoebaNet-B: `dil_2_separable_5x5_2`         | `dil_sep_conv_5x5`, dilated as in the paper (the code drops the dilation)  |
| AmoebaNet-A XL                               | at 299x299 its printed cost comes out, at 331x331 it does not              |
| AmoebaNet-B large                            | 196 filters: with these the printed figures come out                       |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from segnas.errors import did_you_mean
from segnas.spaces.architecture import Input, families, require_at_least
from segnas.spaces.cells import require_earlier_states, require_states
from segnas.spaces.forms import INPUTS, Form, forms_for, task_of_form
from segnas.spaces.width import register_widths

OPERATIONS = (  # every operation of the family; a space offers some of them
    "skip_connect",
    "conv_1x3_3x1",
    "conv_1x7_7x1",
    "dil_sep_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "max_pool_2x2",  # AmoebaNet-B and -D, of other spaces than the papers'
    "dil_sep_conv_5x5",
)
SMALLEST_FILTERS = {"cifar": 2, "imagenet": 8, "segmentation": 2}  # a factorized reduction has two branches
SMALLEST_IMAGE = 3  # of the stem's convolution without padding
Combine = Literal["add", "concat"]


@dataclass(frozen=True)
class NasNetBlock:
    """One block: `combine(operations[0](state inputs[0]), operations[1](state inputs[1]))`.

    inputs: 0 is the output of the cell before the last, 1 that of the last, 2 + i is the output of block i.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: tuple[int, int]
    operations: tuple[str, str]
    combine: Combine = "add"

    def __post_init__(self) -> None:
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise ValueError(f"unknown operation '{operation}'{did_you_mean(operation, OPERATIONS)}")


@dataclass(frozen=True)
class NasNetCell:
    """A cell: its blocks in order, and the states whose concatenation is its output (2 + i is block i).

    The published lists of states are taken as they stand, although some hold a state that a block reads as well.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    blocks: tuple[NasNetBlock, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        require_earlier_states(self.blocks, "blocks")
        require_states(self.concat, len(self.blocks) + 2, "concat")


@dataclass(frozen=True)
class NasNetOptions:
    """What is not searched.

    form: the kind of network. filters: of one operation in the first stack. stack_cells: normal cells a stack (the papers' N).
    stem_filters: of the stem's convolution.
    skip_reduction_layer_input: the cell after a reduction cell reads, besides that cell's output, the last but one output before
    it instead of the last; a network of one cell has no such choice.
    image_size: height and width of the images that the classifiers' figures and auxiliary head are for.
    dropout: before the classifier, or in the ASPP. aspp_width, aspp_rates, low_level_width, decoder_width: the head of the
    segmentation form; low_level_width 0: no decoder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    form: Form = "cifar"
    filters: int = 32
    stack_cells: int = 6
    stem_filters: int = 96
    skip_reduction_layer_input: bool = False
    image_size: int = 32
    dropout: float = 0.0
    aspp_width: int = 256
    aspp_rates: tuple[int, ...] = (6, 12, 18)
    low_level_width: int = 48
    decoder_width: int = 256

    def __post_init__(self) -> None:
        least = {"filters": SMALLEST_FILTERS[self.form], "stack_cells": 1, "stem_filters": 1, "image_size": SMALLEST_IMAGE}
        require_at_least(self, {**least, "aspp_width": 1, "decoder_width": 1, "low_level_width": 0, "aspp_rates": 1})
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout:g}")


USUAL: dict[Form, NasNetOptions] = {  # NASNet-A's, and ours for segmentation
    "cifar": NasNetOptions(),
    "imagenet": NasNetOptions("imagenet", filters=44, stack_cells=4, stem_filters=32, image_size=224, dropout=0.5),
    "segmentation": NasNetOptions("segmentation", filters=32, stack_cells=3, stem_filters=96, dropout=0.1),
}


@families.register("nasnet")
@dataclass(frozen=True)
class NasNet:
    """One network: its two cells, and what is not searched. `reduction` None: the normal cell reduces too, as in PNASNet."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    normal: NasNetCell
    reduction: NasNetCell | None
    network: NasNetOptions

    def __post_init__(self) -> None:
        if self.reduction is None and self.network.skip_reduction_layer_input:
            raise ValueError("skip_reduction_layer_input is for networks that have a reduction cell")

    @property
    def task(self) -> str:
        """What the form predicts."""
        return task_of_form(self.network.form)

    @property
    def usual_input(self) -> Input:
        """((height, width), classes) that figures of such a network are for."""
        size, classes = INPUTS[self.network.form]
        return (size if self.task == "segmentation" else (self.network.image_size,) * 2), classes

    def forms_for(self, task: str) -> list[str]:
        """The forms of network, of the same cells, that predict this."""
        return forms_for(task)

    def in_form(self, form: Form) -> NasNet:
        """The same cells as another form of network, of the usual sizes of that form."""
        return dataclasses.replace(self, network=USUAL[form])


register_widths(
    "nasnet",
    "network.filters",
    {"network.stem_filters": 4, "network.aspp_width": 4, "network.low_level_width": 2, "network.decoder_width": 4},
    smallest=max(SMALLEST_FILTERS.values()),
)


@dataclass(frozen=True)
class Place:
    """Where a cell stands.

    reduces: at stride 2. filters: of one of its operations. back: which earlier output it reads beside the last one: 1 is the
    one before the last, 2 the one before that, 0 (the first cell) the last itself.
    """

    reduces: bool
    filters: int
    back: int


def places(architecture: NasNet) -> tuple[Place, ...]:
    """All cells of the network, in order, those of the stem included."""
    network = architecture.network
    count, filters = network.stack_cells, network.filters
    found: list[Place] = []
    if network.form == "imagenet":
        found += [Place(True, filters // 4, 0), Place(True, filters // 2, 1)]
    for number in range(3 * count):
        reduces = number in (count, 2 * count)
        filters = 2 * filters if reduces else filters
        if reduces and architecture.reduction is not None:
            found += [Place(True, filters, 1), Place(False, filters, 2 if network.skip_reduction_layer_input else 1)]
        else:
            found.append(Place(reduces, filters, min(1, len(found))))
    return tuple(found)


def main_reductions(architecture: NasNet) -> tuple[int, int]:
    """The numbers of the two cells, among all of `places`, that reduce between the stacks."""
    *_, first, second = (number for number, place in enumerate(places(architecture)) if place.reduces)
    return first, second


def unused_states(blocks: Sequence[NasNetBlock]) -> tuple[int, ...]:
    """The states that no block reads, inputs of the cell included: what the output of a searched cell concatenates."""
    read = {state for block in blocks for state in block.inputs}
    return tuple(state for state in range(len(blocks) + 2) if state not in read)
