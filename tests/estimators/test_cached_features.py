"""The estimator of dense prediction cells: its features, its score against an evaluation, its purity, its early end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dpc_golden import architecture
from small_images import SmallImages

from segnas import zoo
from segnas.config import replace
from segnas.costs.counts import count
from segnas.data.base import Sample
from segnas.data.demo import Demo
from segnas.data.loading import TrainingBatches
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, UserError
from segnas.estimators import encoding
from segnas.estimators.base import Estimator
from segnas.estimators.cached_features import CachedFeatureConfig, CachedFeatureEstimator
from segnas.estimators.encoder_training import EncoderConfig
from segnas.nets.build import build
from segnas.nets.dpc import DpcNetwork, make_encoder
from segnas.randomness import forked
from segnas.training.device import Device
from segnas.training.evaluate import EvaluationConfig, score
from segnas.training.model import TrainedModel
from segnas.training.optimization import set_batch_norm_momentum

NARROW: dict[str, Any] = {"encoder_width": 0.1, "cell_width": 6, "low_level_width": 4, "decoder_width": 6}
CELL = architecture([(-1, "conv_1x1"), (-1, "avg_pool_grid_1x1"), (0, "sep_conv_3x3_rate_1x3")], **NARROW)
OTHER = architecture([(-1, "sep_conv_3x3_rate_3x3"), (0, "avg_pool_grid_2x2"), (1, "conv_1x1")], **NARROW)
CONFIG = CachedFeatureConfig(
    cached_samples=20, held_out=4, steps=12, batch_size=4, validate_every=5, encoder=EncoderConfig(epochs=1, batch_size=4)
)

Make = Callable[..., CachedFeatureEstimator]


@pytest.fixture
def make(demo: Demo, data: DataConfig, normalization: Normalization, device: Device, tmp_path: Path) -> Make:
    """An estimator with an encoder of random weights whose batch norms have seen the images: its features tell them apart."""
    images = torch.stack([normalization(demo.read("train", index).image) for index in range(14)])
    with forked(1), torch.no_grad():
        encoder = make_encoder(CELL.network)
        set_batch_norm_momentum(encoder, 1.0)
        encoder(images)
    weights = tmp_path / "weights" / "encoder.safetensors"
    weights.parent.mkdir()
    safetensors.torch.save_file(encoder.state_dict(), weights)

    def made(config: CachedFeatureConfig = CONFIG, **changes: Any) -> CachedFeatureEstimator:
        values = {"dataset": demo, "data": data, "folder": tmp_path, "encoder": weights, "seed": 3, "network": CELL.network}
        values |= changes
        return CachedFeatureEstimator(config=config, normalization=normalization, device=device, **values)

    return made


def test_costs_are_those_of_the_whole_network(make: Make) -> None:
    estimator: Estimator = make()
    counts = count(CELL, (36, 48), 8)  # 48x64 resized by 0.75
    assert estimator.costs(CELL) == {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}
    assert estimator.hint([]) == {}


def test_the_features_are_the_encoders_of_views_and_of_whole_images(make: Make, demo: Demo) -> None:
    estimator = make()
    features = estimator.features
    assert len(estimator.held_out) == 4
    assert sorted(estimator.held_out + estimator.used) == list(range(14))
    encoder = estimator.encoder()
    batches = TrainingBatches(demo, "train", estimator.used, estimator.data, estimator.normalization, 8, 3, "cached")
    seen = [next(iter(batches.epoch(epoch))) for epoch in range(3)]  # ten images: one batch an epoch
    with torch.no_grad():
        low_level, *_, last = encoder(torch.cat([batch.images for batch in seen])[:20])
    assert torch.allclose(features["training.maps.0"], low_level, atol=1e-5)
    assert torch.allclose(features["training.maps.1"], last, atol=1e-5)
    assert torch.equal(features["training.labels"].long(), torch.cat([batch.labels for batch in seen])[:20])
    assert features["held_out.3.maps.1"].shape == (last.shape[1], 3, 3)  # 36x48 at stride 16
    assert torch.equal(features["held_out.3.labels"], torch.from_numpy(demo.read("train", estimator.held_out[3]).label))
    assert not features["training.maps.0"].requires_grad


@dataclasses.dataclass
class HeldOut:
    """The held-out images as a split of their own."""

    demo: Demo
    indices: tuple[int, ...]
    name = "held out"
    task = "segmentation"

    def __post_init__(self) -> None:
        self.classes = self.demo.classes
        self.splits = {"val": tuple(f"{index}" for index in self.indices)}

    def read(self, split: str, index: int) -> Sample:
        return self.demo.read("train", self.indices[index])

    def size(self, split: str, index: int) -> tuple[int, int]:
        return self.demo.size("train", self.indices[index])


def test_the_score_is_that_of_an_evaluation_of_the_whole_network(make: Make, demo: Demo, device: Device) -> None:
    estimator = make(replace(CONFIG, steps=40))
    head = estimator.new_head(CELL, seed=9)
    found = [scores for _, scores in estimator.validations(head, seed=9)][-1]
    network = build(CELL, 8)
    assert isinstance(network, DpcNetwork)
    network.encoder.load_state_dict(estimator.encoder().state_dict())
    network.head.load_state_dict(head.state_dict())
    model = TrainedModel(CELL, network.eval(), demo.classes, estimator.normalization, estimator.data.resize)
    expected = score(model, HeldOut(demo, estimator.held_out), EvaluationConfig(), device)
    assert found.mIoU == pytest.approx(expected.mIoU, abs=0.05)  # the same to rounding: a pixel or two may fall otherwise
    assert found.labels == expected.labels
    assert sum(accuracy > 5 for accuracy in found.accuracy if accuracy is not None) > 2, "several classes are predicted"


def test_an_estimate_depends_on_architecture_and_seed_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make().estimate(CELL, 7, {})
    assert set(first.metrics) == {"mIoU", "mAcc", "aAcc"}
    another = make()
    monkeypatch.setattr(CachedFeatureEstimator, "_make_features", None)  # they are in the folder
    torch.manual_seed(1234)
    assert another.estimate(OTHER, 7, {}) != first
    assert another.estimate(CELL, 7, {}) == first
    assert another.estimate(CELL, 8, {}) != first


def test_training_helps(make: Make) -> None:
    estimator = make(replace(CONFIG, steps=100, validate_every=100, learning_rate=0.02))
    untrained = estimator.validate(estimator.new_head(CELL, 0))
    assert estimator.estimate(CELL, 0, {}).metrics["mIoU"] > untrained.mIoU + 10


def test_it_is_scored_every_so_often_and_at_the_end(make: Make) -> None:
    estimator = make()
    assert [step for step, _ in estimator.validations(estimator.new_head(CELL, 0), 0)] == [5, 10, 12]


@pytest.mark.parametrize(("values", "patience", "expected"), [
    ((30.0, 20.0, 25.0, 50.0, 60.0), 2, 30.0),
    ((30.0, 20.0, 31.0, 25.0, 60.0), 2, 60.0),
    ((30.0, 20.0, 31.0, 25.0, 29.0), 2, 31.0),
    ((30.0, 20.0, 21.0, 25.0, 29.0), 0, 30.0),
])  # fmt: skip
def test_it_ends_when_there_is_no_new_best(
    make: Make, monkeypatch: pytest.MonkeyPatch, values: tuple[float, ...], patience: int, expected: float
) -> None:
    estimator = make(replace(CONFIG, steps=5, validate_every=1, patience=patience))
    real, given = estimator.validate, iter(values)
    monkeypatch.setattr(estimator, "validate", lambda head: dataclasses.replace(real(head), mIoU=next(given)))
    found = estimator.estimate(CELL, 0, {})
    assert (found.metrics["mIoU"], found.stopped) == (expected, False)


def test_a_loss_that_is_no_number(make: Make) -> None:
    with pytest.raises(Diverged, match="within 5 steps; lower the estimator's learning_rate"):
        make(replace(CONFIG, optimizer="sgd", learning_rate=1e38)).estimate(CELL, 0, {})


def test_the_encoder_is_trained_when_no_weights_are_given(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = make(encoder=None)
    estimator.prepare(CELL)
    assert (tmp_path / "encoder.safetensors").exists()
    files = list(tmp_path.glob("features-*.safetensors"))
    assert len(files) == 1
    again = make(encoder=None)
    monkeypatch.setattr(again, "_make_features", None)
    assert again.estimate(CELL, 7, {}) == estimator.estimate(CELL, 7, {})
    make().prepare(CELL)  # other weights: other features, in a file of their own
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 2


def test_what_does_not_fit_is_refused(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = make()
    wider = architecture([(-1, "conv_1x1")], **{**NARROW, "encoder_width": 0.5})
    with pytest.raises(UserError, match=r"features are of network\.encoder_width=0\.1, and the architecture has 0\.5"):
        estimator.estimate(wider, 0, {})
    with pytest.raises(UserError, match="judges dense prediction cells, not networks of the family 'auto-deeplab'"):
        estimator.costs(zoo.load("auto-deeplab-s").architecture)
    assert len(make(replace(CONFIG, held_out=14)).held_out) == 4  # a third of 14
    with pytest.raises(UserError, match="small-images has one class an image"):
        make(dataset=SmallImages())
    with pytest.raises(UserError, match=r"batch_size=30 is more than cached_samples=20"):
        replace(CONFIG, batch_size=30)
    safetensors.torch.save_file(make_encoder(wider.network).state_dict(), tmp_path / "wider.safetensors")
    with pytest.raises(UserError, match=r"wider\.safetensors is of another encoder than the network's: .* differs"):
        make(encoder=tmp_path / "wider.safetensors").prepare(CELL)
    monkeypatch.setattr(encoding, "free_memory", lambda: 100_000)
    with pytest.raises(UserError, match=r"cached_samples=20 views take .* set it to at most \d+, or choose a smaller data\.crop"):
        estimator.prepare(CELL)


def test_the_forecast_counts_the_encoder_once_and_trials_by_workers(make: Make) -> None:
    given, trained = make(), make(encoder=None)
    alone, shared = given.preflight(CELL, 10, 0), given.preflight(CELL, 10, 2)
    assert alone.steps == shared.steps == 10
    assert alone.seconds > 10 * alone.seconds_per_step
    assert alone.once > 0
    assert alone.seconds == pytest.approx(alone.once + 10 * alone.seconds_per_step)
    assert shared.seconds == pytest.approx(shared.once + 5 * shared.seconds_per_step)
    before = [one.preflight(CELL, 1, 0) for one in (given, trained)]
    assert before[1].seconds - before[1].seconds_per_step > before[0].seconds - before[0].seconds_per_step
    assert given.metrics[0] == "mIoU"
    assert "12 steps" in str(given)
