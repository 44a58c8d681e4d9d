"""Small folders of images and masks for the tests of the readers. The colour of an image pixel tells its class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([(20, 40, 60), (220, 30, 30), (30, 200, 40), (60, 60, 230)], dtype=np.uint8)


def label_of(seed: int, height: int = 24, width: int = 36, classes: int = 3) -> np.ndarray:
    """(height, width) uint8 ids in blocks of 6 pixels; all of the classes occur."""
    blocks = np.random.default_rng(seed).integers(0, classes, (-(-height // 6), -(-width // 6)), dtype=np.uint8)
    blocks.ravel()[:classes] = range(classes)
    return np.kron(blocks, np.ones((6, 6), np.uint8))[:height, :width]


def write_image(path: Path, label: np.ndarray) -> None:
    """An image that shows the label in COLORS."""
    write(path, COLORS[label])


def write(path: Path, pixels: np.ndarray) -> None:
    """Any array as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pairs(images: Path, masks: Path, names: str, classes: int = 3, suffix: str = ".png") -> None:
    """One pair for each word of `names`."""
    for number, name in enumerate(names.split()):
        label = label_of(number + 10 * len(str(images)), classes=classes)
        write_image(images / f"{name}{suffix}", label)
        write(masks / f"{name}.png", label)


def split_set(root: Path, classes: int = 3) -> Path:
    """images/{train,val,test} and labels/{train,val,test} with 4, 2 and 1 pairs, without class file."""
    for split, names in (("train", "a b c d"), ("val", "e f"), ("test", "g")):
        write_pairs(root / "images" / split, root / "labels" / split, names, classes)
    return root


def write_indexed(path: Path, indices: np.ndarray, palette: np.ndarray) -> None:
    """A palette image; palette: (entries, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    image.save(path)
