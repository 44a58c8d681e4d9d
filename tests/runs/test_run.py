"""The run directory: atomic files, a lock, checkpoints with their metrics, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segnas.errors import UserError
from segnas.runs.run import Run, environment, first_difference, working_on

CONFIG = {"system": "none", "seed": 3, "search": {"crop": [33, 65], "rate": 1e-05}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_new_run_holds_its_configuration(run: Run) -> None:
    assert run.config() == CONFIG
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "checkpoints", "config.yaml"]
    run.release()
    assert Run.open(run.path).config() == CONFIG


def test_checking_writes_nothing(tmp_path: Path) -> None:
    Run.check(tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_taken_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--resume") as error:
        Run.create(run.path, CONFIG)
    assert str(run.path) in one_line(error)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        Run.create(tmp_path / "file", CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.png").write_text("x")
    for resume in (False, True):
        with pytest.raises(UserError, match="not empty and holds no run"):
            Run.create(tmp_path / "full", CONFIG, resume)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["photo.png"], "nothing was written"
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", CONFIG)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make the folder") as error:
        Run.create(tmp_path / "file" / "run", CONFIG)
    one_line(error)


def test_what_was_killed_before_its_configuration_can_begin_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    (path / ".lock").write_text("")
    (path / "config.yaml.partial").write_text("sys")
    assert Run.begun(path), "so --resume takes it"
    for resume in (False, True):
        Run.check(path, CONFIG, resume)
    run = Run.create(path, CONFIG, resume=True)
    assert run.config() == CONFIG
    assert not (path / "config.yaml.partial").exists()


def test_other_settings_are_refused_on_resume(run: Run) -> None:
    run.release()
    Run.create(run.path, CONFIG, resume=True).release()
    changed = {**CONFIG, "search": {"crop": [33, 97], "rate": 1e-05}}
    with pytest.raises(UserError, match=r"search\.crop=\[33, 65\], not \[33, 97\]") as error:
        Run.create(run.path, changed, resume=True)
    one_line(error)
    assert run.config() == CONFIG


@pytest.mark.parametrize(
    ("stored", "given", "difference"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, "a=1, not 2"),
        ({"a": {"b": [1]}}, {"a": {"b": [1, 2]}}, "a.b=[1], not [1, 2]"),
        ({"a": {}}, {"a": {"c": 3}}, "a.c=None, not 3"),
        ({"a": 1, "b": 2}, {"a": 1}, "b=2, not None"),
    ],
)
def test_the_first_difference(stored: Any, given: Any, difference: str | None) -> None:
    assert first_difference(stored, given) == difference


def test_what_is_no_run(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "missing", "no such folder"), (tmp_path, r"no config\.yaml")):
        with pytest.raises(UserError, match=message):
            Run.open(path)


LOCKER = """
import sys
from pathlib import Path
from segnas.errors import UserError
from segnas.runs.run import Run
try:
    Run(Path(sys.argv[1])).lock()
except UserError as error:
    print(error)
else:
    print("taken")
"""


def test_a_second_process_is_kept_out_until_the_first_gives_the_run_back(run: Run) -> None:
    def other() -> str:
        done = subprocess.run([sys.executable, "-c", LOCKER, str(run.path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    answer = other()
    assert answer == f"another process works on the run in {run.path}; wait for it or stop it"
    with pytest.raises(UserError, match="another process"):
        Run.create(run.path, CONFIG, resume=True)
    run.release()
    assert other() == "taken"
    with working_on(run):
        pass
    with pytest.raises(ValueError, match="inner"), working_on(run):
        raise ValueError("inner")
    run.lock()


def test_a_file_is_replaced_whole_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_text("figures.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"the disk is full.*the last figures\.json is intact.*--resume") as error:
        run.write_text("figures.json", "new")
    one_line(error)
    with pytest.raises(UserError) as error:
        run.write_text("never.json", "new")
    assert "intact" not in one_line(error)
    monkeypatch.undo()
    assert (run.path / "figures.json").read_text() == "old"
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "checkpoints", "config.yaml", "figures.json"]


def test_a_file_that_cannot_be_written_is_one_line(run: Run) -> None:
    (run.path / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder\.json") as error:
        run.write_text("folder.json", "x")
    one_line(error)
    assert not (run.path / "folder.json.partial").exists()


FILLER = """
import resource, sys
from pathlib import Path
import torch
from segnas.errors import UserError
from segnas.runs.run import Run
run = Run(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    run.save_checkpoint("search", {"weights": torch.zeros(100_000)})
except UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_checkpoint(run: Run) -> None:
    """A real failure of write(2), by a limit on the size of files: the process ignores the signal as Python does."""
    run.save_checkpoint("search", {"weights": torch.arange(5.0), "step": 7})
    done = subprocess.run([sys.executable, "-c", FILLER, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "the disk is full" in done.stdout
    assert "the last checkpoints/search.pt is intact" in done.stdout
    state = run.load_checkpoint("search")
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(5.0))
    assert state["step"] == 7
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["search.pt"]


def test_lines_after_the_checkpoint_are_cut_off_on_resume(run: Run) -> None:
    run.log("search", 1, {"loss": 2.0, "mIoU": 10.0})
    run.save_checkpoint("search", {"epoch": 1})
    kept = (run.path / "metrics.jsonl").read_bytes()
    run.log("search", 2, {"loss": 1.0})
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"stage": "sea')
    assert [row["value"] for row in run.metrics()] == [2.0, 10.0, 1.0], "half a line is no measurement"
    assert run.load_checkpoint("search") == {"epoch": 1}
    assert (run.path / "metrics.jsonl").read_bytes() == kept


def test_measurements(run: Run) -> None:
    assert run.metrics() == []
    run.log("search", 1, {"loss": float("nan")})
    run.log("retrain", 4, {"loss": 0.5})
    rows = run.metrics()
    assert [set(row) for row in rows] == [{"stage", "step", "name", "value", "seconds"}] * 2
    assert [(row["stage"], row["step"], row["name"], row["value"]) for row in rows] == [
        ("search", 1, "loss", None),
        ("retrain", 4, "loss", 0.5),
    ]
    assert run.metrics("retrain") == rows[1:]


def test_a_broken_checkpoint_is_one_line(run: Run) -> None:
    assert run.load_checkpoint("search") is None
    (run.path / "checkpoints" / "search.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*delete it") as error:
        run.load_checkpoint("search")
    one_line(error)


def test_json_files(run: Run) -> None:
    run.write_json("figures.json", {"mIoU": float("nan"), "classes": ("a", "ä"), "inner": [{"x": float("inf")}]})
    assert run.read_json("figures.json") == {"mIoU": None, "classes": ["a", "ä"], "inner": [{"x": None}]}
    json.loads((run.path / "figures.json").read_text())
    with pytest.raises(UserError, match=r"no other\.json yet"):
        run.read_json("other.json")
    (run.path / "figures.json").write_text("{")
    with pytest.raises(UserError, match="no JSON file"):
        run.read_json("figures.json")


def test_the_environment_says_what_a_repetition_needs() -> None:
    found = environment(seed=5, device="cpu, 1 thread", command="segnas run x")
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] == torch.__version__
    assert (found["seed"], found["device"], found["threads"]) == (5, "cpu, 1 thread", torch.get_num_threads())
    assert found["command"] == "segnas run x"
    json.dumps(found)


def test_device_place_of_the_data_and_workers_may_change_on_resume(tmp_path: Path) -> None:
    config = {"dataset": "/a", "device": {"threads": 1}, "data": {"workers": 0, "crop": [33, 33]}}
    Run.create(tmp_path / "run", config).release()
    moved = {"dataset": "/b", "device": {"threads": 2}, "data": {"workers": 3, "crop": [33, 33]}}
    run = Run.create(tmp_path / "run", moved, resume=True)
    run.release()
    assert run.config() == moved


def test_of_several_processes_the_first_alone_writes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log("retrain", 1, {"loss": 0.5})
    run.save_checkpoint("retrain", {"step": 1})
    run.log("retrain", 2, {"loss": 0.25})
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    second = Run.create(run.path, CONFIG)  # rank 0 has made it, and holds its lock
    second.write_json("figures.json", {"a": 1})
    second.save_checkpoint("retrain", {"step": 2})
    second.log("retrain", 3, {"loss": 0.125})
    assert second.load_checkpoint("retrain") == {"step": 1}
    assert second.load_checkpoint("search") is None
    with working_on(second):
        assert second.config() == CONFIG
    Run.create(tmp_path / "new", CONFIG)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == written
