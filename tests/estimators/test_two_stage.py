"""The two-stage estimate on a tiny drawn set: what it is trained on, its averages, its purity, its decisions and its errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.config import replace
from segnas.costs.counts import count
from segnas.data.base import IGNORE
from segnas.data.demo import Demo
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, UserError
from segnas.estimators.base import Estimate, Estimator
from segnas.estimators.candidate_images import CandidateImages
from segnas.estimators.encoder_training import EncoderConfig
from segnas.estimators.two_stage import PolyakAverage, TwoStageConfig, TwoStageEstimator
from segnas.nets.build import build
from segnas.nets.fast_nas import FastNasNetwork
from segnas.nets.mobilenet_v2 import MobileNetV2
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import sample
from segnas.spaces.fast_nas import FastNasOptions, FastNasSpace
from segnas.spaces.hand_made import UNet
from segnas.spaces.template_nas import TemplateNasOptions, TemplateNasSpace
from segnas.training.device import Device, DeviceConfig, launch
from segnas.training.model import TrainedModel

DATASET = Demo(size=(40, 48), train=14, val=1, test=0)
NORMALIZATION = Normalization((0.4, 0.45, 0.5), (0.2, 0.25, 0.3))
CONFIG = TwoStageConfig(
    validation_share=0.25,
    validation_crop=(40, 40),
    validation_batch_size=3,
    cached_samples=9,
    stage0_crop=(32, 32),
    stage0_epochs=2,
    stage0_batch_size=4,
    stage1_crop=(33, 33),
    stage1_batch_size=4,
    early_stopping="none",
)
ARCHITECTURE = sample(FastNasSpace(network=FastNasOptions(6, 1, True, 4)), np.random.default_rng(3))
GO_ON, STOP = ({"mean": mean, "delta": 0.3, "finished": 500} for mean in (0.0, 1e6))


@pytest.fixture(scope="module")
def device() -> Device:
    return launch(DeviceConfig(accelerator="cpu"))


@pytest.fixture
def make(device: Device, tmp_path: Path) -> Any:
    def made(config: TwoStageConfig = CONFIG, **more: Any) -> TwoStageEstimator:
        data = DataConfig(crop=(24, 24), scale=(0.9, 1.2))
        return TwoStageEstimator(DATASET, data, NORMALIZATION, device, config, tmp_path, seed=1, **more)

    return made


def test_it_is_an_estimator_and_costs_leave_auxiliary_heads_out(make: Any) -> None:
    estimator: Estimator = make()
    counts = count(ARCHITECTURE, (40, 48), len(DATASET.classes))
    assert estimator.costs(ARCHITECTURE) == {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}


def test_an_estimate_is_a_function_of_architecture_and_seed(make: Any) -> None:
    first = make()
    found = first.estimate(ARCHITECTURE, 5, {})
    assert set(found.metrics) == {"reward", "mIoU", "mAcc", "fwIoU", "stage0_reward"}
    product = found.metrics["mIoU"] * found.metrics["mAcc"] * found.metrics["fwIoU"]
    assert found.metrics["reward"] == pytest.approx(product ** (1 / 3))
    assert not found.stopped
    other = sample(TemplateNasSpace(network=TemplateNasOptions(4, 1, 4)), np.random.default_rng(0))
    make(replace(CONFIG, encoder_optimizer="adam")).estimate(other, 5, {})  # without auxiliary heads, with two maps
    torch.manual_seed(99)
    assert first.estimate(ARCHITECTURE, 5, {}) == found
    assert make().estimate(ARCHITECTURE, 5, {}) == found
    assert first.estimate(ARCHITECTURE, 6, {}) != found


def test_a_stopped_candidate_has_the_scores_of_stage_0(make: Any) -> None:
    quick = {"stage0_epochs": 12, "stage0_average": 0.0, "stage1_average": 0.0, "learning_rate": 0.02, "stage1_epochs": 2}
    estimator = make(replace(CONFIG, early_stopping="reference", **quick))
    stopped, whole = (estimator.estimate(ARCHITECTURE, 5, hint) for hint in (STOP, GO_ON))
    assert stopped.stopped
    assert stopped.metrics["reward"] == stopped.metrics["stage0_reward"]
    assert not whole.stopped
    assert whole.metrics["stage0_reward"] == stopped.metrics["stage0_reward"]
    assert whole.metrics["reward"] != stopped.metrics["reward"]
    hint = estimator.hint([Estimate({"reward": 9.0, "stage0_reward": 5.0}, stopped=False)])
    assert hint == {"mean": pytest.approx(0.99 + 0.05), "delta": 0.9, "finished": 1}


def test_what_is_kept_is_encoded_once_for_all_workers(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = CandidateImages._encode
    monkeypatch.setattr(CandidateImages, "_encode", lambda self, *more: calls.append(1) or encode(self, *more))
    for _ in range(2):
        estimator = make()
        network = build(ARCHITECTURE, 8)
        cached = estimator._encoded(estimator._load_encoder(network, ARCHITECTURE))
    assert len(calls) == 1
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 1
    assert [tuple(tap.shape) for tap in cached.taps] == [(9, c, s, s) for c, s in ((8, 8), (8, 4), (16, 2), (40, 1))]
    assert (cached.labels.shape, cached.labels.dtype) == ((9, 8, 8), torch.uint8)
    assert cached.teacher is None
    make(replace(CONFIG, stage0_crop=(36, 36))).estimate(ARCHITECTURE, 5, {})
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 2


def test_kept_maps_and_labels_are_those_of_the_views(make: Any) -> None:
    estimator = make()
    network = build(ARCHITECTURE, 8)
    encoder = estimator._load_encoder(network, ARCHITECTURE)
    cached = estimator._encoded(encoder)
    order = [images for images, _ in estimator.images.random_views(estimator.images.training, (32, 32), 1)]
    with torch.no_grad():
        maps = [encoder.eval()(images) for images in order]
    first = [next(i for i, found in enumerate(maps) if torch.allclose(found[0][0], tap, atol=1e-5)) for tap in cached.taps[0]]
    assert len(set(first)) == 9, "nine different training images"
    pairs = list(estimator.images.random_views(estimator.images.training, (32, 32), 1))
    for place, index in enumerate(first):
        assert torch.equal(cached.labels[place].long(), pairs[index][1][0, ::4, ::4])


def test_the_encoder_is_shared_and_its_weights_may_be_given(make: Any, tmp_path: Path) -> None:
    weights = MobileNetV2(width=4 / 32).state_dict()
    safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
    others = sample(FastNasSpace(network=ARCHITECTURE.network), np.random.default_rng(8))
    estimators = [make(), make(encoder=tmp_path / "weights.safetensors")]
    for estimator in estimators:
        states = []
        for architecture in (ARCHITECTURE, others):
            network = build(architecture, 8)
            states.append(copy.deepcopy(estimator._load_encoder(network, architecture).state_dict()))
        assert all(torch.equal(states[0][name], states[1][name]) for name in weights)
    assert all(torch.equal(states[0][name], weights[name]) for name in weights)


def teacher(folder: Path, classes: Any = DATASET.classes) -> Path:
    torch.manual_seed(0)
    network = build(UNet(2, 1), len(classes))
    TrainedModel(UNet(2, 1), network.eval(), classes, Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))).save(Run(folder))
    return folder


def test_a_teacher_pulls_the_logits_towards_its_own(make: Any, tmp_path: Path) -> None:
    path = teacher(tmp_path)
    plain = make()
    taught = make(replace(CONFIG, teacher=path, distillation_weight=100.0, stage0_epochs=30, auxiliary_weight=0.0))
    network = build(ARCHITECTURE, 8)
    cached = taught._encoded(taught._load_encoder(network, ARCHITECTURE))
    assert cached.teacher is not None
    assert cached.teacher.shape == (9, 8, 8, 8)
    assert plain._encoded(plain._load_encoder(network, ARCHITECTURE)).teacher is None

    def distance() -> float:
        with torch.no_grad():
            return float(
                F.mse_loss(F.interpolate(network.from_taps(cached.taps)[0], size=(8, 8), mode="bilinear"), cached.teacher)
            )

    before = distance()
    taught._train_decoder(network, cached, seed=0)
    assert distance() < 0.5 * before
    images = torch.randint(0, 256, (1, 3, 32, 32)).float()
    normalised = (images / 255 - torch.tensor(NORMALIZATION.mean)[:, None, None]) / torch.tensor(NORMALIZATION.std)[:, None, None]
    assert torch.allclose(taught.images.pixels(normalised), images, atol=1e-3)


def test_a_teacher_of_other_classes_is_refused(make: Any, tmp_path: Path) -> None:
    from segnas.data.base import Classes

    path = teacher(tmp_path, Classes(("a", "b"), ((0, 0, 0), (1, 1, 1)), source_ids=(0, 1)))
    with pytest.raises(UserError, match="knows other classes than demo"):
        make(replace(CONFIG, teacher=path)).estimate(ARCHITECTURE, 0, {})


def test_losses_are_the_sum_that_the_paper_states(make: Any) -> None:
    estimator = make()
    logits, heads = torch.randn(2, 8, 5, 5), (torch.randn(2, 8, 3, 3), torch.randn(2, 8, 5, 5))
    labels = torch.randint(0, 8, (2, 5, 5))
    labels[0, 0] = IGNORE

    def entropy(x: Tensor) -> Tensor:
        grown = F.interpolate(x, size=(5, 5), mode="bilinear", align_corners=False)
        return F.cross_entropy(grown, labels, ignore_index=IGNORE)

    expected = entropy(logits) + 0.15 * (entropy(heads[0]) + entropy(heads[1]))
    assert torch.allclose(estimator._loss(logits, heads, labels), expected)


def test_the_polyak_average_follows_and_replaces_the_weights() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    average = PolyakAverage([weight], 0.9)
    expected = weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            weight += step + 1
        average.update()
        expected = 0.9 * expected + 0.1 * weight.detach()
    average.to_weights()
    assert torch.allclose(weight, expected)
    average.update()
    assert torch.allclose(average.averages[0], expected)


def test_stage_0_leaves_the_encoder_and_stage_1_moves_it(make: Any) -> None:
    estimator = make()
    network = build(ARCHITECTURE, 8)
    assert isinstance(network, FastNasNetwork)
    network.add_auxiliary_head(8)
    cached = estimator._encoded(estimator._load_encoder(network, ARCHITECTURE))

    def state(part: nn.Module) -> list[Tensor]:
        return [tensor.clone() for tensor in part.state_dict().values()]

    for train, moved in (
        (lambda: estimator._train_decoder(network, cached, 0), False),
        (lambda: estimator._train_all(network, 0), True),
    ):
        encoder, decoder = state(network.encoder), state(network.decoder)
        train()
        assert any(not torch.equal(a, b) for a, b in zip(encoder, state(network.encoder), strict=True)) == moved
        assert any(not torch.equal(a, b) for a, b in zip(decoder, state(network.decoder), strict=True))


def test_a_teacher_is_found_wherever_the_run_is_continued_from() -> None:
    assert replace(CONFIG, teacher=Path("runs/a")).teacher == Path.cwd() / "runs" / "a"


def test_every_held_out_image_counts(make: Any) -> None:
    """Five images at three a batch: the reward is that of all 5 * 40 * 40 pixels."""
    estimator = make(replace(CONFIG, validation_share=0.35))
    assert len(estimator.images.held_out) == 5
    network = build(ARCHITECTURE, 8)
    alone = make(replace(CONFIG, validation_share=0.35, validation_batch_size=5))
    assert estimator.score(network) == alone.score(network)


def test_of_a_small_set_a_batch_has_all_images(make: Any) -> None:
    large, fitting = (make(replace(CONFIG, stage0_batch_size=a, stage1_batch_size=b)) for a, b in ((99, 99), (9, 10)))
    assert (large.config.stage0_batch_size, large.config.stage1_batch_size) == (9, 10)
    assert large.estimate(ARCHITECTURE, 0, {}) == fitting.estimate(ARCHITECTURE, 0, {})


def test_what_cannot_be_done_is_said_in_one_line(make: Any) -> None:
    cases: list[tuple[TwoStageConfig, Architecture, type[Exception], str]] = [
        (CONFIG, UNet(2, 1), UserError, "the family 'unet' have no encoder"),
        (replace(CONFIG, learning_rate=1e30), ARCHITECTURE, Diverged, "the loss is no number in stage 0"),
        (replace(CONFIG, encoder_learning_rate=1e30), ARCHITECTURE, Diverged, "the loss is no number in stage 1"),
    ]
    for config, architecture, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            make(config).estimate(architecture, 0, {})
        assert "\n" not in str(caught.value)


def test_the_encoder_is_trained_first_where_it_is_to_be(make: Any, tmp_path: Path) -> None:
    config = EncoderConfig(epochs=1, batch_size=4)
    estimator = make(encoder=config)
    estimator.prepare(ARCHITECTURE)
    trained = safetensors.torch.load_file(tmp_path / "encoder.safetensors")
    network = build(ARCHITECTURE, 8)
    again = make(encoder=config)
    assert all(
        torch.equal(trained[name], tensor) for name, tensor in again._load_encoder(network, ARCHITECTURE).state_dict().items()
    )
    drawn = make()._load_encoder(build(ARCHITECTURE, 8), ARCHITECTURE).state_dict()
    assert any(not torch.equal(trained[name], tensor) for name, tensor in drawn.items())
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 1


def test_the_forecast_is_of_both_stages(make: Any) -> None:
    estimator = make()
    alone, shared = (estimator.preflight(ARCHITECTURE, 10, workers) for workers in (0, 2))
    assert alone.steps == 10
    assert alone.seconds > 10 * alone.seconds_per_step
    assert shared.seconds < alone.seconds * 3
    assert estimator.metrics[0] == "reward"
    assert "two stages" in str(estimator)


def test_a_smaller_network_is_trained_in_the_place_of_the_architecture(make: Any) -> None:
    smaller = sample(FastNasSpace(network=FastNasOptions(4, 1, True, 4)), np.random.default_rng(3))
    estimator = make(child=lambda architecture: smaller)
    assert estimator.costs(ARCHITECTURE)["parameters"] == count(ARCHITECTURE, (40, 48), 8).parameters
    network = estimator._network(ARCHITECTURE, 0)
    assert sum(p.numel() for p in network.decoder.parameters()) < sum(
        p.numel()
        for p in build(ARCHITECTURE, 8).decoder.parameters()  # type: ignore[union-attr]
    )
