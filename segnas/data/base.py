"""What a data set is to the rest of segnas: named classes, named splits, and `read(split, index)`.

Readers (folder.py, demo.py, ...) map whatever ids their files use to train ids `0 .. K-1` and to `IGNORE`, so that no other
code knows how a set numbers its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

IGNORE = 255  # the train id of pixels that count nowhere: not in the loss, not in any metric, not in the class weights


@dataclass(frozen=True)
class Classes:
    """The classes of a set in the order of their train ids."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]  # RGB, 0..255
    source_ids: tuple[int, ...] = ()  # the id of each class in the set's own files; () means 0 .. K-1
    ignore_source_id: int | None = None  # the id in the files that becomes IGNORE (None: there is none, or IGNORE itself)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    image: (H, W, 3) uint8 RGB; label: uint8 train ids or IGNORE, (H, W), or () in a set with one class an image.
    """

    name: str
    image: np.ndarray
    label: np.ndarray


class Dataset(Protocol):
    """A set of images with one class a pixel, or (task "classification") one class an image."""

    name: str
    task: str  # "segmentation" or "classification"
    classes: Classes
    splits: Mapping[str, tuple[str, ...]]  # "train", "val" and perhaps "test" -> names of samples, in a fixed order

    def read(self, split: str, index: int) -> Sample:
        """The sample as stored, not resized; raises UserError that names the file when it cannot be read."""
        ...

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width) of the image, without decoding it where the format allows."""
        ...


@runtime_checkable
class FromFiles(Protocol):
    """What a data set that was read from a folder knows besides.

    path: the folder; notes: what a user should know; problems: one line for everything for which training refuses the set.
    """

    path: Path
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def description(self) -> dict[str, Any]:
        """Plain values to write down with a run: path, layout, split (how the splits came about), notes."""
        ...


class Reader(Dataset, FromFiles, Protocol):
    """A data set that is read from a folder of one format. title: the format's name; shape: what its folder holds."""

    title: str
    shape: str

    def __init__(self, path: Path, seed: int = 0) -> None:
        """Reads what the set consists of; seed: for a split that is drawn. Raises UserError when there is no such set."""
        ...

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """The folder of the set that `path` is or directly holds, judged by a few names; None when it is no such set."""
        ...


def palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """The colours of PASCAL VOC's colour map for class 0 .. count-1 (bits of the id spread over the channels)."""
    colors = []
    for index in range(count):
        red = green = blue = 0
        bits = index
        for shift in range(7, -1, -1):
            red |= (bits & 1) << shift
            green |= ((bits >> 1) & 1) << shift
            blue |= ((bits >> 2) & 1) << shift
            bits >>= 3
        colors.append((red, green, blue))
    return tuple(colors)
