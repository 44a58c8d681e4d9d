"""Prediction for image files by a network that says one class of an image: the likeliest classes, as a table in one CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from segnas.data.images import image_size, read_image
from segnas.errors import UserError
from segnas.runs.progress import StageProgress
from segnas.training.device import Device
from segnas.training.inference import class_probabilities
from segnas.training.model import TrainedModel
from segnas.training.predict import found_images, make_folder, require_scales

FILE = "predictions.csv"
MOST = 5  # classes that are told of an image


@dataclass(frozen=True)
class Classification:
    """What was said of one image. top: at most five classes and their probabilities (0..1), the likeliest first."""

    image: Path
    top: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """The likeliest class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Its probability, 0..1."""
        return self.top[0][1]

    def to_json(self) -> dict[str, Any]:
        """Plain values: image, class, probability and top, a list of class and probability."""
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"image": str(self.image), "class": self.name, "probability": self.probability, "top": top}


def classify(
    model: TrainedModel,
    paths: str | Path | Sequence[str | Path],
    out: Path,
    device: Device,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[Classification]:
    """Predict images (a file or folder, or several) and write predictions.csv into `out`; the network is moved to the device.

    Of a folder all images are taken, those of its subfolders too, hidden ones not. The network sees an image at its own size
    (times model.resize), so it should be about as large as those of the training. Raises UserError, before the work begins,
    when an image is missing or none, and on the way for an image that is damaged.
    """
    require_scales(scales)
    files = [file for _, file in found_images(paths)]
    sizes = {file: image_size(file) for file in files}  # a file that is no image is refused before the work begins
    make_folder(out)
    device.place(model.network).eval()
    done: list[Classification] = []
    with StageProgress("predict", len(files)) as progress:
        for batch in _batches(files, sizes, model.task.batch_size):
            images = [read_image(file) for file in batch]
            probabilities = class_probabilities(model, images, sizes[batch[0]], device, scales, flip)
            values, indices = probabilities.topk(min(MOST, len(model.classes)), dim=1)
            for file, likely, ids in zip(batch, values.tolist(), indices.tolist(), strict=True):
                names = [model.classes.names[index] for index in ids]
                done.append(Classification(file, tuple(zip(names, likely, strict=True))))
                progress.step()
    write(done, out / FILE)
    return done


def write(predictions: Sequence[Classification], file: Path) -> None:
    """One row an image: image, class, probability, then the next likely classes; UserError when the disk refuses."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    more = range(2, len(predictions[0].top) + 1)
    table.writerow(["image", "class", "probability", *(f"{key}_{place}" for place in more for key in ("class", "probability"))])
    for one in predictions:
        table.writerow([one.image, *(cell for name, likely in one.top for cell in (name, f"{likely:.6f}"))])
    try:
        file.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None


def _batches(files: Sequence[Path], sizes: dict[Path, tuple[int, int]], most: int) -> Iterator[list[Path]]:
    """Consecutive files of one size, at most so many of them."""
    for _, group in groupby(files, key=sizes.__getitem__):
        same = list(group)
        yield from (same[start : start + most] for start in range(0, len(same), most))
