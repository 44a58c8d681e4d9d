"""A drawn set with one class an image and a tiny family of networks for it, shared by the tests of classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnas.data.base import Classes, Sample, palette
from segnas.nets.build import builders
from segnas.spaces.architecture import families

NAMES = ("red", "green", "blue", "yellow", "white", "black")
COLORS = np.array([(200, 40, 40), (40, 180, 40), (40, 40, 200), (200, 190, 40), (225, 225, 225), (25, 25, 25)])


@dataclass(frozen=True)
class SmallImages:
    """Noise around the colour of the class; image i of a split is a function of (split, i) alone, its class is i modulo 6."""

    counts: Mapping[str, int] = field(default_factory=lambda: {"train": 24, "val": 13, "test": 6})
    side: int = 32
    noise: int = 60
    name: str = "small-images"
    task: str = "classification"
    classes: Classes = field(default_factory=lambda: Classes(NAMES, palette(len(NAMES))))
    splits: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        splits = {split: tuple(f"{split}_{index}" for index in range(count)) for split, count in self.counts.items()}
        object.__setattr__(self, "splits", splits)

    def read(self, split: str, index: int) -> Sample:
        generator = np.random.default_rng([len(split), index])
        label = index % len(NAMES)
        image = COLORS[label] + generator.integers(-self.noise, self.noise + 1, (self.side, self.side, 3))
        return Sample(self.splits[split][index], image.clip(0, 255).astype(np.uint8), np.array(label, dtype=np.uint8))

    def size(self, split: str, index: int) -> tuple[int, int]:
        return self.side, self.side


@families.register("tiny-classifier")
@dataclass(frozen=True)
class TinyClassifier:
    """One convolution, a pool, a linear layer."""

    width: int = 8

    @property
    def task(self) -> str:
        return "classification"


@families.register("tiny-plain-classifier")
@dataclass(frozen=True)
class TinyPlainClassifier(TinyClassifier):
    """The same without an auxiliary head to give."""


class PlainNetwork(nn.Module):
    """(N, 3, H, W) -> (N, K) logits; not symmetric, so that a mirrored image is another one."""

    def __init__(self, architecture: TinyClassifier, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, architecture.width, 3, padding=1, bias=False), nn.BatchNorm2d(architecture.width), nn.ReLU()
        )
        self.classifier = nn.Linear(2 * architecture.width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return torch.cat([maps.mean(dim=(2, 3)), maps[..., : maps.shape[-1] // 2].mean(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor) -> Any:
        return self.classifier(self.features(images))


class TinyNetwork(PlainNetwork):
    """With an auxiliary head on demand."""

    def __init__(self, architecture: TinyClassifier, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(architecture, num_classes, in_channels)
        self.auxiliary: nn.Module | None = None

    def add_auxiliary_head(self, num_classes: int) -> None:
        self.auxiliary = nn.Linear(self.classifier.in_features, num_classes)

    def set_drop_path(self, final_keep: float, progress: float) -> None:
        self.keep = 1 - progress * (1 - final_keep)

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        if self.training and self.auxiliary is not None:
            return self.classifier(features), self.auxiliary(features)
        return self.classifier(features)


builders.register("tiny-classifier")(TinyNetwork)
builders.register("tiny-plain-classifier")(PlainNetwork)
