"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32x32 pixels, one class an image, in the published form or as JPEG copies.

    cifar-10-batches-py/{data_batch_1 .. data_batch_5, test_batch, batches.meta}     "CIFAR-10 python version"
    full_jpeg/{train.npz, test.npz}                                                  JPEG bytes: jpeg, offsets, labels

The published split is train (50,000) and test (10,000). A tenth of train, as many of each class, is drawn to be val.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segnas.data.base import Classes, Sample, palette
from segnas.data.cifar10_files import ARCHIVES, BATCHES, SIDE, Images, read_archive, read_batches, read_label_names
from segnas.data.layouts import has_layout
from segnas.errors import UserError
from segnas.randomness import numpy_generator

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = Classes(NAMES, palette(len(NAMES)))
TITLE = "CIFAR-10"
BATCH_FOLDER, ARCHIVE_FOLDER, META = "cifar-10-batches-py", "full_jpeg", "batches.meta"
SHAPE = f"{BATCH_FOLDER}/ with data_batch_1 to data_batch_5 and test_batch, or {' and '.join(ARCHIVES.values())}"
HELD_OUT = 10  # one in so many training images is in val


class Cifar10:
    """The set in the folder of the batches or of the npz files, or in the one that holds cifar-10-batches-py or full_jpeg.

    A sample is named by its place in the files: `train_00017`, in "val" too, is training image 17. Batches are held decoded
    (180 MB), JPEG copies are decoded when read. Raises UserError for files that are missing or damaged.
    """

    task = "classification"
    title = TITLE
    shape = SHAPE
    classes = CLASSES

    def __init__(self, path: Path, seed: int = 0) -> None:
        root = self.recognises(path) or path
        published = holds_batches(root) or not holds_archives(root)
        if published and (root / META).is_file() and read_label_names(root / META) != NAMES:
            raise UserError(f"{root / META} names other classes than those of CIFAR-10, so that this is another set")
        read = read_batches if published else read_archive
        self.path = root
        self.name: str = TITLE
        self._images: dict[str, Images] = {part: read(root, part) for part in ("train", "test")}
        val = held_out(self._images["train"].labels, seed)
        train, test = (np.arange(len(self._images[part].labels)) for part in ("train", "test"))
        self._places = {"train": ("train", np.setdiff1d(train, val)), "val": ("train", val), "test": ("test", test)}
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(f"{part}_{place:05d}" for place in places.tolist()) for split, (part, places) in self._places.items()
        }
        self.layout = "batches" if published else "JPEG copies"
        self.split_rule = f"test as published; val, {len(val)} of {len(train)} training images, drawn with seed {seed}"
        self.notes: tuple[str, ...] = () if published else ("JPEG copies: pixels differ a little from the published ones",)
        self.problems: tuple[str, ...] = ()

    @staticmethod
    def recognises(path: Path) -> Path | None:
        """The folder of batches or npz files that `path` is or holds."""
        batches = next((folder for folder in (path, path / BATCH_FOLDER) if holds_batches(folder)), None)
        if batches is not None:
            return batches
        archives = next((folder for folder in (path, path / ARCHIVE_FOLDER) if holds_archives(folder)), None)
        return archives if archives is not None and not has_layout(path) else None  # else npz files of anything

    def read(self, split: str, index: int) -> Sample:
        """The sample, label () uint8; the arrays are the caller's own. Raises UserError for a damaged JPEG."""
        part, places = self._places[split]
        images, place = self._images[part], places[index]
        return Sample(self.splits[split][index], images.image(place), np.array(images.labels[place]))

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width), the same for all."""
        return SIDE, SIDE

    def description(self) -> dict[str, Any]:
        """Where the set lies, its form, how it was split, and what a user should know."""
        return {"path": str(self.path.resolve()), "layout": self.layout, "split": self.split_rule, "notes": list(self.notes)}


def holds_batches(folder: Path) -> bool:
    """Whether one of the files of the published form, at least, lies there."""
    return any((folder / name).is_file() for names in (*BATCHES.values(), (META,)) for name in names)


def holds_archives(folder: Path) -> bool:
    """Whether one of the npz files, at least, lies there."""
    return any((folder / name).is_file() for name in ARCHIVES.values())


def held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Places of the images for val, ascending: one in HELD_OUT, as equally many a class as there are, drawn for the seed.

    At least one of each class, except of a class that has one image only, which stays in train.
    """
    spare = [max(0, int((labels == number).sum()) - 1) for number in range(len(NAMES))]
    if not any(spare):
        raise UserError(f"{len(labels)} training images are too few for a split: no class has 2")
    left = max(len(labels) // HELD_OUT, sum(count > 0 for count in spare))
    quota = [0] * len(NAMES)
    while left and quota != spare:
        for number, count in enumerate(spare):
            if left and quota[number] < count:
                quota[number], left = quota[number] + 1, left - 1
    generator = numpy_generator(seed, "split")
    drawn = [generator.permutation(np.flatnonzero(labels == number))[:count] for number, count in enumerate(quota)]
    return np.sort(np.concatenate(drawn))
