"""A table of the form of a tabular benchmark's, with made-up figures: every TransNAS macro network, in a few milliseconds."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

from segnas.spaces.tabular import TransNasMacro, all_macro

NAME = "transnas-segmentation-macro"
COLUMNS = ("segmentsemantic.valid_mIoU", "segmentsemantic.test_mIoU", "segmentsemantic.train_time_s")


def value_of(architecture: TransNasMacro) -> float:
    """Largest for 64-444111-basic alone."""
    doubled = sum(module in (2, 4) for module in architecture.modules)
    early = sum(6 - place for place, module in enumerate(architecture.modules) if module == 4)
    return 10 + architecture.depth + doubled + early / 4 - sum(module == 3 for module in architecture.modules) / 8


def lines() -> list[list[str]]:
    """The header and a line an architecture; test values are the validation values less 5, seconds 100 a module."""
    rows = [["arch", *COLUMNS]]
    for architecture in all_macro():
        value = value_of(architecture)
        rows.append([architecture.name, f"{value:.4f}", f"{value - 5:.4f}", str(100 * architecture.depth)])
    return rows


def write(folder: Path, change: Callable[[list[list[str]]], object] = lambda rows: None) -> Path:
    """The folder with the table in it, which `change` may spoil before."""
    rows = lines()
    change(rows)
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "macro.csv.gz", "wt", newline="", compresslevel=1) as file:
        csv.writer(file).writerows(rows)
    return folder
