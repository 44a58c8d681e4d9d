"""A folder of a few drawn images, as small as a whole run can be, for the programs that the pages print."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLORS = np.array([(90, 90, 90), (200, 60, 50), (40, 90, 210)], dtype=np.uint8)
COUNTS = {"train": 8, "val": 2, "test": 2}


@pytest.fixture
def my_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `my_images` in a new current directory: boxes of two colours on grey, 40x48 pixels."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "my_images"
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            label = np.zeros((40, 48), dtype=np.uint8)
            for number in (1, 2):
                top, left = generator.integers(0, 24, 2)
                label[top : top + 14, left : left + 18] = number
            noise = generator.integers(-20, 20, (40, 48, 3))
            image = (COLORS[label] + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["ground", "red", "blue"], "ignore_index": 255}))
    return root
