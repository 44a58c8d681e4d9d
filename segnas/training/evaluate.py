"""Evaluation of a whole split from one confusion matrix, its protocol written beside its figures.

Labels of pixels are compared at their own size. Of images with one class each, evaluation.json lists those that are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from segnas.config import configuration
from segnas.costs.latency import precision_title
from segnas.data.base import IGNORE, Dataset, Sample
from segnas.data.transforms import scaled_size
from segnas.errors import UserError
from segnas.runs.progress import StageProgress
from segnas.runs.run import Run
from segnas.tasks.base import Scores, confusion_matrix, scores
from segnas.training.device import Device
from segnas.training.inference import ImageAnswer, class_probabilities
from segnas.training.model import TrainedModel, require_task
from segnas.training.panels import write_answers, write_panels


@configuration
class EvaluationConfig:
    """What is evaluated and how. Several scales and flip average the softmax probabilities of all views.

    batch_size: images of one size that go through the network together, which changes no figure; None: 1 where every pixel has
    a label, 128 where the image has one.
    """

    split: str = "val"
    scales: tuple[PositiveFloat, ...] = (1.0,)
    flip: bool = False
    batch_size: PositiveInt | None = None

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
    """The figures of one split. confusion: (K, K) counts of labels (pixels or images), rows are labels.

    images: each image of the split, by the task an ImageScore or an ImageAnswer.
    """

    protocol: Protocol
    scores: Scores
    confusion: Tensor
    model: TrainedModel
    images: tuple[ImageScore | ImageAnswer, ...]
    seconds: float

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures of the task in percent, the deciding one first."""
        return self.model.task.figures(self.scores)

    def to_json(self) -> dict[str, Any]:
        """What evaluation.json holds; IoU is null for a class that is in neither prediction nor label, accuracy for one that
        is no label. Of images with one class each, those that are wrong are listed."""
        task, names = self.model.task, self.model.classes.names
        head = {"split": self.protocol.split, "task": task.name, "metric": task.metric, "protocol": asdict(self.protocol)}
        values = {**head, **self.figures, "classes": self._classes(), "confusion": self.confusion.tolist()}
        if task.dense:
            values["absent_classes"] = [names[index] for index in self.scores.absent]
        values["images"] = [
            asdict(image)
            if isinstance(image, ImageScore)
            else {**asdict(image), "label": names[image.label], "prediction": names[image.prediction]}
            for image in self.images
            if isinstance(image, ImageScore) or image.wrong
        ]
        return {**values, "seconds": self.seconds}

    def _classes(self) -> list[dict[str, Any]]:
        """The figures of each class, in percent, and how many pixels or images have its label."""
        found, classes = self.scores, self.model.classes
        rows = zip(classes.names, classes.colors, found.iou, found.accuracy, found.labels, strict=True)
        if self.model.task.dense:
            return [
                {"name": name, "color": list(color), "IoU": iou, "accuracy": accuracy, "pixels": labels}
                for name, color, iou, accuracy, labels in rows
            ]
        return [
            {"name": name, "color": list(color), "accuracy": accuracy, "images": labels}
            for name, color, _, accuracy, labels in rows
        ]


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
    found: list[tuple[ImageScore | ImageAnswer, tuple[int, int]]] = []  # of the images of this process
    with StageProgress("evaluate", len(device.share(len(names)))) as progress:
        for sample, confusion, answer in image_confusions(model, dataset, config, device):
            total += confusion
            size = (sample.image.shape[0], sample.image.shape[1])
            found.append((answer or ImageScore(sample.name, scores(confusion).mIoU), size))
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
            if model.task.dense:
                measured = [image.mIoU for image in images if isinstance(image, ImageScore)]
                write_panels(model, dataset, config.split, measured, config.scales, config.flip, device, run)
            else:
                answers = [image for image in images if isinstance(image, ImageAnswer)]
                write_answers(model.classes, dataset, config.split, answers, run)
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
    for _, confusion, _ in image_confusions(model, dataset, config, device):
        total += confusion
    return scores(device.total(total))


def image_confusions(
    model: TrainedModel, dataset: Dataset, config: EvaluationConfig, device: Device
) -> Iterator[tuple[Sample, Tensor, ImageAnswer | None]]:
    """Each sample of the split that this process has a share in, in order, its (K, K) confusion matrix on the CPU, taken at the
    label's size, and, for one class an image, what the network says of it."""
    classes = len(model.classes)
    indices = device.share(len(dataset.splits[config.split]))
    for samples in _batches(dataset, config.split, indices, config.batch_size or model.task.batch_size):
        size = (samples[0].image.shape[0], samples[0].image.shape[1])
        images = [sample.image for sample in samples]
        probabilities = class_probabilities(model, images, size, device, config.scales, config.flip)
        predictions = probabilities.argmax(dim=1)
        if model.task.dense:
            labels = device.labels(torch.from_numpy(np.stack([sample.label for sample in samples])))
            for sample, prediction, label in zip(samples, predictions, labels, strict=True):
                yield sample, confusion_matrix(prediction, label, classes).cpu(), None
        else:
            said = zip(predictions.tolist(), probabilities.amax(dim=1).tolist(), strict=True)
            for sample, (index, probability) in zip(samples, said, strict=True):
                answer = ImageAnswer(sample.name, int(sample.label), index, probability)
                yield sample, _single(answer, classes), answer


def _single(answer: ImageAnswer, classes: int) -> Tensor:
    """The (K, K) confusion matrix of one image with one label; of none when the label is IGNORE."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    if answer.label != IGNORE:
        confusion[answer.label, answer.prediction] = 1
    return confusion


def check_split(model: TrainedModel, dataset: Dataset, split: str) -> None:
    """Raise UserError unless the data set has the model's task and classes, in the model's order, and the split."""
    require_task(model.architecture, dataset)
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
    """The protocol of an evaluation of images with these (height, width), which their labels of pixels have too."""
    seen = _span([scaled_size(height, width, model.resize) for height, width in sizes])
    labels = _span(sizes) if model.task.dense else "one an image"
    compared = f"compared at the labels' own size ({labels})" if model.task.dense else "one label each"
    precision = precision_title(device.config.precision, device.device)
    scales = "single scale" if config.scales == (1.0,) else f"scales {', '.join(f'{scale:g}' for scale in config.scales)}"
    views = f"{scales}, {'with' if config.flip else 'no'} flip"
    text = (
        f"One confusion matrix over all {len(sizes)} images of the split '{config.split}', seen at {seen}, "
        f"{compared}; {views}; {precision} on {device.title}."
    )
    return Protocol(config.split, len(sizes), seen, config.scales, config.flip, labels, precision, device.title, text)


def _batches(dataset: Dataset, split: str, indices: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
    """Consecutive samples of one size, at most `batch_size` of them."""
    batch: list[Sample] = []
    for index in indices:
        sample = dataset.read(split, index)
        if batch and (len(batch) == batch_size or sample.image.shape != batch[0].image.shape):
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
