"""Bad input: one clear line, status 2, nothing lost and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ARCHITECTURE, NETWORK, SMALL, TINY, contents, save, segnas
from PIL import Image

Spoil = Callable[[Path], Path]


def removed(root: Path) -> Path:
    return root / "absent"


def emptied(root: Path) -> Path:
    (root / "nothing").mkdir()
    return root / "nothing"


def without_masks(root: Path) -> Path:
    for path in (root / "labels").rglob("*.png"):
        path.unlink()
    return root


def inner_folder(root: Path) -> Path:
    return root / "images"


def truncated_image(root: Path) -> Path:
    path = root / "images/train/3.png"
    path.write_bytes(path.read_bytes()[:500])
    return root


def truncated_mask(root: Path) -> Path:
    path = root / "labels/val/1.png"
    path.write_bytes(path.read_bytes()[:60])
    return root


def unknown_id(root: Path) -> Path:
    path = root / "labels/train/5.png"
    label = np.array(Image.open(path))
    label[4, 7] = 77
    save(path, label)
    return root


def other_size(root: Path) -> Path:
    save(root / "labels/test/0.png", np.zeros((20, 48), dtype=np.uint8))
    return root


def one_class(root: Path) -> Path:
    for path in (root / "labels").rglob("*.png"):
        save(path, np.zeros((40, 48), dtype=np.uint8))
    return root


def one_class_without_class_file(root: Path) -> Path:
    (root / "classes.json").unlink()
    return one_class(root)


def mask_lost(root: Path) -> Path:
    (root / "labels/train/2.png").unlink()
    return root


SPOILT: dict[Spoil, tuple[str, ...]] = {
    removed: ("there is no folder", "absent", "images/{train,val,test}/"),
    emptied: ("nothing is empty", "expected images/{train,val,test}/"),
    without_masks: ("labels/train holds no masks",),
    inner_folder: ("did you mean", "set?"),
    truncated_image: ("cannot read the image", "images/train/3.png", "segnas data check"),
    truncated_mask: ("cannot read the mask", "labels/val/1.png"),
    unknown_id: ("labels/train/5.png", "unknown id 77", "allowed: 0, 1, 2, 255"),
    other_size: ("images/test/0.png is 40x48", "labels/test/0.png is 20x48"),
    one_class: ("one class only ('ground')",),
    one_class_without_class_file: ("has 1 class;", "at least 2"),
    mask_lost: ("images/train/2.png has no mask",),
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_data_set_is_refused_before_any_work(spoil: Spoil, images_copy: Path, tmp_path: Path) -> None:
    data, out = spoil(images_copy), tmp_path / "run"
    complaint = segnas("run", "auto-deeplab", "--data", data, "--out", out, "--no-export", *TINY).complaint
    for part in SPOILT[spoil]:
        assert part in complaint
    assert not out.exists()
    checked = segnas("data", "check", data)
    assert checked.status == 2
    assert len(checked.err.splitlines()) == 1
    assert SPOILT[spoil][0] in checked.out + checked.err


def test_data_check_lists_every_problem(images_copy: Path) -> None:
    unknown_id(truncated_image(other_size(images_copy)))
    answer = segnas("data", "check", images_copy, "--json")
    assert answer.status == 2
    assert answer.err == f"segnas: {images_copy} has 3 problems; training refuses it until mended\n"
    report = answer.json
    assert report["ok"] is False
    assert len(report["problems"]) == 3
    assert report["unknown"] == [
        {"file": str(images_copy / "labels/train/5.png"), "ids": ["77"], "allowed": ["0", "1", "2", "255"]}
    ]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("search.batch_size=5", ("4 images", "batches of 5", "search.batch_size")),
        ("retrain.batch_size=9", ("8 images", "batches of 9", "retrain.batch_size")),
        ("search.epoch=3", ("unknown key 'search.epoch'", "did you mean 'search.epochs'?")),
        ("epochs=3", ("ambiguous", "retrain.epochs", "search.epochs")),
        ("search=3", ("'search' is a section", "search.layers")),
        ("search.epochs=many", ("search.epochs", "integer", "'many'")),
        ("search.epochs=1", ("0..0 with epochs=1", "set search.architecture_from_epoch=0 too, or more search.epochs")),
        ("search.crop=33", ("search.crop", "list such as", "33")),
        ("search.crop=[33,x]", ("search.crop.1", "'x'")),
        ("search.epochs=", ("search.epochs", "integer")),
        ("search.epochs=[1", ("search.epochs", "cannot read the value '[1'")),
        ("retrain.epochs=-1", ("retrain.epochs", "greater than 0")),
        ("search.select=bst", ("search.select", "'last' or 'best'", "'bst'")),
        ("search.operations=[skip_conect]", ("'skip_conect'", "did you mean 'skip_connect'?")),
        ("fast", ("'fast' is no override", "key=value")),
        ("evaluation.split=tst", ("no split 'tst'", "'test'")),
        ("retrain.weights=absent.safetensors", ("needs a known architecture", "segnas retrain")),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_any_work(
    word: str, parts: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    complaint = segnas("run", "auto-deeplab", "--data", images, "--out", tmp_path / "run", "--no-export", *TINY, word).complaint
    for part in parts:
        assert part in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("search auto-deplab --data DATA --out RUN", ("unknown system 'auto-deplab'", "did you mean 'auto-deeplab'?")),
        ("search absent.py --data DATA --out RUN", ("there is no file absent.py",)),
        ("search auto-deeplab --data DATA --out RUN --preset quik", ("'quik'", "did you mean 'quick'?")),
        ("retrain auto-deeplab-s --data DATA --out RUN --preset quik", ("unknown preset 'quik'", "did you mean 'quick'?")),
        ("retrain auto-deplab-s --data DATA --out RUN", ("'auto-deplab-s'", "did you mean 'auto-deeplab-s'?")),
        ("retrain auto-deeplab-s", ("--data DIR --out RUN",)),
        ("search auto-deeplab --data DATA", ("--out RUN",)),
        ("search auto-deeplab --out RUN", ("--data DIR",)),
        ("search auto-deeplab --data DATA --out RUN --resume", ("there is no run in", "leave out --resume")),
        ("search auto-deeplab --data DATA --out DATA", ("is not empty and holds no run",)),
        ("search auto-deeplab --data DATA --out DATA/classes.json", ("classes.json is a file",)),
        ("search auto-deeplab --data DATA --out DATA/classes.json/run", ("classes.json is a file",)),
        ("search auto-deeplab --data DATA --out RUN --workers 2", ("auto-deeplab does not search by trials", "--workers")),
        ("search random --data DATA --out RUN", ("space=NAME", "template-nas", "auto-deeplab")),
        ("search amoebanet --data DATA --out RUN search.options.evoluton.sample=3", ("'evoluton'", "did you mean 'evolution'?")),
        ("search amoebanet --data DATA --out RUN search.options.tpe.strtup=3", ("'strtup'", "did you mean 'startup'?")),
        ("evaluate RUN", ("there is no run in", "no such folder")),
        ("evaluate DATA", ("there is no run in", "no config.yaml")),
        ("report RUN", ("there is no run in",)),
        ("export RUN", ("there is no run in",)),
        ("export DATA", ("there is no run in",)),
        ("predict RUN DATA/images/val", ("there is no model in", "no such file")),
        ("retrain DATA", ("there is no architecture.json in",)),
        ("count DATA", ("there is no architecture.json in",)),
        ("latency RUN", ("is no architecture of the zoo, JSON file or run",)),
        ("count absent.json", ("cannot read absent.json",)),
        ("count DATA/images/val/0.png", ("is no JSON file",)),
        ("count auto-deeplab-s filtrs=3", ("unknown key 'filtrs'", "did you mean 'filters'?")),
        ("count auto-deeplab-s filters=0", ("filters must be at least 1",)),
        ("count auto-deeplab-s stem=3", ("stem", "list such as")),
        ("latency auto-deeplab-s", ("--size HxW",)),
        ("latency auto-deeplab-s --size 33x33 --precision 16", ("'16'", "32, bf16")),
        ("latency auto-deeplab-s --size 33x33 --device cdua", ("unknown device 'cdua'", "cuda")),
        *((f"count auto-deeplab-s --size {size}", ("is no size", "360x480")) for size in ("big", "33", "0x3", "3x3x3", "1.5x2")),
    ],
)
def test_a_word_that_names_nothing(words: str, parts: tuple[str, ...], images: Path, tmp_path: Path) -> None:
    before = contents(images)
    given = [word.replace("DATA", str(images)).replace("RUN", str(tmp_path / "run")) for word in words.split()]
    complaint = segnas(*given).complaint
    for part in parts:
        assert part in complaint
    assert not (tmp_path / "run").exists()
    assert contents(images) == before


@pytest.mark.parametrize("verb", ["search auto-deeplab", "run auto-deeplab", "retrain auto-deeplab-s"])
@pytest.mark.parametrize("data", [True, False])
def test_without_a_run_there_is_nothing_to_go_on_with(verb: str, data: bool, images: Path, tmp_path: Path) -> None:
    """A folder that is missing, empty, or holds something else is met alike; nothing is begun in its place."""
    (tmp_path / "empty").mkdir()
    save(tmp_path / "foreign" / "photo.png", np.zeros((4, 4), dtype=np.uint8))
    before = contents(tmp_path)
    for name in ("missing", "empty", "foreign", "foreign/photo.png"):
        out = tmp_path / name
        words = [*verb.split(), *(["--data", images] if data else []), "--out", out, "--resume"]
        complaint = segnas(*words).complaint
        assert complaint == f"there is no run in {out} to go on with; correct --out, or leave out --resume to begin one"
    assert contents(tmp_path) == before
    assert not (tmp_path / "missing").exists()
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("words", "use"),
    [("retrain darts-v2", "--form segmentation"), ("search darts network.form=cifar", "network.form=segmentation")],
)
def test_a_form_for_another_task_is_refused_with_the_one_that_fits(words: str, use: str, images: Path, tmp_path: Path) -> None:
    complaint = segnas(*words.split(), "--data", images, "--out", tmp_path / "run", "--preset", "quick").complaint
    assert complaint == f"the form 'cifar' of darts is for classification, and images of mine has one class a pixel; use {use}"
    assert not (tmp_path / "run").exists()


def changed(**changes: Any) -> str:
    """The architecture with fields replaced, or left out (None)."""
    return json.dumps({key: value for key, value in {**ARCHITECTURE, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"family": ', ("is no JSON file",)),
        ("[1, 2]", ("is no architecture", "'family'", "auto-deeplab")),
        (changed(family=None), ("is no architecture", "'family'")),
        (changed(family="auto-deplab"), ("unknown architecture family", "did you mean 'auto-deeplab'?")),
        (changed(path=None), ("the key 'path' is missing",)),
        (changed(network=None), ("the key 'network' is missing",)),
        (changed(path=[0, 2]), ("path.1 is 2", "followed by one of 0, 1")),
        (changed(path="0, 1"), ("path", "list such as")),
        (changed(cell=[{"inputs": [0, 1], "operations": ["skip_conect", "none"]}]), ("unknown operation 'skip_conect'",)),
        (changed(cell=[{"inputs": [0, 5], "operations": ["none", "none"]}]), ("cell.0.inputs.1 is 5", "states 0 to 1")),
        (changed(network={"filtrs": 3}), ("unknown key 'network.filtrs'", "did you mean 'filters'?")),
        (changed(colour="blue"), ("unknown key 'colour'",)),
    ],
)
def test_a_malformed_architecture(text: str, parts: tuple[str, ...], images: Path, tmp_path: Path) -> None:
    file = tmp_path / "malformed.json"
    file.write_text(text)
    complaints = [
        segnas("count", file, "--size", "33x33").complaint,
        segnas("retrain", file, "--data", images, "--out", tmp_path / "run").complaint,
    ]
    for part in parts:
        assert part in complaints[0]
    assert complaints[1] == complaints[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("search auto-deeplab --data DATA --out RUN", ("holds a run already", "--resume")),
        ("run auto-deeplab --data DATA --out RUN", ("holds a run already", "--resume")),
        ("retrain auto-deeplab-s --data DATA --out RUN", ("holds a run already", "--resume")),
        ("run auto-deeplab --out RUN --resume search.epochs=7", ("started with search.epochs=2, not 7", "--out")),
        ("run auto-deeplab --out RUN --resume seed=1", ("started with seed=0, not 1",)),
        ("run auto-deeplab --out RUN --resume --preset small", ("started with preset=quick, not small",)),
        ("retrain RUN retrain.steps=5", ("started with retrain.steps=4, not 5",)),
        ("run auto-deeplab --out RUN --resume --data OTHER", ("other images, splits or classes than when",)),
        ("evaluate RUN split=tst", ("no split 'tst'", "did you mean 'test'?")),
        ("evaluate RUN scale=[1]", ("unknown key 'scale'", "did you mean 'scales'?")),
        ("evaluate RUN scales=[0]", ("scales.0", "greater than 0")),
        ("evaluate RUN --data ABSENT", ("there is no folder",)),
        ("predict RUN ABSENT.png", ("there is no image", "no such file")),
        ("predict RUN OTHER/note.txt", ("cannot read the image", "note.txt")),
        ("predict RUN DATA/images/val OTHER/note.txt", ("cannot read the image", "note.txt")),
        ("predict RUN OTHER", ("there is no image in",)),
        ("predict RUN DATA/images/val --tile 0x5", ("is no size",)),
        ("predict RUN DATA/images/val --out DATA/classes.json", ("classes.json is a file",)),
        ("export RUN --size big", ("is no size",)),
        ("export RUN --size 8x64", ("the export size 8x64 is too small: sizes under 33 pixels are not supported",)),
        ("latency RUN --classes 5", ("timed as trained, with its 3 classes", "leave out --classes")),
        ("latency RUN --precision 16", ("'16'", "32, bf16")),
        ("latency RUN/model.onnx", ("no such file",)),
    ],
)
def test_a_finished_run_is_left_as_it_was(
    words: str, parts: tuple[str, ...], finished_copy: Path, images: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "note.txt").write_text("no image")
    if "--data OTHER" in words:
        for name in ("images/train", "labels/train"):
            for number in range(3):
                save(other / name / f"{number}.png", np.full((40, 48), number, dtype=np.uint8))
    places = {"DATA": images, "RUN": finished_copy, "OTHER": other, "ABSENT": tmp_path / "absent"}
    given = words.split()
    for name, path in places.items():
        given = [f"{path}{word.removeprefix(name)}" if word.startswith(name) else word for word in given]
    before = contents(finished_copy)
    complaint = segnas(*given).complaint
    for part in parts:
        assert part in complaint
    assert contents(finished_copy) == before


@pytest.mark.parametrize(
    "words", ["evaluate RUN splt=test", "evaluate RUN split=tst", "predict RUN nothere", "export RUN --size 8x8"]
)
def test_what_needs_no_device_is_refused_before_one_is_named(words: str, finished: Path) -> None:
    answer = segnas(*words.replace("RUN", str(finished)).split())
    assert answer.complaint
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("execution.ray=rubbish", "'rubbish' is no address of a Ray cluster"),
        ("execution.ray=127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("execution.storage=rubbish", "'rubbish' is no address of a database; write execution.storage=postgresql://"),
        ("execution.storage=postgresql://nobody@127.0.0.1:1/none", "p"),  # refused by the server, or psycopg is not there
    ],
)
def test_what_does_not_answer_is_found_before_anything_is_written(setting: str, said: str, images: Path, tmp_path: Path) -> None:
    answer = segnas("search", "amoebanet", "--data", images, "--out", tmp_path / "run", "--preset", "quick", setting)
    assert answer.status == 2
    assert said in answer.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import segnas\n\ndef broken(:\n", "line 3: SyntaxError: invalid syntax"),
        ("import segnas\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
@pytest.mark.parametrize("words", ["search FILE", "search random space=FILE", "search amoebanet search.strategy=FILE"])
def test_a_file_of_ones_own_that_cannot_be_imported_is_one_line(
    words: str, text: str, said: str, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    given = words.replace("FILE", str(path)).split()
    complaint = segnas(*given, "--data", images, "--out", tmp_path / "run", "--preset", "quick").complaint
    assert f"{path} cannot be imported: {said}" in complaint
    assert not (tmp_path / "run").exists()


def test_stages_before_training_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "searched"
    assert segnas("search", "auto-deeplab", "--data", images, "--out", out, *TINY).status == 0
    before = contents(out)
    for words in (("evaluate", out), ("export", out), ("predict", out, images / "images/val")):
        assert "not trained yet (segnas retrain)" in segnas(*words).complaint
    assert "no trained run" in segnas("latency", out).complaint
    assert contents(out) == before
    assert segnas("report", out, "--json").json["architecture"], "a report shows what there is"


def test_packages_that_the_export_needs_are_asked_for_before_any_work(
    images: Path, finished: Path, architecture_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("segnas.workplace", "segnas.api"):
        monkeypatch.setattr(f"{module}.missing_packages", lambda: ("onnxruntime",))
    words = ("run", "auto-deeplab", "--data", images, "--out", tmp_path / "run", *TINY)
    complaint = segnas(*words).complaint
    assert "onnxruntime" in complaint
    assert "--no-export" in complaint
    assert not (tmp_path / "run").exists()
    assert "onnxruntime" in segnas("export", finished).complaint
    words = ("retrain", architecture_file, "--data", images, "--out", tmp_path / "trained", *SMALL)
    assert segnas(*words).status == 0, "what needs no export goes on"


def test_a_setting_of_the_search_is_unknown_to_a_retraining(architecture_file: Path, images: Path, tmp_path: Path) -> None:
    words = ("retrain", architecture_file, "--data", images, "--out", tmp_path / "run", *NETWORK)
    assert "unknown key 'network.filters'" in segnas(*words).complaint
    assert not (tmp_path / "run").exists()
