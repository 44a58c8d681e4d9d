"""Stopping and going on gives the same bits as never stopping: searches and retrainings, in process and as whole commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import Drawn, MakeJob, tiny_config, tiny_darts

import segnas
from segnas.config import dotted_keys, to_dict
from segnas.errors import Interrupted, UserError
from segnas.plans import plan
from segnas.runs.run import Run
from segnas.spaces.architecture import from_json, identity, to_json
from segnas.spaces.auto_deeplab import AutoDeepLab, Block
from segnas.systems import auto_deeplab, darts
from segnas.systems.base import Job
from segnas.systems.settings import RunConfig
from segnas.training.retrain import Retraining, retrain

SYSTEMS = {"auto-deeplab": auto_deeplab, "darts": darts}
STAGES = [*SYSTEMS, "retrain"]  # the search of a system, or the retraining
CHILD = Path(__file__).with_name("command_that_stops.py")
CELL = (Block((0, 1), ("sep_conv_3x3", "skip_connect")), Block((1, 2), ("atrous_conv_3x3", "avg_pool_3x3")))
ARCHITECTURE = AutoDeepLab((0, 1, 1), CELL, tiny_config().network)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and value of every leaf of nested containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        yield place, value
        return
    for key, inner in items:
        yield from leaves(inner, f"{place}.{key}")


def timeless(value: Any) -> dict[str, Any]:
    """Every leaf but times; tensors by their bytes."""
    kept = {place: leaf for place, leaf in leaves(value) if not place.endswith((".seconds", ".metrics_length"))}
    return {
        place: (tuple(leaf.shape), leaf.numpy().tobytes()) if isinstance(leaf, torch.Tensor) else leaf
        for place, leaf in kept.items()
    }


def contents(path: Path) -> dict[str, Any]:
    """Everything in a run that must be the same, times apart."""
    found: dict[str, Any] = {}
    for stage in ("search", "retrain"):
        if (path / "checkpoints" / f"{stage}.pt").exists():
            found[f"{stage}.pt"] = timeless(torch.load(path / "checkpoints" / f"{stage}.pt", weights_only=True))
    for name in ("search.json", "retrain.json", "architecture.json", "architecture_best.json", "architecture_last.json"):
        if (path / name).exists():
            found[name] = timeless(json.loads((path / name).read_text()))
    if (path / "model.safetensors").exists():
        found["model.safetensors"] = (path / "model.safetensors").read_bytes()
    found["metrics"] = timeless(Run(path).metrics())
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(Run(path).metrics()), "no line is broken"
    assert not list(path.rglob("*.partial"))
    return found


def assert_same(first: Path, second: Path) -> None:
    one, other = contents(first), contents(second)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], name


def config_of(stage: str, engine: str = "plain") -> RunConfig:
    """The tiny configuration; for DARTS with all variables that it can have."""
    found: Any = tiny_darts(partial_channels=2, edge_weights=True) if stage == "darts" else tiny_config()
    return replace(found, search=replace(found.search, engine=engine))


def run_retraining(job: Job) -> None:
    config = job.config
    retrain(ARCHITECTURE, job.dataset, config.data, job.normalization, config.retrain, job.run, job.device, config.seed)


@pytest.mark.parametrize("gaps", [(1, 1, 1), (5,)])
@pytest.mark.parametrize(
    ("stage", "engine"), [*((stage, "plain") for stage in STAGES), *((system, "fused") for system in SYSTEMS)]
)
def test_interrupted_and_resumed_is_uninterrupted(
    stage: str, engine: str, gaps: tuple[int, ...], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal after each of these numbers of steps: within an epoch, at its end, in the last one."""
    work, cls, step = run_retraining, Retraining, "train_step"
    if stage in SYSTEMS:
        work, cls, step = SYSTEMS[stage].search, SYSTEMS[stage].Search, "search_step"
    config = config_of(stage, engine)
    work(make_job("whole", config))
    real_step = getattr(cls, step)
    left = [0]

    def stopped_step(self: Any, *batches: Any) -> None:
        real_step(self, *batches)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cls, step, stopped_step)
    handler = signal.getsignal(signal.SIGINT)
    for number, gap in enumerate(gaps):
        left[0] = gap
        job = make_job("parts", config, resume=number > 0)
        with pytest.raises(Interrupted, match="saved"):
            work(job)
        job.run.release()
        torch.manual_seed(number)  # what else was drawn in between does not matter
    assert signal.getsignal(signal.SIGINT) is handler
    left[0] = 0
    job = make_job("parts", config, resume=True)
    work(job)
    assert_same(job.run.path.with_name("whole"), job.run.path)


@pytest.mark.parametrize("engines", [("plain", "fused"), ("fused", "plain")])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_search_is_continued_by_the_other_engine(
    system: str, engines: tuple[str, str], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same state, to the same figures but for rounding."""
    module, (first, second) = SYSTEMS[system], engines
    module.search(make_job("whole", config_of(system, first)))
    real = module.Search.search_step

    def stopped(self: Any, *batches: Any) -> None:
        real(self, *batches)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(module.Search, "search_step", stopped)
        job = make_job("parts", config_of(system, first))
        with pytest.raises(Interrupted, match="saved"):
            module.search(job)
        job.run.release()
    job = make_job("parts", config_of(system, second), resume=True)
    module.search(job)
    whole, parts = (run.read_json("search.json")["epochs"] for run in (Run(job.run.path.with_name("whole")), job.run))
    assert [one["loss_weights"] for one in parts] == pytest.approx([one["loss_weights"] for one in whole], rel=0.02)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("killed_in", "epoch"), [("log", 1), ("write_json", 3), ("save_checkpoint", 3)])
def test_a_search_that_dies_while_an_epoch_is_written_is_continued(
    killed_in: str, epoch: int, system: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each write at the end of the first and of the last epoch."""
    search, config = SYSTEMS[system].search, config_of(system)
    search(make_job("whole", config))
    real = getattr(Run, killed_in)

    class Died(Exception):
        pass

    def dying(self: Run, *arguments: Any) -> None:
        real(self, *arguments)
        if arguments[0] != "config.yaml" and self.metrics() and self.metrics()[-1]["step"] == epoch:
            raise Died

    monkeypatch.setattr(Run, killed_in, dying)
    job = make_job("parts", config)
    with pytest.raises(Died):
        search(job)
    job.run.release()
    monkeypatch.undo()
    job = make_job("parts", config, resume=True)
    search(job)
    assert_same(job.run.path.with_name("whole"), job.run.path)


def test_lines_of_a_stage_without_checkpoint_are_dropped(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retraining killed in its first epoch had logged steps, the last of them half; the search's lines stay."""
    job = make_job("parts")
    job.run.log("search", 1, {"loss": 2.0})
    job.run.log("retrain", 50, {"loss": 1.0})
    with open(job.run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"stage": "retrain", "st')
    assert job.run.load_checkpoint("retrain") is None
    assert [(row["stage"], row["value"]) for row in job.run.metrics()] == [("search", 2.0)]
    assert (job.run.path / "metrics.jsonl").read_text().endswith("}\n")


def command(arguments: list[str], moment: int, report: Path, number: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHILD), number, str(moment), str(report), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def overrides(config: RunConfig, parts: tuple[str, ...]) -> list[str]:
    """Parts of a configuration as `key=value` words."""
    plain = to_dict(config)
    words = []
    for key in dotted_keys(plain):
        if key.split(".")[0] in parts:
            value: Any = plain
            for part in key.split("."):
                value = value[part]
            words.append(f"{key}={json.dumps(value)}")
    return words


def arguments_of(stage: str, data: Path, folder: Path) -> list[str]:
    """The words of the command apart from --out."""
    config = config_of(stage)
    if stage in SYSTEMS:
        return [
            "search",
            stage,
            *overrides(config, ("data", "device", "search", "network")),
            "--data",
            str(data),
            "--preset",
            "quick",
        ]
    source = folder / "source.json"
    source.write_text(json.dumps(to_json(ARCHITECTURE)))
    return ["retrain", str(source), *overrides(config, ("data", "device", "retrain")), "--data", str(data), "--preset", "quick"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments_and_resumed_is_uninterrupted(stage: str, tmp_path: Path) -> None:
    """SIGKILL at three random moments, one in each third of the work; the third run is killed once more when it goes on."""
    words = arguments_of(stage, Drawn().write(tmp_path / "data"), tmp_path)
    report, whole = tmp_path / "report.json", tmp_path / "whole"
    done = command([*words, "--out", str(whole)], 0, report)
    assert done.returncode == 0, done.stderr
    moments = json.loads(report.read_text())
    begun, length = moments["begun"], moments["total"] - moments["begun"]
    assert length > 1000
    generator = np.random.default_rng(20)
    chosen = [begun + int((third + generator.random()) * length / 3) for third in range(3)]
    for number, moment in enumerate(chosen):
        out = str(tmp_path / f"killed_{number}")
        killed = command([*words, "--out", out], moment, report)
        assert killed.returncode == -signal.SIGKILL
        if number == 2:
            killed = command([*words, "--out", out, "--resume"], begun + length // 10, report)
            assert killed.returncode == -signal.SIGKILL
        resumed = command([*words, "--out", out, "--resume"], 0, report)
        assert resumed.returncode == 0, resumed.stderr
        assert_same(whole, Path(out))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_saves_and_says_how_to_go_on(stage: str, tmp_path: Path) -> None:
    words = arguments_of(stage, Drawn().write(tmp_path / "data"), tmp_path)
    report, whole, out = tmp_path / "report.json", tmp_path / "whole", tmp_path / "stopped run"
    assert command([*words, "--out", str(whole)], 0, report).returncode == 0
    moments = json.loads(report.read_text())
    stopped = command([*words, "--out", str(out)], (moments["begun"] + moments["total"]) // 2, report, "SIGINT")
    assert stopped.returncode == 130, stopped.stderr
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("segnas: ")
    assert "saved" in last
    assert "--resume" in last
    assert f"'{out}'" in last, "the command can be pasted"
    assert "Traceback" not in stopped.stderr
    assert (out / "checkpoints" / ("search.pt" if stage in SYSTEMS else "retrain.pt")).exists()
    assert command([*words, "--out", str(out), "--resume"], 0, report).returncode == 0
    assert_same(whole, out)


def test_another_architecture_does_not_go_on_with_a_retraining(tmp_path: Path) -> None:
    data, out = Drawn().write(tmp_path / "data"), tmp_path / "run"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(to_json(replace(ARCHITECTURE, path=(0, 0, 1)))))
    run = Run.create(out, plan(None, str(data), "quick").to_dict())
    run.write_json("architecture.json", {"architecture": to_json(ARCHITECTURE), "id": identity(ARCHITECTURE)})
    run.release()
    with pytest.raises(UserError, match=f"trains the architecture {identity(ARCHITECTURE)}"):
        segnas.retrain(other, str(data), out, "quick", resume=True)
    assert identity(from_json(run.read_json("architecture.json"))) == identity(ARCHITECTURE)
