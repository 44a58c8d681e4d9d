"""How the command line shows figures: aligned tables within the terminal's width for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH_OF_NO_TERMINAL = 160  # columns where the output goes to a file or a pipe


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Rows of cells under a header; the first `text_columns` columns are texts (left, wrapped at words), the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(header))
    for place, name in enumerate(header):
        if place < text_columns:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = shutil.get_terminal_size((WIDTH_OF_NO_TERMINAL, 24)).columns
    Console(highlight=False, markup=False, width=width).print(table)


def print_figures(figures: Mapping[str, Any], as_json: bool, written: str) -> None:
    """One figure a line and the file that was written, or all as JSON."""
    if as_json:
        print_json({**figures, "written": written})
        return
    for name, value in figures.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {formatted(item)}" for key, item in value.items())
        print(f"{name:26} {formatted(value)}")
    print(written)


def formatted(value: Any) -> str:
    """A value for people: thousands apart, four significant digits, lists with commas."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def in_units(value: float | None, unit: float, digits: int) -> str:
    """`value` in multiples of `unit` with so many digits after the point, `-` for None."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"
