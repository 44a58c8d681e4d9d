"""Semantic segmentation as a task: one class a pixel. The loss, the confusion matrix and the scores read off it.

Labels are train ids `0 .. K-1` or IGNORE, which counts nowhere. Every score of segnas comes from one confusion matrix over
the whole set (never a mean over images), in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segnas.data.base import IGNORE


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says, in percent. A class that is in neither prediction nor label has no IoU (None)."""

    mIoU: float  # noqa: N815 - the field's own spelling; mean IoU over the classes that are not absent
    mAcc: float  # noqa: N815 - mean accuracy (recall) over the classes that are labelled
    aAcc: float  # noqa: N815 - share of counted pixels that are right
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]  # None for a class without a labelled pixel
    pixels: tuple[int, ...]  # labelled pixels a class
    absent: tuple[int, ...]  # classes in neither prediction nor label: left out of the mean


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    average: Callable[[Sequence[Tensor]], None] | None = None,
) -> Tensor:
    """Mean cross-entropy over the pixels that count; 0 (with a zero gradient) for a batch in which none does.

    logits: (N, K, H, W); labels: (N, H, W) train ids or IGNORE; class_weights: (K,), the mean weighs each pixel by its class.
    average: replaces tensors by their mean over the processes that hold parts of one batch (Device.average). Each sum is then
    divided by the mean weight of a part, not by its own: the mean of these losses, and of their gradients, over the processes is
    exactly that of the whole batch, however unevenly its pixels count.
    """
    labels = labels.long()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    summed = F.cross_entropy(logits, labels, weight=class_weights, ignore_index=IGNORE, reduction="sum")
    counted = labels != IGNORE
    if class_weights is None:
        weight = counted.sum().float()
    else:
        weight = (class_weights[labels.masked_fill(~counted, 0)] * counted).sum()
    if average is not None:
        average([weight])
    return summed / torch.where(weight > 0, weight, 1.0)


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(K, K) int64 counts of pixels, on the device of the arguments: rows are labels, columns predictions.

    prediction: (...) class ids; labels: the same shape, train ids or IGNORE.
    """
    return multiclass_confusion_matrix(
        prediction.long(), labels.long(), num_classes, ignore_index=IGNORE, validate_args=False
    ).long()


def scores(confusion: Tensor) -> Scores:
    """The scores of a (K, K) confusion matrix (rows: labels). Without a single counted pixel the means are NaN."""
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
        pixels=tuple(int(pixels) for pixels in labelled.tolist()),
        absent=tuple(index for index, value in enumerate(iou) if value is None),
    )


def _mean(values: list[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else float("nan")
