"""Joint transforms: image and label stay together, only what is asked for changes, and the numbers are drawn by position."""

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from drawn_folders import COLORS
from PIL import Image

from segnas.config import from_dict
from segnas.data.base import IGNORE, Sample
from segnas.data.transforms import DataConfig, Normalization, View, apply_view, draw_view, jitter_color, nearest, resize_image
from segnas.errors import UserError
from segnas.randomness import numpy_generator

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
OF_SET = Normalization((0.4, 0.5, 0.3), (0.2, 0.3, 0.1))


def sample_of(seed: int, height: int = 90, width: int = 120, classes: int = 4) -> Sample:
    """Blocks of 15 pixels whose colour tells the class."""
    blocks = np.random.default_rng(seed).integers(0, classes, (-(-height // 15), -(-width // 15)), dtype=np.uint8)
    label = np.kron(blocks, np.ones((15, 15), np.uint8))[:height, :width]
    return Sample("sample", COLORS[label], label)


def views(config: DataConfig, count: int, height: int = 90, width: int = 120) -> list[View]:
    return [draw_view(height, width, config, numpy_generator(0, "test", number)) for number in range(count)]


def test_image_and_label_stay_aligned() -> None:
    """The class read from the image's colours is the label, but for the blurred borders of the blocks."""
    for number, view in enumerate(views(DataConfig(crop=(65, 81)), 40)):
        image, label = apply_view(sample_of(number), view, (65, 81), PLAIN)
        covered = (label != IGNORE).numpy()
        distance = ((image.numpy().transpose(1, 2, 0)[:, :, None] * 255 - COLORS.astype(np.float32)) ** 2).sum(axis=3)
        agree = distance.argmin(axis=2) == label.numpy()
        assert agree[covered].mean() > 0.93
        aligned_elsewhere = np.roll(distance.argmin(axis=2), 4, axis=1) == label.numpy()
        assert agree[covered].mean() > aligned_elsewhere[covered].mean() + 0.04


@pytest.mark.parametrize("size", [(90, 120), (61, 77), (140, 201), (45, 60)])
def test_a_region_is_what_a_crop_of_the_whole_would_be(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ids = np.random.default_rng(1).integers(0, 200, (90, 120), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    whole_label = np.asarray(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
    view = View(size=size, top=7, left=11)
    image, label = apply_view(Sample("s", pixels, ids), view, (33, 47), PLAIN)
    region = np.rint(image.numpy().transpose(1, 2, 0) * 255).astype(int)
    assert np.abs(region - whole[7:40, 11:58]).max() <= 1  # Pillow rounds its weights for the box once more
    labels = nearest(ids, size, slice(0, size[0]), slice(0, size[1]))
    assert np.array_equal(label.numpy(), labels[7:40, 11:58])
    assert (labels == whole_label).mean() > 0.97  # Pillow rounds a centre that falls between two pixels either way
    assert np.array_equal(resize_image(pixels, size), whole)


def test_padding_is_the_mean_colour_and_ignored() -> None:
    sample = sample_of(0, 30, 40)
    image, label = apply_view(sample, View(size=(30, 40), top=-5, left=-8), (60, 70), OF_SET)
    inside = np.zeros((60, 70), bool)
    inside[5:35, 8:48] = True
    assert (label.numpy()[~inside] == IGNORE).all()
    assert (image.numpy()[:, ~inside] == 0).all()
    assert np.array_equal(label.numpy()[5:35, 8:48], sample.label)
    expected = (sample.image / 255 - np.array(OF_SET.mean)) / np.array(OF_SET.std)
    assert np.allclose(image.numpy()[:, 5:35, 8:48].transpose(1, 2, 0), expected, atol=1e-5)


def test_flip_mirrors_both() -> None:
    sample = sample_of(2)
    view = View(size=(90, 120), top=3, left=4)
    image, label = apply_view(sample, view, (50, 60), OF_SET)
    mirrored, mirrored_label = apply_view(sample, dataclasses.replace(view, flip=True), (50, 60), OF_SET)
    assert torch.equal(mirrored, image.flip(2))
    assert torch.equal(mirrored_label, label.flip(1))


def test_draws_stay_in_their_ranges_and_reach_their_ends() -> None:
    config = DataConfig(crop=(100, 60), scale=(0.5, 2.0), flip=0.25, brightness=0.2, hue=0.1)
    drawn = views(config, 2000)
    heights = np.array([view.size[0] for view in drawn])
    assert (heights.min(), heights.max()) == (45, 180)
    assert abs(heights.mean() - 1.25 * 90) < 2
    assert abs(np.mean([view.flip for view in drawn]) - 0.25) < 0.03
    brightness = np.array([view.brightness for view in drawn])
    assert 0.8 <= brightness.min() < 0.81
    assert 1.19 < brightness.max() <= 1.2
    assert {view.contrast for view in drawn} == {view.saturation for view in drawn} == {1.0}
    assert max(abs(view.hue) for view in drawn) <= 0.1
    for view in drawn:
        low, high = sorted((0, view.size[0] - 100))
        assert low <= view.top <= high
    fixed = views(DataConfig(crop=(86, 60), scale=(1, 1)), 500)
    assert {view.top for view in fixed} == {0, 1, 2, 3, 4}


def test_settings_of_one_draw_do_not_move_another() -> None:
    plain = views(DataConfig(crop=(65, 65)), 20)
    colored = views(DataConfig(crop=(65, 65), brightness=0.5, hue=0.2, flip=1.0), 20)
    assert [(view.size, view.top, view.left) for view in plain] == [(view.size, view.top, view.left) for view in colored]


def test_resize_multiplies_the_random_scale() -> None:
    half = views(DataConfig(crop=(33, 33), resize=0.5), 20)
    full = views(DataConfig(crop=(33, 33)), 20)
    assert all(abs(2 * one.size[0] - two.size[0]) <= 1 for one, two in zip(half, full, strict=True))


def test_color_jitter_against_plain_formulas() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    unit = pixels / 255
    grey = unit @ np.array([0.299, 0.587, 0.114])
    assert jitter_color(pixels, 1.0, 1.0, 1.0, 0.0) is pixels
    cases = {
        (1.3, 1.0, 1.0, 0.0): unit * 1.3,
        (1.0, 0.6, 1.0, 0.0): grey.mean() + 0.6 * (unit - grey.mean()),
        (1.0, 1.0, 1.7, 0.0): grey[..., None] + 1.7 * (unit - grey[..., None]),
    }
    for factors, expected in cases.items():
        assert np.allclose(jitter_color(pixels, *factors), 255 * expected.clip(0, 1), atol=0.05)
    turned = jitter_color(pixels, 1.0, 1.0, 1.0, 0.2)
    for (row, column), _ in np.ndenumerate(grey):
        hue, saturation, value = colorsys.rgb_to_hsv(*unit[row, column])
        expected_pixel = 255 * np.array(colorsys.hsv_to_rgb((hue + 0.2) % 1, saturation, value))
        assert np.allclose(turned[row, column], expected_pixel, atol=0.1)


def test_color_jitter_does_not_depend_on_threads() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = jitter_color(pixels, 1.1, 0.8, 1.3, 0.1)
        torch.set_num_threads(3)
        assert np.array_equal(jitter_color(pixels, 1.1, 0.8, 1.3, 0.1), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"crop": [0, 5]}, "crop.0"),
        ({"crop": [5, 5], "scale": [2, 0.5]}, "scale"),
        ({"crop": [5, 5], "resize": 0}, "resize"),
        ({"crop": [5, 5], "flip": 1.5}, "flip"),
        ({"crop": [5, 5], "hue": 0.6}, "hue"),
        ({"crop": [5, 5], "cache": "disk"}, "cache"),
        ({"crop": [5, 5], "workers": -1}, "workers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        from_dict(DataConfig, values)
