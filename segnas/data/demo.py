"""The demo set: drawn street scenes of 8 classes, for a first run with nothing to download (`--data demo`).

It is made so that a network must see context: no class has a colour of its own (see demo_scene.py), so a classifier of single
pixels fails where a small convolutional network trained for a minute succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from segnas.data.base import Classes, Sample
from segnas.data.demo_scene import draw_scene
from segnas.errors import UserError
from segnas.randomness import numpy_generator

CLASSES = Classes(
    names=("sky", "building", "road", "pavement", "tree", "car", "person", "sign"),
    colors=(
        (70, 130, 180),
        (110, 110, 110),
        (128, 64, 128),
        (244, 35, 232),
        (107, 142, 35),
        (0, 0, 142),
        (220, 20, 60),
        (250, 190, 20),
    ),
)
SMALLEST = 32  # pixels a side


class Demo:
    """Street scenes drawn on demand: sample `index` of `split` is a function of (seed, split, index) and the size alone.

    `size` is (height, width) in pixels. Drawn samples are kept in memory (48 KiB each at the default size). Raises UserError
    for a size under 32 x 32 or an empty training or validation split.
    """

    name = "demo"
    task = "segmentation"
    classes = CLASSES

    def __init__(self, seed: int = 0, size: tuple[int, int] = (96, 128), train: int = 400, val: int = 60, test: int = 60) -> None:
        if min(size) < SMALLEST:
            raise UserError(f"the demo set cannot be drawn at {size[0]}x{size[1]}; each side must be at least {SMALLEST} pixels")
        if min(train, val) < 1 or test < 0:
            raise UserError(
                f"the demo set needs train and val of at least 1 image and test of at least 0, not {train}, {val}, {test}"
            )
        self._seed = seed
        self._size = size
        counts = {"train": train, "val": val, "test": test}
        self.splits: Mapping[str, tuple[str, ...]] = {
            split: tuple(f"{split}_{index:04d}" for index in range(count)) for split, count in counts.items() if count
        }
        self._drawn: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def read(self, split: str, index: int) -> Sample:
        """The sample; the arrays are the caller's own. Raises KeyError or IndexError for what is not in `splits`."""
        name = self.splits[split][index]
        place = (split, index % len(self.splits[split]))
        if place not in self._drawn:
            self._drawn[place] = draw_scene(numpy_generator(self._seed, "demo", *place), *self._size)
        image, label = self._drawn[place]
        return Sample(name, image.copy(), label.copy())

    def size(self, split: str, index: int) -> tuple[int, int]:
        """(height, width), the same for all."""
        return self._size
