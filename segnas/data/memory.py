"""Decoded samples kept in memory, so that an image is decoded once and not once an epoch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from segnas.data.base import Classes, Dataset, Sample

SHARE = 4  # "auto" keeps samples when they fit in this part (a quarter) of the memory that is free
MEASURED = 64  # images whose size is looked at for the estimate
BYTES_A_PIXEL = 4  # RGB and the label


class InMemory:
    """A data set that remembers every sample it has read; otherwise the data set it is given."""

    def __init__(self, dataset: Dataset) -> None:
        self.name: str = dataset.name
        self.classes: Classes = dataset.classes
        self.splits: Mapping[str, tuple[str, ...]] = dataset.splits
        self.dataset = dataset
        self._samples: dict[tuple[str, int], Sample] = {}

    def read(self, split: str, index: int) -> Sample:
        """The sample, from memory when it was read before."""
        key = (split, index)
        if key not in self._samples:
            self._samples[key] = self.dataset.read(split, index)
        return self._samples[key]

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.dataset.size(split, index)

    def fill(self, split: str, indices: Sequence[int]) -> None:
        """Read these samples now: processes forked afterwards share them."""
        for index in indices:
            self.read(split, index)


def keep_in_memory(dataset: Dataset, split: str, indices: Sequence[int], cache: Literal["auto", "memory", "none"]) -> Dataset:
    """`dataset`, or one that remembers its samples when `cache` says so and (for "auto") these samples fit."""
    if cache == "none" or isinstance(dataset, InMemory):
        return dataset
    if cache == "auto" and decoded_bytes(dataset, split, indices) > free_memory() // SHARE:
        return dataset
    return InMemory(dataset)


def decoded_bytes(dataset: Dataset, split: str, indices: Sequence[int]) -> int:
    """Bytes of the decoded samples, estimated from at most MEASURED of them, evenly spaced."""
    if not indices:
        return 0
    measured = indices[:: -(-len(indices) // MEASURED)]
    pixels = sum(height * width for height, width in (dataset.size(split, index) for index in measured))
    return BYTES_A_PIXEL * pixels * len(indices) // len(measured)


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has, or what its container (cgroup v2) allows."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):  # Linux also counts what is free, with what its file cache would give back
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    with contextlib.suppress(OSError, ValueError):  # no such file: no container; "max": no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        free = min(free, max(0, limit - used))
    return free
