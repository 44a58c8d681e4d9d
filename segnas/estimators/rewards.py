"""One figure from several scores of a segmentation: what a search of Fast NAS maximises."""

from __future__ import annotations

from torch import Tensor

from segnas.errors import UserError
from segnas.tasks.base import scores


def geometric_reward(confusion: Tensor, omit_first_class: bool = False) -> dict[str, float]:
    """{"reward", "mIoU", "mAcc", "fwIoU"} in percent of a (K, K) confusion matrix, rows are labels.

    reward: the geometric mean of the other three (Nekrasov et al., CVPR 2019, section 3.3). fwIoU: the IoU of each class weighed
    by its share of the labelled pixels. omit_first_class: class 0 (the background of VOC) is left out of the means, though its
    pixels still count as mistakes of others. Classes in neither prediction nor label are left out as well. Raises UserError when
    no class that counts is labelled.
    """
    found = scores(confusion)
    counted = range(int(omit_first_class), len(found.iou))
    ious = {index: iou for index in counted if (iou := found.iou[index]) is not None}
    accuracies = [accuracy for index in counted if (accuracy := found.accuracy[index]) is not None]
    labelled = sum(found.labels[index] for index in counted)
    if not labelled:
        raise UserError("no pixel of the images that candidates are scored on has a label that counts; score on more images")
    mean_iou = sum(ious.values()) / len(ious)
    mean_accuracy = sum(accuracies) / len(accuracies)
    weighted = sum(found.labels[index] * iou for index, iou in ious.items()) / labelled
    reward = (mean_iou * mean_accuracy * weighted) ** (1 / 3)
    return {"reward": reward, "mIoU": mean_iou, "mAcc": mean_accuracy, "fwIoU": weighted}
