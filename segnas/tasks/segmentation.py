"""Semantic segmentation: one class a pixel. The mean IoU over the classes decides."""

from __future__ import annotations

from segnas.tasks.base import Scores, Task, tasks


def figures(found: Scores) -> dict[str, float]:
    """Mean IoU, mean accuracy of the classes, and share of pixels that are right, in percent."""
    return {"mIoU": found.mIoU, "mAcc": found.mAcc, "aAcc": found.aAcc}


# Images one by one: they may be large and of many sizes.
SEGMENTATION = Task("segmentation", "pixel", "mIoU", figures, batch_size=1)
tasks.register(SEGMENTATION.name)(SEGMENTATION)
