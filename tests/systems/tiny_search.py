"""A tiny set drawn in memory (and as a folder) and a tiny search, shared by the tests of systems."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnas.data.base import Classes, Sample
from segnas.data.transforms import DataConfig
from segnas.spaces.auto_deeplab import NetworkOptions
from segnas.spaces.darts import DartsOptions
from segnas.systems import darts
from segnas.systems.auto_deeplab import AutoDeepLabConfig, SearchConfig
from segnas.systems.base import Job
from segnas.training.device import DeviceConfig
from segnas.training.retrain import RetrainConfig

PARTIAL = {"partial_channels": 2, "edge_weights": True}
SMALL: dict[str, Any] = {  # where the network is not the point
    "blocks": 1,
    "operations": ("none", "skip_connect", "max_pool_3x3"),
}
COLORS = ((20, 20, 20), (200, 40, 40), (40, 60, 220))


@dataclass
class Drawn:
    """Squares of two colours on a dark ground. Splits in `forbidden` must not be read; `seen` lists what was."""

    count: int = 9
    forbidden: tuple[str, ...] = ()
    name: str = "drawn"
    task: str = "segmentation"
    classes: Classes = field(default_factory=lambda: Classes(("ground", "red", "blue"), COLORS))
    splits: Mapping[str, tuple[str, ...]] = field(init=False)
    seen: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.splits = {"train": tuple(f"t{i}" for i in range(self.count)), "val": ("v0", "v1"), "test": ("x0",)}

    def read(self, split: str, index: int) -> Sample:
        assert split not in self.forbidden, f"the split {split} was read"
        self.seen.append((split, index))
        label = np.zeros((40, 44), dtype=np.uint8)
        generator = np.random.default_rng([len(split), index])
        for value in (1, 2):
            top, left = generator.integers(0, 28, 2)
            label[top : top + 12, left : left + 14] = value
        noise = generator.integers(-15, 15, (40, 44, 3))
        image = (np.array(COLORS)[label] + noise).clip(0, 255).astype(np.uint8)
        return Sample(self.splits[split][index], image, label)

    def size(self, split: str, index: int) -> tuple[int, int]:
        return 40, 44

    def write(self, root: Path) -> Path:
        """The same as a folder that `--data` takes."""
        for split, names in self.splits.items():
            for index, name in enumerate(names):
                sample = self.read(split, index)
                for kind, pixels in (("images", sample.image), ("labels", sample.label)):
                    path = root / kind / split / f"{name}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
        classes = [
            {"id": i, "name": n, "color": list(c)} for i, (n, c) in enumerate(zip(self.classes.names, COLORS, strict=True))
        ]
        (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_index": 255}))
        return root


def tiny_config(seed: int = 0, **search: object) -> AutoDeepLabConfig:
    """Three epochs of two steps; alpha and beta from the second epoch on."""
    settings: dict[str, object] = {"layers": 2, "blocks": 2, "filters": 2, "stem": (4, 4, 6), "head_width": 4}
    settings |= {"epochs": 3, "architecture_from_epoch": 1, "batch_size": 2, "crop": (33, 33), "resize": 1.0, "scored_images": 4}
    return AutoDeepLabConfig(
        seed=seed,
        data=DataConfig(crop=(33, 33), scale=(0.8, 1.25), brightness=0.2),
        device=DeviceConfig(accelerator="cpu"),
        retrain=RetrainConfig(epochs=3, batch_size=2, validate_every=2, drop_path=0.9),
        search=SearchConfig(**(settings | search)),  # type: ignore[arg-type]
        network=NetworkOptions(filters=2, stem=(4, 4, 6), aspp_width=4, aspp_rates=(1,), low_level_width=2, decoder_width=4),
    )


def tiny_darts(seed: int = 0, form: str = "segmentation", **search: object) -> darts.DartsConfig:
    """The same for DARTS: three epochs of two steps on the drawn set; two blocks a cell, all operations."""
    crop = (33, 33) if form == "segmentation" else (16, 16)
    settings: dict[str, object] = {"channels": 4, "layers": 3, "blocks": 2, "head_width": 4, "crop": crop, "resize": 1.0}
    settings |= {"epochs": 3, "architecture_from_epoch": 1, "batch_size": 2, "scored_images": 4}
    return darts.DartsConfig(
        seed=seed,
        data=DataConfig(crop=crop, scale=(0.8, 1.25), brightness=0.2),
        device=DeviceConfig(accelerator="cpu"),
        retrain=RetrainConfig(epochs=3, batch_size=2, validate_every=2, drop_path=0.9),
        search=darts.SearchConfig(**(settings | search)),  # type: ignore[arg-type]
        network=DartsOptions(
            form=form,  # type: ignore[arg-type]
            channels=4,
            layers=3,
            aspp_width=4,
            aspp_rates=(1,),
            low_level_width=2,
            decoder_width=4,
        ),
    )


MakeJob = Callable[..., Job]


def without_seconds(written: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in written.items() if key != "seconds"}
