"""The same architecture at another width: what scales a network to a budget without changing what was found.

    filters_of(architecture)            the width that stands for all others
    with_filters(architecture, 24)      every width in the proportion 24 : filters_of(architecture)

A family says once, beside its class, which of its fields are widths:

    register_widths("auto-deeplab", "network.filters", {"network.stem": 4, "network.aspp_width": 4})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segnas.errors import Registry, UserError
from segnas.spaces.architecture import Architecture, family_of


@dataclass(frozen=True)
class Widths:
    """The fields of a family that are widths, as dotted paths; each is an int or a tuple of ints.

    filters: the one that stands for all; smallest: its smallest legal value.
    others: those that grow with it, each with its smallest sensible value.
    """

    filters: str
    others: Mapping[str, int]
    smallest: int


widths: Registry[Widths] = Registry("family of adjustable width")


def register_widths(family: str, filters: str, others: Mapping[str, int] | None = None, smallest: int = 1) -> None:
    """Say which fields of a family are widths (see `Widths`). A family is registered once."""
    widths.register(family)(Widths(filters, dict(others or {}), smallest))


def filters_of(architecture: Architecture) -> int:
    """The width that stands for all others; raises UserError for a family whose width cannot be changed."""
    filters: int = _at(architecture, _widths_of(architecture).filters)
    return filters


def smallest_filters(architecture: Architecture) -> int:
    """The smallest width that `with_filters` takes."""
    return min(_widths_of(architecture).smallest, filters_of(architecture))


def with_filters(architecture: Architecture, filters: int) -> Architecture:
    """`architecture` with every width in the proportion filters : filters_of(architecture), rounded half up.

    No other width falls below its smallest sensible value (or below what it is already, where that is less), and none shrinks
    when `filters` grows. Raises UserError for less than the smallest width and for a family whose width cannot be changed.
    """
    family = _widths_of(architecture)
    before, smallest = filters_of(architecture), smallest_filters(architecture)
    if filters < smallest:
        raise UserError(f"filters={filters} is too few for the family '{family_of(architecture)}'; at least {smallest}")
    changed = _replaced(architecture, family.filters, filters)
    for path, least in family.others.items():
        changed = _replaced(changed, path, _scaled(_at(architecture, path), filters, before, least))
    return changed


def _widths_of(architecture: Architecture) -> Widths:
    family = family_of(architecture)
    if family not in widths:
        raise UserError(f"networks of the family '{family}' have no adjustable width; families that do: {', '.join(widths)}")
    return widths[family]


def _scaled(width: Any, filters: int, before: int, least: int) -> Any:
    """An int, or each of a tuple, times filters / before: rounded half up, in whole numbers so that it is exact."""
    if isinstance(width, tuple):
        return tuple(_scaled(one, filters, before, least) for one in width)
    return max(min(least, width), (2 * width * filters + before) // (2 * before))


def _at(architecture: Any, path: str) -> Any:
    for name in path.split("."):
        architecture = getattr(architecture, name)
    return architecture


def _replaced(values: Any, path: str, value: Any) -> Any:
    """A frozen dataclass with the field at a dotted path replaced."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(values, **{name: _replaced(getattr(values, name), rest, value) if rest else value})
