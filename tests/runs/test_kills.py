"""Ten kills in sixty trials, of the driver and of its workers in turn; then all trials are there, each once."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segnas.runs.trials import Trial, TrialStore

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TRIALS, KILLS, WORKERS, SECONDS = 60, 10, 2, 0.2
PATIENCE = 60.0  # seconds


def start_driver(folder: Path, storage: str, seconds: float, *where: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    command = [sys.executable, str(HERE / "driver_loop.py"), str(folder), storage, str(TRIALS), str(seconds), *where]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def until(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.005)


def worked(folder: Path) -> list[int]:
    """The number of each trial whose work came to its end, in that order."""
    file = folder / "worked"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def parent(pid: int) -> int | None:
    """None for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def workers_of(driver: int, folder: Path) -> list[int]:
    """Those of its workers that have begun a trial."""
    numbers = {int(text) for file in folder.glob("worker.*") if (text := file.read_text())}
    return sorted(number for number in numbers if parent(number) == driver)


def read(storage: str) -> list[Trial]:
    store = TrialStore.open(storage, "killed", ["maximize"])
    trials = store.trials()
    store.close()
    return trials


def complete(trials: list[Trial], works: list[int]) -> None:
    """Every trial is done, once, with the result of its own work; what was worked on twice was started twice."""
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.status for trial in trials} == {"done"}
    assert sorted(trial.order or 0 for trial in trials) == list(range(TRIALS))
    assert [trial.architecture["number"] for trial in trials] == list(range(TRIALS)), "none was asked for twice"
    assert [trial.values for trial in trials] == [(float(number),) for number in range(TRIALS)]
    times = collections.Counter(works)
    assert set(times) == set(range(TRIALS))
    assert all(times[trial.number] <= trial.attempts for trial in trials)


def test_sixty_trials_survive_ten_kills(tmp_path: Path) -> None:
    storage, chance = str(tmp_path / "trials.sqlite"), random.Random(0)
    driver = start_driver(tmp_path, storage, SECONDS, "processes", str(WORKERS))
    for kill in range(KILLS):
        enough = len(worked(tmp_path)) + 3  # those that were interrupted come first, and are through by then
        until(lambda enough=enough: len(worked(tmp_path)) >= enough, "the search does not go on")
        time.sleep(chance.uniform(0, SECONDS))
        workers = workers_of(driver.pid, tmp_path)
        if kill % 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
            continue
        driver.kill()
        driver.wait()
        until(lambda workers=workers: not any(parent(worker) for worker in workers), "a worker outlives its driver")
        driver = start_driver(tmp_path, storage, SECONDS, "processes", str(WORKERS))
    assert driver.wait(PATIENCE) == 0
    trials = read(storage)
    complete(trials, worked(tmp_path))
    assert sum(trial.attempts for trial in trials) > TRIALS, "some were interrupted"
