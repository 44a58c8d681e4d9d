"""The estimate by short training: what it is trained and scored on, that it is a function of architecture and seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_images import SmallImages

from segnas.costs.counts import count
from segnas.data.demo import Demo
from segnas.data.held_out import HeldOut
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, UserError
from segnas.estimators.base import TrialEstimator
from segnas.estimators.short_training import ShortTraining, ShortTrainingConfig
from segnas.spaces.hand_made import ResNet, UNet
from segnas.training.device import Device
from segnas.training.evaluate import EvaluationConfig, evaluate
from segnas.training.retrain import RetrainConfig

RECIPE = RetrainConfig(epochs=2, batch_size=4, learning_rate=0.05, validate_every=0)
NETWORK = UNet(4, 2)


@pytest.fixture
def make(demo: Demo, data: DataConfig, normalization: Normalization, device: Device) -> Any:
    def made(**changes: Any) -> ShortTraining:
        config = ShortTrainingConfig(**({"recipe": RECIPE, "held_out": 0.3} | changes))
        return ShortTraining(demo, data, normalization, device, config, 3)

    return made


def test_no_image_is_trained_and_scored_on_and_no_other_split_is_read(demo: Demo) -> None:
    parts = HeldOut(demo, 0.3, seed=5)
    train, val = (set(parts.splits[split]) for split in ("train", "val"))
    assert train | val == set(demo.splits["train"])
    assert not train & val
    assert len(val) == int(0.3 * len(demo.splits["train"]))
    for split in ("train", "val"):
        for index, name in enumerate(parts.splits[split]):
            sample = parts.read(split, index)
            assert sample.name == name
            assert np.array_equal(sample.image, demo.read("train", demo.splits["train"].index(name)).image)
            assert parts.size(split, index) == sample.image.shape[:2]
    assert HeldOut(demo, 0.3, seed=5).splits == parts.splits != HeldOut(demo, 0.3, seed=6).splits
    fewer = HeldOut(demo, 0.3, seed=5, trained=4, scored=2)
    assert (len(fewer.splits["train"]), len(fewer.splits["val"])) == (4, 2)
    assert set(fewer.splits["train"]) <= train
    assert len(HeldOut(demo, 1e-9, seed=5).splits["val"]) == 1
    with pytest.raises(UserError, match="of 1 training images a search cannot hold out 1"):
        HeldOut(Demo(size=(40, 48), train=1, val=1, test=0), 0.5, seed=0)


def test_an_estimate_is_a_function_of_architecture_and_seed(make: Any) -> None:
    estimator: TrialEstimator = make()
    first = estimator.estimate(NETWORK, 7, {})
    torch.manual_seed(99)
    assert make().estimate(NETWORK, 7, {}) == first
    assert estimator.estimate(NETWORK, 8, {}) != first
    assert tuple(first.metrics) == estimator.metrics == ("mIoU", "mAcc", "aAcc")
    assert not first.stopped


def test_the_score_is_that_of_an_evaluation_of_the_held_out_images(make: Any, device: Device) -> None:
    estimator = make()
    this = estimator.training(NETWORK, 7)
    while this.step < this.steps:
        for batch in this.remaining_batches():
            this.train_step(batch)
    this.network.eval()
    whole = evaluate(this.model, estimator.dataset, EvaluationConfig(), device)
    assert estimator.estimate(NETWORK, 7, {}).metrics == pytest.approx(dict(whole.figures))


def test_costs_are_of_the_architecture_and_training_of_its_child(make: Any, demo: Demo, data: DataConfig, device: Device) -> None:
    estimator = make()
    counts = count(NETWORK, (36, 48), 8)
    assert estimator.costs(NETWORK) == {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}
    estimator.child = lambda architecture: UNet(2, 1)
    assert estimator.costs(NETWORK)["parameters"] == counts.parameters
    assert estimator.training(NETWORK, 0).model.architecture == UNet(2, 1)


def test_what_does_not_fit_is_refused_and_divergence_raises(make: Any, demo: Demo) -> None:
    with pytest.raises(UserError, match=r"images are left to train a trial on, too few for a batch; set search\.training"):
        make(trained_images=3)
    for wrong in ({"validate_every": 1}, {"seed": 5}):
        with pytest.raises(Exception, match="a trial is scored at its end"):
            ShortTrainingConfig(recipe=RetrainConfig(**({"validate_every": 0} | wrong)))
    diverging = RetrainConfig(epochs=3, batch_size=4, learning_rate=1e30, momentum=0, validate_every=0)
    with pytest.raises(Diverged):
        make(recipe=diverging).estimate(NETWORK, 0, {})


def test_the_forecast_is_of_all_trials(make: Any) -> None:
    estimator = make()
    alone, shared = estimator.preflight(NETWORK, 10, 0), estimator.preflight(NETWORK, 10, 2)
    assert (alone.steps, shared.steps) == (10, 10)
    assert alone.seconds == pytest.approx(10 * alone.seconds_per_step)
    assert shared.seconds == pytest.approx(5 * shared.seconds_per_step)
    assert alone.memory_bytes > 0
    assert "2 epochs" in str(estimator)


def test_small_images_of_one_class_each(device: Device) -> None:
    dataset = SmallImages()
    config = ShortTrainingConfig(recipe=RECIPE, held_out=0.25)
    data, normalization = DataConfig(crop=(16, 16), scale=(1.0, 1.0), padding=2), Normalization((0.5,) * 3, (0.25,) * 3)
    estimator = ShortTraining(dataset, data, normalization, device, config, 0)
    assert estimator.metrics == ("accuracy", "mAcc")
    assert 0 <= estimator.estimate(ResNet(4, 8), 0, {}).metrics["accuracy"] <= 100
