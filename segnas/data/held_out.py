"""The training set in two parts: one to train the networks of a search on, one to score them on.

What a search chooses by must not be what the final network is evaluated on, so it never looks at "val" and "test".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segnas.data.base import Classes, Dataset, Sample
from segnas.errors import UserError
from segnas.randomness import numpy_generator


class HeldOut:
    """A data set whose split "train" is a part of that of another, and whose "val" is images that were held out of it.

    share: of the training images that are held out. trained, scored: at most so many images of either part, evenly drawn; None
    for all.
    """

    def __init__(self, dataset: Dataset, share: float, seed: int, trained: int | None = None, scored: int | None = None) -> None:
        names = dataset.splits["train"]
        used, held = parts(len(names), share_of(len(names), share), seed, trained, scored)
        self._dataset = dataset
        self._indices: Mapping[str, Sequence[int]] = {"train": used, "val": held}
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


def share_of(images: int, share: float) -> int:
    """How many of so many images a share is: at least one, and one less than all at most."""
    return min(images - 1, max(1, round(share * images)))


def parts(
    images: int, held_out: int, seed: int, trained: int | None = None, scored: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(trained on, held out): disjoint parts of 0 .. images - 1, drawn for the seed as in Fast NAS, each ascending.

    trained, scored: at most so many of either part, evenly drawn. Raises UserError when either part would be empty.
    """
    if not 0 < held_out < images:
        raise UserError(f"of {images} training images a search cannot hold out {max(1, held_out)}; give more images")
    order = numpy_generator(seed, "held out").permutation(images).tolist()
    return tuple(sorted(order[held_out:][:trained])), tuple(sorted(order[:held_out][:scored]))
