"""The training set in two parts: one to train the networks of a search on, one to score them on.

What a search chooses by must not be what the final network is evaluated on, so it never looks at "val" and "test".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segnas.data.base import Classes, Dataset, Sample
from segnas.errors import UserError
from segnas.randomness import numpy_generator


class HeldOut:
    """A data set whose split "train" is a part of that of another, and whose "val" is images that were held out of it.

    share: of the training images that are held out, at least one. trained, scored: at most so many images of either part, evenly
    drawn; None for all. The parts are drawn for the seed, as in Fast NAS (a random 90 to 10).
    """

    def __init__(self, dataset: Dataset, share: float, seed: int, trained: int | None = None, scored: int | None = None) -> None:
        names = dataset.splits["train"]
        order = numpy_generator(seed, "held out").permutation(len(names)).tolist()
        count = max(1, math.floor(share * len(names)))
        if count >= len(names):
            raise UserError(f"{len(names)} training images are too few to hold some of them out for the search; give more images")
        self._dataset = dataset
        self._indices: Mapping[str, Sequence[int]] = {
            "train": sorted(order[count:][:trained]),
            "val": sorted(order[:count][:scored]),
        }
        self.name, self.task = dataset.name, dataset.task
        self.classes: Classes = dataset.classes
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(names[index] for index in indices) for split, indices in self._indices.items()
        }

    def read(self, split: str, index: int) -> Sample:
        """The sample at this place of the part."""
        return self._dataset.read("train", self._indices[split][index])

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._dataset.size("train", self._indices[split][index])
