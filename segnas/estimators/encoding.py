"""What an encoder that does not change says of training views and of whole images, as tensors to be cached (feature_cache.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from segnas.data.base import Dataset
from segnas.data.free_memory import free_memory
from segnas.data.loading import Batch, TrainingBatches
from segnas.data.transforms import Normalization, resize_image, scaled_size
from segnas.errors import UserError

GIB = 2**30
Encode = Callable[[Tensor], Sequence[Tensor]]  # normalised images (N, 3, H, W) -> maps (N, C, h, w), float32 on the CPU


def endless(batches: TrainingBatches) -> Iterator[Batch]:
    """The batches of epoch 0, 1, 2, ... without end."""
    return itertools.chain.from_iterable(map(batches.epoch, itertools.count()))


def encode_views(encode: Encode, views: Iterable[Batch], samples: int, setting: str) -> dict[str, Tensor]:
    """The maps of the first `samples` views, one after the other.

    maps.<i>: (samples, C, h, w) float32, for each map of the encoder; labels: (samples, H, W) uint8. Raises UserError when they
    do not fit in the memory that is free, before it is filled; setting: the name of `samples` for the message.
    """
    kept: dict[str, Tensor] = {}
    filled = 0
    for batch in views:
        found = {f"maps.{number}": one for number, one in enumerate(encode(batch.images))}
        found["labels"] = batch.labels.to(torch.uint8)
        if not kept:
            _require_memory(found, samples, setting)
            kept = {name: tensor.new_empty(samples, *tensor.shape[1:]) for name, tensor in found.items()}
        taken = min(len(batch.images), samples - filled)
        for name, tensor in found.items():
            kept[name][filled : filled + taken] = tensor[:taken]
        filled += taken
        if filled == samples:
            break
    return kept


def encode_images(
    encode: Encode, dataset: Dataset, split: str, indices: Sequence[int], normalization: Normalization, resize: float
) -> dict[str, Tensor]:
    """The maps of whole images, each of its own size, seen as an evaluation sees them.

    <n>.maps.<i>: (C, h, w) float32, for the n-th of `indices`; <n>.labels: (H, W) uint8, as stored.
    """
    kept: dict[str, Tensor] = {}
    for number, index in enumerate(indices):
        sample = dataset.read(split, index)
        height, width = sample.image.shape[:2]
        seen = resize_image(sample.image, scaled_size(height, width, resize))
        kept |= {f"{number}.maps.{place}": one[0] for place, one in enumerate(encode(normalization(seen)[None]))}
        kept[f"{number}.labels"] = torch.from_numpy(sample.label)
    return kept


def _require_memory(batch: dict[str, Tensor], samples: int, setting: str) -> None:
    one = sum(tensor[0].numel() * tensor.element_size() for tensor in batch.values())
    free = free_memory()
    if one * samples > free:
        needed, left = one * samples / GIB, free / GIB
        raise UserError(
            f"the features of {setting}={samples} views take {needed:.1f} GiB, and {left:.1f} GiB of memory are free; set it to "
            f"at most {free // one}, or choose a smaller data.crop"
        )
