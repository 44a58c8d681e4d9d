"""Loss, confusion matrix and scores against sets of pixels and plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segnas.data.base import IGNORE
from segnas.tasks.base import confusion_matrix, cross_entropy, scores


def drawn(seed: int, num_classes: int, shape: tuple[int, ...], never: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    allowed = [index for index in range(num_classes) if index not in never]
    prediction, label = generator.choice(allowed, shape), generator.choice(allowed, shape)
    label[generator.random(shape) < 0.2] = IGNORE
    return prediction, label


def pixel_sets(prediction: np.ndarray, label: np.ndarray, index: int) -> tuple[set[int], set[int]]:
    """Positions predicted as the class and labelled so, among those that count."""
    prediction, label = prediction.ravel(), label.ravel()
    return (
        {i for i in range(label.size) if label[i] != IGNORE and prediction[i] == index},
        {i for i in range(label.size) if label[i] == index},
    )


@pytest.mark.parametrize(("seed", "num_classes", "never"), [(0, 2, ()), (1, 5, (3,)), (2, 19, (0, 18)), (3, 150, ())])
def test_scores_are_those_of_sets_of_pixels(seed: int, num_classes: int, never: tuple[int, ...]) -> None:
    prediction, label = drawn(seed, num_classes, (2, 17, 23), never)
    found = scores(confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), num_classes))
    iou, accuracy = [], []
    for index in range(num_classes):
        predicted, labelled = pixel_sets(prediction, label, index)
        union = predicted | labelled
        expected = 100 * len(predicted & labelled) / len(union) if union else None
        assert found.iou[index] == pytest.approx(expected)
        assert found.labels[index] == len(labelled)
        iou += [expected] if union else []
        accuracy += [100 * len(predicted & labelled) / len(labelled)] if labelled else []
    assert found.absent == tuple(index for index in range(num_classes) if found.iou[index] is None)
    assert set(never) <= set(found.absent)
    assert found.mIoU == pytest.approx(sum(iou) / len(iou))
    assert found.mAcc == pytest.approx(sum(accuracy) / len(accuracy))
    counted = label != IGNORE
    assert found.aAcc == pytest.approx(100 * (prediction == label)[counted].mean())


def test_rows_of_the_confusion_matrix_are_labels() -> None:
    label, prediction = torch.tensor([[0, 0, 0, IGNORE, 1]]), torch.tensor([[0, 2, 2, 1, 1]])
    assert confusion_matrix(prediction, label, 3).tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]
    assert confusion_matrix(prediction, label, 3).dtype == torch.int64


def test_a_class_that_is_only_predicted_counts_with_zero() -> None:
    found = scores(torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 0]]))
    assert found.iou == (75.0, None, 0.0)
    assert found.absent == (1,)
    assert found.mIoU == 37.5
    assert found.accuracy == (75.0, None, None)
    assert found.mAcc == 75.0


def test_without_a_counted_pixel_the_means_are_not_a_number() -> None:
    found = scores(confusion_matrix(torch.zeros(4), torch.full((4,), IGNORE), 3))
    assert all(math.isnan(value) for value in (found.mIoU, found.mAcc, found.aAcc))
    assert found.absent == (0, 1, 2)


def test_loss_is_the_mean_over_counted_pixels() -> None:
    _, label = drawn(4, 6, (2, 9, 11))
    logits = torch.randn(2, 6, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probability = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    losses = [-math.log(probability[n, label[n, y, x], y, x]) for n, y, x in np.ndindex(label.shape) if label[n, y, x] != IGNORE]
    assert cross_entropy(logits, torch.from_numpy(label)).item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_class_weights_weigh_the_mean() -> None:
    _, label = drawn(5, 4, (1, 8, 8))
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    expected = F.cross_entropy(logits, torch.from_numpy(label), weight=weights, ignore_index=IGNORE)
    assert cross_entropy(logits, torch.from_numpy(label), weights).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [None, torch.ones(3)])
def test_a_batch_without_counted_pixels_gives_zero_and_a_zero_gradient(weights: torch.Tensor | None) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), IGNORE, dtype=torch.uint8), weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
