"""Batches of a data set: what is seen at a step is a function of (seed, epoch, step), however it is loaded.

The order of an epoch is a permutation drawn for (seed, stream, epoch); the view of a sample is drawn for (seed, epoch, index).
Workers, their number and where a resumed run begins change nothing. Several processes each take a contiguous part of every batch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segnas.data.base import Dataset
from segnas.data.memory import InMemory, in_memory
from segnas.data.transforms import DataConfig, Normalization, apply_view, draw_view
from segnas.errors import UserError
from segnas.processes import world as processes
from segnas.randomness import numpy_generator


@dataclass(frozen=True)
class Batch:
    """images: float32 (N, 3, h, w), normalised; labels: int64, train ids or IGNORE, (N, h, w), or (N,) for one class an image."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


class TrainingBatches:
    """The training batches of some samples of a split.

    indices: positions in the split. stream: a name that sets the order apart from that of other loaders with the same seed.
    key: the setting that holds the batch size, for the message. rank, world: yield the rank-th of `world` parts of each batch.
    Raises UserError when there are fewer samples than the batch needs, or when it cannot be divided by `world`.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        indices: Sequence[int],
        config: DataConfig,
        normalization: Normalization,
        batch_size: int,
        seed: int,
        stream: str,
        key: str = "batch_size",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise UserError(
                f"{key}={batch_size} cannot be shared evenly by {world} processes; set it to a multiple of {world}, "
                "or start another number of processes"
            )
        if len(indices) < batch_size:
            total = len(dataset.splits[split])
            part = f" (of its {total}, these are used here)" if len(indices) < total else ""
            raise UserError(
                f"{len(indices)} images of the split '{split}' are too few for batches of {batch_size}{part}; "
                f"set {key} to at most {len(indices)}, or give more images"
            )
        self.indices = tuple(indices)
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self._part = range(batch_size * rank // world, batch_size * (rank + 1) // world)  # places in a batch
        self._views = _Views(in_memory(dataset, split, config.cache), split, config, normalization, seed)
        self._schedule = _Schedule()
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        """Steps an epoch; the incomplete last batch is dropped."""
        return len(self.indices) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from step `start` on; the steps before it are skipped without reading them.

        One epoch at a time: asking for another ends the one before. Raises UserError for a sample that cannot be read.
        """
        order = numpy_generator(self.seed, "order", self.stream, epoch).permutation(len(self.indices))
        steps = [
            [(epoch, self.indices[order[step * self.batch_size + place]]) for place in self._part]
            for step in range(start, len(self))
        ]
        if self._views.config.workers == 0:
            return (self._views[step] for step in steps)
        self._schedule.steps = steps
        return _raising(iter(self._workers()))

    def _workers(self) -> DataLoader:
        """The loader whose processes stay from epoch to epoch; they are handed (epoch, index) and draw nothing of their own."""
        if self._loader is None:
            if isinstance(self._views.dataset, InMemory):
                self._views.dataset.fill(self.indices)
            self._loader = DataLoader(
                _Delivered(self._views),  # type: ignore[arg-type]
                batch_size=None,
                sampler=self._schedule,
                collate_fn=_unchanged,  # type: ignore[arg-type]
                num_workers=self._views.config.workers,
                persistent_workers=True,
                worker_init_fn=_leave_interrupts,
                generator=torch.Generator(),  # else the loader would move torch's global generator
            )
        return self._loader


def halves(count: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(trainA, trainB): two disjoint halves of 0 .. count-1, drawn for the seed, each ascending; trainA has the odd one."""
    order = numpy_generator(seed, "halves").permutation(count)
    middle = (count + 1) // 2
    return tuple(sorted(order[:middle].tolist())), tuple(sorted(order[middle:].tolist()))


@dataclass(frozen=True)
class _Views:
    """[(epoch, index), ...] -> batch: the one place where training views are made."""

    dataset: Dataset
    split: str
    config: DataConfig
    normalization: Normalization
    seed: int

    def __getitem__(self, positions: Sequence[tuple[int, int]]) -> Batch:
        images, labels, names = zip(*(self.view(epoch, index) for epoch, index in positions), strict=True)
        return Batch(torch.stack(images), torch.stack(labels), names)

    def view(self, epoch: int, index: int) -> tuple[Tensor, Tensor, str]:
        sample = self.dataset.read(self.split, index)
        height, width = sample.image.shape[:2]
        view = draw_view(height, width, self.config, numpy_generator(self.seed, "view", epoch, index))
        return *apply_view(sample, view, self.config.crop, self.normalization), sample.name


@dataclass(frozen=True)
class _Delivered:
    """The same in a worker, where the message of a UserError is handed over: raised there it would arrive as a long traceback."""

    views: _Views

    def __getitem__(self, positions: Sequence[tuple[int, int]]) -> Batch | str:
        try:
            return self.views[positions]
        except UserError as error:
            return str(error)


class _Schedule:
    """The steps of the coming epoch, read by the loader when the epoch begins."""

    steps: Sequence[Sequence[tuple[int, int]]] = ()

    def __iter__(self) -> Iterator[Sequence[tuple[int, int]]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _raising(delivered: Iterator[Batch | str]) -> Iterator[Batch]:
    for batch in delivered:
        if isinstance(batch, str):
            raise UserError(batch)
        yield batch


def _unchanged(delivered: Batch | str) -> Batch | str:
    return delivered


def _leave_interrupts(worker: int) -> None:
    """In a worker: Ctrl-C reaches every process of the terminal, but it is the parent that stops, and that ends its workers.

    SIGTERM needs nothing: torch gives its workers a handler of their own. But torchrun sends its signals to whole groups of
    processes, out of which workers step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if processes() > 1:
        os.setpgid(0, 0)
