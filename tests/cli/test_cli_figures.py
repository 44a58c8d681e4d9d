"""Verbs that print figures: tables for people within 80 columns, pure and exact JSON for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import segnas


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_systems_lists_what_there_is() -> None:
    answer = segnas("systems")
    assert answer.status == 0
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "Auto-DeepLab: Hierarchical Neural Architecture Search" in answer.out
    (system,) = [row for row in segnas("systems", "--json").json if row["name"] == "auto-deeplab"]
    assert system["presets"] == ["quick", "small", "paper"]
    assert "presets: quick, small, paper" in answer.out


def test_zoo_shows_our_counts_beside_the_papers() -> None:
    answer = segnas("zoo")
    assert max(map(len, answer.out.splitlines())) <= 80
    rows = [line.split() for line in answer.out.splitlines() if line.startswith("auto-deeplab")]
    assert rows == [
        ["auto-deeplab-s", "1025x2049", "10.15", "10.15", "333.18", "333.25"],
        ["auto-deeplab-m", "1025x2049", "21.62", "21.62", "460.83", "460.93"],
        ["auto-deeplab-l", "1025x2049", "44.42", "44.42", "694.88", "695.03"],
    ]
    exact = {row["name"]: row for row in segnas("zoo", "--json").json}
    assert exact["auto-deeplab-s"]["parameters"] == 10_147_427
    assert exact["auto-deeplab-l"]["parameters"] == 44_424_691
    assert round(exact["auto-deeplab-m"]["paper_multiply_adds"] / 1e9, 2) == 460.83
    assert exact["auto-deeplab-m"]["printed_multiply_adds_g"] == 460.93


def test_zoo_at_another_size_has_no_printed_cost_to_compare_with() -> None:
    (row,) = [line.split() for line in segnas("zoo", "--size", "65x97").out.splitlines() if line.startswith("auto-deeplab-s")]
    assert row[1:4] == ["65x97", "10.15", "10.15"]
    assert row[5] == "-"
    exact = segnas("zoo", "--size", "65x97", "--json").json
    assert {row["paper_multiply_adds"] for row in exact} == {None}
    (own,) = [row for row in exact if row["name"] == "auto-deeplab-s"]
    assert row[4] == f"{own['multiply_adds'] / 1e9:.2f}"


def test_a_network_is_counted_at_the_size_of_its_paper() -> None:
    exact = segnas("count", "nasnet-a-large", "--json").json
    assert (exact["parameters"], exact["multiply_adds"]) == (88_753_150, 23_783_414_658)
    assert segnas("count", "nasnet-a-large").out.splitlines()[-1] == "at 331x331, 1000 classes"
    dense = segnas("count", "pnasnet-5-mobile", "--form", "segmentation", "--size", "65x97").out
    assert dense.splitlines()[-1] == "at 65x97, 19 classes"


def test_count_adds_up(architecture_file: Path) -> None:
    words = ("count", architecture_file, "--size", "65x97", "--classes", 7)
    exact = segnas(*words, "--json").json
    assert {"parameters", "multiply_adds", "by_part", "paper_multiply_adds"} <= exact.keys()
    for key in ("parameters", "multiply_adds"):
        assert exact[key] == sum(part[key] for part in exact["by_part"].values())
    shown = segnas(*words).out
    assert f"{exact['parameters']:,}" in shown
    assert "paper" not in shown, "the paper's convention has no meaning at this size"
    wider = segnas(*words, "filters=4", "--json").json
    assert wider["parameters"] > exact["parameters"]


def test_count_of_a_run_takes_the_runs_classes(finished: Path) -> None:
    own = segnas("count", finished, "--size", "40x48", "--json").json
    assert own == segnas("count", finished / "architecture.json", "--size", "40x48", "--classes", 3, "--json").json


def test_data_check_shows_classes_and_a_fitting_crop(images: Path) -> None:
    answer = segnas("data", "check", images)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("images of mine: 12 pairs (train 8, val 2, test 2), all 40x48")
    rows = {line.split()[0]: line.split()[1:] for line in answer.out.splitlines() if line}
    assert sum(float(rows[name][0]) for name in ("ground", "red", "blue", "(ignored)")) == pytest.approx(100, abs=0.01)
    assert "suggestion: data.crop=[33, 33]" in answer.out
    report = segnas("data", "check", images, "--json").json
    assert report["ok"] is True
    assert report["crop"] == [33, 33]


@pytest.mark.parametrize("as_json", [True, False])
def test_latency_states_its_conditions(as_json: bool, architecture_file: Path) -> None:
    words = ("latency", architecture_file, "--size", "33x65", "--batch", 2, "--threads", 1, *(["--json"] if as_json else []))
    answer = segnas(*words)
    assert answer.status == 0, answer.err
    if as_json:
        assert answer.json["input"] == [2, 3, 33, 65]
        assert answer.json["q1_ms"] <= answer.json["median_ms"] <= answer.json["q3_ms"]
        assert answer.json["includes"].startswith("the network alone")
    else:
        assert re.search(r"^[\d.]+ ms median, [\d.]+ to [\d.]+ ms quartiles", answer.out)
        assert "input 2x3x33x65, precision float32" in answer.out
        assert "1 thread\n" in answer.out


def test_a_run_is_timed_as_it_was_configured(finished_copy: Path) -> None:
    """Only then is latency.json replaced: the report must not mix conditions."""
    file = finished_copy / "latency.json"
    stored = json.loads(file.read_text())
    assert stored["includes"].startswith("normalisation and network, from a uint8 RGB tensor")
    config = finished_copy / "config.yaml"
    config.write_text(
        re.sub(r"(?m)^  precision: .*", "  precision: bf16", config.read_text()).replace("last: false", "last: true")
    )
    own = segnas("latency", finished_copy, "--json").json
    assert json.loads(file.read_text()) == own
    assert own["input"] == [1, 3, 40, 48], "the size at which it sees its images"
    assert (own["precision"], own["channels_last"]) == ("bfloat16 (mixed)", True)
    assert own["includes"] == stored["includes"]
    written = file.read_bytes()
    for option in ("--device cpu", "--precision 32", "--threads 1", "--batch 2", "--size 40x48", "filters=3"):
        assert segnas("latency", finished_copy, *option.split()).status == 0
        assert file.read_bytes() == written, option
    assert "channels last" in segnas("latency", finished_copy, "--size", "33x33").out


def test_an_exported_file_is_timed_in_onnxruntime(finished_copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert segnas("export", finished_copy).status == 0
    before = (finished_copy / "latency.json").read_bytes()
    found = segnas("latency", finished_copy / "model.onnx", "--batch", 2, "--threads", 1, "--json").json
    assert found["input"] == [2, 3, 40, 48]
    assert found["runtime"].startswith("onnxruntime ")
    assert (finished_copy / "latency.json").read_bytes() == before
    for option, complaint in (
        ("--size 33x33", "takes images of 40x48"),
        ("--device cuda", "leave out --device"),
        ("--precision bf16", "leave out --precision"),
        ("--classes 3", "leave out --classes"),
        ("filters=3", "leave out KEY=VALUE"),
    ):
        assert complaint in segnas("latency", finished_copy / "model.onnx", *option.split()).complaint


def test_every_stage_prints_pure_json(finished_copy: Path, images: Path, tmp_path: Path) -> None:
    """Progress goes to standard error; a finished run is not computed again."""
    before = (finished_copy / "model.safetensors").stat().st_mtime_ns
    resume = ("--out", finished_copy, "--resume", "--json")
    found = segnas("search", "auto-deeplab", *resume).json
    assert found["id"] == segnas("run", "auto-deeplab", "--no-export", *resume).json["architecture"]
    assert segnas("retrain", finished_copy, "--json").json["steps"] == 4
    assert (finished_copy / "model.safetensors").stat().st_mtime_ns == before
    evaluation = segnas("evaluate", finished_copy, "--json").json
    assert [row["name"] for row in evaluation["classes"]] == ["ground", "red", "blue"]
    assert segnas("report", finished_copy, "--json").json["mIoU_val"] == pytest.approx(evaluation["mIoU"])
    (prediction,) = segnas("predict", finished_copy, images / "images/val/0.png", "--out", tmp_path / "p", "--json").json
    assert sum(prediction["shares"].values()) == pytest.approx(1)


def test_a_table_that_goes_to_a_file_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert "Image Segmentation (CVPR 2019)" in segnas("systems").out
