"""Pictures of an evaluation, for people to look at: image, label and prediction of the best, typical and worst images; where an
image has one class, the images of the surest mistakes and the surest right answers."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segnas.data.base import IGNORE, Classes, Dataset
from segnas.runs.run import Run
from segnas.training.device import Device
from segnas.training.inference import ImageAnswer, class_probabilities
from segnas.training.model import TrainedModel

OF_EACH_KIND = 2
ANSWERS_OF_EACH_KIND = 8
WIDEST = 640  # pixels
IGNORE_COLOR = (0, 0, 0)


def colored(ids: np.ndarray, classes: Classes) -> np.ndarray:
    """(H, W) train ids -> (H, W, 3) uint8 in the classes' colours; IGNORE is black."""
    table = np.full((256, 3), IGNORE_COLOR, dtype=np.uint8)
    table[: len(classes)] = classes.colors
    table[IGNORE] = IGNORE_COLOR
    return table[ids]


def choose(image_scores: Sequence[float]) -> list[tuple[str, int, int]]:
    """(kind, number from 1, index) of the two best, the two nearest to the median and the two worst images, none of them twice.

    Images without a score (NaN) are never chosen; with fewer than six, the best come first, then the worst.
    """
    order = sorted((i for i, value in enumerate(image_scores) if value == value), key=lambda i: (-image_scores[i], i))
    best, rest = order[:OF_EACH_KIND], order[OF_EACH_KIND:]
    worst = rest[::-1][:OF_EACH_KIND]
    middle = rest[: len(rest) - len(worst)]
    median = float(np.median([image_scores[i] for i in order])) if order else 0.0
    typical = sorted(middle, key=lambda i: (abs(image_scores[i] - median), i))[:OF_EACH_KIND]
    kinds = {"best": best, "typical": typical, "worst": worst}
    return [(kind, number, index) for kind, indices in kinds.items() for number, index in enumerate(indices, start=1)]


def write_panels(
    model: TrainedModel,
    dataset: Dataset,
    split: str,
    image_scores: Sequence[float],
    scales: Sequence[float],
    flip: bool,
    device: Device,
    run: Run,
) -> None:
    """Write panels/<kind>_<k>_{image,label,prediction}.png, at most 640 pixels wide, and panels/panels.json that lists them."""
    listed = []
    for kind, number, index in choose(image_scores):
        sample = dataset.read(split, index)
        size = (sample.label.shape[0], sample.label.shape[1])
        probabilities = class_probabilities(model, [sample.image], size, device, scales, flip)
        prediction = probabilities[0].argmax(dim=0).cpu().numpy()
        pictures = {
            "image": _shrunk(sample.image, Image.Resampling.BILINEAR),
            "label": _shrunk(colored(sample.label, model.classes), Image.Resampling.NEAREST),
            "prediction": _shrunk(colored(prediction, model.classes), Image.Resampling.NEAREST),
        }
        entry = {"kind": kind, "name": sample.name, "mIoU": image_scores[index]}
        for name, picture in pictures.items():
            file = f"panels/{kind}_{number}_{name}.png"
            run.write_bytes(file, png(picture))
            entry[name] = file
        listed.append(entry)
    run.write_json("panels/panels.json", listed)


def choose_answers(answers: Sequence[ImageAnswer]) -> list[tuple[str, int, int]]:
    """(kind, number from 1, index) of the mistakes and of the right answers with the highest probabilities, the surest first."""
    order = sorted(range(len(answers)), key=lambda i: (-answers[i].probability, i))
    kinds = {
        "mistake": [i for i in order if answers[i].wrong],
        "right": [i for i in order if answers[i].label == answers[i].prediction],
    }
    return [
        (kind, number, index)
        for kind, indices in kinds.items()
        for number, index in enumerate(indices[:ANSWERS_OF_EACH_KIND], start=1)
    ]


def write_answers(classes: Classes, dataset: Dataset, split: str, answers: Sequence[ImageAnswer], run: Run) -> None:
    """Write panels/<kind>_<k>.png, at most 640 pixels wide, and panels/panels.json with label and prediction by name."""
    listed = []
    for kind, number, index in choose_answers(answers):
        answer, file = answers[index], f"panels/{kind}_{number}.png"
        run.write_bytes(file, png(_shrunk(dataset.read(split, index).image, Image.Resampling.BILINEAR)))
        named = {"labelled": classes.names[answer.label], "predicted": classes.names[answer.prediction]}
        listed.append({"kind": kind, "name": answer.name, "image": file, **named, "probability": answer.probability})
    run.write_json("panels/panels.json", listed)


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def _shrunk(pixels: np.ndarray, resampling: Image.Resampling) -> Image.Image:
    picture = Image.fromarray(pixels)
    if picture.width <= WIDEST:
        return picture
    return picture.resize((WIDEST, max(1, round(picture.height * WIDEST / picture.width))), resampling)
