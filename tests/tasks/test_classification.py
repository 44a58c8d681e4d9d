"""Classification by hand: a confusion matrix of images, its scores, and the loss with smoothed labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segnas.data.base import IGNORE
from segnas.errors import UserError
from segnas.tasks import tasks
from segnas.tasks.base import confusion_matrix, cross_entropy, scores

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, IGNORE, 0])
PREDICTION = torch.tensor([0, 1, 0, 1, 2, 2, 2, 0])


def test_the_figures_of_eight_images_counted_by_hand() -> None:
    """Of class 0 three of four are right, of class 1 one of two, of class 2 the only one; one image counts nowhere."""
    confusion = confusion_matrix(PREDICTION, LABELS, 4)
    assert confusion.tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    found = scores(confusion)
    assert found.labels == (4, 2, 1, 0)
    assert found.accuracy == (75.0, 50.0, 100.0, None)
    task = tasks["classification"]
    assert task.figures(found) == {"accuracy": pytest.approx(100 * 5 / 7), "mAcc": 75.0}
    assert task.deciding(found) == pytest.approx(100 * 5 / 7)


@pytest.mark.parametrize("name", list(tasks))
def test_the_deciding_figure_comes_first(name: str) -> None:
    task = tasks[name]
    assert next(iter(task.figures(scores(torch.eye(3))))) == task.metric
    assert task.dense == (name == "segmentation")


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'clasification'; did you mean 'classification'"):
        tasks["clasification"]


@pytest.mark.parametrize("shape", [(7,), (2, 5, 6)])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 0.0, 1.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_smoothed_labels_are_those_of_torch(shape: tuple[int, ...], weights: Any, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, shape, generator=generator)
    labels.view(-1)[::4] = IGNORE
    logits = torch.randn(shape[0], 4, *shape[1:], generator=generator)
    weights = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORE, label_smoothing=smoothing)
    assert cross_entropy(logits, labels, weights, smoothing).item() == pytest.approx(expected.item(), rel=1e-6)


def test_smoothed_labels_by_definition() -> None:
    """The target is 1 - e + e / K for the label and e / K for every other class."""
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = [2, 0, 1, 1, 0]
    total = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        partition = sum(math.exp(value) for value in row)
        target = [0.2 / 3 + (0.8 if index == label else 0.0) for index in range(3)]
        total -= sum(share * math.log(math.exp(value) / partition) for share, value in zip(target, row, strict=True))
    assert cross_entropy(logits, torch.tensor(labels), label_smoothing=0.2).item() == pytest.approx(total / 5, rel=1e-6)


def test_no_smoothing_is_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(3, 5, 9, 9, generator=generator), torch.randint(0, 5, (3, 9, 9), generator=generator)
    summed = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    assert torch.equal(cross_entropy(logits, labels), summed / labels.numel())
    assert np.float32(cross_entropy(logits, labels, None, 0.0)) == np.float32(summed / labels.numel())
