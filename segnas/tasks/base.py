"""What every task shares: the loss, the confusion matrix, the scores read off it, and what a task is.

A label is a train id `0 .. K-1` or IGNORE, which counts nowhere: one a pixel or one an image, which makes no difference here.
Every score of segnas comes from one confusion matrix over the whole set (never a mean over images), in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segnas.data.base import IGNORE
from segnas.errors import Registry


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says, in percent. A class that is in neither prediction nor label has no IoU (None)."""

    mIoU: float  # noqa: N815 - the field's own spelling; mean IoU over the classes that are not absent
    mAcc: float  # noqa: N815 - mean accuracy (recall) over the classes that are labelled
    aAcc: float  # noqa: N815 - share of counted labels that are right
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]  # None for a class without a label
    labels: tuple[int, ...]  # a class: pixels that have it as their label, or images
    absent: tuple[int, ...]  # classes in neither prediction nor label: left out of the mean


@dataclass(frozen=True)
class Task:
    """What a network is to say of an image.

    counted: what a label is of, "pixel" or "image". metric: the one of `figures` (in percent) that decides, their first.
    batch_size: images of one size that are evaluated together where no setting says otherwise.
    """

    name: str
    counted: str
    metric: str
    figures: Callable[[Scores], Mapping[str, float]]
    batch_size: int

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label, not the image as a whole."""
        return self.counted == "pixel"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of `figures`, the deciding one first."""
        return tuple(self.figures(scores(torch.zeros(1, 1, dtype=torch.int64))))

    def deciding(self, found: Scores) -> float:
        """The value of `metric`, in percent."""
        return self.figures(found)[self.metric]


tasks: Registry[Task] = Registry("task")  # segmentation.py and classification.py register theirs


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    average: Callable[[Sequence[Tensor]], None] | None = None,
) -> Tensor:
    """Mean cross-entropy over the labels that count; 0 (with a zero gradient) for a batch in which none does.

    logits: (N, K, ...); labels: (N, ...) train ids or IGNORE; class_weights: (K,), the mean weighs each label by its class;
    label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et al., 2016, section 7).
    average: replaces tensors by their mean over the processes that hold parts of one batch (Device.average). Each sum is then
    divided by the mean weight of a part, not by its own: the mean of these losses, and of their gradients, over the processes is
    exactly that of the whole batch, however unevenly its labels count.
    """
    labels = labels.long()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    summed = F.cross_entropy(
        logits, labels, weight=class_weights, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
    )
    counted = labels != IGNORE
    if class_weights is None:
        weight = counted.sum().float()
    else:
        weight = (class_weights[labels.masked_fill(~counted, 0)] * counted).sum()
    if average is not None:
        average([weight])
    return summed / torch.where(weight > 0, weight, 1.0)


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64 counts of labels, on the device of the arguments: rows are labels, columns predictions.

    prediction: (...) class ids; labels: the same shape, train ids or IGNORE.
    """
    return multiclass_confusion_matrix(
        prediction.long(), labels.long(), num_classes, ignore_index=IGNORE, validate_args=False
    ).long()


def scores(confusion: Tensor) -> Scores:
    """The scores of a (K, K) confusion matrix (rows: labels). Without a single counted label the means are NaN."""
    counts = confusion.double().cpu()
    right, labelled, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    union = labelled + predicted - right
    iou = [100 * hit / whole if whole else None for hit, whole in zip(right.tolist(), union.tolist(), strict=True)]
    accuracy = [100 * hit / whole if whole else None for hit, whole in zip(right.tolist(), labelled.tolist(), strict=True)]
    total = float(labelled.sum())
    return Scores(
        mIoU=_mean(iou),
        mAcc=_mean(accuracy),
        aAcc=100 * float(right.sum()) / total if total else float("nan"),
        iou=tuple(iou),
        accuracy=tuple(accuracy),
        labels=tuple(int(number) for number in labelled.tolist()),
        absent=tuple(index for index, value in enumerate(iou) if value is None),
    )


def _mean(values: list[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else float("nan")
