"""A classification set through the commands: retrain, evaluate, export, report, predict; what is not for it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import segnas
from PIL import Image
from small_images import NAMES, SmallImages

from segnas import plans, workplace
from segnas.systems.base import System, preset
from segnas.systems.settings import RunConfig, run_preset

SETTINGS = ["retrain.epochs=3", "retrain.batch_size=6", "device.accelerator=cpu", "device.threads=1"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is opened as the drawn set; two of its pictures lie in it."""
    folder, dataset = tmp_path_factory.mktemp("classification") / "small", SmallImages()
    folder.mkdir()
    for index in range(2):
        Image.fromarray(dataset.read("test", index).image).save(folder / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workplace, "open_dataset", lambda data, seed=0: dataset)
        patch.setattr(plans, "task_of_data", lambda data: "classification")
        yield folder


@pytest.fixture(scope="module")
def trained(small: Path) -> Path:
    """A finished training by the preset quick, evaluated and exported. Not to be written in."""
    out, architecture = small.parent / "run", small.parent / "tiny.json"
    architecture.write_text(json.dumps({"family": "tiny-classifier", "width": 8}))
    words = ["--data", small, "--out", out, "--preset", "quick", *SETTINGS, "retrain.auxiliary_weight=0.4"]
    answer = segnas("retrain", architecture, *words)
    assert answer.status == 0, answer.err
    assert re.search(r"retrain 3/3 .*accuracy [\d.]+ .*best [\d.]+", answer.err)
    assert "mIoU" not in answer.err
    return out


def test_the_preset_is_that_of_the_task(trained: Path) -> None:
    config = (trained / "config.yaml").read_text()
    assert "padding: 4" in config
    assert run_preset("quick", "classification").data.padding == 4
    metrics = {json.loads(line)["name"] for line in (trained / "metrics.jsonl").read_text().splitlines()}
    assert metrics == {"loss", "learning_rate", "accuracy"}
    cost = json.loads((trained / "cost.json").read_text())
    assert cost["parameters"] == 8 * 27 + 16 + 16 * 6 + 6, "without the auxiliary head"
    assert json.loads((trained / "data.json").read_text())["task"] == "classification"


def test_evaluate_export_and_report(trained: Path) -> None:
    printed = segnas("evaluate", trained)
    assert printed.status == 0, printed.err
    assert "accuracy %" in printed.out
    assert re.search(r"accuracy \d+\.\d\d  mAcc \d+\.\d\d", printed.out)
    for split in ("val", "test"):
        found = segnas("evaluate", trained, f"split={split}", "--json").json
        assert [entry["name"] for entry in found["classes"]] == list(NAMES)
        right = sum(row[index] for index, row in enumerate(found["confusion"]))
        assert found["accuracy"] == pytest.approx(100 * right / {"val": 13, "test": 6}[split])
        assert len(found["images"]) == {"val": 13, "test": 6}[split] - right
    exported = segnas("export", trained, "--json").json
    assert exported["passed"]
    assert exported["size"] == [32, 32]
    assert exported["accuracy_torch"] == exported["accuracy_onnx"]
    told = segnas("report", trained, "--json").json
    assert set(told) >= {"accuracy_val", "accuracy_test"}
    assert not any("mIoU" in key for key in told)
    text = re.sub(r'<style>.*?</style>|base64,[^"]+', "", (trained / "report.html").read_text(), flags=re.DOTALL)
    assert "IoU" not in text
    assert "pixel" not in re.sub(r"includes.*?</dd>", "", text), "but for what the latency includes"
    for words in ("Accuracy of each class on test", "of the images of each label", "The surest right answers",
                  "% accuracy over 6 classes on the test split", "images with the same class", "accuracy trained / exported",
                  "Accuracy on validation", "all 6 images of the split"):  # fmt: skip
        assert words in text, words


def test_the_classes_of_images_are_predicted(trained: Path, small: Path, tmp_path: Path) -> None:
    answer = segnas("predict", trained, small, "--out", tmp_path)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(small / f"{index}.png") for index in range(2)]
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == [line.split("  ")[1] for line in lines]
    found = segnas("predict", trained, small, "--out", tmp_path, "--json", "--flip").json
    assert [len(entry["top"]) for entry in found] == [5, 5]
    refused = segnas("predict", trained, small, "--tile", "64x64").complaint
    assert refused.endswith("says one class of a whole image; leave out --tile")


def test_a_resumed_run_keeps_its_configuration(trained: Path, small: Path) -> None:
    answer = segnas("retrain", trained, "--json")
    assert answer.status == 0, answer.err
    assert answer.json["epochs"] == 3


def test_a_system_for_another_task_is_refused_before_anything_else(small: Path, tmp_path: Path) -> None:
    for verb in ("search", "run"):
        complaint = segnas(verb, "auto-deeplab", "--data", small, "--out", tmp_path / "run", "nonsense=1").complaint
        assert complaint.startswith("auto-deeplab searches networks for segmentation, and the data is for classification;")
    assert not (tmp_path / "run").exists()


SYSTEM_FILE = """
from segnas.systems.base import System
from segnas.systems.settings import RunConfig, run_preset
from small_images import TinyClassifier

SYSTEM = System("tiny", "no paper", "test", RunConfig, {}, lambda job: TinyClassifier(4),
                task_presets={"classification": {"quick": lambda: run_preset("quick", "classification")}})
"""


def test_a_whole_run(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, out = tmp_path / "tiny_system.py", tmp_path / "run"
    system.write_text(SYSTEM_FILE)
    answer = segnas("run", system, "--data", small, "--out", out, "--preset", "quick", *SETTINGS, "--json")
    assert answer.status == 0, answer.err
    assert re.search(r"^val: accuracy [\d.]+  mAcc [\d.]+$", answer.err, re.MULTILINE)
    assert set(answer.json) >= {"accuracy_val", "accuracy_test", "latency_ms", "largest_logit_difference"}
    monkeypatch.setattr(plans, "task_of_data", lambda data: "segmentation")
    complaint = segnas("run", system, "--data", small, "--out", tmp_path / "other", "--preset", "quick").complaint
    expected = "tiny searches networks for classification, and the data is for segmentation; systems for segmentation:"
    assert complaint.startswith(expected)
    assert "auto-deeplab" in complaint


def test_an_architecture_for_another_task_is_refused(small: Path, tmp_path: Path) -> None:
    complaint = segnas("retrain", "auto-deeplab-s", "--data", small, "--out", tmp_path / "run", *SETTINGS).complaint
    expected = "auto-deeplab builds networks for segmentation, and small-images has one class an image"
    assert complaint.startswith(expected)
    assert not (tmp_path / "run").exists()


def test_a_form_for_another_task_is_refused_with_those_that_fit(small: Path, tmp_path: Path) -> None:
    words = ("retrain", "darts-v2", "--form", "segmentation", "--data", small, "--out", tmp_path / "run", *SETTINGS)
    expected = "for segmentation, and small-images has one class an image; use --form cifar or --form imagenet"
    assert segnas(*words).complaint == f"the form 'segmentation' of darts is {expected}"


def test_presets_of_a_system_by_task() -> None:
    def make() -> Any:
        return run_preset("quick", "classification")

    def search(job: Any) -> Any:
        pytest.fail("nothing is searched here")

    both = System("both", "A paper", "exact", RunConfig, {"quick": lambda: run_preset("quick")}, search,
                  task_presets={"classification": {"quick": make}})  # fmt: skip
    assert both.tasks == ("segmentation", "classification")
    assert preset(both, "quick") == run_preset("quick")
    assert preset(both, "quick", "classification") == make()
    only = System("only", "A paper", "exact", RunConfig, {}, search, task_presets={"classification": {"quick": make}})
    assert only.tasks == ("classification",)


def test_the_paper_preset_is_that_of_darts() -> None:
    config = run_preset("paper", "classification")
    data, training = config.data, config.retrain
    assert (data.crop, data.padding, data.cutout, data.scale, data.flip) == ((32, 32), 4, 16, (1.0, 1.0), 0.5)
    assert (data.brightness, data.contrast, data.saturation, data.hue) == (0, 0, 0, 0)
    assert (training.batch_size, training.epochs, training.optimizer) == (96, 600, "sgd")
    assert (training.learning_rate, training.schedule, training.final_learning_rate) == (0.025, "cosine", 0)
    assert (training.momentum, training.weight_decay, training.clip_norm) == (0.9, 3e-4, 5)
    assert (training.auxiliary_weight, training.drop_path) == (0.4, 0.8)
