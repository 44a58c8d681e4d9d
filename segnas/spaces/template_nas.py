"""The search space of template search: a decoder of few templates, repeated (Nekrasov et al., WACV 2020, arXiv 1904.02365).

The encoder is the beginning of MobileNet-v2; its two maps (strides 4 and 8) are maps 0 and 1. A template is an operation on each
of two inputs and a way to join the results. Each of 7 rows applies a template to two earlier maps, up to four times:

    y_1 = T(x1, x2),   y_(r+1) = T(x2, y_r);   row i's last y is map 2 + i

Rows before 7 // 2 may have a stride of 2. The maps of rows that no row reads go to the classifier. 3 templates of 6 operations
and 2 ways to join, 2 to 8 choices of each input, 3 templates, 4 repeats: 72^3 (8!)^2 3^7 4^7 2^3 = 1.74e23 architectures.

`published` and `from_published` are the nested lists of numbers `[templates, structure]` of the public code.
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

TAPS = 2  # maps of the encoder
TEMPLATES = 3
ROWS = 7
REPEATS = (1, 2, 3, 4)
STRIDES = (1, 2)
OPERATIONS = (  # the order of their numbers in published configurations
    "sep_conv_3x3",
    "sep_conv_5x5",
    "global_average_pool",
    "max_pool_3x3",
    "sep_conv_5x5_dil6",
    "skip_connect",
)
AGGREGATIONS = (
    "weighted_sum",
    "concat",
)  # a sum with learned weights a channel; concatenation, batch norm, ReLU, 1x1 convolution


@dataclass(frozen=True)
class Template:
    """`aggregation(operations[0](x1), operations[1](x2))`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    operations: tuple[str, str]
    aggregation: str

    def __post_init__(self) -> None:
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise ValueError(f"unknown operation '{operation}'{did_you_mean(operation, OPERATIONS)}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"unknown aggregation '{self.aggregation}'{did_you_mean(self.aggregation, AGGREGATIONS)}")


@dataclass(frozen=True)
class Row:
    """One row of the structure: a template on two earlier maps, `repeats` times.

    stride: of each repetition; the first one multiplies the channels by it as well.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    inputs: tuple[int, int]
    template: int
    repeats: int
    stride: int

    def __post_init__(self) -> None:
        require_at_least(self, {"repeats": 1})
        if self.stride not in STRIDES:
            raise ValueError(f"stride must be 1 or 2, not {self.stride}")


@dataclass(frozen=True)
class TemplateNasOptions:
    """What is not searched. agg_size: channels before the classifier. repeats: of the depthwise and pointwise pair in a
    separable convolution. encoder_width: channels of the encoder's stem (32: MobileNet-v2 at width 1)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    agg_size: int = 64
    repeats: int = 2
    encoder_width: int = 32

    def __post_init__(self) -> None:
        require_at_least(self, {"agg_size": 1, "repeats": 1, "encoder_width": 1})


@families.register("template-nas")
@dataclass(frozen=True)
class TemplateNas:
    """One decoder: the templates, the rows that apply them, and what is not searched."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    templates: tuple[Template, ...]
    structure: tuple[Row, ...]
    network: TemplateNasOptions

    def __post_init__(self) -> None:
        if not self.structure:
            raise ValueError("structure is empty; it needs at least one row")
        for number, row in enumerate(self.structure):
            for side, index in enumerate(row.inputs):
                if not 0 <= index < TAPS + number:
                    raise ValueError(f"structure.{number}.inputs.{side} is {index}; row {number} reads maps 0 to {number + 1}")
            if not 0 <= row.template < len(self.templates):
                last = len(self.templates) - 1
                raise ValueError(f"structure.{number}.template is {row.template}, but there are templates 0 to {last}")
            if row.stride > 1 and not is_strided(number, len(self.structure)):
                raise ValueError(f"structure.{number}.stride is {row.stride}; only rows of the first half have one")

    def collected(self) -> tuple[int, ...]:
        """The numbers of the maps that the classifier reads: those of rows that no row reads, in order."""
        read = {index for row in self.structure for index in row.inputs}
        return tuple(TAPS + row for row in range(len(self.structure)) if TAPS + row not in read)

    def published(self) -> list[Any]:
        """`[templates, structure]` in the numbers of the public code: repeats - 1, and the logarithm of the stride."""
        templates = [
            [*(OPERATIONS.index(name) for name in one.operations), AGGREGATIONS.index(one.aggregation)] for one in self.templates
        ]
        rows = [[*row.inputs, row.template, row.repeats - 1, STRIDES.index(row.stride)] for row in self.structure]
        return [templates, rows]


register_widths("template-nas", "network.agg_size", {"network.encoder_width": 8})


@search_spaces.register("template-nas")
@dataclass(frozen=True)
class TemplateNasSpace:
    """All structures of `rows` rows times all sets of `templates` templates over `operations`."""

    templates: int = TEMPLATES
    rows: int = ROWS
    operations: tuple[str, ...] = OPERATIONS
    network: TemplateNasOptions = field(default_factory=TemplateNasOptions)

    def architecture(self, choose: Choose) -> TemplateNas:
        """The architecture of one series of choices: first the templates, then the rows."""
        templates = tuple(self._template(choose, f"templates.{number}") for number in range(self.templates))
        rows = tuple(self._row(choose, number) for number in range(self.rows))
        return TemplateNas(templates, rows, self.network)

    def _template(self, choose: Choose, name: str) -> Template:
        first, second = (choose(f"{name}.operations.{side}", self.operations) for side in (0, 1))
        return Template((first, second), choose(f"{name}.aggregation", AGGREGATIONS))

    def _row(self, choose: Choose, number: int) -> Row:
        name = f"structure.{number}"
        first, second = (choose(f"{name}.inputs.{side}", range(TAPS + number), node=True) for side in (0, 1))
        template = choose(f"{name}.template", range(self.templates))
        repeats = choose(f"{name}.repeats", REPEATS)
        stride = choose(f"{name}.stride", STRIDES if is_strided(number, self.rows) else STRIDES[:1])
        return Row((first, second), template, repeats, stride)


def is_strided(row: int, rows: int) -> bool:
    """Whether a row may have a stride of 2, and joins its inputs at the size of the smaller: those of the first half."""
    return row < rows // 2


def from_published(values: Sequence[Any], network: TemplateNasOptions | None = None) -> TemplateNas:
    """The architecture of `[templates, structure]` in the numbers of the public code; ValueError for what is none."""
    templates = tuple(Template((OPERATIONS[a], OPERATIONS[b]), AGGREGATIONS[c]) for a, b, c in values[0])
    rows = tuple(Row((a, b), template, 1 + repeats, STRIDES[log]) for a, b, template, repeats, log in values[1])
    return TemplateNas(templates, rows, network or TemplateNasOptions())
