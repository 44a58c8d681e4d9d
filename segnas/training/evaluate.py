"""Evaluation of a whole split from one confusion matrix, at the labels' own size, its protocol written beside its figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from segnas.config import configuration
from segnas.costs.latency import precision_title
from segnas.data.base import Dataset, Sample
from segnas.data.transforms import scaled_size
from segnas.errors import UserError
from segnas.runs.progress import StageProgress
from segnas.runs.run import Run
from segnas.tasks.segmentation import Scores, confusion_matrix, scores
from segnas.training.device import Device
from segnas.training.inference import class_probabilities
from segnas.training.model import TrainedModel
from segnas.training.panels import write_panels


@configuration
class EvaluationConfig:
    """What is evaluated and how. Several scales and flip average the softmax probabilities of all views."""

    split: str = "val"
    scales: tuple[PositiveFloat, ...] = (1.0,)
    flip: bool = False
    batch_size: PositiveInt = 1  # images of one size that go through the network together; changes no figure

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales is empty; [1.0] is a single scale")


@dataclass(frozen=True)
class Protocol:
    """All that a figure depends on besides the weights."""

    split: str
    images: int
    resolution: str  # at which the network sees the images (at scale 1), height x width
    scales: tuple[float, ...]
    flip: bool
    label_size: str
    precision: str
    device: str
    text: str


@dataclass(frozen=True)
class ImageScore:
    """One image of the split. mIoU: NaN when none of its pixels counts."""

    name: str
    mIoU: float  # noqa: N815 - the field's own spelling


@dataclass(frozen=True)
class Evaluation:
    """The figures of one split. confusion: (K, K) counts of pixels, rows are labels."""

    protocol: Protocol
    scores: Scores
    confusion: Tensor
    model: TrainedModel
    images: tuple[ImageScore, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What evaluation.json holds; IoU is null for a class that is in neither prediction nor label."""
        found, classes = self.scores, self.model.classes
        return {
            "split": self.protocol.split,
            "protocol": asdict(self.protocol),
            "mIoU": found.mIoU,
            "mAcc": found.mAcc,
            "aAcc": found.aAcc,
            "classes": [
                {"name": name, "color": list(color), "IoU": iou, "accuracy": accuracy, "pixels": pixels}
                for name, color, iou, accuracy, pixels in zip(
                    classes.names, classes.colors, found.iou, found.accuracy, found.pixels, strict=True
                )
            ],
            "confusion": self.confusion.tolist(),
            "absent_classes": [classes.names[index] for index in found.absent],
            "images": [asdict(image) for image in self.images],
            "seconds": self.seconds,
        }


def evaluate(
    model: TrainedModel,
    dataset: Dataset,
    config: EvaluationConfig,
    device: Device,
    run: Run | None = None,
    main: EvaluationConfig | None = None,
) -> Evaluation:
    """Evaluate a model on a whole split; its network is moved to the device.

    With a run, evaluation.json and panels/ are written; for another split or protocol than that of `main` (None: there is no
    other) a file beside it, see `file_name`. Several processes share the images and find the same figures; the first writes.
    Raises UserError when the split is missing or the classes are not the model's.
    """
    check_split(model, dataset, config.split)
    names = dataset.splits[config.split]
    device.place(model.network).eval()
    started = time.monotonic()
    total = torch.zeros(len(model.classes), len(model.classes), dtype=torch.int64)
    found: list[tuple[ImageScore, tuple[int, int]]] = []  # of the images of this process
    with StageProgress("evaluate", len(device.share(len(names)))) as progress:
        for sample, confusion in image_confusions(model, dataset, config, device):
            total += confusion
            height, width = sample.label.shape
            found.append((ImageScore(sample.name, scores(confusion).mIoU), (height, width)))
            progress.step()
    total = device.total(total)
    shares = device.gather(found)
    in_order = [shares[place % device.world_size][place // device.world_size] for place in range(len(names))]
    images, sizes = [image for image, _ in in_order], [size for _, size in in_order]
    seconds = time.monotonic() - started
    protocol = describe(model, config, device, sizes)
    evaluation = Evaluation(protocol, scores(total), total, model, tuple(images), seconds)
    if run is not None and device.is_global_zero:
        name = file_name(config, main or config)
        if name == file_name(config, config):
            write_panels(model, dataset, config.split, [image.mIoU for image in images], config.scales, config.flip, device, run)
        run.write_json(name, evaluation.to_json())
    return evaluation


def file_name(config: EvaluationConfig, main: EvaluationConfig) -> str:
    """evaluation.json for the run's own protocol `main`, evaluation_<split>.json for another split by the same protocol, and
    with scales and flip in the name for another protocol: no figure takes the place of one that means something else."""
    if (config.scales, config.flip) != (main.scales, main.flip):
        flip = "_flip" if config.flip else ""
        return f"evaluation_{config.split}_{'-'.join(f'{scale:g}' for scale in config.scales)}{flip}.json"
    return "evaluation.json" if config.split == main.split else f"evaluation_{config.split}.json"


def score(model: TrainedModel, dataset: Dataset, config: EvaluationConfig, device: Device) -> Scores:
    """The scores alone, by the same protocol as `evaluate`; the network stays where it is, which must be the device.

    Several processes share the images and find the same scores.
    """
    total = torch.zeros(len(model.classes), len(model.classes), dtype=torch.int64)
    for _, confusion in image_confusions(model, dataset, config, device):
        total += confusion
    return scores(device.total(total))


def image_confusions(
    model: TrainedModel, dataset: Dataset, config: EvaluationConfig, device: Device
) -> Iterator[tuple[Sample, Tensor]]:
    """Each sample of the split that this process has a share in, in order, and its (K, K) confusion matrix on the CPU, taken at
    the label's size."""
    indices = device.share(len(dataset.splits[config.split]))
    for samples in _batches(dataset, config.split, indices, config.batch_size):
        size = (samples[0].label.shape[0], samples[0].label.shape[1])
        images = [sample.image for sample in samples]
        predictions = class_probabilities(model, images, size, device, config.scales, config.flip).argmax(dim=1)
        labels = device.labels(torch.from_numpy(np.stack([sample.label for sample in samples])))
        for sample, prediction, label in zip(samples, predictions, labels, strict=True):
            yield sample, confusion_matrix(prediction, label, len(model.classes)).cpu()


def check_split(model: TrainedModel, dataset: Dataset, split: str) -> None:
    """Raise UserError unless the data set has the split and the model's classes, in the model's order."""
    if not dataset.splits.get(split):
        present = ", ".join(name for name, names in dataset.splits.items() if names)
        raise UserError(f"the data set {dataset.name} has no images in a split '{split}'; its splits: {present}")
    ours, theirs = model.classes.names, dataset.classes.names
    if ours != theirs:
        first = next((f"'{a}' and '{b}'" for a, b in zip(ours, theirs, strict=False) if a != b), f"{len(ours)} and {len(theirs)}")
        raise UserError(
            f"the classes of the model and of {dataset.name} differ ({first}); evaluate on the set that it was trained for"
        )


def describe(model: TrainedModel, config: EvaluationConfig, device: Device, sizes: Sequence[tuple[int, int]]) -> Protocol:
    """The protocol of an evaluation of labels with these (height, width)."""
    seen, labels = _span([scaled_size(height, width, model.resize) for height, width in sizes]), _span(sizes)
    precision = precision_title(device.config.precision, device.device)
    scales = "single scale" if config.scales == (1.0,) else f"scales {', '.join(f'{scale:g}' for scale in config.scales)}"
    views = f"{scales}, {'with' if config.flip else 'no'} flip"
    text = (
        f"One confusion matrix over all {len(sizes)} images of the split '{config.split}', seen at {seen}, "
        f"compared at the labels' own size ({labels}); {views}; {precision} on {device.title}."
    )
    return Protocol(config.split, len(sizes), seen, config.scales, config.flip, labels, precision, device.title, text)


def _batches(dataset: Dataset, split: str, indices: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
    """Consecutive samples of one size, at most `batch_size` of them."""
    batch: list[Sample] = []
    for index in indices:
        sample = dataset.read(split, index)
        if batch and (len(batch) == batch_size or sample.label.shape != batch[0].label.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _span(sizes: Sequence[tuple[int, int]]) -> str:
    """`360x480`, or `240x320 to 360x480` from the smallest to the largest area."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    smallest, largest = (f"{size[0]}x{size[1]}" for size in (ordered[0], ordered[-1]))
    return smallest if smallest == largest else f"{smallest} to {largest}"
