"""Classification through training and evaluation: plain loops, an auxiliary head that is left behind, what is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from small_images import NAMES, PlainNetwork, SmallImages, TinyClassifier, TinyNetwork, TinyPlainClassifier
from torch.nn import functional as F

from segnas.data.base import IGNORE, Sample
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Interrupted, UserError
from segnas.runs.run import Run
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.training.device import Device
from segnas.training.evaluate import EvaluationConfig, evaluate, score
from segnas.training.inference import ImageAnswer
from segnas.training.model import FILE, TrainedModel
from segnas.training.panels import choose_answers
from segnas.training.preflight import part_of
from segnas.training.recipe import RetrainConfig, recipe
from segnas.training.retrain import Retraining, _class_weights, retrain

DATA = DataConfig(crop=(32, 32), scale=(1.0, 1.0), padding=4, cutout=16)
OF_SET = Normalization((0.45, 0.45, 0.45), (0.3, 0.3, 0.3))
RECIPE = RetrainConfig(epochs=2, batch_size=6, learning_rate=0.05, validate_every=1, auxiliary_weight=0.4, label_smoothing=0.1)


@pytest.fixture(scope="module")
def small() -> SmallImages:
    return SmallImages()


@pytest.fixture
def model(small: SmallImages) -> TrainedModel:
    """Right more often than not, and not always."""
    torch.manual_seed(3)
    network = PlainNetwork(TinyClassifier(), 6)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    images = torch.stack([OF_SET(small.read("train", index).image) for index in range(24)])
    for _ in range(15):
        F.cross_entropy(network(images), torch.arange(24) % 6).backward()
        optimizer.step()
        optimizer.zero_grad()
    return TrainedModel(TinyClassifier(), network.eval(), small.classes, OF_SET)


def slow_probabilities(model: TrainedModel, image: np.ndarray, scales: tuple[float, ...], flip: bool) -> np.ndarray:
    """(K,): one image and one view at a time, with Pillow and numpy."""
    views = []
    for scale in scales:
        side = round(len(image) * scale)
        seen = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)) / 255
        for pixels in (seen, seen[:, ::-1]) if flip else (seen,):
            normalized = (pixels - np.array(OF_SET.mean)) / np.array(OF_SET.std)
            with torch.no_grad():
                logits = model.network(torch.from_numpy(normalized.transpose(2, 0, 1).copy()).float()[None])[0].double().numpy()
            views.append(np.exp(logits) / np.exp(logits).sum())
    return sum(views) / len(views)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 1.25), True)])
def test_evaluation_equals_a_plain_loop(
    model: TrainedModel, small: SmallImages, device: Device, scales: tuple[float, ...], flip: bool, batch_size: int | None
) -> None:
    config = EvaluationConfig(scales=scales, flip=flip, batch_size=batch_size)
    found = evaluate(model, small, config, device)
    confusion = np.zeros((6, 6), dtype=int)
    for index, image in enumerate(found.images):
        expected = slow_probabilities(model, small.read("val", index).image, scales, flip)
        assert isinstance(image, ImageAnswer)
        assert (image.name, image.label) == (f"val_{index}", index % 6)
        assert image.prediction == expected.argmax()
        assert image.probability == pytest.approx(expected.max(), abs=1e-5)
        confusion[index % 6, expected.argmax()] += 1
    assert found.confusion.tolist() == confusion.tolist()
    assert 30 < found.figures["accuracy"] < 100
    assert found.figures["accuracy"] == pytest.approx(100 * confusion.trace() / 13)
    assert found.figures["mAcc"] == pytest.approx(100 * np.mean(confusion.diagonal() / confusion.sum(1)))
    assert score(model, small, config, device) == found.scores


def test_what_is_written(model: TrainedModel, small: SmallImages, device: Device, tmp_path: Path) -> None:
    found = evaluate(model, small, EvaluationConfig(flip=True), device, Run(tmp_path))
    written = json.loads((tmp_path / "evaluation.json").read_text())
    keys = ["split", "task", "metric", "protocol", "accuracy", "mAcc", "classes", "confusion", "images", "seconds"]
    assert list(written) == keys
    assert (written["task"], written["metric"]) == ("classification", "accuracy")
    assert [entry["images"] for entry in written["classes"]] == [3, 2, 2, 2, 2, 2]
    assert list(written["classes"][0]) == ["name", "color", "accuracy", "images"]
    wrong = [index for index, image in enumerate(found.images) if isinstance(image, ImageAnswer) and image.wrong]
    assert wrong
    assert [image["name"] for image in written["images"]] == [f"val_{index}" for index in wrong]
    for image, index in zip(written["images"], wrong, strict=True):
        assert image["label"] == NAMES[index % 6] != image["prediction"]
    text = written["protocol"]["text"]
    assert "all 13 images of the split 'val', seen at 32x32, one label each; single scale, with flip" in text
    assert written["protocol"]["label_size"] == "one an image"
    assert "mIoU" not in (tmp_path / "evaluation.json").read_text()
    panels = json.loads((tmp_path / "panels" / "panels.json").read_text())
    for kind in ("mistake", "right"):
        own = [panel for panel in panels if panel["kind"] == kind]
        assert [panel["probability"] for panel in own] == sorted((panel["probability"] for panel in own), reverse=True)
        for panel in own:
            index = int(panel["name"].removeprefix("val_"))
            assert panel["labelled"] == NAMES[index % 6]
            assert (panel["predicted"] == panel["labelled"]) == (kind == "right")
            assert np.array_equal(np.asarray(Image.open(tmp_path / panel["image"])), small.read("val", index).image)
    assert len([panel for panel in panels if panel["kind"] == "mistake"]) == len(wrong)


def test_the_surest_answers_are_shown_and_ignored_images_never() -> None:
    generator = np.random.default_rng(0)
    answers = [ImageAnswer(str(i), int(generator.choice([0, 1, IGNORE])), 1, float(generator.random())) for i in range(60)]
    chosen = choose_answers(answers)
    for kind, label in (("mistake", 0), ("right", 1)):
        expected = sorted((a.probability for a in answers if a.label == label), reverse=True)[:8]
        assert [answers[index].probability for name, _, index in chosen if name == kind] == expected
    assert len(chosen) == 16


def test_an_ignored_image_counts_nowhere(model: TrainedModel, small: SmallImages, device: Device) -> None:
    class Partly(SmallImages):
        def read(self, split: str, index: int) -> Sample:
            sample = super().read(split, index)
            return dataclasses.replace(sample, label=np.array(IGNORE, dtype=np.uint8)) if index < 4 else sample

    found, whole = evaluate(model, Partly(), EvaluationConfig(), device), evaluate(model, small, EvaluationConfig(), device)
    assert found.confusion.sum() == 9
    assert [image["name"] for image in found.to_json()["images"]] == [
        image["name"] for image in whole.to_json()["images"] if int(image["name"].removeprefix("val_")) >= 4
    ]


def test_networks_of_another_task_are_refused(
    model: TrainedModel, small: SmallImages, drawn: Any, architecture: AutoDeepLab, device: Device
) -> None:
    with pytest.raises(UserError, match="auto-deeplab builds networks for segmentation, and small-images has one class an image"):
        Retraining(architecture, small, DATA, OF_SET, RECIPE, device, 0)
    with pytest.raises(UserError, match="tiny-classifier builds networks for classification, and drawn has one class a pixel"):
        evaluate(model, drawn, EvaluationConfig(), device)


def test_the_loss_is_that_of_both_heads(small: SmallImages, device: Device) -> None:
    this = Retraining(TinyClassifier(), small, DATA, OF_SET, RECIPE, device, 0)
    batch = next(this.remaining_batches())
    logits, auxiliary = this.network(batch.images)
    main, other = (F.cross_entropy(some, batch.labels, label_smoothing=0.1) for some in (logits, auxiliary))
    assert this.loss((logits, auxiliary), batch.labels).item() == pytest.approx((main + 0.4 * other).item(), rel=1e-6)
    this.train_step(batch)
    assert this.settle() == [pytest.approx((main + 0.4 * other).item(), rel=1e-5)]
    assert this.network.auxiliary.weight.grad is None  # cleared, after it moved:
    again = Retraining(TinyClassifier(), small, DATA, OF_SET, RECIPE, device, 0)
    assert not torch.equal(this.network.auxiliary.weight, again.network.auxiliary.weight)


def test_the_head_changes_no_other_initial_weight(small: SmallImages, device: Device) -> None:
    states = [
        Retraining(TinyClassifier(), small, DATA, OF_SET, config, device, 0).network.state_dict()
        for config in (RECIPE, dataclasses.replace(RECIPE, auxiliary_weight=0.0))
    ]
    assert set(states[0]) - set(states[1]) == {"auxiliary.weight", "auxiliary.bias"}
    assert all(torch.equal(states[0][key], tensor) for key, tensor in states[1].items())


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_with_an_auxiliary_head(small: SmallImages, device: Device, tmp_path: Path, ema_decay: float) -> None:
    config = dataclasses.replace(RECIPE, epochs=6, ema_decay=ema_decay, drop_path=0.8)
    run = Run(tmp_path)
    model = retrain(TinyClassifier(), small, DATA, OF_SET, config, run, device, 0)
    with safetensors.safe_open(tmp_path / FILE, framework="pt") as file:
        stored = set(file.keys())
    assert stored == set(TinyNetwork(TinyClassifier(), 6).state_dict())
    assert "auxiliary.weight" in run.load_checkpoint("retrain")["network"]
    validated = {row["step"]: row["value"] for row in run.metrics("retrain") if row["name"] == "accuracy"}
    assert list(validated) == [4, 8, 12, 16, 20, 24]
    assert not [row for row in run.metrics("retrain") if row["name"] == "mIoU"]
    assert validated[24] == pytest.approx(evaluate(model, small, EvaluationConfig(), device).figures["accuracy"])
    assert "auxiliary loss times 0.4" in run.read_json("retrain.json")["recipe"]


def test_a_resumed_training_is_the_same(
    small: SmallImages, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = retrain(TinyClassifier(), small, DATA, OF_SET, RECIPE, Run(tmp_path / "whole"), device, 0)
    plain = Retraining.end_epoch

    def stopping(self: Retraining, run: Run) -> dict[str, float]:
        values = plain(self, run)
        if self.step == 4:
            self.save(run)
            raise Interrupted("here")
        return values

    with monkeypatch.context() as patch:
        patch.setattr(Retraining, "end_epoch", stopping)
        with pytest.raises(Interrupted):
            retrain(TinyClassifier(), small, DATA, OF_SET, RECIPE, Run(tmp_path / "parts"), device, 0)
    parts = retrain(TinyClassifier(), small, DATA, OF_SET, RECIPE, Run(tmp_path / "parts"), device, 0)
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, parts.network.state_dict()[key]), key


def test_a_family_without_an_auxiliary_head_is_refused(small: SmallImages, device: Device) -> None:
    with pytest.raises(UserError, match=r"tiny-plain-classifier have no auxiliary head; set retrain\.auxiliary_weight=0"):
        Retraining(TinyPlainClassifier(), small, DATA, OF_SET, RECIPE, device, 0)


def test_the_recipe_tells_smoothing_and_the_auxiliary_loss() -> None:
    assert recipe(RECIPE).endswith("label smoothing 0.1, auxiliary loss times 0.4")
    assert "smoothing" not in recipe(RetrainConfig())


def test_rare_classes_weigh_more(device: Device) -> None:
    """Shares of 8 images: classes 0 and 1 have two each, the other four one: the median share is 1/8."""
    config = RetrainConfig(class_weights="median_frequency")
    weights = _class_weights(SmallImages({"train": 8}), config, device)
    assert weights is not None
    assert weights.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_part_of_a_batch_keeps_its_labels(small: SmallImages, device: Device) -> None:
    batch = next(Retraining(TinyClassifier(), small, DATA, OF_SET, RECIPE, device, 0).remaining_batches())
    part = part_of(batch, 16, 20)
    assert part.images.shape == (6, 3, 16, 20)
    assert torch.equal(part.labels, batch.labels)
