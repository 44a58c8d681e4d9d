"""A drawn set and a tiny run for the tests of the command line, and the command line itself, called within the process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segnas.cli import main

COLORS = np.array([(20, 20, 20), (200, 40, 40), (40, 60, 220)], dtype=np.uint8)
COUNTS = {"train": 8, "val": 2, "test": 2}
SEARCH = [
    "search.layers=2",
    "search.blocks=1",
    "search.filters=2",
    "search.stem=[4,4,8]",
    "search.head_width=8",
    "search.crop=[33,33]",
    "search.batch_size=2",
    "search.epochs=2",
    "search.architecture_from_epoch=1",
    "search.scored_images=4",
]
NETWORK = [
    "network.filters=2",
    "network.stem=[4,4,8]",
    "network.aspp_width=8",
    "network.low_level_width=4",
    "network.decoder_width=8",
]
RETRAIN = ["data.crop=[33,33]", "retrain.batch_size=2", "retrain.steps=4", "retrain.warmup_steps=0", "device.accelerator=cpu"]
TINY = ["--preset", "quick", *SEARCH, *NETWORK, *RETRAIN]
SMALL = ["--preset", "quick", *RETRAIN]  # for an architecture that is known
ARCHITECTURE = {
    "family": "auto-deeplab",
    "path": [0, 1],
    "cell": [{"inputs": [0, 1], "operations": ["skip_connect", "sep_conv_3x3"]}],
    "network": {"filters": 2, "stem": [4, 4, 8], "aspp_width": 8, "low_level_width": 4, "decoder_width": 8},
}


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line that a mistake is met with: status 2, nothing on standard output, no traceback, last on standard error."""
        assert self.status == 2, self.out + self.err
        assert "Traceback" not in self.err
        assert not self.out
        *before, last = self.err.splitlines()
        assert last.startswith("segnas: ")
        assert not any(line.startswith("segnas: ") for line in before), "one line"
        return last.removeprefix("segnas: ")


def segnas(*words: object) -> Answer:
    """`segnas WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
    return Answer(status, out.getvalue(), err.getvalue())


def draw(root: Path) -> Path:
    """12 images of 40x48 pixels, boxes of two colours on dark ground, in three splits."""
    for split, count in COUNTS.items():
        for index in range(count):
            generator = np.random.default_rng([len(split), index])
            label = np.zeros((40, 48), dtype=np.uint8)
            for value in (1, 2):
                top, left = generator.integers(0, 28, 2)
                label[top : top + 12, left : left + 16] = value
            image = (COLORS[label] + generator.integers(-15, 15, (40, 48, 3))).clip(0, 255).astype(np.uint8)
            save(root / "images" / split / f"{index}.png", image)
            save(root / "labels" / split / f"{index}.png", label)
    names = ("ground", "red", "blue")
    classes = [{"id": number, "name": name, "color": COLORS[number].tolist()} for number, name in enumerate(names)]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_index": 255}))
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    """An array as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the lock."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}
