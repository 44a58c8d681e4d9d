"""What a run is compared with: a network made by hand, random ones of the same space, several seeds, each a run of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY, segnas

from segnas import comparison
from segnas.comparison import Training, require_baseline, trainings
from segnas.config import replace
from segnas.costs.counts import count
from segnas.errors import Diverged, UserError
from segnas.spaces.architecture import from_json, identity
from segnas.spaces.width import filters_of, smallest_filters, with_filters
from segnas.systems.auto_deeplab import quick
from segnas.systems.settings import ComparisonConfig


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def architecture_of(run: Path) -> Any:
    return from_json(read(run, "architecture.json"))


def test_a_run_trains_a_network_made_by_hand_and_a_random_one_too(finished: Path) -> None:
    found = read(finished, "comparison.json")
    assert [(entry["kind"], entry["name"]) for entry in found["entries"]] == [
        ("searched", "auto-deeplab"),
        ("hand-made", "unet"),
        ("random", "random architectures of the same space"),
    ]
    assert (found["metric"], found["seeds"]) == ("mIoU", 1)
    for entry in found["entries"]:
        (run,) = entry["runs"]
        folder = finished / run["folder"]
        assert run["seed"] == 0
        assert run["scores"] == {
            "val": read(folder, "evaluation.json")["mIoU"],
            "test": read(folder, "evaluation_test.json")["mIoU"],
        }
        assert run["id"] == identity(architecture_of(folder))
        assert run["parameters"] == read(folder, "cost.json")["parameters"]
        assert read(folder, "retrain.json")["steps"] == read(finished, "retrain.json")["steps"]
        assert run["latency_ms"] > 0


def test_all_are_of_about_equal_cost(finished: Path) -> None:
    """No width of the network made by hand, or of the random one, is nearer; by brute force."""
    target = read(finished, "cost.json")["multiply_adds"]
    for kind in ("unet-0", "random-0"):
        chosen = architecture_of(finished / "compared" / kind)
        distances = {
            filters: abs(count(with_filters(chosen, filters), (40, 48), 3).multiply_adds - target)
            for filters in range(smallest_filters(chosen), filters_of(chosen) + 4)
        }
        assert distances[filters_of(chosen)] <= min(distances.values()) * 1.5  # other widths are rounded in proportion
    assert architecture_of(finished / "compared/random-0") != architecture_of(finished)


def test_each_is_a_run_of_its_own(finished_copy: Path) -> None:
    child = finished_copy / "compared/unet-0"
    before = read(child, "evaluation_test.json")["mIoU"]
    assert segnas("evaluate", child, "split=test", "--json").json["mIoU"] == before
    assert segnas("report", child).status == 0
    assert segnas("retrain", child).status == 0, "nothing is left to do"


def test_more_seeds_are_added_to_a_finished_run(finished_copy: Path, images: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in finished_copy.rglob("model.safetensors")}
    words = ("run", "auto-deeplab", "--out", finished_copy, "--no-export", "--resume", "--seeds", 2)
    answer = segnas(*words)
    assert answer.status == 0, answer.err
    found = read(finished_copy, "comparison.json")
    assert [[run["seed"] for run in entry["runs"]] for entry in found["entries"]] == [[0, 1]] * 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was trained is trained once"
    first, second = (run["id"] for run in found["entries"][2]["runs"])
    assert first != second, "a new random architecture"
    assert len({run["id"] for run in found["entries"][0]["runs"]}) == 1, "the same network with another seed"
    models = [finished_copy / run["folder"] / "model.safetensors" for run in found["entries"][0]["runs"]]
    assert models[0].read_bytes() != models[1].read_bytes()
    assert found["entries"][2]["note"] == "a new architecture for each seed"


def test_a_training_that_was_cut_off_goes_on(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(finished_copy, "comparison.json")
    shutil.rmtree(finished_copy / "compared/random-0")
    (finished_copy / "compared/unet-0/retrain.json").unlink()  # its checkpoint is there
    calls: list[str] = []
    plain = comparison.retrain_stage

    def counted(place: Any) -> Any:
        calls.append(place.run.path.name)
        return plain(place)

    monkeypatch.setattr(comparison, "retrain_stage", counted)
    assert segnas("run", "auto-deeplab", "--out", finished_copy, "--no-export", "--resume").status == 0
    assert calls == ["unet-0", "random-0"]

    def without_times(found: Any) -> Any:
        for entry in found["entries"]:
            for run in entry["runs"]:
                del run["seconds"], run["latency_ms"]
        return found

    assert without_times(read(finished_copy, "comparison.json")) == without_times(whole)


def test_none_switches_it_off(finished_copy: Path) -> None:
    shutil.rmtree(finished_copy / "compared")
    (finished_copy / "comparison.json").unlink()
    words = ("run", "auto-deeplab", "--out", finished_copy, "--no-export", "--resume", "--baseline", "none")
    assert segnas(*words).status == 0
    assert not (finished_copy / "compared").exists()
    assert not (finished_copy / "comparison.json").exists()


def test_another_network_made_by_hand_is_another_training(finished_copy: Path) -> None:
    """The figures of the U-Net are not passed off as those of the network that is asked for now."""
    words = ("run", "auto-deeplab", "--out", finished_copy, "--no-export", "--resume", "--baseline", "deeplab-v3-plus")
    assert segnas(*words).status == 0
    (run,) = read(finished_copy, "comparison.json")["entries"][1]["runs"]
    assert run["folder"] == "compared/deeplab-v3-plus-0"
    assert read(finished_copy / run["folder"], "architecture.json")["architecture"]["family"] == "deeplab-v3-plus"
    assert (finished_copy / "compared/unet-0").exists()


def test_a_training_that_diverges_does_not_end_the_others(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(finished_copy / "compared")
    plain = comparison.retrain_stage

    def diverging(place: Any) -> Any:
        if place.run.path.name == "unet-0":
            raise Diverged("the loss is no number at step 2")
        return plain(place)

    monkeypatch.setattr(comparison, "retrain_stage", diverging)
    words = ("run", "auto-deeplab", "--out", finished_copy, "--no-export", "--resume")
    assert segnas(*words).status == 0
    by_hand, random = read(finished_copy, "comparison.json")["entries"][1:]
    assert (by_hand["runs"], by_hand["note"]) == ([], "seed 0 failed: its loss became no number")
    assert len(random["runs"]) == 1
    assert read(finished_copy / "compared/unet-0", "failed.json")["reason"] == "the loss is no number at step 2"
    assert "seed 0 failed" in (finished_copy / "report.html").read_text()
    monkeypatch.setattr(comparison, "retrain_stage", lambda place: pytest.fail("it is not tried again"))
    assert segnas(*words).status == 0


def test_retraining_alone_compares_nothing(finished_copy: Path) -> None:
    complaint = segnas("retrain", finished_copy, "comparison.seeds=2").complaint
    assert complaint == "retraining compares nothing; leave out comparison.seeds=2"


def test_the_trainings_and_their_order() -> None:
    config = replace(quick(), comparison=ComparisonConfig(baseline="deeplab-v3-plus", seeds=2))
    assert trainings(config, "auto-deeplab", "segmentation") == [
        Training("searched", "auto-deeplab", 0, "."),
        Training("hand-made", "deeplab-v3-plus", 0, "compared/deeplab-v3-plus-0"),
        Training("random", "random architectures of the same space", 0, "compared/random-0"),
        Training("searched", "auto-deeplab", 1, "compared/searched-1"),
        Training("hand-made", "deeplab-v3-plus", 1, "compared/deeplab-v3-plus-1"),
        Training("random", "random architectures of the same space", 1, "compared/random-1"),
    ]
    alone = replace(quick(), comparison=ComparisonConfig(random=False))
    assert [one.kind for one in trainings(alone, "auto-deeplab", "segmentation")] == ["searched", "hand-made"]
    assert trainings(alone, "darts", "classification")[1].name == "resnet"
    none = replace(quick(), comparison=ComparisonConfig(baseline="none", seeds=3))
    assert [one.folder for one in trainings(none, "auto-deeplab", "segmentation")] == [
        ".",
        "compared/searched-1",
        "compared/searched-2",
    ]


def test_a_baseline_for_another_task_is_refused(images: Path, tmp_path: Path) -> None:
    words = ("run", "auto-deeplab", "--data", images, "--out", tmp_path / "run", *TINY, "--baseline", "resnet")
    assert "the baseline resnet is no network for segmentation; choose --baseline unet or" in segnas(*words).complaint
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="choose --baseline resnet, auto, or none"):
        require_baseline(replace(quick(), comparison=ComparisonConfig(baseline="unet")), "classification")
