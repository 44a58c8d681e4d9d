"""Prediction of classes: the table says what the network says of each image, whatever their sizes, and refuses what is none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import PlainNetwork, SmallImages, TinyClassifier

from segnas.data.base import Classes
from segnas.data.transforms import Normalization
from segnas.errors import UserError
from segnas.training.classify import FILE, classify
from segnas.training.device import Device
from segnas.training.model import TrainedModel

OF_SET = Normalization((0.45, 0.4, 0.5), (0.3, 0.2, 0.3))


def model_of(classes: Classes) -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel(TinyClassifier(), PlainNetwork(TinyClassifier(), len(classes)).eval(), classes, OF_SET)


@pytest.fixture
def model() -> TrainedModel:
    return model_of(SmallImages().classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of three sizes, one in a subfolder."""
    root = tmp_path / "pictures"
    (root / "deeper").mkdir(parents=True)
    shapes = {"a": (32, 32), "b": (32, 32), "c": (24, 40), "deeper/d": (32, 32), "e": (33, 20)}
    for number, (name, shape) in enumerate(shapes.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    return root


def expected(model: TrainedModel, path: Path, flip: bool) -> list[tuple[str, float]]:
    pixels = np.asarray(Image.open(path)) / 255
    probabilities = 0
    for view in (pixels, pixels[:, ::-1]) if flip else (pixels,):
        normalized = (view - np.array(OF_SET.mean)) / np.array(OF_SET.std)
        with torch.no_grad():
            logits = model.network(torch.from_numpy(normalized.transpose(2, 0, 1).copy()).float()[None])[0]
        probabilities = probabilities + logits.softmax(0).numpy() / (2 if flip else 1)
    order = np.argsort(-probabilities)[:5]
    return [(model.classes.names[index], float(probabilities[index])) for index in order]


@pytest.mark.parametrize("flip", [False, True])
def test_the_table_holds_the_five_likeliest_classes(
    model: TrainedModel, folder: Path, device: Device, tmp_path: Path, flip: bool
) -> None:
    found = classify(model, folder, tmp_path / "out", device, flip=flip)
    assert [one.image for one in found] == sorted(folder.rglob("*.png"))
    with (tmp_path / "out" / FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["image", "class", "probability", "class_2", "probability_2"]
    for one, row in zip(found, rows, strict=True):
        likely = expected(model, one.image, flip)
        assert [name for name, _ in one.top] == [name for name, _ in likely]
        assert [probability for _, probability in one.top] == pytest.approx([value for _, value in likely], abs=1e-5)
        assert (row["image"], row["class"], row["class_5"]) == (str(one.image), likely[0][0], likely[4][0])
        assert float(row["probability"]) == pytest.approx(likely[0][1], abs=1e-5)
        plain = one.to_json()
        assert (plain["class"], plain["probability"]) == (one.name, one.probability)
        assert [entry["class"] for entry in plain["top"]] == [name for name, _ in likely]


def test_of_few_classes_all_are_told(folder: Path, device: Device, tmp_path: Path) -> None:
    two = model_of(Classes(("cat", "dog"), ((0, 0, 0), (1, 1, 1))))
    (only,) = classify(two, folder / "a.png", tmp_path, device)
    assert len(only.top) == 2
    assert sum(probability for _, probability in only.top) == pytest.approx(1)
    assert (tmp_path / FILE).read_text().splitlines()[0] == "image,class,probability,class_2,probability_2"


def test_what_is_no_image_is_refused_before_anything_is_written(
    model: TrainedModel, folder: Path, device: Device, tmp_path: Path
) -> None:
    (folder / "f.png").write_text("no picture")
    for paths, complaint in ((folder, "f.png"), (folder / "none.png", "there is no image"), ([], "no image to predict")):
        with pytest.raises(UserError, match=complaint):
            classify(model, paths, tmp_path / "out", device)
    with pytest.raises(UserError, match="scales must be"):
        classify(model, folder / "a.png", tmp_path / "out", device, scales=())
    assert not (tmp_path / "out").exists()
