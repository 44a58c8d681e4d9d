"""Whole commands in processes of their own: Ctrl-C, a full disk, two processes on one run, a reader that goes away."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import SMALL, TINY, contents

pytestmark = pytest.mark.slow

SEGNAS = [sys.executable, "-m", "segnas"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def command(words: Sequence[object], largest_file: int = -1) -> subprocess.CompletedProcess[str]:
    """The finished command; `largest_file` bytes are all that a file may hold, as on a disk that is nearly full."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    given = [*SEGNAS, *map(str, words)]
    limit = limited if largest_file >= 0 else None
    return subprocess.run(given, env=environment(), capture_output=True, text=True, timeout=200, preexec_fn=limit)


def stopped(words: Sequence[object], line: str, number: signal.Signals = signal.SIGINT) -> tuple[int, list[str]]:
    """Exit status and lines on standard error of a command that gets a signal as soon as it prints a line that begins so."""
    process = subprocess.Popen([*SEGNAS, *map(str, words)], env=environment(), stderr=subprocess.PIPE, text=True)
    guard = threading.Timer(200, process.kill)
    guard.start()
    lines = []
    assert process.stderr is not None
    for text in process.stderr:
        lines.append(text.rstrip("\n"))
        if text.startswith(line):
            process.send_signal(number)
            line = "\0"
    guard.cancel()
    return process.wait(), lines


def way_on(lines: Sequence[str]) -> list[str]:
    """The words of the command that the last line says to go on with."""
    assert "Traceback" not in "\n".join(lines)
    told, _, printed = lines[-1].partition("; go on with: ")
    assert told.startswith("segnas: ")
    name, *words = shlex.split(printed)
    assert name == "segnas"
    return words


def test_ctrl_c_in_every_stage_and_the_printed_commands_lead_to_the_same_run(images: Path, tmp_path: Path) -> None:
    """A whole run, stopped in the search and in the retraining, against one that was left alone."""
    longer = ["search.epochs=60", "retrain.steps=400", "retrain.validate_every=0"]
    words = ["run", "auto-deeplab", "--data", images, *TINY, *longer, "--no-export", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "stopped twice"
    assert command([*words, whole]).returncode == 0
    status, lines = stopped([*words, parts], "search 3/60")
    assert (status, (parts / "architecture.json").exists()) == (130, False), lines
    assert "the search is saved" in lines[-1]
    status, lines = stopped(way_on(lines), "retrain 3/", signal.SIGTERM)
    assert (status, (parts / "retrain.json").exists()) == (130, False), lines
    assert "retraining is saved" in lines[-1]
    done = command(way_on(lines))
    assert done.returncode == 0, done.stderr
    assert (parts / "report.html").exists()
    for name in ("architecture.json", "model.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_before_the_search_leaves_nothing(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    slow = ["search.crop=[225,225]", "search.layers=4", "search.filters=8"]  # seconds between that line and the first file
    words = ["search", "auto-deeplab", "--data", images, *TINY, *slow, "device.accelerator=auto", "--out", out]
    status, lines = stopped(words, "device: ")
    assert (status, lines[-1]) == (130, "segnas: stopped")
    assert not out.exists()


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_full_disk_costs_no_checkpoint(stage: str, images: Path, architecture_file: Path, tmp_path: Path) -> None:
    """The checkpoint that does not fit is not written, the one before stays, and with space again the run goes on."""
    if stage == "search":
        start = ["search", "auto-deeplab", *TINY, "search.epochs=60", "--data", images, "--out"]
    else:
        start = ["retrain", architecture_file, *SMALL, "retrain.steps=400", "retrain.validate_every=0", "--data", images, "--out"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert command([*start, whole]).returncode == 0
    full = command([*start, out], largest_file=20_000)
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith(f"segnas: the disk is full: cannot write {out}/checkpoints/{stage}.pt;")
    assert contents(out / "checkpoints") == {}, "no half of one"
    status, lines = stopped([*start, out, "--resume"], f"{stage} 2/")
    assert status == 130, lines
    kept = contents(out / "checkpoints")
    full = command([*start, out, "--resume"], largest_file=20_000)
    assert full.returncode == 2
    kept_is_told = f"the last checkpoints/{stage}.pt is intact; free some space and go on with --resume"
    assert full.stderr.splitlines()[-1].endswith(kept_is_told)
    assert contents(out / "checkpoints") == kept
    assert command([*start, out, "--resume"]).returncode == 0
    result = {"search": "architecture.json", "retrain": "model.safetensors"}[stage]
    assert (out / result).read_bytes() == (whole / result).read_bytes()


def test_two_processes_on_one_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["search", "auto-deeplab", "--data", images, *TINY, "search.epochs=500", "--out", out]
    first = subprocess.Popen([*SEGNAS, *map(str, words)], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        assert any(line.startswith("search 1/500") for line in first.stderr)
        second = command([*words, "--resume"])
        assert second.returncode == 2
        assert second.stderr.splitlines()[-1] == f"segnas: another process works on the run in {out}; wait for it or stop it"
        assert first.poll() is None, "the first one works on"
    finally:
        first.send_signal(signal.SIGINT)
        _, rest = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the search is saved" in rest


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_in(images: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    answer = command(["search", "auto-deeplab", "--data", images, *TINY, "--out", closed / "run"])
    assert answer.returncode == 2
    assert answer.stderr == f"segnas: cannot write in {closed}: permission denied; choose another --out\n"


def test_a_reader_that_goes_away() -> None:
    """`segnas ... | head -1` ends without a complaint."""
    program = shlex.join([*SEGNAS, "count", "auto-deeplab-s", "--json"])
    answer = subprocess.run(
        ["bash", "-c", f"({program}; echo status $? >&2) | true"], env=environment(), capture_output=True, text=True, timeout=100
    )
    assert answer.stderr == "status 1\n"
