"""The convolutional space of NAS with reinforcement learning (Zoph and Le, ICLR 2017, arXiv 1611.01578, sections 3.2 and 3.3).

A network is a chain of convolutions. Each has a filter height, a filter width and a number of filters, and for every layer
before it one bit: whether it reads that layer's output. What it reads is concatenated. The rules for loose ends are the paper's:

    a layer without inputs reads the image
    the outputs that no layer reads are concatenated and go to the classifier
    where the inputs have different sizes, the smaller ones are padded with zeros

| the paper                                                     | here                                                     |
|---------------------------------------------------------------|----------------------------------------------------------|
| depth grows while the controller learns: 6, +2 at a time      | the same, to the depth of the constructor (`stage`)      |
| max pooling at two fixed layers in some experiments           | none                                                     |
| strides fixed to 1, or of {1, 2, 3} in height and in width    | the same (`strides`)                                     |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from segnas.spaces.architecture import Input, families, require_at_least
from segnas.spaces.choice import Choose, search_spaces

SIDES = (1, 3, 5, 7)  # heights and widths of a filter
FILTERS = (24, 36, 48, 64)
STRIDES = (1, 2, 3)
FIRST_DEPTH, GROWTH = 6, 2  # layers of the first stage, and how many each later one has more

Bit = Literal[0, 1]


@dataclass(frozen=True)
class ConvolutionLayer:
    """One convolution with batch norm and ReLU.

    height, width: of a filter, both odd. stride_height, stride_width: 1 or more. filters: output channels.
    skips: one bit for each layer before, 1 where its output is read.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    height: int
    width: int
    stride_height: int
    stride_width: int
    filters: int
    skips: tuple[Bit, ...]

    def __post_init__(self) -> None:
        require_at_least(self, dict.fromkeys(("height", "width", "stride_height", "stride_width", "filters"), 1))
        for name in ("height", "width"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd, not {getattr(self, name)}")

    @property
    def inputs(self) -> tuple[int, ...]:
        """What it reads, in order: 0 is the image, i the output of layer i (counted from 1, as the paper draws them)."""
        return tuple(layer for layer, bit in enumerate(self.skips, start=1) if bit) or (0,)


@families.register("nas-rl")
@dataclass(frozen=True)
class NasRl:
    """One network, layer by layer."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    task: ClassVar[str] = "classification"
    usual_input: ClassVar[Input] = ((32, 32), 10)  # CIFAR-10

    layers: tuple[ConvolutionLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers is empty; it needs at least one layer")
        for number, layer in enumerate(self.layers):
            if len(layer.skips) != number:
                raise ValueError(f"layers.{number}.skips has {len(layer.skips)} bits; there are {number} layers before it")

    @property
    def outputs(self) -> tuple[int, ...]:
        """The layers (counted from 1) that no other reads: what the classifier sees, in order."""
        read = {number for layer in self.layers for number in layer.inputs}
        return tuple(number for number in range(1, len(self.layers) + 1) if number not in read)


@search_spaces.register("nas-rl")
@dataclass(frozen=True)
class NasRlSpace:
    """All networks of so many layers: 64^layers filters (9^layers times as many with strides), 2^(layers (layers - 1) / 2) skips.

    Its stages are the networks of 6, 8, 10, ... layers; the last has all of them.

    layers: 15 as in table 1's network without strides and pooling. strides: whether they are searched; else all are 1.
    """

    layers: int = 15
    strides: bool = False
    sides: tuple[int, ...] = SIDES
    filters: tuple[int, ...] = FILTERS

    @property
    def stages(self) -> int:
        """How often it grows, and once more for the beginning."""
        return 1 + max(0, math.ceil((self.layers - FIRST_DEPTH) / GROWTH))

    def stage(self, number: int) -> NasRlSpace:
        """The networks of stage 1 .. stages."""
        if not 1 <= number <= self.stages:
            raise ValueError(f"stage {number} of a space with stages 1 to {self.stages}")
        return dataclasses.replace(self, layers=min(self.layers, FIRST_DEPTH + GROWTH * (number - 1)))

    def architecture(self, choose: Choose) -> NasRl:
        """The architecture of one series of choices, in the order in which the paper's controller makes them."""
        return NasRl(tuple(self._layer(choose, number) for number in range(self.layers)))

    def _layer(self, choose: Choose, number: int) -> ConvolutionLayer:
        name = f"layers.{number}"
        height, width = (choose(f"{name}.{side}", self.sides) for side in ("height", "width"))
        down, across = (choose(f"{name}.stride_{side}", STRIDES) if self.strides else 1 for side in ("height", "width"))
        filters = choose(f"{name}.filters", self.filters)
        return ConvolutionLayer(height, width, down, across, filters, tuple(self._skips(choose, name, number)))

    def _skips(self, choose: Choose, name: str, layers: int) -> Iterator[Bit]:
        bits: tuple[Bit, Bit] = (0, 1)
        for earlier in range(layers):
            yield choose(f"{name}.skips.{earlier}", bits, member=f"layers.{earlier}")
