"""What a network sees of a sample: random scale, crop, flip and colour in training, the whole resized image in evaluation.

A random view is drawn first, as explicit numbers (`draw_view`), and then applied to image and label together
(`apply_view`); only the region that ends up in the crop is resampled. The image is resampled bilinearly (with antialiasing
when it shrinks), the label by its nearest pixel. Where the crop reaches over the image and its padding, the image is 0 after
normalisation (the mean colour) and the label IGNORE. A label that is one class for the whole image stays what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
from PIL import Image
from torch import Tensor

from segnas.config import configuration
from segnas.data.base import IGNORE, Dataset, Sample

Strength = Annotated[float, pydantic.Field(ge=0, le=1)]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("must be two positive numbers, the smaller first")
    return pair


@configuration
class DataConfig:
    """How samples become batches.

    crop: (height, width) of a training view in pixels. resize: a factor applied to images and labels before anything else
    (0.5: half resolution, as in the search of Auto-DeepLab); evaluation resizes the image alone and compares at the full
    size of the label. scale: range of the random factor on top of it, uniform. flip: probability of a mirrored view.
    brightness, contrast, saturation: the factor is uniform in 1 - x .. 1 + x; hue: a shift of up to x turns (0.5 at most).
    padding: pixels of black around the scaled image, from which the crop is then taken (He et al., 2016, section 4.2: 4 on
    CIFAR-10). cutout: side of a square whose centre is uniform over the crop, clipped at its border, and which is 0 after
    normalisation (DeVries and Taylor, 2017); rows y - side // 2 up to, without, y + side // 2, and 0 for none. Labels under
    padding are IGNORE, those under the square stay.
    workers: processes that read and transform (0: none beside the training process); they change no pixel.
    cache: "memory" keeps decoded training samples, "auto" does so when they fit in a quarter of the free memory.
    """

    crop: tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    resize: Annotated[float, pydantic.Field(gt=0, le=4)] = 1.0
    scale: Annotated[tuple[float, float], pydantic.AfterValidator(_ascending)] = (0.5, 2.0)
    flip: Strength = 0.5
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, pydantic.Field(ge=0, le=0.5)] = 0.0
    padding: pydantic.NonNegativeInt = 0
    cutout: pydantic.NonNegativeInt = 0
    workers: pydantic.NonNegativeInt = 0
    cache: Literal["auto", "memory", "none"] = "auto"

    def __post_init__(self) -> None:
        if self.padding >= min(self.crop):
            raise ValueError(f"padding must be below each side of crop={list(self.crop)}, or crops could miss the image")


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of RGB in 0..1 units; `normalized = (pixel / 255 - mean) / std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) of 0..255, uint8 or float -> (3, H, W) float32."""
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        factor = 1 / (255 * np.asarray(self.std, dtype=np.float64))
        offset = -np.asarray(self.mean, dtype=np.float64) / np.asarray(self.std, dtype=np.float64)
        planes *= factor.astype(np.float32)[:, None, None]
        planes += offset.astype(np.float32)[:, None, None]
        return torch.from_numpy(planes)


@dataclass(frozen=True)
class View:
    """The numbers of one random view.

    size: (height, width) to which the whole image is scaled; top, left: where the crop begins in the scaled image
    (negative: it begins that many pixels before it); the colour factors are 1 and the hue shift (in turns) 0 for no change.
    padding: pixels around the scaled image that are black; cutout: (row, column, side) of the square's centre in the crop as
    the network sees it (mirrored where `flip` says so).
    """

    size: tuple[int, int]
    top: int
    left: int
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    padding: int = 0
    cutout: tuple[int, int, int] | None = None


def draw_view(height: int, width: int, config: DataConfig, generator: np.random.Generator) -> View:
    """A random view of an image of that size.

    Every call takes the same numbers from the generator, used or not; cutout takes two more after them.
    """
    scale, vertical, horizontal, flip, *colors = generator.random(8)
    factor = config.resize * (config.scale[0] + scale * (config.scale[1] - config.scale[0]))
    size = scaled_size(height, width, factor)
    shift = [2 * float(color) - 1 for color in colors]
    cutout = None
    if config.cutout:
        row, column = (int(generator.integers(side)) for side in config.crop)
        cutout = (row, column, config.cutout)
    return View(
        size=size,
        top=_offset(size[0] + 2 * config.padding, config.crop[0], float(vertical)) - config.padding,
        left=_offset(size[1] + 2 * config.padding, config.crop[1], float(horizontal)) - config.padding,
        flip=bool(flip < config.flip),
        brightness=1 + config.brightness * shift[0],
        contrast=1 + config.contrast * shift[1],
        saturation=1 + config.saturation * shift[2],
        hue=config.hue * shift[3],
        padding=config.padding,
        cutout=cutout,
    )


def apply_view(sample: Sample, view: View, crop: tuple[int, int], normalization: Normalization) -> tuple[Tensor, Tensor]:
    """The view of image and label: float32 (3, *crop), normalised, and int64 (*crop) with IGNORE where it is padded.

    The label of a whole image, of shape (), is returned as int64 of that shape.
    """
    image = torch.zeros(3, *crop)
    if view.padding:
        image[:, *_inside(view, crop, view.padding)] = normalization(np.zeros((1, 1, 3), dtype=np.uint8))
    rows, columns = _covered(view.top, crop[0], view.size[0]), _covered(view.left, crop[1], view.size[1])
    target = _inside(view, crop)
    pixels = _resample(sample.image, view.size, rows, columns)
    pixels = jitter_color(pixels, view.brightness, view.contrast, view.saturation, view.hue)
    image[:, *target] = normalization(pixels)
    if sample.label.ndim:
        label = torch.full(crop, IGNORE, dtype=torch.int64)
        label[target] = torch.from_numpy(nearest(sample.label, view.size, rows, columns).astype(np.int64))
    else:
        label = torch.tensor(int(sample.label))
    if view.flip:
        image, label = image.flip(-1), label.flip(-1) if label.ndim else label
    if view.cutout is not None:
        row, column, side = view.cutout
        top, left = max(0, row - side // 2), max(0, column - side // 2)
        image[:, top : row + side // 2, left : column + side // 2] = 0
    return image, label


def jitter_color(pixels: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Brightness, contrast, saturation, hue, in this order, of (H, W, 3) values 0..255, uint8.

    Contrast moves the pixels away from their mean grey, saturation away from their own grey; values are clipped to 0..255
    after each. Returns float32, or the uint8 pixels themselves when nothing is to be changed.
    """
    if (brightness, contrast, saturation, hue) == (1.0, 1.0, 1.0, 0.0):
        return pixels
    from kornia import enhance

    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    if brightness != 1:
        planes = enhance.adjust_brightness_accumulative(planes, brightness)
    if contrast != 1:
        # kornia's own contrast takes the mean in torch, whose last bit depends on the number of threads
        red, green, blue = (float(plane.numpy().mean(dtype=np.float64)) for plane in planes)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = ((planes - grey) * contrast + grey).clamp(0, 1)
    if saturation != 1:
        planes = enhance.adjust_saturation_with_gray_subtraction(planes, saturation)
    if hue != 0:
        planes = enhance.adjust_hue(planes, hue * 2 * math.pi)
    return planes.numpy().transpose(1, 2, 0) * 255


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (*size, 3) uint8, bilinear, antialiased when it shrinks."""
    return _resample(image, size, slice(0, size[0]), slice(0, size[1]))


def nearest(label: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """The region `rows`, `columns` of the label scaled to `size`: each pixel is the one under its centre."""
    height, width = label.shape
    down = (2 * np.arange(rows.start, rows.stop) + 1) * height // (2 * size[0])
    across = (2 * np.arange(columns.start, columns.stop) + 1) * width // (2 * size[1])
    return label[down[:, None], across]


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """(height, width) times the factor, rounded, at least 1."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def seen_size(dataset: Dataset, split: str, resize: float) -> tuple[int, int]:
    """(height, width) at which a network sees the first image of a split."""
    return scaled_size(*dataset.size(split, 0), resize)


def _offset(size: int, crop: int, fraction: float) -> int:
    """Where a crop begins along one side, uniform over all places that lose nothing (or pad no more) than they must."""
    low, high = min(0, size - crop), max(0, size - crop)
    return low + int(fraction * (high - low + 1))


def _covered(begin: int, length: int, size: int) -> slice:
    """The part of [begin, begin + length) that lies in [0, size)."""
    return slice(max(0, begin), min(size, begin + length))


def _inside(view: View, crop: tuple[int, int], padding: int = 0) -> tuple[slice, slice]:
    """The rows and columns of the crop that show the scaled image, or the image with `padding` pixels around it."""
    height, width = (side + 2 * padding for side in view.size)
    rows, columns = _covered(view.top + padding, crop[0], height), _covered(view.left + padding, crop[1], width)
    top, left = view.top + padding, view.left + padding
    return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


def _resample(image: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    """The region `rows`, `columns` of the image scaled to `size`; equal to scaling all of it and cropping."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image[rows, columns]
    box = (
        columns.start * width / size[1],
        rows.start * height / size[0],
        columns.stop * width / size[1],
        rows.stop * height / size[0],
    )
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, box=box))
