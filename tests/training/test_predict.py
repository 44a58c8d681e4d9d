"""Prediction writes what the network says: ids of the set's own files, colours, overlays; tiles do not show."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segnas.data.base import Classes
from segnas.errors import UserError
from segnas.runs.progress import StageProgress
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.training.device import Device
from segnas.training.model import FILE, TrainedModel
from segnas.training.predict import predict, predict_image, starts, window


@pytest.fixture
def local(architecture: AutoDeepLab, normalization: Any, drawn: Any) -> TrainedModel:
    """A network that sees one pixel at a time: no tile can change what it says."""
    torch.manual_seed(0)
    return TrainedModel(architecture, nn.Conv2d(3, 3, 1).eval(), drawn.classes, normalization)


@pytest.fixture
def wider(architecture: AutoDeepLab, normalization: Any, drawn: Any) -> TrainedModel:
    """A network that sees 7x7 pixels, with zeros beyond the border."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 7, padding=3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return TrainedModel(architecture, network.eval(), drawn.classes, normalization)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    [(50, 70, (32, 32)), (33, 200, (32, 40)), (90, 20, (31, 64)), (64, 64, (64, 64)), (65, 64, (64, 64))],
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_tiles_do_not_change_what_a_local_network_says(
    local: TrainedModel, device: Device, height: int, width: int, tile: tuple[int, int], overlap: float
) -> None:
    image = picture(height, width)
    whole = predict_image(local, image, device)
    assert (predict_image(local, image, device, tile, overlap) == whole).all()
    assert whole.dtype == np.uint8


def test_tiles_larger_than_the_image_are_the_whole_image(wider: TrainedModel, device: Device) -> None:
    image = picture(40, 52)
    assert (predict_image(wider, image, device, tile=(40, 52)) == predict_image(wider, image, device)).all()


def test_overlap_hides_the_borders_of_tiles(wider: TrainedModel, device: Device) -> None:
    image = picture(90, 120)
    whole = predict_image(wider, image, device)
    wrong = [(predict_image(wider, image, device, (40, 40), overlap) != whole).mean() for overlap in (0.0, 0.5)]
    assert wrong[0] > 0.02  # zeros beyond a tile's border disturb
    assert wrong[1] < wrong[0] / 4


def test_tiles_are_blended_as_a_sum_over_the_whole_image(wider: TrainedModel, device: Device) -> None:
    image = picture(70, 61)
    total = np.zeros((3, 70, 61))
    mean, std = (np.array(values) for values in (wider.normalization.mean, wider.normalization.std))
    pixels = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
    for top in starts(70, 32, 0.4):
        for left in starts(61, 24, 0.4):
            with torch.no_grad():
                part = wider.network(pixels[None, :, top : top + 32, left : left + 24]).softmax(1)[0].numpy()
            down, across = (np.maximum(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2, 1e-3) for n in (32, 24))
            total[:, top : top + 32, left : left + 24] += part * down[:, None] * across
    assert (predict_image(wider, image, device, (32, 24), 0.4) == total.argmax(0)).mean() > 0.999


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100, 1001])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_tiles_cover_a_side_and_stay_within(length: int, overlap: float) -> None:
    places = starts(length, 32, overlap)
    assert places[0] == 0
    assert places[-1] == max(0, length - 32)
    assert all(0 < after - before <= max(1, int(32 * (1 - overlap))) for before, after in pairwise(places))


def test_the_window_is_symmetric_and_positive() -> None:
    weights = window(17)
    assert torch.allclose(weights, weights.flip(0))
    assert weights.min() > 0
    assert weights.argmax() == 8


def test_three_pictures_are_written_for_each_image(local: TrainedModel, device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(picture(20, 30, 1)).save(folder / "one.png")
    Image.fromarray(picture(24, 18, 2)).save(folder / "two.bmp")
    (folder / "notes.txt").write_text("no image")
    found = predict(local, [folder], tmp_path / "out" / "deep", device)
    assert [prediction.image.name for prediction in found] == ["one.png", "two.bmp"]
    names = {f"{name}_{kind}.png" for name in ("one", "two") for kind in ("index", "mask", "overlay")}
    assert {path.name for path in (tmp_path / "out" / "deep").iterdir()} == names
    for prediction, seed, shape in zip(found, (1, 2), ((20, 30), (24, 18)), strict=True):
        index, mask, overlay = (np.asarray(Image.open(file)) for file in prediction.files)
        ids = predict_image(local, picture(*shape, seed), device)
        assert (index == np.array([7, 9, 40])[ids]).all()
        assert prediction.to_json()["files"]["overlay"] == str(prediction.files[2])
        assert (mask == np.array(local.classes.colors)[ids]).all()
        assert np.abs(overlay - (picture(*shape, seed) / 2 + mask / 2)).max() <= 0.5
        with Image.open(prediction.files[0]) as file:
            assert file.mode == "L"
        for number, name in enumerate(local.classes.names):
            assert prediction.shares.get(name, 0.0) == pytest.approx((ids == number).mean())


def test_large_ids_are_written_with_sixteen_bits(local: TrainedModel, device: Device, tmp_path: Path) -> None:
    classes = Classes(local.classes.names, local.classes.colors, source_ids=(1, 300, 60000))
    model = TrainedModel(local.architecture, local.network, classes, local.normalization)
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.png")
    (prediction,) = predict(model, [tmp_path / "a.png"], tmp_path / "out", device)
    ids = predict_image(model, picture(20, 30), device)
    assert (np.asarray(Image.open(prediction.files[0])) == np.array([1, 300, 60000])[ids]).all()


def test_names_that_clash_and_folders_of_images_are_refused_before_any_work(
    local: TrainedModel, device: Device, tmp_path: Path
) -> None:
    for name in ("a/x.png", "b/x.png", "b/x.bmp", "c/b/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(8, 8)).save(tmp_path / name)
    out = tmp_path / "out"
    for paths in ([tmp_path / "a", tmp_path / "b" / "x.png"], [tmp_path / "a", tmp_path / "b"], [tmp_path / "b"]):
        with pytest.raises(UserError, match=r"would both be written as x_\*.png"):
            predict(local, paths, out, device)
    for path, place in (("a/x.png", "a"), ("a", "a"), ("a", "a/deep"), (".", "a"), (".", "out")):
        with pytest.raises(UserError, match="choose another --out"):
            predict(local, [tmp_path / path], tmp_path / place, device)
    with pytest.raises(UserError, match="choose another --out"):  # c/b/y.png would be written into b
        predict(local, [tmp_path / "c", tmp_path / "b" / "x.png"], tmp_path, device)
    assert not out.exists()
    assert len(predict(local, [tmp_path / "a" / "x.png", tmp_path / "a"], out, device)) == 1  # the same image, named twice


def test_what_is_no_image_is_met_with_one_line(local: TrainedModel, device: Device, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "broken.png", tmp_path / "none.png", tmp_path / "empty"):
        with pytest.raises(UserError) as error:
            predict(local, [path], tmp_path / "out", device)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    for options in ({"tile": (0, 64)}, {"tile": (64, 32)}, {"overlap": 0.95}, {"scales": ()}, {"scales": (0.0,)}):
        with pytest.raises(UserError):
            predict(local, [tmp_path], tmp_path / "out", device, **options)


def test_folders_are_searched_with_their_subfolders_which_are_kept(local: TrainedModel, device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for seed, name in enumerate(("top.png", "train/a.png", "val/a.png", "val/deep/b.JPG", "val/.hidden.png", ".cache/a.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(20, 30, seed)).save(folder / name)
    (tmp_path / "single.png").write_bytes((folder / "top.png").read_bytes())
    out = tmp_path / "out"
    found = predict(local, [folder, tmp_path / "single.png"], out, device)
    names = ["top", "train/a", "val/a", "val/deep/b", "single"]
    assert [prediction.files[0] for prediction in found] == [out / f"{name}_index.png" for name in names]
    assert {path for path in out.rglob("*") if path.is_file()} == {file for prediction in found for file in prediction.files}
    for seed, name in ((1, "train/a"), (2, "val/a")):
        expected = np.array([7, 9, 40])[predict_image(local, picture(20, 30, seed), device)]
        assert (np.asarray(Image.open(out / f"{name}_index.png")) == expected).all()


def test_a_single_path_needs_no_list(local: TrainedModel, device: Device, tmp_path: Path) -> None:
    file = tmp_path / "in" / "a.png"
    file.parent.mkdir()
    Image.fromarray(picture(8, 8)).save(file)
    single: list[str | Path] = [str(file), file, str(file.parent), file.parent]
    for number, path in enumerate(single):
        (prediction,) = predict(local, path, tmp_path / str(number), device)
        assert prediction.image == file


def test_progress_counts_the_tiles_of_all_images(
    local: TrainedModel, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[StageProgress] = []

    class Watched(StageProgress):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            bars.append(self)

    monkeypatch.setattr("segnas.training.predict.StageProgress", Watched)
    for name, size in (("small", (33, 40)), ("wide", (30, 100)), ("large", (80, 120))):
        Image.fromarray(picture(*size)).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in ("small", "wide", "large")]
    predict(local, files, tmp_path / "tiles", device, tile=(40, 40), overlap=0.0)
    predict(local, files, tmp_path / "whole", device)
    assert [(bar.done, bar.total_steps) for bar in bars] == [(1 + 3 + 2 * 3, 10), (3, 3)]


def test_an_onnx_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch" * 9)
    with pytest.raises(UserError, match=f"model.onnx is an ONNX file; .*{FILE}"):
        TrainedModel.load(tmp_path / "model.onnx")


def test_scales_and_flip_are_used(wider: TrainedModel, device: Device) -> None:
    image = picture(48, 64)
    plain = predict_image(wider, image, device)
    both = predict_image(wider, image, device, scales=(0.5, 1.0), flip=True)
    assert (plain != both).any()
    assert (predict_image(wider, image[:, ::-1].copy(), device, scales=(0.5, 1.0), flip=True)[:, ::-1] == both).mean() > 0.99
