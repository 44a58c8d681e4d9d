"""Evaluation equals a plain slow version, whatever the scales, the flip, the batch and the sizes; what it writes is whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from segnas.data.base import IGNORE, Classes
from segnas.data.transforms import Normalization
from segnas.errors import UserError
from segnas.runs.run import Run
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.training.device import Device, DeviceConfig, launch
from segnas.training.evaluate import EvaluationConfig, describe, evaluate, score
from segnas.training.model import TrainedModel
from segnas.training.panels import choose, colored


@pytest.fixture
def model(architecture: AutoDeepLab, normalization: Normalization, drawn: Any) -> TrainedModel:
    """A network that sees its surroundings (5x5, not symmetric) and is right more often than not."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 1))
    return TrainedModel(architecture, network.eval(), drawn.classes, normalization, resize=0.75)


def slow_prediction(model: TrainedModel, image: np.ndarray, scales: tuple[float, ...], flip: bool) -> np.ndarray:
    """Every view on its own, with Pillow and numpy where they can do it."""
    height, width = image.shape[:2]
    mean, std = (np.array(values) for values in (model.normalization.mean, model.normalization.std))
    views = []
    for scale in scales:
        size = (round(width * model.resize * scale), round(height * model.resize * scale))
        seen = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) / 255.0
        for mirrored in {False, flip}:
            pixels = (seen[:, ::-1] if mirrored else seen) - mean
            with torch.no_grad():
                logits = model.network(torch.from_numpy((pixels / std).transpose(2, 0, 1).copy()).float()[None])
            if mirrored:
                logits = torch.from_numpy(logits.numpy()[..., ::-1].copy())
            logits = F.interpolate(logits.double(), (height, width), mode="bilinear", align_corners=False)[0].numpy()
            views.append(np.exp(logits) / np.exp(logits).sum(axis=0))
    return np.argmax(sum(views) / len(views), axis=0)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((1.0,), True), ((0.5, 1.0, 1.75), True)])
def test_evaluation_equals_a_plain_slow_version(
    model: TrainedModel, drawn: Any, device: Device, scales: tuple[float, ...], flip: bool, batch_size: int
) -> None:
    found = evaluate(model, drawn, EvaluationConfig(scales=scales, flip=flip, batch_size=batch_size), device)
    total = np.zeros((3, 3), dtype=np.int64)
    for index, image in enumerate(found.images):
        sample = drawn.read("val", index)
        prediction = slow_prediction(model, sample.image, scales, flip)
        counted = sample.label != IGNORE
        confusion = np.zeros((3, 3), dtype=np.int64)
        np.add.at(confusion, (sample.label[counted], prediction[counted]), 1)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        ious = confusion.diagonal()[union > 0] / union[union > 0]
        assert image.name == sample.name
        assert image.mIoU == pytest.approx(100 * ious.mean(), abs=0.5)  # a pixel may lie on a tie
        total += confusion
    assert np.abs(found.confusion.numpy() - total).sum() <= 4
    assert found.confusion.sum() == total.sum()


def test_score_is_the_mean_iou_of_evaluate(model: TrainedModel, drawn: Any, device: Device) -> None:
    config = EvaluationConfig(split="test")
    assert score(model, drawn, config, device) == evaluate(model, drawn, config, device).scores


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_precision_and_memory_format_hardly_change_the_figures(
    model: TrainedModel, drawn: Any, device: Device, precision: Any
) -> None:
    expected = evaluate(model, drawn, EvaluationConfig(), device)
    other = launch(DeviceConfig(accelerator="cpu", precision=precision, channels_last=True))
    found = evaluate(model, drawn, EvaluationConfig(), other)
    assert found.scores.mIoU == pytest.approx(expected.scores.mIoU, abs=3)
    assert precision == "32" or "bfloat16" in found.protocol.text


def test_the_protocol_states_the_precision_of_a_gpu(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's convolutions of float32 are TF32 by default, and the protocol says so; no GPU is asked."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = SimpleNamespace(config=DeviceConfig(), device=torch.device("cuda"), title="a GPU")
    protocol = describe(model, EvaluationConfig(), gpu, [(36, 44)])  # type: ignore[arg-type]
    assert protocol.precision == "float32 (TF32 in convolutions)"
    assert protocol.text.endswith("; float32 (TF32 in convolutions) on a GPU.")


def test_what_is_written(model: TrainedModel, drawn: Any, device: Device, tmp_path: Path) -> None:
    evaluate(model, drawn, EvaluationConfig(scales=(0.5, 1.0), flip=True), device, Run(tmp_path))
    written = json.loads((tmp_path / "evaluation.json").read_text())
    figures = ["mIoU", "mAcc", "aAcc", "classes", "confusion", "absent_classes", "images", "seconds"]
    assert list(written) == ["split", "task", "metric", "protocol", *figures]
    assert (written["task"], written["metric"]) == ("segmentation", "mIoU")
    protocol = written["protocol"]
    assert list(protocol) == ["split", "images", "resolution", "scales", "flip", "label_size", "precision", "device", "text"]
    assert protocol["resolution"] == "27x33 to 30x36"
    assert protocol["label_size"] == "36x44 to 40x48"
    assert (protocol["scales"], protocol["flip"], protocol["images"]) == ([0.5, 1.0], True, 3)
    assert "all 3 images of the split 'val'" in protocol["text"]
    assert "scales 0.5, 1, with flip" in protocol["text"]
    pixels = [sum(int((drawn.read("val", i).label == k).sum()) for i in range(3)) for k in range(3)]
    assert [entry["pixels"] for entry in written["classes"]] == pixels == [sum(row) for row in written["confusion"]]
    assert [entry["name"] for entry in written["classes"]] == list(drawn.classes.names)
    panels = json.loads((tmp_path / "panels" / "panels.json").read_text())
    assert [panel["kind"] for panel in panels] == ["best", "best", "worst"]
    assert panels[0]["mIoU"] == max(image["mIoU"] for image in written["images"])
    assert panels[2]["mIoU"] == min(image["mIoU"] for image in written["images"])
    for panel in panels:
        index = drawn.splits["val"].index(panel["name"])
        label = np.asarray(Image.open(tmp_path / panel["label"]))
        assert (label == colored(drawn.read("val", index).label, drawn.classes)).all()
        assert np.asarray(Image.open(tmp_path / panel["prediction"])).shape == label.shape
        assert (np.asarray(Image.open(tmp_path / panel["image"])) == drawn.read("val", index).image).all()


def test_another_split_does_not_replace_the_main_evaluation(
    model: TrainedModel, drawn: Any, device: Device, tmp_path: Path
) -> None:
    evaluate(model, drawn, EvaluationConfig(split="val"), device, Run(tmp_path), main=EvaluationConfig(split="val"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    evaluate(model, drawn, EvaluationConfig(split="test"), device, Run(tmp_path), main=EvaluationConfig(split="val"))
    assert json.loads((tmp_path / "evaluation_test.json").read_text())["split"] == "test"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_absent_class_has_no_figure_and_is_listed(model: TrainedModel, drawn: Any, device: Device) -> None:
    class Never(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0, 0.0, 0.0])[None, :, None, None].expand(len(images), 4, *images.shape[2:])

    classes = Classes((*drawn.classes.names, "ghost"), (*drawn.classes.colors, (9, 9, 9)))
    haunted = type(drawn)(drawn.sizes)
    haunted.classes = classes
    ghostly = TrainedModel(model.architecture, Never(), classes, model.normalization)
    written = evaluate(ghostly, haunted, EvaluationConfig(), device).to_json()
    assert written["absent_classes"] == ["ghost"]
    assert written["classes"][3]["IoU"] is None
    assert written["mIoU"] == pytest.approx(sum(entry["IoU"] for entry in written["classes"][:3]) / 3)


def test_a_missing_split_and_other_classes_are_refused(model: TrainedModel, drawn: Any, device: Device) -> None:
    with pytest.raises(UserError, match=r"no images in a split 'tset'; its splits: train, val, test"):
        evaluate(model, drawn, EvaluationConfig(split="tset"), device)
    other = type(drawn)(drawn.sizes)
    other.classes = Classes(("ground", "disc", "square"), drawn.classes.colors)
    with pytest.raises(UserError, match="'square' and 'disc'"):
        evaluate(model, other, EvaluationConfig(), device)
    other.classes = Classes(("ground", "square"), drawn.classes.colors[:2])
    with pytest.raises(UserError, match="3 and 2"):
        evaluate(model, other, EvaluationConfig(), device)


@pytest.mark.parametrize("count", range(10))
def test_panels_show_no_image_twice(count: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(float).tolist() + [float("nan")]
    chosen = choose(values)
    indices = [index for _, _, index in chosen]
    assert len(set(indices)) == len(indices) == min(count, 6)
    assert count not in indices
    assert [values[index] for kind, _, index in chosen if kind == "best"] == sorted(values[:-1], reverse=True)[:2]
    if count >= 4:
        assert [values[index] for kind, _, index in chosen if kind == "worst"] == [0.0, 1.0]
    if count >= 7:
        middle = [abs(values[index] - (count - 1) / 2) for kind, _, index in chosen if kind == "typical"]
        assert max(middle) <= 1


def test_wide_pictures_are_shrunk(model: TrainedModel, drawn: Any, device: Device, tmp_path: Path) -> None:
    wide = type(drawn)({"val": [(40, 1000)]})
    evaluate(model, wide, EvaluationConfig(), device, Run(tmp_path))
    colors = {*drawn.classes.colors, (0, 0, 0)}
    for kind in ("image", "label", "prediction"):
        with Image.open(tmp_path / "panels" / f"best_1_{kind}.png") as picture:
            assert picture.size == (640, 26)
            if kind != "image":
                assert {color for _, color in picture.getcolors()} <= colors
