"""A tiny set that is drawn in memory, a tiny network and a device, shared by the tests of training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from segnas.data.base import IGNORE, Classes, Sample
from segnas.data.transforms import DataConfig, Normalization
from segnas.spaces.auto_deeplab import AutoDeepLab, Block, NetworkOptions
from segnas.training.device import Device, DeviceConfig, launch

CLASSES = Classes(("ground", "square", "disc"), ((0, 0, 0), (200, 40, 40), (40, 40, 200)), source_ids=(7, 9, 40))


@dataclass
class Drawn:
    """Bright squares and discs on a dark ground; image i of a split is a function of (split, i) alone."""

    sizes: dict[str, list[tuple[int, int]]]
    name: str = "drawn"
    task: str = "segmentation"
    classes: Classes = CLASSES
    splits: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = {split: tuple(f"{split}_{i}" for i in range(len(sizes))) for split, sizes in self.sizes.items()}

    def read(self, split: str, index: int) -> Sample:
        height, width = self.sizes[split][index]
        generator = np.random.default_rng([len(split), index])
        rows, columns = np.mgrid[:height, :width]
        label = np.zeros((height, width), dtype=np.uint8)
        top, left = generator.integers(0, height - 12), generator.integers(0, width - 12)
        label[top : top + 12, left : left + 12] = 1
        label[(rows - generator.integers(8, height - 8)) ** 2 + (columns - generator.integers(8, width - 8)) ** 2 < 36] = 2
        image = np.array([[30, 30, 30], [200, 160, 40], [60, 160, 220]])[label] + generator.integers(-20, 20, (height, width, 3))
        label[:2] = IGNORE
        return Sample(self.splits[split][index], image.clip(0, 255).astype(np.uint8), label)

    def size(self, split: str, index: int) -> tuple[int, int]:
        return self.sizes[split][index]


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    return Drawn({"train": [(40, 48)] * 7, "val": [(40, 48), (40, 48), (36, 44)], "test": [(40, 48)]})


@pytest.fixture(scope="session")
def architecture() -> AutoDeepLab:
    """Two cells of two blocks: drop path, dropout, both directions of resizing, about four thousand parameters."""
    cell = (Block((0, 1), ("sep_conv_3x3", "skip_connect")), Block((2, 1), ("avg_pool_3x3", "atrous_conv_3x3")))
    options = NetworkOptions(filters=3, stem=(6, 6, 8), aspp_width=8, low_level_width=4, decoder_width=8, dropout=0.2)
    return AutoDeepLab(path=(0, 1), cell=cell, network=options)


@pytest.fixture(scope="session")
def normalization() -> Normalization:
    return Normalization((0.2, 0.25, 0.3), (0.2, 0.15, 0.25))


@pytest.fixture(scope="session")
def data() -> DataConfig:
    return DataConfig(crop=(33, 33), scale=(0.8, 1.25))


@pytest.fixture(scope="session")
def device() -> Device:
    return launch(DeviceConfig(accelerator="cpu"))
