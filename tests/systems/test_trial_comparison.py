"""A search by trials beside random search of as many trials, and what both together are said to take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from test_trial_search import SYSTEM
from tiny_search import Drawn

from segnas import api
from segnas.costs.memory import available_memory
from segnas.errors import UserError
from segnas.estimators.rehearsal import measurement
from segnas.forecast import lengthened, sized_to_time, whole_time
from segnas.plans import plan
from segnas.runs.execution import ExecutionConfig, threads_of_each
from segnas.runs.progress import console
from segnas.runs.run import Run
from segnas.systems import trial_work
from segnas.systems.trial_search import as_a_worker, together
from segnas.training.device import Device, DeviceConfig, launch

SETTINGS = ["search.trials=4", "search.strategy=evolution", "comparison.random_search=true", "comparison.random=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Drawn().write(tmp_path_factory.mktemp("drawn")))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_random_search_repeats_one_of_a_file_for_each_seed(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    settings = [*SETTINGS, "comparison.seeds=2", "comparison.baseline=unet"]
    api.search(SYSTEM, data, out, "quick", settings)
    (out / "encoder.safetensors").write_bytes(b"of seed 0")
    capsys.readouterr()
    api.run(SYSTEM, None, out, resume=True, export=False)
    assert capsys.readouterr().err.count("random search: 0.01 s a trial x 4") == 2, "a forecast of each"
    entries = {entry["kind"]: entry for entry in read(out / "comparison.json")["entries"]}
    assert [run["seed"] for run in entries["random search"]["runs"]] == [0, 1]
    for seed in (0, 1):
        inner = out / "compared" / f"random-search-{seed}"
        told = read(inner / "search.json")
        assert (told["strategy"], len(told["trials"])) == ("random", 4)
        # one that was trained on the images that another seed holds out would have seen them
        assert (inner / "encoder.safetensors").exists() == (seed == 0)


def test_the_number_of_trials_fits_a_time_limit() -> None:
    """What is done once stays; of what a trial takes, as many as there is time for."""
    asked = plan("dpc", "demo", "quick", ["time_limit=1000"])
    found = [measurement(asked.config.search.trials, 0, 10.0, 100.0, 0)]
    chosen, told = sized_to_time(asked, found, 1, launch(DeviceConfig(accelerator="cpu")))
    assert chosen.config.search.trials == 80, "of 10 s each, within 90 percent of the time"
    assert told["search_trials"] == [asked.config.search.trials, 80]
    assert whole_time(found, chosen.config, 1) == told["forecast_seconds"] == 900
    assert lengthened(found[0], asked.config) == found[0]


@pytest.mark.parametrize(("trials", "workers", "rounds"), [(8, 0, 8), (8, 1, 8), (8, 4, 2), (9, 4, 3), (2, 4, 1)])
def test_workers_share_the_trials(trials: int, workers: int, rounds: int) -> None:
    assert measurement(trials, workers, 10.0, 100.0, 5).seconds == 100 + 10 * rounds


def test_workers_that_do_not_fit_in_the_memory_are_refused() -> None:
    device = torch.device("cpu")
    third = available_memory(device) // 3
    assert together(third // 2, 2, device) == third // 2 * 2
    assert together(third * 9, 0, device) == third * 9, "one alone was measured, and fitted"
    with pytest.raises(UserError, match=r"8 workers need about .* are there; set execution.workers to at most [23]") as told:
        together(third, 8, device)
    fit = int(re.findall(r"at most (\d)", str(told.value))[0])
    assert together(third - third // 10, fit, device)


def test_workers_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from segnas.systems import trial_search

    monkeypatch.setattr(trial_search, "available_memory", lambda device: 25)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    gpu: Any = SimpleNamespace(type="cuda")
    assert together(10, 8, gpu) == 20
    with pytest.raises(UserError, match="at most 8"):
        together(10, 9, gpu)


def test_each_worker_has_the_gpu_of_its_slot(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of Fabric, which would take the first GPU for all."""
    out, chosen = tmp_path / "run", []
    api.search(SYSTEM, data, out, "quick", ["search.trials=1"])
    payload = {"folder": str(out), "config": Run(out).config(), "mean": [0.5] * 3, "std": [0.25] * 3}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(trial_work, "launch", lambda config, gpu: chosen.append(gpu))
    monkeypatch.setattr(console, "quiet", True)
    for slot in range(3):
        trial_work._bench(json.dumps(payload), slot)
    assert chosen == [0, 1, 0]
    asked: list[Any] = []
    monkeypatch.setattr(Fabric, "__init__", lambda self, **given: asked.append(given["devices"]))
    for accelerator, gpu in (("cuda", 1), ("cpu", 1)):
        Device(DeviceConfig(), accelerator, gpu)
    assert asked == [[1], 1]


def test_a_trial_is_measured_with_the_threads_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with as_a_worker(ExecutionConfig(workers=2)):
            assert torch.get_num_threads() == threads_of_each(2) == 1
        assert torch.get_num_threads() == 3
        with as_a_worker(ExecutionConfig()):
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
