"""Made-up searches by trials: what search.json holds at any time, and run directories around it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from segnas.config import from_dict
from segnas.report.trials import TrialSearch
from segnas.runs.run import Run

ERRORS = ("CUDA out of memory: tried to allocate {} MiB", "the loss is no number at step {}")


def search_json(
    seed: int = 0,
    trials: int = 60,
    running: int = 0,
    reranked: int = 6,
    objectives: tuple[tuple[str, str], ...] = (("mIoU", "maximize"), ("latency_ms", "minimize")),
    strategy: str = "evolution",
    workers: int = 2,
    space: int = 0,
    gain: float = 12.0,
) -> dict[str, Any]:
    """A search in which later trials tend to be better by `gain`; about one in ten fails, is stopped early or over budget.

    running: how many of the last trials have not ended. space: equal numbers draw architectures from the same hundred.
    """
    random = np.random.default_rng(seed)
    free = np.zeros(workers)
    rows: list[dict[str, Any]] = []
    for number in range(trials):
        worker = int(free.argmin())
        start, took = float(free[worker]), float(random.uniform(15, 40))
        which = int(random.integers(100))
        identity = hashlib.sha256(f"{space}/{which}".encode()).hexdigest()[:12]
        parameters = int(2e5 + 8e5 * np.random.default_rng(which).random())
        costs = {"parameters": parameters, "multiply_adds": 97.0 * parameters, "latency_ms": 1.5 + parameters / 2e5}
        miou = 25 + gain * number / trials + 8 * parameters / 1e6 + float(random.normal(0, 2))
        status = str(random.choice(["done", "failed", "stopped", "over budget"], p=[0.75, 0.09, 0.09, 0.07]))
        row: dict[str, Any] = {
            "number": number, "stage": "search", "status": status, "error": None, "id": identity, "seed": 1000 + number,
            "attempts": 1, "started": start, "finished": start + took, "seconds": took, "metrics": {"mIoU": miou}, "costs": costs,
            "machine": f"host/{worker}",
        }  # fmt: skip
        if number >= trials - running:
            row |= {"status": "running", "finished": None, "seconds": None, "metrics": {}}
        elif status == "failed":
            row |= {"error": str(random.choice(ERRORS)).format(int(random.integers(100, 9000))), "metrics": {}}
        elif status == "over budget":
            row |= {
                "error": f"parameters {parameters}, and the limit is 1000000",
                "metrics": {},
                "finished": start,
                "seconds": 0.0,
            }
            took = 0.0
        elif status == "stopped":
            row["metrics"] = {"mIoU": miou - 9}
        free[worker] += took
        rows.append(row)
    planned = sum(row["status"] != "over budget" for row in rows)
    search = {
        "kind": "trials", "system": "amoebanet", "strategy": strategy, "space": "amoebanet",
        "estimator": "short training of 3 epochs", "objectives": [{"name": n, "direction": d} for n, d in objectives],
        "constraints": ["parameters <= 1e6"], "planned": planned, "workers": workers, "seconds": float(free.max()),
        "best": None, "pareto": [], "trials": rows,
    }  # fmt: skip
    found = from_dict(TrialSearch, search, "search.json")
    for trial in found.ranked[: 0 if running else reranked]:
        score = (trial.metrics["mIoU"] or 0) + 15 + float(random.normal(0, 2))
        rows.append({
            "number": len(rows), "stage": "rerank", "status": "done", "error": None, "id": trial.id, "seed": 5,
            "attempts": 1, "started": search["seconds"], "finished": search["seconds"] + 90, "seconds": 90.0,
            "metrics": {"mIoU": score}, "costs": dict(trial.costs), "machine": "host/0"})  # fmt: skip
        search["seconds"] += 90.0
    if found.ranked:
        search["best"] = found.ranked[0].number
    if len(objectives) > 1:
        search["pareto"] = [trial.number for trial in found.front(*found.objectives)]
    return search


def counted(search: dict[str, Any]) -> int:
    """The trials of the search that are over and count."""
    rows = search["trials"]
    return sum(row["stage"] == "search" and row["status"] in ("done", "stopped", "failed") for row in rows)


def parsed(search: dict[str, Any]) -> TrialSearch:
    """As the report reads it."""
    return from_dict(TrialSearch, search, "search.json")


def write_trials(run: Run, search: dict[str, Any], best: dict[str, Any] | None = None) -> None:
    """search.json in place of the run's, and the best so far; without `best` the run keeps its architecture.json."""
    run.write_json("search.json", search)
    if best is not None:
        (run.path / "architecture.json").unlink(missing_ok=True)
        run.write_json("architecture_best.json", best)


def write_random_search(run: Run, search: dict[str, Any], score: float = 58.0) -> None:
    """A random search below the run, and its entry in comparison.json."""
    folder = "compared/random search-0"
    inner = Run.create(run.path / folder, {"system": "amoebanet"})
    inner.write_json("search.json", search)
    inner.release()
    comparison = run.read_json("comparison.json")
    training = {"seed": 0, "folder": folder, "id": "00a1b2c3d4e5", "parameters": 1_100_000, "multiply_adds": 3_300_000_000,
                "seconds": 3000.0, "scores": {"val": score}}  # fmt: skip
    comparison["entries"].append({"kind": "random search", "name": "random search", "runs": [training]})
    run.write_json("comparison.json", comparison)


def begun_run(path: Path, search: dict[str, Any]) -> Run:
    """A run that has nothing but a search which has just begun."""
    run = Run.create(path, {"system": "amoebanet", "data": {"root": "data/camvid"}})
    run.write_json("search.json", search)
    run.release()
    return run
