"""Views of small images: black padding, cutout, one label an image; what was drawn before they came stays what it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_images import SmallImages

from segnas.data.base import IGNORE, Sample
from segnas.data.check import require
from segnas.data.loading import TrainingBatches
from segnas.data.memory import InMemory, in_memory
from segnas.data.transforms import DataConfig, Normalization, View, apply_view, draw_view
from segnas.errors import UserError
from segnas.randomness import numpy_generator

OF_SET = Normalization((0.4, 0.5, 0.3), (0.2, 0.3, 0.1))
PLAIN = DataConfig(crop=(32, 32), scale=(1.0, 1.0))
CIFAR = dataclasses.replace(PLAIN, padding=4, cutout=16)


def views(config: DataConfig, count: int, side: int = 32) -> list[View]:
    return [draw_view(side, side, config, numpy_generator(0, "test", number)) for number in range(count)]


def sample(side: int = 32, dense: bool = False) -> Sample:
    generator = np.random.default_rng(side)
    label = generator.integers(0, 5, (side, side) if dense else (), dtype=np.uint8)
    return Sample("s", generator.integers(0, 256, (side, side, 3), dtype=np.uint8), label)


def slow_view(pixels: np.ndarray, view: View, crop: int) -> np.ndarray:
    """Pad with black, normalise, crop, mirror, blank the square out: pixel by pixel. (3, crop, crop) float64."""
    side, padding = len(pixels), view.padding
    padded = np.zeros((side + 2 * padding, side + 2 * padding, 3))
    padded[padding : padding + side, padding : padding + side] = pixels
    normalized = (padded / 255 - np.array(OF_SET.mean)) / np.array(OF_SET.std)
    seen = np.zeros((3, crop, crop))
    for row in range(crop):
        for column in range(crop):
            source = crop - 1 - column if view.flip else column
            seen[:, row, column] = normalized[view.top + padding + row, view.left + padding + source]
            if view.cutout is not None:
                y, x, length = view.cutout
                if y - length // 2 <= row < y + length // 2 and x - length // 2 <= column < x + length // 2:
                    seen[:, row, column] = 0
    return seen


@pytest.mark.parametrize("config", [PLAIN, dataclasses.replace(PLAIN, padding=4), dataclasses.replace(PLAIN, cutout=7), CIFAR])
def test_views_equal_a_plain_loop(config: DataConfig) -> None:
    one = sample()
    for view in views(config, 12):
        image, label = apply_view(one, view, config.crop, OF_SET)
        assert np.allclose(image.numpy(), slow_view(one.image, view, 32), atol=1e-5)
        assert label.shape == ()
        assert label.dtype == torch.int64
        assert int(label) == int(one.label)


def test_every_place_of_the_padded_image_is_drawn() -> None:
    found = views(CIFAR, 900)
    assert {view.top for view in found} == {view.left for view in found} == set(range(-4, 5))
    counts = np.bincount([view.top + 4 for view in found])
    assert counts.min() > 60, "about 100 each"
    assert {view.cutout[0] for view in found if view.cutout} == set(range(32))
    assert {view.cutout[1] for view in found if view.cutout} == set(range(32))


def test_padding_is_black_before_normalisation() -> None:
    view = View(size=(32, 32), top=-4, left=3, padding=4)
    image, _ = apply_view(sample(), view, (32, 32), OF_SET)
    black = [(0 - mean) / std for mean, std in zip(OF_SET.mean, OF_SET.std, strict=True)]
    assert np.allclose(image.numpy()[:, :4, :].transpose(1, 2, 0), black)
    assert np.allclose(image.numpy()[:, :, 29:].transpose(1, 2, 0), black)


def test_new_settings_move_no_other_draw() -> None:
    wide = DataConfig(crop=(24, 24), brightness=0.3, hue=0.1)
    plain = views(wide, 30)
    for changed in ({"cutout": 9}, {"padding": 2}, {"padding": 2, "cutout": 9}):
        for before, after in zip(plain, views(dataclasses.replace(wide, **changed), 30), strict=True):
            same = dataclasses.replace(after, padding=0, cutout=None)
            if "padding" in changed:
                same = dataclasses.replace(same, top=before.top, left=before.left)
            assert same == before


def test_of_a_label_of_pixels_padding_is_ignored_and_cutout_is_not() -> None:
    one = sample(dense=True)
    view = View(size=(32, 32), top=-4, left=0, padding=4, cutout=(16, 16, 10), flip=True)
    _, label = apply_view(one, view, (32, 32), OF_SET)
    assert (label[:4] == IGNORE).all()
    assert np.array_equal(label[4:].numpy(), one.label[:28, ::-1])


def test_a_crop_beyond_the_padding_shows_the_mean_colour() -> None:
    config = DataConfig(crop=(48, 48), scale=(1.0, 1.0), padding=4)
    for view in views(config, 20):
        image, _ = apply_view(sample(), view, (48, 48), OF_SET)
        black = np.isclose(image.numpy()[0], -2.0).sum()
        assert (image == 0).all(dim=0).sum() == 48 * 48 - 40 * 40
        assert black >= 40 * 40 - 32 * 32


@pytest.mark.parametrize("padding", [5, 9])
def test_padding_as_wide_as_the_crop_is_refused(padding: int) -> None:
    with pytest.raises(ValueError, match=r"padding must be below each side of crop=\[8, 5\]"):
        DataConfig(crop=(8, 5), padding=padding)


def test_batches_have_one_label_an_image_whatever_reads_them() -> None:
    dataset = SmallImages()

    def epoch(config: DataConfig) -> list[tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]]:
        loader = TrainingBatches(dataset, "train", range(24), config, OF_SET, 5, 0, "test")
        return [(batch.images, batch.labels, batch.names) for batch in loader.epoch(1)]

    found = epoch(CIFAR)
    assert len(found) == 4
    for images, labels, names in found:
        assert (images.shape, labels.shape, labels.dtype) == ((5, 3, 32, 32), (5,), torch.int64)
        assert labels.tolist() == [int(name.removeprefix("train_")) % 6 for name in names]
    for config in (dataclasses.replace(CIFAR, workers=2), dataclasses.replace(CIFAR, cache="none")):
        for one, other in zip(found, epoch(config), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
            assert one[2] == other[2]


def test_a_set_of_small_images_is_held_in_memory_and_passes_the_check() -> None:
    dataset = SmallImages()
    held = in_memory(dataset, "train", "auto")
    assert isinstance(held, InMemory)
    assert held.task == "classification"
    assert held.read("train", 7) is held.read("train", 7)
    assert require(dataset).splits["val"].classes.pixels == (3, 2, 2, 2, 2, 2)


def test_a_missing_batch_is_refused() -> None:
    with pytest.raises(UserError, match="24 images of the split 'train' are too few"):
        TrainingBatches(SmallImages(), "train", range(24), CIFAR, OF_SET, 25, 0, "test")
