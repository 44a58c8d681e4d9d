"""The page of a classification run: accuracy in its tile, bars, confusions and warnings, pictures with names, no word of IoU."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnas.report import write_report
from segnas.report.cautions import cautions
from segnas.report.information import gather
from segnas.report.tables import class_bars, confusion, confusion_table, largest_confusions
from segnas.runs.run import Run

CONFUSION = [[90, 10, 0, 0], [30, 20, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0]]
NAMES = ("cat", "dog", "<ship>", "truck")


def evaluation(split: str) -> dict[str, Any]:
    figures = (90.0, 40.0, 0.0, None)
    classes = [
        {"name": name, "color": [50 * index, 0, 90], "accuracy": figure, "images": sum(CONFUSION[index])}
        for index, (name, figure) in enumerate(zip(NAMES, figures, strict=True))
    ]
    protocol = {"split": split, "images": 158, "scales": [1.0], "flip": False, "text": f"All 158 images of {split}."}
    return {
        "split": split, "task": "classification", "metric": "accuracy", "protocol": protocol, "accuracy": 69.62, "mAcc": 43.33,
        "classes": classes, "confusion": CONFUSION, "seconds": 1.5,
        "images": [{"name": "7", "label": "cat", "prediction": "dog", "probability": 0.9}],
    }  # fmt: skip


@pytest.fixture
def run(make_run: Callable[[], Run]) -> Run:
    """A complete run, as if it had been one of classification."""
    run = make_run()
    run.write_json("evaluation.json", evaluation("val"))
    run.write_json("evaluation_test.json", evaluation("test"))
    data = run.read_json("data.json")
    run.write_json("data.json", {**data, "task": "classification", "name": "pets"})
    parity = {key: value for key, value in run.read_json("parity.json").items() if not key.startswith("mIoU")}
    run.write_json("parity.json", {**parity, "accuracy_torch": 71.5, "accuracy_onnx": 71.25})
    run.write_json("comparison.json", {**run.read_json("comparison.json"), "metric": "accuracy"})
    metrics = run.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"mIoU"', '"accuracy"'))
    shutil.rmtree(run.path / "panels")
    panels = []
    for kind, predicted in (("mistake", "dog"), ("right", "cat")):
        for number in (1, 2):
            buffer = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            file = f"panels/{kind}_{number}.png"
            run.write_bytes(file, buffer.getvalue())
            panels.append({"kind": kind, "name": f"image {number}", "image": file, "labelled": "cat", "predicted": predicted,
                           "probability": 0.987})  # fmt: skip
    run.write_json("panels/panels.json", panels)
    return run


def text_of(run: Run) -> str:
    page = write_report(run).read_text(encoding="utf-8")
    return re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_the_page_speaks_of_accuracy_and_images(run: Run) -> None:
    page = text_of(run)
    assert "IoU" not in re.sub('base64,[^"]+', "", page), "pictures apart"
    assert '<span class="name">accuracy</span><span class="value">69.6' in page
    for words in ("69.6 % accuracy over 4 classes on the test split", "accuracy 69.6 %, mAcc 43.3 %", "all images of val",
                  "images with the same class", "accuracy trained / exported", "71.50 % / 71.25 %", "Accuracy on validation",
                  "accuracy, %"):  # fmt: skip
        assert words in page.replace("\u00a0", " "), words
    assert "From image to image" not in page, "there is no spread of a figure that an image does not have"
    assert "Auto-DeepLab-S" not in page, "networks for another task are no comparison"


def test_pictures_bear_the_names_of_label_and_prediction(run: Run) -> None:
    page = text_of(run)
    assert page.index("The surest mistakes") < page.index("The surest right answers")
    assert page.count("<figcaption>cat taken for dog, 98.7 %</figcaption>") == 2
    assert page.count("<figcaption>cat, 98.7 %</figcaption>") == 2
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', page)
    assert pictures == ["image 1: cat taken for dog", "image 2: cat taken for dog", "image 1: cat", "image 2: cat"]
    assert 'class="legend"' not in page


def test_bars_and_confusions_count_images(run: Run) -> None:
    found = gather(run).evaluations[0]
    bars = class_bars(found)
    assert "Accuracy of each class on test" in bars
    assert "share of images" in bars
    assert [bars.index(name) for name in ("cat", "dog", "&lt;ship&gt;", "truck")] == sorted(
        bars.index(name) for name in ("cat", "dog", "&lt;ship&gt;", "truck")
    )
    assert "absent: no image has this label" in bars
    assert len(set(re.findall(r"<tr[^>]*>", bars))) >= 2
    matrix = confusion(found)
    assert matrix is not None
    assert "of the images of each label" in confusion_table(matrix)
    assert largest_confusions(matrix) == [
        "<ship> is taken for dog in 100 % of its images",
        "dog is taken for cat in 60 % of its images",
        "cat is taken for dog in 10 % of its images",
    ]


def test_what_speaks_against_it(run: Run) -> None:
    told = [item.text for item in cautions(gather(run))]
    assert "truck never occurred in the val split: nothing is known about this class, and the mean leaves this class out." in told
    assert "Never found on the test split: <ship>." in told
    assert "More often wrong than right on the test split: dog (40.0 %)." in told
    assert not any("IoU" in text for text in told)


def test_a_figure_that_is_missing_is_a_problem(run: Run) -> None:
    run.write_json("evaluation.json", {**evaluation("val"), "accuracy": None})
    assert [item.text for item in cautions(gather(run)) if item.level == "problem"] == [
        "No accuracy could be measured on the val split."
    ]


def test_before_it_is_evaluated_the_data_say_the_task(run: Run) -> None:
    for name in ("evaluation.json", "evaluation_test.json"):
        (Path(run.path) / name).unlink()
    assert gather(run).task.name == "classification"
    assert "Accuracy on validation" in text_of(run)
