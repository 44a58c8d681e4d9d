"""A folder of images and masks as a data set: whatever the layout, the class file or the encoding of the masks.

What was found and decided (classes, splits, notes) is in `describe`, which a run writes down and shows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from segnas.data.classes import BINARY, CLASS_FILE, black_and_white, found_class_table, read_class_file
from segnas.data.layouts import SHAPE, find_layout, has_layout
from segnas.data.masks import find_values, has_palette
from segnas.data.paired import PairedFiles


class Folder(PairedFiles):
    """The data set in a folder; see layouts.py for the arrangements, classes.py for the class file.

    problems: one line for every image without mask and mask without image. Raises UserError when there is no set to read.
    """

    title = "folder of images and masks"
    shape = SHAPE

    def __init__(self, path: Path, seed: int = 0) -> None:
        layout = find_layout(path, seed)
        masks = [pair.mask for pairs in layout.splits.values() for pair in pairs]
        class_file = path / CLASS_FILE
        if class_file.is_file():
            table = read_class_file(class_file)
            if table.bare and len(table.classes) == 2 and find_values(masks).all_ids() == BINARY:
                table = black_and_white(table)
        else:
            table = found_class_table(find_values(masks), path)
        layout = dataclasses.replace(layout, notes=(table.note, *layout.notes))
        super().__init__(path, path.resolve().name, layout, table.classes, table.masks)
        self._colored = bool(table.masks.colors)

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """`path` itself, when its folders are named as images and masks are."""
        return path if has_layout(path) else None

    def contradicting_palettes(self) -> str:
        """Where palettes of the masks contradict each other (`Found.contradiction`) and no colours of classes settle it."""
        if self._colored:
            return ""
        masks = (pair.mask for pairs in self.pairs.values() for pair in pairs)
        return find_values(mask for mask in masks if has_palette(mask)).contradiction()
