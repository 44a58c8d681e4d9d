"""Image classification: one class an image. The share of images that are right decides."""

from __future__ import annotations

from segnas.tasks.base import Scores, Task, tasks


def figures(found: Scores) -> dict[str, float]:
    """Share of images that are right (top-1 accuracy), and its mean over the classes, in percent."""
    return {"accuracy": found.aAcc, "mAcc": found.mAcc}


CLASSIFICATION = Task("classification", "image", "accuracy", figures, batch_size=128)
tasks.register(CLASSIFICATION.name)(CLASSIFICATION)
