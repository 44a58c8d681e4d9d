"""PASCAL VOC, semantic segmentation (Everingham et al., IJCV 2015), as it is published.

    VOCdevkit/VOC2012/JPEGImages/NAME.jpg
    VOCdevkit/VOC2012/SegmentationClass/NAME.png                   palette PNG: 0 .. 20, 255 the border between objects
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,test}.txt

Most of JPEGImages has no mask (the detection images): what counts is what the lists name. The test masks are not published.
"""

from __future__ import annotations

import re
from pathlib import Path

from segnas.data.base import IGNORE, Classes, palette
from segnas.data.layouts import Layout, Pair, read_list
from segnas.data.masks import MaskTable
from segnas.data.paired import PairedFiles, PublishedMasks, require_folders
from segnas.errors import UserError

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CLASSES = Classes(NAMES, palette(len(NAMES)))
TITLE = "PASCAL VOC"
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
SHAPE = f"VOCdevkit/VOC2012/ with {IMAGES}/, {MASKS}/ and {LISTS}/"
YEAR = re.compile(r"VOC20\d\d")


class Voc(PairedFiles):
    """The set in a VOC20xx folder, in VOCdevkit (the newest year in it), or in the folder that holds VOCdevkit.

    The splits are those of the lists, "test" only where masks of it are there; the seed draws nothing. problems: a line for
    every listed name without image or mask, and for one that stands in two lists. Raises UserError for an incomplete set.
    """

    title = TITLE
    shape = SHAPE

    def __init__(self, path: Path, seed: int = 0) -> None:
        root = self.recognises(path) or path
        require_folders(root, (IMAGES, MASKS, LISTS), TITLE, SHAPE)
        masks = PublishedMasks(TITLE, MaskTable({**{i: i for i in range(len(NAMES))}, IGNORE: IGNORE}, {}), palette(256))
        super().__init__(root, root.resolve().name, _layout(root), CLASSES, masks)

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """The VOC20xx folder that `path` is or holds, itself or in its VOCdevkit."""
        if (path / IMAGES).is_dir() and ((path / MASKS).is_dir() or (path / LISTS).is_dir()):
            return path
        for folder in (path, path / "VOCdevkit"):
            years = sorted((year for year in folder.glob("VOC20*") if YEAR.fullmatch(year.name)), reverse=True)
            years.sort(key=lambda year: (year / MASKS).is_dir(), reverse=True)  # a year without masks only where all are
            if years and years[0].is_dir():
                return years[0]
        return None


def _layout(root: Path) -> Layout:
    images = {path.stem for path in (root / IMAGES).glob("*.jpg")}
    masks = {path.stem for path in (root / MASKS).glob("*.png")}
    splits: dict[str, tuple[Pair, ...]] = {}
    notes: tuple[str, ...] = ()
    problems: list[str] = []
    taken: dict[str, str] = {}
    for split in ("train", "val", "test"):
        file = root / LISTS / f"{split}.txt"
        if not file.is_file():
            if split == "test":
                continue
            raise UserError(f"the list {file} is missing: the names of the {split} images, one a line; it is in the VOC download")
        listed = read_list(file)
        if split == "test" and not any(name in masks for _, name in listed):
            notes = ("the split 'test' is left out: its masks are not there (they are not published)",)
            continue
        pairs = []
        for number, name in listed:
            image, mask = root / IMAGES / f"{name}.jpg", root / MASKS / f"{name}.png"
            if name in taken:
                problems.append(f"{file}, line {number}: '{name}' is in {taken[name]} already")
            elif name not in images:
                problems.append(f"{file}, line {number}: '{name}' has no image {image}")
            elif name not in masks:
                problems.append(f"{file}, line {number}: '{name}' has no mask {mask}")
            else:
                pairs.append(Pair(name, image, mask))
            taken.setdefault(name, file.name)
        if not pairs:
            raise UserError(
                f"{file} names no image" + (f" with a mask; {problems[-1]}" if listed else "; it should hold one a line")
            )
        splits[split] = tuple(pairs)
    return Layout(TITLE, f"lists {', '.join(f'{split}.txt' for split in splits)}", splits, notes, tuple(problems))
