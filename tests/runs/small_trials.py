"""Trials of a space of three choices, and several processes that write them to one study."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from segnas.runs.trials import Trial, TrialStore

ARCHITECTURE = {"family": "chain", "widths": [16, 32], "name": "näme"}
INDICES = {"widths.0": (0, 3), "widths.1": (1, 3), "name": (0, 1)}


def begin(store: TrialStore, **changes: Any) -> Trial:
    given: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "id": "0123456789ab",
        "indices": INDICES,
        "stage": "search",
        "seed": 7,
        "known": 0,
        "costs": {"parameters": 12.0},
        "hint": {"median": [1.5, None]},
    }
    return store.start(**{**given, **changes})


WRITER = """
import sys
from segnas.runs.trials import TrialStore
location, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = TrialStore.open(location, "shared", ["maximize"])
for index in range(count):
    trial = store.start({"family": "chain"}, name, {"x": (index % 5, 5)}, "search", index, 0, {}, {})
    store.finish(trial.number, "done", index, (float(index),), machine=name)
"""


def write_at_once(location: str, count: int) -> list[Trial]:
    """Two processes open a new study and write `count` trials each; all that is there then."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, location, name, str(count)]) for name in ("one", "two")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    store = TrialStore.open(location, "shared", ["maximize"])
    trials = store.trials()
    store.close()
    return trials


def all_there(trials: list[Trial], count: int) -> None:
    """None lost, none twice, none mixed up."""
    assert [trial.number for trial in trials] == list(range(2 * count))
    assert {(trial.id, trial.seed) for trial in trials} == {(name, index) for name in ("one", "two") for index in range(count)}
    assert {trial.status for trial in trials} == {"done"}
    assert all(trial.machine == trial.id and trial.values == (float(trial.seed),) for trial in trials)
