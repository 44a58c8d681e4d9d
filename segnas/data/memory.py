"""Decoded samples kept in memory, so that an image is decoded once and not once an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from weakref import finalize

from segnas.data.base import Classes, Dataset, Sample
from segnas.data.free_memory import free_memory

SHARE = 4  # "auto" keeps samples when they fit in this part (a quarter) of the memory that is free
MEASURED = 64  # images whose size is looked at for the estimate
BYTES_A_PIXEL = 4  # RGB and the label


# Samples kept of each data set (its id), by split and index. They go when the data set goes: nothing in here holds on to it.
_kept: dict[int, dict[str, dict[int, Sample]]] = {}


class InMemory:
    """A data set that remembers every sample of one split that it has read; otherwise the data set it is given.

    samples: where it keeps them, which others of the same data set and split may share.
    """

    def __init__(self, dataset: Dataset, split: str, samples: dict[int, Sample]) -> None:
        self.name: str = dataset.name
        self.task: str = dataset.task
        self.classes: Classes = dataset.classes
        self.splits: Mapping[str, tuple[str, ...]] = dataset.splits
        self.dataset = dataset
        self._split = split
        self._samples = samples

    def read(self, split: str, index: int) -> Sample:
        """The sample, from memory when it was read before."""
        if split != self._split:
            return self.dataset.read(split, index)
        if index not in self._samples:
            self._samples[index] = self.dataset.read(split, index)
        return self._samples[index]

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.dataset.size(split, index)

    def fill(self, indices: Sequence[int]) -> None:
        """Read these samples of the split now: processes forked afterwards share them."""
        for index in indices:
            self.read(self._split, index)


def in_memory(dataset: Dataset, split: str, cache: Literal["auto", "memory", "none"]) -> Dataset:
    """`dataset`, or one that remembers the samples of `split` when `cache` says so and (for "auto") the whole split fits.

    Whoever asks for the same split of the same data set shares its samples: they are held once, and the question whether
    they fit is settled by the first who is told yes.
    """
    if cache == "none" or isinstance(dataset, InMemory):
        return dataset
    if id(dataset) not in _kept:
        _kept[id(dataset)] = {}
        finalize(dataset, _kept.pop, id(dataset), None)
    splits = _kept[id(dataset)]
    if split not in splits:
        if cache == "auto" and decoded_bytes(dataset, split, range(len(dataset.splits[split]))) > free_memory() // SHARE:
            return dataset
        splits[split] = {}
    return InMemory(dataset, split, splits[split])


def decoded_bytes(dataset: Dataset, split: str, indices: Sequence[int]) -> int:
    """Bytes of the decoded samples, estimated from at most MEASURED of them, evenly spaced."""
    if not indices:
        return 0
    measured = indices[:: -(-len(indices) // MEASURED)]
    pixels = sum(height * width for height, width in (dataset.size(split, index) for index in measured))
    return BYTES_A_PIXEL * pixels * len(indices) // len(measured)
