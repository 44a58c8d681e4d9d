"""Budgets and time limits from the command line to the files of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, TINY, segnas

from segnas import forecast, options
from segnas.config import replace
from segnas.errors import UserError
from segnas.forecast import EXPORT_SECONDS, LATENCY_SECONDS, TIME_USED, afterwards, lengthened, sized_to_time, whole_time
from segnas.options import as_settings, parse_duration
from segnas.plans import plan
from segnas.systems.supernet_search import sized
from segnas.training.device import DeviceConfig, launch
from segnas.training.preflight import Measurement

NO_COMPARISON = ("--baseline", "none")


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_a_budget_scales_what_was_found(finished: Path, images: Path, tmp_path: Path) -> None:
    """The same search with four times the parameters allowed: the same cell and path, wider, and never over."""
    limit = 4 * read(finished, "cost.json")["parameters"]
    out = tmp_path / "run"
    words = ("run", "auto-deeplab", "--data", images, "--out", out, *TINY, *NO_COMPARISON, "--max-parameters", f"{limit:.1e}")
    answer = segnas(*words)
    assert answer.status == 0, answer.err
    found, scaled = read(finished, "architecture.json"), read(out, "architecture.json")
    assert (scaled["architecture"]["path"], scaled["architecture"]["cell"]) == (
        found["architecture"]["path"],
        found["architecture"]["cell"],
    )
    assert scaled["architecture"]["network"]["filters"] > found["architecture"]["network"]["filters"]
    assert scaled["provenance"]["scaled_from"] == found["id"]
    budget = read(out, "budget.json")
    entry = budget["limits"]["max_parameters"]
    assert entry["measured"] == read(out, "cost.json")["parameters"] <= entry["limit"] == int(float(f"{limit:.1e}"))
    assert entry["met"] is True
    assert budget["exported"]["parameters"] > 0
    assert budget["exported"]["latency_ms"] > 0
    again = segnas("run", "auto-deeplab", "--out", out, "--resume", "--max-parameters", 10**6)
    assert "is scaled already, and cannot meet another budget" in again.complaint


def test_a_budget_on_the_latency_is_measured(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts filters: 5 milliseconds are 5 filters."""
    meter = lambda *given: lambda architecture: float(architecture.network.filters)  # noqa: E731
    monkeypatch.setattr(forecast, "latency_meter", meter)
    out = tmp_path / "run"
    words = ("search", "auto-deeplab", "--data", images, "--out", out, *TINY, "--max-latency-ms", 5)
    assert segnas(*words).status == 0
    assert read(out, "architecture.json")["architecture"]["network"]["filters"] == 5
    assert read(out, "budget.json")["limits"]["max_latency_ms"] == {"limit": 5.0, "measured": 5.0}


def test_an_architecture_from_a_file_is_scaled_too(architecture_file: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("retrain", architecture_file, "--data", images, "--out", out, *SMALL, "budget.max_parameters=20000")
    assert segnas(*words).status == 0
    assert 10_000 < read(out, "cost.json")["parameters"] <= 20_000


def test_a_refusal_of_a_known_architecture_names_an_option_that_does(
    architecture_file: Path, images: Path, tmp_path: Path
) -> None:
    words = ("retrain", architecture_file, "--data", images, *SMALL)
    complaint = segnas(*words, "--out", tmp_path / "a", "--max-parameters", 50, "--max-multiply-adds", 70).complaint
    assert complaint.startswith("max_parameters=50 cannot be met: the smallest width of this network has")
    assert complaint.count("the smallest width of this network") == 2
    assert "search" not in complaint
    enough = [complaint.split(f"use {option} ")[1].split(" ")[0] for option in ("--max-parameters", "--max-multiply-adds")]
    out = tmp_path / "b"
    assert segnas(*words, "--out", out, "--max-parameters", enough[0], "--max-multiply-adds", enough[1]).status == 0
    assert read(out, "budget.json")["filters"] == 1
    assert "is scaled already" in segnas("retrain", out, "--max-parameters", 10**6).complaint


def test_a_scaled_retraining_is_resumed_by_its_own_command(architecture_file: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("retrain", architecture_file, "--data", images, "--out", out, *SMALL, "budget.max_parameters=20000")
    assert segnas(*words).status == 0
    (out / "retrain.json").unlink()
    assert segnas(*words, "--resume").status == 0


def test_what_is_measured_before_a_run_is_as_wide_as_its_budget_allows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def noted(job: Any, architecture: Any) -> Measurement:
        measured.append(architecture.network.filters)
        raise UserError("enough")

    monkeypatch.setattr(forecast, "measure_retraining", noted)
    words = ("run", "auto-deeplab", "--data", images, "--out", tmp_path / "run", *TINY, *NO_COMPARISON)
    for more in ((), ("--max-parameters", 60_000)):
        assert segnas(*words, *more).complaint == "enough"
    assert measured[1] > measured[0] == 2


def test_a_time_for_the_search_alone_leaves_the_training_as_it_is(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("search", "auto-deeplab", "--data", images, "--out", out, *TINY, "retrain.steps=null", "retrain.epochs=7")
    assert segnas(*words, "--time", "20s").status == 0
    told = read(out, "time.json")
    assert told["search_epochs"][1] > told["search_epochs"][0]
    assert told["used_seconds"] > 0
    assert "retrain_epochs" not in told
    assert "epochs: 7" in (out / "config.yaml").read_text()
    assert segnas(*words, "--time", "20s", "--resume").status == 0, "the lengths of the command are not those of the run"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--max-parameters", 50),
            "max_parameters=50 cannot be met: the smallest width of a network that the search may find",
        ),
        (("--max-multiply-adds", "1e3"), "multiply-adds at 40x48; use --max-multiply-adds"),
        (("--max-latency-ms", 0.0001), "use --max-latency-ms"),
        (("--max-latency-ms", -3), "greater than 0"),
        (("--max-parameters", "2M"), "--max-parameters takes a whole number from 1 to 1e18, such as 2e6 or 2000000, not '2M'"),
        (("--max-multiply-adds", "1e30"), "--max-multiply-adds takes a whole number from 1 to 1e18, such as 2e6"),
        (("--max-latency-ms", 5, "--device", "tpu"), "unknown device 'tpu'"),
        (("--time", "soon"), "'soon' is no length of time"),
        (("--time", "1h"), "leave out retrain.steps"),
        (("--device", "cuda"), "max_latency_ms counts, which is not set"),
        (("export.size=[16,16]",), "export.size 16x16 is too small: sizes under 33 pixels are not supported"),
        (("data.padding=40", "data.crop=[65,65]"), "padding must be below each side of crop=[33, 33]"),
    ],
)
def test_the_impossible_is_refused_before_anything_is_written(given: Any, message: str, images: Path, tmp_path: Path) -> None:
    words = ("run", "auto-deeplab", "--data", images, "--out", tmp_path / "run", *TINY, *NO_COMPARISON, *given)
    assert message in segnas(*words).complaint
    assert not (tmp_path / "run").exists()


def test_a_refusal_names_a_value_that_does(images: Path, tmp_path: Path) -> None:
    words = ("search", "auto-deeplab", "--data", images, *TINY)
    complaint = segnas(*words, "--out", tmp_path / "a", "--max-parameters", 50).complaint
    enough = complaint.split("--max-parameters ")[1].split(" ")[0]
    assert segnas(*words, "--out", tmp_path / "b", "--max-parameters", enough).status == 0
    assert read(tmp_path / "b", "budget.json")["filters"] == 1


def measurements(search: float, retrain: float) -> list[Measurement]:
    """Of the preset quick: 5 epochs of search and 12 (whatever it says) of retraining that take so many seconds."""
    config = plan("auto-deeplab", "demo", "quick").config
    return [
        Measurement("search", 100, search / 100, search, 0, 0, config.search.epochs),
        Measurement("retrain", 600, retrain / 600, retrain, 0, 0, config.retrain.epochs),
    ]


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("limit", [400.0, 3600.0, 86400.0])
def test_lengths_fit_the_time_and_use_it(limit: float, networks: int) -> None:
    asked = plan("auto-deeplab", "demo", "quick", [f"time_limit={limit}"])
    found = measurements(100.0, 100.0)
    chosen, told = sized_to_time(asked, found, networks, launch(DeviceConfig(accelerator="cpu")))
    config = chosen.config
    seconds = 100 * config.search.epochs / asked.config.search.epochs
    seconds += networks * 100 * config.retrain.epochs / asked.config.retrain.epochs
    assert seconds == pytest.approx(whole_time(found, config, networks)) == pytest.approx(told["forecast_seconds"])
    assert seconds <= limit
    assert seconds > 0.6 * TIME_USED * limit, "one epoch more of either would still fit, or nearly"
    ratio = (config.search.epochs / asked.config.search.epochs) / (config.retrain.epochs / asked.config.retrain.epochs)
    assert 0.5 < ratio < 2, "in the preset's proportion"
    assert told["search_epochs"] == [asked.config.search.epochs, config.search.epochs]


def test_too_short_a_time_names_one_that_does() -> None:
    asked = plan("auto-deeplab", "demo", "quick", ["time_limit=10"])
    found = measurements(100.0, 100.0)
    device = launch(DeviceConfig(accelerator="cpu"))
    with pytest.raises(UserError, match="10 s are too short") as caught:
        sized_to_time(asked, found, 3, device)
    enough = parse_duration(str(caught.value).split("--time ")[1].split(" ")[0])
    longer = dataclasses.replace(asked, config=replace(asked.config, time_limit=enough + 1))
    _, told = sized_to_time(longer, found, 3, device)
    assert told["forecast_seconds"] <= enough + 1
    assert enough * TIME_USED < 150


def test_evaluation_and_export_are_part_of_the_time() -> None:
    """Each network is scored and timed, one is exported; what they take is left over, and too short a time counts it."""
    device = launch(DeviceConfig(accelerator="cpu"))
    search, retrain = measurements(100.0, 100.0)
    found = [search, dataclasses.replace(retrain, scoring=20.0)]
    apart = afterwards(found, 3, True)
    assert apart == 3 * (20 + LATENCY_SECONDS) + EXPORT_SECONDS
    assert afterwards(found, 3, False) == apart - EXPORT_SECONDS
    asked = plan("auto-deeplab", "demo", "quick", ["time_limit=1000"])
    chosen, told = sized_to_time(asked, found, 3, device, apart)
    spent = whole_time(found, chosen.config, 3) + apart
    assert told["forecast_seconds"] == pytest.approx(spent)
    assert 0.6 * TIME_USED * 1000 < spent <= TIME_USED * 1000
    short = dataclasses.replace(asked, config=replace(asked.config, time_limit=apart))
    with pytest.raises(UserError, match="evaluation and export 1 min 11 s; use --time"):
        sized_to_time(short, found, 3, device, apart)


def test_a_run_is_sized_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lengths go into config.yaml, and a resumed run keeps them."""
    real = forecast.sized_to_time
    calls: list[float] = []

    def counted(*given: Any) -> Any:
        calls.append(given[0].config.time_limit)
        return real(*given)

    monkeypatch.setattr("segnas.workplace.sized_to_time", counted)
    out = tmp_path / "run"
    words = ("run", "auto-deeplab", "--data", images, "--out", out, *TINY, *NO_COMPARISON, "--no-export", "--time", "20s")
    answer = segnas(*words, "retrain.steps=null", "retrain.epochs=2", "retrain.validate_every=0")
    assert answer.status == 0, answer.err
    told = read(out, "time.json")
    assert told["asked_seconds"] == 20
    assert 0 < told["used_seconds"] < 60
    assert told["retrain_epochs"][0] == 2
    assert read(out, "retrain.json")["epochs"] == told["retrain_epochs"][1] > 2
    assert segnas("run", "auto-deeplab", "--out", out, "--resume", "--no-export").status == 0
    assert calls == [20.0]
    assert "time_limit" not in read(out, "environment.json")["command"]


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 2.0, 7.3])
@pytest.mark.parametrize(("epochs", "alone"), [(5, 1), (40, 20), (50, 0), (2, 1), (1, 0)])
def test_a_search_of_another_length_keeps_its_proportions(factor: float, epochs: int, alone: int) -> None:
    config = plan("auto-deeplab", "demo", "quick", [f"search.epochs={epochs}", f"search.architecture_from_epoch={alone}"]).config
    search = sized(config, factor).search
    assert search.epochs == max(2 if alone else 1, int(epochs * factor))
    assert 0 <= search.architecture_from_epoch < search.epochs
    assert (search.architecture_from_epoch == 0) == (alone == 0)
    assert abs(search.architecture_from_epoch / search.epochs - alone / epochs) <= 1 / search.epochs


def test_lengthened_changes_what_is_counted_in_epochs_alone() -> None:
    config = plan("auto-deeplab", "demo", "quick").config
    search, retrain = measurements(100.0, 60.0)
    twice = replace(config, retrain=replace(config.retrain, epochs=2 * config.retrain.epochs))
    assert lengthened(retrain, twice).seconds == 120
    assert lengthened(search, twice).seconds == 100
    in_steps = replace(twice, retrain=replace(twice.retrain, steps=10))
    assert lengthened(retrain, in_steps).seconds == 60
    assert lengthened(dataclasses.replace(retrain, epochs=None), twice).seconds == 60


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90min", 5400), ("1h30min", 5400), ("1h 30m", 5400), ("45s", 45), ("1.5d", 129600)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-2h", "0s", "2h and"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UserError, match="write for example 2h"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "limit"), [("2e6", 2 * 10**6), ("2000000", 2 * 10**6), ("1.5e3", 1500), ("1e18", 10**18)])
def test_limits(text: str, limit: int) -> None:
    assert as_settings(max_parameters=text) == [f"budget.max_parameters={limit}"]


@pytest.mark.parametrize("text", ["many", "", "2M", "0", "-3", "1.5", "nan", "inf", "1e19", "1e9999999", "[1]"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UserError, match="--max-multiply-adds takes a whole number"):
        as_settings(max_multiply_adds=text)


def test_options_that_are_not_given_change_nothing() -> None:
    assert as_settings() == []
    assert as_settings(time="1h", seeds=3) == ["time_limit=3600.0", "comparison.seeds=3"]
    assert set(options.UNITS) == {"s", "min", "m", "h", "d"}
