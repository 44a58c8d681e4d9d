"""Each verb after the search, on a tiny run, as its help describes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import COLORS, SMALL, TINY, contents, segnas
from PIL import Image


def test_search_then_retrain_in_place_equals_run(finished: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "steps"
    searched = segnas("search", "auto-deeplab", "--data", images, "--out", out, *TINY)
    assert (searched.status, searched.err.count("search 2/2")) == (0, 1)
    assert searched.out.startswith(f"{out}/architecture.json  ")
    trained = segnas("retrain", out)
    assert trained.status == 0, trained.err
    assert trained.out.splitlines()[-1] == f"{out}/model.safetensors"
    assert (out / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_an_architecture_from_a_file_is_trained(architecture_file: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = segnas("retrain", architecture_file, "--data", images, "--out", out, *SMALL, "--json")
    assert answer.status == 0, answer.err
    assert answer.json["steps"] == 4
    stored = json.loads((out / "architecture.json").read_text())
    assert stored["architecture"]["path"] == [0, 1]
    assert stored["provenance"] == {"from": str(architecture_file)}
    assert segnas("evaluate", out, "--json").json["split"] == "val"
    assert segnas("report", out).status == 0
    another = segnas("retrain", out, "--data", images, "--out", tmp_path / "again", *SMALL, "seed=1")
    assert another.status == 0, "the architecture of a run, in a run of its own"


def test_a_network_of_the_zoo_is_taken_by_name(images: Path, tmp_path: Path) -> None:
    """Refused for its data alone: to train it takes too long here."""
    shutil.copytree(images, tmp_path / "set")
    (tmp_path / "set/labels/train/0.png").unlink()
    words = ("retrain", "auto-deeplab-s", "--data", tmp_path / "set", "--out", tmp_path / "run", *SMALL)
    assert "0.png has no mask" in segnas(*words).complaint


def test_evaluate_by_another_protocol(finished_copy: Path) -> None:
    main = (finished_copy / "evaluation.json").read_bytes()
    plain = segnas("evaluate", finished_copy, "split=test", "--json").json
    assert plain["split"] == "test"
    assert len(plain["images"]) == 2
    views = segnas("evaluate", finished_copy, "split=test", "scales=[0.75,1.0]", "flip=true", "--json").json
    assert views["protocol"]["scales"] == [0.75, 1.0]
    assert views["protocol"]["flip"] is True
    assert "scales 0.75, 1, with flip" in views["protocol"]["text"]
    written = json.loads((finished_copy / "evaluation_test_0.75-1_flip.json").read_text())
    assert written["protocol"] == views["protocol"]
    assert json.loads((finished_copy / "evaluation_test.json").read_text())["protocol"] == plain["protocol"]
    assert (finished_copy / "evaluation.json").read_bytes() == main
    shown = segnas("evaluate", finished_copy, "split=test").out
    assert f"mIoU {plain['mIoU']:.2f}  mAcc {plain['mAcc']:.2f}" in shown
    assert "the split 'test'" in shown


def test_evaluate_where_the_images_moved(finished_copy: Path, images: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    configuration = finished_copy / "config.yaml"
    configuration.write_text(configuration.read_text().replace(str(images), str(tmp_path / "gone")))
    assert "there is no folder" in segnas("evaluate", finished_copy).complaint
    assert segnas("evaluate", finished_copy, "--data", moved).status == 0


def test_predict_files_and_folders_whole_and_by_tiles(finished: Path, images: Path, tmp_path: Path) -> None:
    extra = tmp_path / "one photo.png"
    extra.write_bytes((images / "images/test/0.png").read_bytes())
    words = ("predict", finished, images / "images/val", extra)
    whole = segnas(*words, "--out", tmp_path / "whole")
    files = [Path(line) for line in whole.out.splitlines()]
    assert [path.name for path in files[-3:]] == [f"one photo_{kind}.png" for kind in ("index", "mask", "overlay")]
    assert len(files) == 9
    assert sorted(files) == sorted((tmp_path / "whole").iterdir())
    index, mask = (np.array(Image.open(path)) for path in files[-3:-1])
    assert index.shape == (40, 48)
    np.testing.assert_array_equal(mask, COLORS[index])
    assert segnas(*words, "--out", tmp_path / "large tiles", "--tile", "40x48").status == 0
    assert list(contents(tmp_path / "large tiles").values()) == list(contents(tmp_path / "whole").values())
    tiled = segnas(*words, "--out", tmp_path / "tiles", "--tile", "33x33", "--flip", "--json")
    assert [len(row["files"]) for row in tiled.json] == [3, 3, 3]


def test_predict_writes_into_the_run_unless_told(finished_copy: Path, images: Path) -> None:
    answer = segnas("predict", finished_copy, images / "images/val/1.png")
    assert answer.out.splitlines()[0] == str(finished_copy / "predictions/1_index.png")


def test_predict_refuses_a_damaged_image_before_it_begins(finished: Path, images: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "2.png"
    damaged.write_bytes((images / "images/train/2.png").read_bytes()[:700])
    complaint = segnas("predict", finished, images / "images/val", damaged, "--out", tmp_path / "out").complaint
    assert "cannot read the image" in complaint
    assert "2.png" in complaint
    assert not (tmp_path / "out").exists()


def test_export_at_a_chosen_size(finished_copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    answer = segnas("export", finished_copy, "--size", "33x65", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["passed"] is True
    assert answer.json["size"] == [33, 65]
    assert answer.json["written"] == str(finished_copy / "model.onnx")
    assert json.loads((finished_copy / "parity.json").read_text())["size"] == [33, 65]
