"""Whole commands in two processes that torchrun starts: stopped and killed, resumed, and ended by a mistake, with one line."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, TINY

from segnas.runs.run import Run

pytestmark = pytest.mark.slow

LONGER = [*SMALL, "retrain.steps=400", "retrain.validate_every=0", "evaluation.flip=true"]


def torchrun(words: Sequence[object]) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m segnas WORDS`, begun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    here = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "GLOO_SOCKET_IFNAME": "lo"}
    given = [*launcher, "-m", "segnas", *map(str, words)]
    return subprocess.Popen(given, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(words: Sequence[object]) -> tuple[int, str, list[str]]:
    """Exit status, standard output, and the lines on standard error that segnas wrote as its last word."""
    process = torchrun(words)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, last_words(err.splitlines())


def last_words(lines: Sequence[str]) -> list[str]:
    return [line.removeprefix("segnas: ") for line in lines if line.startswith("segnas: ")]


def stopped(words: Sequence[object], line: str, number: signal.Signals) -> list[str]:
    """The lines on standard error of a command whose torchrun gets a signal as soon as a line begins so."""
    process = torchrun(words)
    guard = threading.Timer(200, process.kill)
    guard.start()
    lines: list[str] = []
    assert process.stderr is not None
    for text in process.stderr:
        lines.append(text.rstrip("\n"))
        if text.startswith(line):
            process.send_signal(number)
            line = "\0"
    guard.cancel()
    assert process.wait() != 0
    return lines


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "seconds"}


def test_stopped_twice_and_resumed_is_uninterrupted(images: Path, architecture_file: Path, tmp_path: Path) -> None:
    words = ["retrain", architecture_file, "--data", images, *LONGER, "device.threads=1", "data.workers=1", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, out, _ = finished([*words, whole])
    assert status == 0
    assert out.count("model.safetensors") == 1, "one process prints"
    for line, number in (("retrain 3/", signal.SIGTERM), ("retrain 20/", signal.SIGINT)):
        lines = stopped([*words, parts, *(["--resume"] if parts.exists() else [])], line, number)
        (told,) = last_words(lines)
        assert "retraining is saved after step" in told
        program, *way_on = shlex.split(told.split("; go on with: ")[1])
        assert (program, way_on[:4]) == ("torchrun", ["--nproc-per-node", "2", "-m", "segnas"])
    assert finished(way_on[4:])[0] == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logged = [[(row["step"], row["name"], row["value"]) for row in Run(path).metrics()] for path in (parts, whole)]
    assert logged[0] == logged[1]
    environment = Run(parts).read_json("environment.json")
    assert environment["processes"] == 2
    assert environment["command"].startswith("torchrun --nproc-per-node 2 -m segnas retrain ")
    assert "later" not in environment

    status, _, _ = finished(["evaluate", parts])
    assert status == 0
    two = without_times(Run(parts).read_json("evaluation.json"))
    alone = subprocess.run([sys.executable, "-m", "segnas", "evaluate", parts], capture_output=True, text=True, timeout=200)
    assert alone.returncode == 0, alone.stderr
    assert without_times(Run(parts).read_json("evaluation.json")) == two


def test_a_whole_run(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    status, out, complaints = finished(["run", "auto-deeplab", "--data", images, *TINY, "--no-export", "--out", run])
    assert (status, complaints) == (0, [])
    assert out.count("report.html") == 1
    assert (run / "report.html").exists()
    alone = ["run", "auto-deeplab", "--out", run, "--resume", "retrain.steps=4"]
    (run / "retrain.json").unlink()
    answer = subprocess.run([sys.executable, "-m", "segnas", *map(str, alone)], capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    assert "note: the run was started with processes=2, not 1; batch norm sees other parts" in answer.stderr


def test_a_mistake_is_one_line_and_ends_both(images: Path, architecture_file: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    words = ["retrain", architecture_file, "--data", images, *SMALL, "retrain.batch_size=3", "--out", tmp_path / "run"]
    status, out, complaints = finished(words)
    assert (status != 0, out) == (True, "")
    (line,) = complaints
    assert line.startswith("retrain.batch_size=3 cannot be shared evenly by 2 processes")
    assert not (tmp_path / "run").exists()
    status, _, complaints = finished(["export", tmp_path / "run"])
    assert (status != 0, len(complaints)) == (True, 1)
    assert complaints[0].startswith("export takes one process")
    assert time.monotonic() - started < 90


def test_a_mistake_that_the_second_process_alone_meets(images: Path, architecture_file: Path, tmp_path: Path) -> None:
    """Its images vanish while the other trains on."""
    program = tmp_path / "second.py"
    program.write_text(
        "import os, sys\n"
        "from segnas.cli import main\n"
        "from segnas.errors import UserError\n"
        "from segnas.training.retrain import Retraining\n"
        "plain = Retraining.train_step\n"
        "def step(self, batch):\n"
        "    if self.step == 5 and os.environ['RANK'] == '1':\n"
        "        raise UserError('an image is gone')\n"
        "    plain(self, batch)\n"
        "Retraining.train_step = step\n"
        "main(sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program],
            *["retrain", architecture_file, "--data", images, *LONGER, "--out", tmp_path / "run"],
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    assert last_words(err.splitlines()) == ["an image is gone"]
