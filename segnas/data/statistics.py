"""Figures of a data set that training needs: mean and deviation of its colours, class frequencies, class weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from segnas.data.base import Dataset
from segnas.data.transforms import Normalization
from segnas.errors import UserError

MEASURED_IMAGES = 500


def measure_normalization(dataset: Dataset, split: str = "train", limit: int = MEASURED_IMAGES) -> Normalization:
    """Mean and standard deviation over all pixels of a split, or of `limit` of its images, evenly spaced.

    The sums are of integers, so the order of reading changes no bit. A channel without any contrast gets deviation 1/255.
    """
    count = len(dataset.splits[split])
    if count == 0:
        raise UserError(f"the split '{split}' of {dataset.name} holds no image to take mean and deviation from")
    levels = np.arange(256, dtype=np.int64)
    histogram = np.zeros((3, 256), dtype=np.int64)
    for index in evenly_spaced(count, limit):
        image = dataset.read(split, index).image
        histogram += np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
    pixels = histogram.sum(axis=1)
    mean = (histogram * levels).sum(axis=1) / pixels
    variance = (histogram * levels**2).sum(axis=1) / pixels - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1)
    red, green, blue = (mean / 255).tolist()
    return Normalization((red, green, blue), tuple((std / 255).tolist()))


@dataclass(frozen=True)
class ClassPixels:
    """Pixels of each class in some labels, by train id.

    pixels: of the class itself; present: all pixels of the images that show it; ignored: pixels that are IGNORE.
    """

    pixels: tuple[int, ...]
    present: tuple[int, ...]
    ignored: int


def class_pixels(labels: Iterable[np.ndarray], num_classes: int) -> ClassPixels:
    """Count the pixels of `num_classes` classes in (H, W) labels of train ids."""
    pixels = np.zeros(num_classes, dtype=np.int64)
    present = np.zeros(num_classes, dtype=np.int64)
    ignored = 0
    for label in labels:
        counts = np.bincount(label.ravel(), minlength=256)[:num_classes]
        pixels += counts
        present += np.where(counts > 0, label.size, 0)
        ignored += label.size - int(counts.sum())
    return ClassPixels(tuple(pixels.tolist()), tuple(present.tolist()), ignored)


def add_class_pixels(parts: Iterable[ClassPixels], num_classes: int) -> ClassPixels:
    """The counts of several parts of a set together."""
    pixels, present, ignored = [0] * num_classes, [0] * num_classes, 0
    for part in parts:
        pixels = [total + count for total, count in zip(pixels, part.pixels, strict=True)]
        present = [total + count for total, count in zip(present, part.present, strict=True)]
        ignored += part.ignored
    return ClassPixels(tuple(pixels), tuple(present), ignored)


def median_frequency_weights(counts: ClassPixels) -> tuple[float, ...]:
    """Weight of each class in the loss: median(f) / f, f = its share of the pixels of the images that show it.

    Eigen and Fergus, ICCV 2015, section 4 ("median frequency balancing"). Classes that never occur get weight 0.
    """
    pixels = np.asarray(counts.pixels, dtype=np.float64)
    frequency = pixels / np.maximum(counts.present, 1)
    occurs = pixels > 0
    if not occurs.any():
        raise UserError("no class occurs in the training labels, so that there are no class weights; see segnas data check")
    weights = np.where(occurs, np.median(frequency[occurs]) / np.where(occurs, frequency, 1), 0)
    return tuple(weights.tolist())


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of 0 .. count-1, evenly spaced, the first one included."""
    return list(range(count)) if count <= limit else [place * count // limit for place in range(limit)]
