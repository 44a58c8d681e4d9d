"""Whole searches that are killed again and again, driver and workers, on this machine and on Ray: sixty trials, each once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_trial_search import SYSTEM, found, stored
from tiny_search import Drawn

from segnas import api

sys.path.append(str(Path(__file__).parents[1] / "runs"))

from one_cluster import alone  # type: ignore[import-not-found]
from postgres_server import running_server  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow

TRIALS, KILLS, PATIENCE = 60, 10, 120.0
SETTINGS = [f"search.trials={TRIALS}", "search.strategy=evolution", "search.options.evolution.population=8", "search.seconds=0.3"]


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """A test that fails leaves no search behind."""
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Drawn().write(tmp_path_factory.mktemp("drawn")))


def start(out: Path, data: str, *settings: str) -> subprocess.Popen[bytes]:
    """The command that begins the search, or goes on with it."""
    begun = (out / "config.yaml").exists()
    words = ["search", SYSTEM, "--out", str(out), *(["--resume"] if begun else ["--data", data, "--preset", "quick", *settings])]
    with open(out.with_suffix(".log"), "a", encoding="utf-8") as log:  # for whoever looks into a failure
        STARTED.append(subprocess.Popen([sys.executable, "-m", "segnas", *words], stderr=log, stdout=subprocess.DEVNULL))
    return STARTED[-1]


def workers_of(driver: int) -> list[int]:
    """Processes that do trials: those that the driver spawned, and Ray's at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            words = (path.parent / "cmdline").read_bytes()
        except OSError:  # it has gone
            continue
        if (parent == driver and b"spawn_main" in words) or words.startswith(b"ray::_on_node"):  # not Ray's own agents
            found.append(int(path.parent.name))
    return found


def finished(out: Path) -> int:
    if not (out / "search.json").exists():
        return 0
    return sum(trial.order is not None for trial in stored(out))


def killed_ten_times(out: Path, data: str, *settings: str) -> None:
    """The search, with kills of the driver and of a worker in turn at random moments, until it ends by itself."""
    chance, driver = random.Random(3), start(out, data, *settings)
    for kill in range(KILLS):
        goal, begun = finished(out) + 3, time.monotonic()
        while finished(out) < goal and driver.poll() is None:
            assert time.monotonic() - begun < PATIENCE, out.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.3))
        victims = workers_of(driver.pid)
        if kill % 2 and victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
        else:
            driver.kill()
            driver.wait()
            driver = start(out, data, *settings)
    assert driver.wait(PATIENCE) == 0, out.with_suffix(".log").read_text()[-3000:]


def complete(out: Path) -> None:
    trials = stored(out)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.status for trial in trials} == {"done"}
    assert sorted(trial.order or 0 for trial in trials) == list(range(TRIALS))
    told = found(out)
    assert [row["number"] for row in told["trials"]] == list(range(TRIALS))
    best = max(trials, key=lambda trial: ((trial.values or (0.0,))[0], -trial.number))
    assert json.loads((out / "architecture.json").read_text())["id"] == best.id


def test_sixty_trials_of_two_workers_survive_ten_kills(data: str, tmp_path: Path) -> None:
    killed_ten_times(tmp_path / "run", data, *SETTINGS, "execution.workers=2")
    complete(tmp_path / "run")
    (tmp_path / "run" / "architecture.json").unlink()
    api.search(SYSTEM, None, tmp_path / "run", resume=True)  # the history can be gone through once more
    complete(tmp_path / "run")


def test_with_one_worker_the_kills_change_nothing(data: str, tmp_path: Path) -> None:
    killed_ten_times(tmp_path / "killed", data, *SETTINGS, "execution.workers=1")
    complete(tmp_path / "killed")
    api.search(SYSTEM, data, tmp_path / "whole", "quick", [*SETTINGS, "search.seconds=0"])
    first, second = ([(trial.id, trial.seed, trial.values) for trial in stored(tmp_path / name)] for name in ("killed", "whole"))
    assert first == second


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with a core each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with alone():
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.second = cluster.add_node(**node)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


def test_a_search_on_ray_ends_although_a_node_is_killed(cluster: Any, data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    driver = start(out, data, *SETTINGS, f"execution.ray={cluster.address}")
    begun = time.monotonic()
    while finished(out) < 10:
        assert time.monotonic() - begun < PATIENCE, "the search does not begin"
        time.sleep(0.1)
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert driver.wait(PATIENCE) == 0, out.with_suffix(".log").read_text()[-3000:]
    complete(out)


def test_a_search_on_ray_survives_ten_kills(cluster: Any, data: str, tmp_path: Path) -> None:
    killed_ten_times(tmp_path / "run", data, *SETTINGS, f"execution.ray={cluster.address}")
    complete(tmp_path / "run")


def test_a_search_kept_in_postgresql_proposes_what_one_in_sqlite_does(data: str, tmp_path: Path) -> None:
    with running_server() as server:
        url = server.create("searches")
        api.search(SYSTEM, data, tmp_path / "a", "quick", [*SETTINGS, "search.seconds=0"])
        api.search(SYSTEM, data, tmp_path / "b", "quick", [*SETTINGS, "search.seconds=0", f"execution.storage={url}"])
        first, second = (
            [(row["id"], row["seed"], row["metrics"], row["costs"]) for row in found(tmp_path / name)["trials"]] for name in "ab"
        )
        assert first == second
        assert not (tmp_path / "b" / "trials.sqlite").exists()
        (tmp_path / "b" / "architecture.json").unlink()
        api.search(SYSTEM, None, tmp_path / "b", resume=True)
        assert len(found(tmp_path / "b")["trials"]) == TRIALS
