"""Samples of the training images as candidates of a search see them: the split, views, and what an encoder makes of them once.

    training, held_out   two parts of the training images: candidates are trained on the one and scored on the other
    encoded              the encoder's maps of some views, their labels and a teacher's logits, these as large as the first map

Views are drawn for the seed and the image alone, so that every worker of a search sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.config import replace, to_dict
from segnas.data.base import Dataset
from segnas.data.held_out import parts, share_of
from segnas.data.memory import in_memory
from segnas.data.transforms import DataConfig, Normalization, View, apply_view, draw_view, scaled_size
from segnas.errors import UserError
from segnas.estimators.feature_cache import build_or_load, fingerprint
from segnas.randomness import numpy_generator
from segnas.training.device import Device
from segnas.training.inference import upsampled
from segnas.training.model import TrainedModel


@dataclass(frozen=True)
class Encoded:
    """On the CPU, not to be changed. taps: (S, channels, h, w) each; labels: (S, h, w) uint8, as large as the first of the taps.

    teacher: (S, K, h, w) logits, or None.
    """

    taps: tuple[Tensor, ...]
    labels: Tensor
    teacher: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)


class CandidateImages:
    """The training images of a set, in two parts, on a device."""

    def __init__(
        self, dataset: Dataset, data: DataConfig, normalization: Normalization, device: Device, share: float, seed: int
    ) -> None:
        """share: of the images that is held out."""
        self.dataset = in_memory(dataset, "train", data.cache)
        self.data, self.normalization, self.device, self.share, self.seed = data, normalization, device, share, seed
        images = len(dataset.splits["train"])
        self.training, self.held_out = parts(images, share_of(images, share), seed)

    def random_views(self, indices: Sequence[int], crop: tuple[int, int], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One random view of each image, the same at every call: images and labels on the device, in the order of `indices`.

        The last batch may be smaller.
        """
        config = replace(self.data, crop=crop)

        def view(index: int, size: tuple[int, int]) -> View:
            return draw_view(*size, config, numpy_generator(self.seed, "candidates", "view", index))

        return self._batches(indices, crop, batch_size, view)

    def central_views(self, indices: Sequence[int], crop: tuple[int, int], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of the middle of each image, resized as the data configuration says and not augmented."""

        def view(index: int, size: tuple[int, int]) -> View:
            height, width = scaled_size(*size, self.data.resize)
            return View((height, width), (height - crop[0]) // 2, (width - crop[1]) // 2)

        return self._batches(indices, crop, batch_size, view)

    def encoded(
        self, encoder: nn.Module, crop: tuple[int, int], samples: int, batch_size: int, teacher: Path | None, folder: Path
    ) -> Encoded:
        """Random views of at most `samples` images that candidates are trained on, encoded (and taught) in evaluation mode.

        Computed by the first worker that asks and kept in a file of `folder`, which the others read. teacher: a run or model
        file; UserError when it does not fit.
        """
        taught = None if teacher is None else self._teacher(teacher)
        weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        if taught is not None:
            weights |= {f"teacher.{name}": tensor for name, tensor in taught.network.state_dict().items()}
        settings = {
            "dataset": [self.dataset.name, list(self.dataset.splits["train"])],
            "data": to_dict(replace(self.data, crop=crop, workers=0, cache="none")),
            "normalization": [self.normalization.mean, self.normalization.std],
            "share": self.share,
            "samples": samples,
            "seed": self.seed,
        }
        name = f"features-{fingerprint(settings, weights)}"
        found = build_or_load(folder, lambda: self._encode(encoder, crop, samples, batch_size, taught), name)
        taps = tuple(found[f"tap{number}"] for number in range(len(found)) if f"tap{number}" in found)
        return Encoded(taps, found["labels"], found.get("teacher"))

    @torch.no_grad()
    def _encode(
        self, encoder: nn.Module, crop: tuple[int, int], samples: int, batch_size: int, teacher: TrainedModel | None
    ) -> Mapping[str, Tensor]:
        self.device.place(encoder).eval()
        if teacher is not None:
            self.device.place(teacher.network)
        order = numpy_generator(self.seed, "candidates", "encoded").permutation(len(self.training))
        chosen = [self.training[place] for place in order[:samples]]
        found: dict[str, list[Tensor]] = {}
        for images, labels in self.random_views(chosen, crop, batch_size):
            with self.device.autocast():
                taps = encoder(images)
                logits = None if teacher is None else teacher.logits(self.pixels(images))
            size = taps[0].shape[2:]
            kept = {f"tap{number}": tap.float() for number, tap in enumerate(taps)}
            kept["labels"] = smaller_labels(labels, size).byte()
            if logits is not None:
                kept["teacher"] = upsampled(logits, (size[0], size[1]))
            for name, tensor in kept.items():
                found.setdefault(name, []).append(tensor.cpu())
        return {name: torch.cat(tensors) for name, tensors in found.items()}

    def _teacher(self, path: Path) -> TrainedModel:
        teacher = TrainedModel.load(path)
        if teacher.classes.names != self.dataset.classes.names:
            raise UserError(f"the teacher {path} knows other classes than {self.dataset.name}; choose one trained on the same")
        if teacher.resize != self.data.resize:
            raise UserError(f"the teacher {path} was trained with data.resize={teacher.resize:g}; use the same here")
        return teacher

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images as 0..255."""
        mean, std = (
            torch.tensor(one, device=images.device)[:, None, None] for one in (self.normalization.mean, self.normalization.std)
        )
        return 255 * (images * std + mean)

    def _batches(
        self, indices: Sequence[int], crop: tuple[int, int], batch_size: int, view: Any
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for begin in range(0, len(indices), batch_size):
            pairs = []
            for index in indices[begin : begin + batch_size]:
                sample = self.dataset.read("train", index)
                pairs.append(apply_view(sample, view(index, sample.image.shape[:2]), crop, self.normalization))
            images, labels = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
            yield self.device.images(images), self.device.labels(labels)


def smaller_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) train ids -> (N, *size), each the label at the same place."""
    return F.interpolate(labels[:, None].float(), size=(size[0], size[1]), mode="nearest")[:, 0].long()
