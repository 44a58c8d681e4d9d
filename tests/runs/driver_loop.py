"""A search reduced to what must survive a kill: ask, store, run, tell, resume. What the kill tests run, as a process.

python driver_loop.py FOLDER STORAGE TRIALS SECONDS (processes WORKERS | ray ADDRESS)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from segnas.runs.execution import Executor, OnRay, Processes, Task
from segnas.runs.trials import TrialStore

ATTEMPTS = 3  # of a trial whose worker or driver was killed


def work(payload: dict[str, Any]) -> dict[str, Any]:
    """Leaves a file that says which process works on which trial, and a line in `worked` when it is through."""
    folder = Path(payload["folder"])
    (folder / f"worker.{payload['number']}").write_text(str(os.getpid()))
    time.sleep(payload["seconds"])
    with open(folder / "worked", "a") as file:
        file.write(f"{payload['number']}\n")
    return {"mIoU": float(payload["number"])}


def search(folder: Path, storage: str, trials: int, seconds: float, executor: Executor) -> None:
    store = TrialStore.open(storage, "killed", ["maximize"])
    known = store.trials()
    asked, told = len(known), sum(trial.order is not None for trial in known)
    attempts: dict[int, int] = {}

    def submit(number: int, attempt: int) -> None:
        attempts[number] = attempt
        executor.submit(Task(number, {"number": number, "folder": str(folder), "seconds": seconds}, attempt))

    def again(number: int) -> None:
        nonlocal told
        if attempts[number] < ATTEMPTS:
            submit(number, store.again(number))
        else:
            store.finish(number, "failed", told, error="killed too often")
            told += 1

    attempts = {trial.number: trial.attempts for trial in known}
    interrupted = [trial.number for trial in known if trial.status == "running"]
    while told < trials:
        while executor.free() and (interrupted or asked < trials):
            if interrupted:
                again(interrupted.pop(0))
            else:
                architecture = {"family": "dummy", "number": asked}
                submit(store.start(architecture, str(asked), {"x": (asked, trials)}, "search", 0, told, {}, {}).number, 1)
                asked += 1
        for outcome in executor.wait():
            if outcome.kind == "ok":
                value = (outcome.result["mIoU"],)
                store.finish(
                    outcome.number, "done", told, value, outcome.result, seconds=outcome.seconds, machine=outcome.machine
                )
                told += 1
            else:
                assert outcome.kind == "died", outcome
                again(outcome.number)
    executor.close()
    store.close()


if __name__ == "__main__":
    # The work is imported by its name, so that workers find it whatever the main module is.
    from driver_loop import work as importable

    folder, storage, trials, seconds, where, place = sys.argv[1:]
    executor: Executor = Processes(importable, int(place)) if where == "processes" else OnRay(importable, place)
    search(Path(folder), storage, int(trials), float(seconds), executor)
