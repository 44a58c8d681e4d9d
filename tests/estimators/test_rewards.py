"""The reward of a confusion matrix, by hand."""

from __future__ import annotations

import pytest
import torch

from segnas.errors import UserError
from segnas.estimators.rewards import geometric_reward

# rows: labels of 4 classes; class 3 is nowhere, class 2 is predicted but never labelled
CONFUSION = torch.tensor([[50, 10, 0, 0], [5, 30, 5, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_all_classes_that_are_present() -> None:
    ious = [50 / 65, 30 / 50, 0.0]
    accuracies = [50 / 60, 30 / 40]
    weighted = (60 * ious[0] + 40 * ious[1]) / 100
    found = geometric_reward(CONFUSION)
    assert found["mIoU"] == pytest.approx(100 * sum(ious) / 3)
    assert found["mAcc"] == pytest.approx(100 * sum(accuracies) / 2)
    assert found["fwIoU"] == pytest.approx(100 * weighted)
    assert found["reward"] == pytest.approx(100 * (sum(ious) / 3 * sum(accuracies) / 2 * weighted) ** (1 / 3))


def test_without_the_background() -> None:
    found = geometric_reward(CONFUSION, omit_first_class=True)
    assert found["mIoU"] == pytest.approx(100 * (30 / 50 + 0) / 2)
    assert found["mAcc"] == pytest.approx(75)
    assert found["fwIoU"] == pytest.approx(60)


@pytest.mark.parametrize("confusion", [torch.zeros(3, 3), torch.diag(torch.tensor([5, 0, 0]))])
def test_nothing_to_score_is_an_error(confusion: torch.Tensor) -> None:
    with pytest.raises(UserError, match="no pixel of the images that candidates are scored on has a label that counts"):
        geometric_reward(confusion, omit_first_class=True)
