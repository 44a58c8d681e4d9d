"""What readers of image files with mask files share: names to pairs, reading a pair, ids of a published format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segnas.data.base import Classes, Sample
from segnas.data.images import image_size, read_image
from segnas.data.layouts import Layout, Pair
from segnas.data.masks import MaskTable, Palette, other_colors, read_mask
from segnas.errors import UserError


class Masks(Protocol):
    """How mask files are read."""

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 train ids and IGNORE; raises UserError that names the file."""
        ...


class PairedFiles:
    """A data set of pairs of files, found and put into splits before (`Layout`).

    problems: one line for every image without mask and mask without image.
    """

    task = "segmentation"

    def __init__(self, path: Path, name: str, layout: Layout, classes: Classes, masks: Masks) -> None:
        self.path = path
        self.name: str = name
        self.layout = layout.kind
        self.split_rule = layout.rule
        self.problems: tuple[str, ...] = layout.problems
        self.notes: tuple[str, ...] = layout.notes
        self.pairs = layout.splits
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(pair.name for pair in pairs) for split, pairs in layout.splits.items()
        }
        self.classes: Classes = classes
        self._masks = masks

    def read(self, split: str, index: int) -> Sample:
        """The sample at full size; raises UserError for a damaged file, unknown ids, or sizes that differ."""
        pair = self.pairs[split][index]
        image, label = read_image(pair.image), self._masks.read(pair.mask)
        if image.shape[:2] != label.shape:
            raise UserError(_sizes_differ(pair, image.shape[:2], label.shape))
        return Sample(pair.name, image, label)

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width) of the image from its header."""
        return image_size(self.pairs[split][index].image)

    def description(self) -> dict[str, Any]:
        """Where the set lies, its layout, how it was split, and what a user should know."""
        return {"path": str(self.path.resolve()), "layout": self.layout, "split": self.split_rule, "notes": list(self.notes)}


@dataclass(frozen=True)
class PublishedMasks:
    """Masks of a published format: one channel of known ids.

    title: the format's name; colors: what a palette must show each index in that occurs (empty: any palette will do). A file
    that was converted to colours, or whose palette was made anew, holds no ids of the format any more, and is refused.
    """

    title: str
    table: MaskTable
    colors: Palette = ()

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 train ids and IGNORE; raises UserError for a damaged or converted file, UnknownIds for other ids."""
        values, stored = read_mask(path)
        original = f"take the file of the {self.title} download"
        if values.ndim == 3:
            raise UserError(f"{path} is a mask in colour, but {self.title} masks store one id a pixel; {original}")
        fault = other_colors(values, stored, self.colors) if stored and self.colors else ""
        if fault:
            raise UserError(
                f"{path} has another palette than {self.title} ({fault}), so its indices are not the classes; {original}"
            )
        return self.table.from_ids(values, path, original)


def named_files(folder: Path, ending: str) -> dict[str, Path]:
    """name -> file for the files below a folder that end so, by name: the path below the folder without the ending.

    Hidden files are passed over.
    """
    found = {}
    for path in folder.rglob(f"*{ending}"):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix().removesuffix(ending)] = path
    return dict(sorted(found.items()))


def matched(images: Mapping[str, Path], masks: Mapping[str, Path], missing: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs of equal name, and a line for each file left over. missing: what a mask is called, with its folder."""
    pairs = tuple(Pair(name, image, masks[name]) for name, image in images.items() if name in masks)
    alone = [f"{image} has no {missing}" for name, image in images.items() if name not in masks]
    return pairs, (*alone, *(f"{mask} has no image" for name, mask in masks.items() if name not in images))


def require_folders(root: Path, names: Sequence[str], title: str, shape: str) -> None:
    """Raise UserError for the first folder that a set of this format must have and has not."""
    for name in names:
        if not (root / name).is_dir():
            raise UserError(f"{root} is no complete {title} set: it has no folder {name}; expected {shape}")


def _sizes_differ(pair: Pair, image: tuple[int, ...], label: tuple[int, ...]) -> str:
    hint = "; the image has an EXIF rotation that its mask lacks" if image == label[::-1] else ""
    return f"{pair.image} is {image[0]}x{image[1]} but its mask {pair.mask} is {label[0]}x{label[1]} (height x width){hint}"
