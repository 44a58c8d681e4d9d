"""A folder of images and masks as a data set: whatever the layout, the class file or the encoding of the masks.

What was found and decided (classes, splits, notes) is in `describe`, which a run writes down and shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segnas.data.base import Classes, Sample, readers
from segnas.data.classes import BINARY, CLASS_FILE, black_and_white, found_class_table, read_class_file
from segnas.data.images import image_size, read_image
from segnas.data.layouts import Pair, find_layout
from segnas.data.masks import find_values, has_palette
from segnas.errors import UserError


@readers.register("folder")
class Folder:
    """The data set in a folder; see layouts.py for the arrangements, classes.py for the class file.

    problems: one line for every image without mask and mask without image. Raises UserError when there is no set to read.
    """

    task = "segmentation"

    def __init__(self, path: Path, seed: int = 0) -> None:
        layout = find_layout(path, seed)
        self.path = path
        self.name: str = path.resolve().name
        self.layout = layout.kind
        self.split_rule = layout.rule
        self.problems = layout.problems
        self.pairs = layout.splits
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(pair.name for pair in pairs) for split, pairs in layout.splits.items()
        }
        masks = [pair.mask for pairs in layout.splits.values() for pair in pairs]
        class_file = path / CLASS_FILE
        if class_file.is_file():
            table = read_class_file(class_file)
            if table.bare and len(table.classes) == 2 and find_values(masks).all_ids() == BINARY:
                table = black_and_white(table)
        else:
            table = found_class_table(find_values(masks), path)
        self.classes: Classes = table.classes
        self.notes = (table.note, *layout.notes)
        self._masks = table.masks

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

    def contradicting_palettes(self) -> str:
        """Where palettes of the masks contradict each other (`Found.contradiction`) and no colours of classes settle it."""
        if self._masks.colors:
            return ""
        masks = (pair.mask for pairs in self.pairs.values() for pair in pairs)
        return find_values(mask for mask in masks if has_palette(mask)).contradiction()

    def description(self) -> dict[str, Any]:
        """Where the set lies, its layout, how it was split, and what a user should know."""
        return {"path": str(self.path.resolve()), "layout": self.layout, "split": self.split_rule, "notes": list(self.notes)}


def _sizes_differ(pair: Pair, image: tuple[int, ...], label: tuple[int, ...]) -> str:
    hint = "; the image has an EXIF rotation that its mask lacks" if image == label[::-1] else ""
    return f"{pair.image} is {image[0]}x{image[1]} but its mask {pair.mask} is {label[0]}x{label[1]} (height x width){hint}"
