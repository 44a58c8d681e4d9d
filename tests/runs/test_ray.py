"""Trials on real Ray clusters of one machine: outcomes, shares, a node and a driver that are killed, wrong addresses."""

from __future__ import annotations

import os
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from light_work import behave, visible_gpus
from one_cluster import alone
from test_execution import alive, outcomes, started
from test_kills import HERE, SECONDS, complete, read, start_driver, until, worked

from segnas.errors import UserError
from segnas.runs.execution import ExecutionConfig, OnRay, Task, make_executor

pytestmark = pytest.mark.slow

NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    """What workers find: the modules of the tests. No token is written into the home folder, no node joins another cluster."""
    with alone(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))
        yield


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with two cores each; the second has a GPU, by its own account, and the name `second`."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "node_name": "first"})
    try:
        cluster.second = cluster.add_node(**NODE, num_gpus=1, node_name="second")
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def test_outcomes_shares_and_time_limits(cluster: Any, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    executor = make_executor(ExecutionConfig(ray=cluster.address, workers=3, timeout_minutes=0.05), behave)
    assert signal.getsignal(signal.SIGTERM) is handler
    try:
        assert executor.workers == executor.free() == 3
        ways = ["return", "diverge", "out of memory", "unpicklable", "be killed once", "be killed", "sleep", "leave"]
        found = outcomes(executor, [{"how": how, "value": 5, "folder": str(tmp_path)} for how in ways])
        kinds = ["ok", "failed", "failed", "failed", "ok", "died", "timeout", "failed"]
        assert [found[number].kind for number in range(len(ways))] == kinds
        assert (found[0].result, found[4].result) == (5, "again")
        assert found[1].error == "Diverged: the loss is no number"
        assert found[2].error == "out of memory"
        assert found[5].error is not None
        assert "started 3 times" in found[5].error
        assert found[6].error == "took longer than 3 s"
        assert {found[number].machine for number in (0, 1, 2, 3, 4, 6, 7)} <= {"first", "second"}
    finally:
        executor.close()
    whole = OnRay(behave, cluster.address)
    assert whole.workers == 4
    for number in range(6):  # more than there is room for, as when a node dies after free() was asked
        whole.submit(Task(number, {"how": "return", "value": number, "folder": str(tmp_path)}))
    assert whole.free() == 0
    results: dict[int, Any] = {}
    while len(results) < 6:
        results |= {outcome.number: outcome.result for outcome in whole.wait(30)}
    assert results == {number: number for number in range(6)}
    whole.close()
    shared = OnRay(visible_gpus, cluster.address, cpus=0.5, gpus=0.5)
    assert shared.workers == 2
    found = outcomes(shared, [{}, {}])
    assert {(outcome.result, outcome.machine) for outcome in found.values()} == {("0", "second")}
    shared.close()
    with pytest.raises(UserError, match=r"no node of the Ray cluster .* has 1 CPUs and 2 GPUs") as error:
        OnRay(behave, cluster.address, gpus=2)
    assert "\n" not in str(error.value)


def test_closing_stops_what_runs(cluster: Any, tmp_path: Path) -> None:
    executor = OnRay(behave, cluster.address)
    executor.submit(Task(0, {"how": "sleep", "folder": str(tmp_path)}))
    worker = started(tmp_path)
    assert executor.wait(0.1) == []
    executor.close()
    until(lambda: not alive(worker), "the worker goes on")


def test_a_search_survives_the_death_of_a_node_and_of_its_driver(cluster: Any, tmp_path: Path) -> None:
    storage = str(tmp_path / "trials.sqlite")
    driver = start_driver(tmp_path, storage, SECONDS, "ray", cluster.address)
    until(lambda: len(worked(tmp_path)) >= 10, "the search does not go on")
    driver.kill()
    driver.wait()
    driver = start_driver(tmp_path, storage, SECONDS, "ray", cluster.address)
    until(lambda: len(worked(tmp_path)) >= 30, "the search does not go on")
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert driver.wait(120) == 0
    trials = read(storage)
    complete(trials, worked(tmp_path), by_ray=True)
    assert {trial.machine for trial in trials} == {"first", "second"}
    assert trials[-1].machine == "first"


def test_a_cluster_of_its_own_ends_with_its_driver(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, str(tmp_path / "trials.sqlite"), 60.0, "ray", "local")
    until(lambda: any(file.read_text() for file in tmp_path.glob("worker.*")), "no worker has begun")
    worker = next(int(text) for file in tmp_path.glob("worker.*") if (text := file.read_text()))
    assert alive(worker)
    driver.kill()
    driver.wait()
    until(lambda: not alive(worker), "the worker outlives its driver")


class Deaf(socketserver.BaseRequestHandler):
    """Answers as an HTTP/1 server does, or not at all."""

    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_wrong_address_is_one_line_and_soon() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Deaf) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listening = f"127.0.0.1:{server.server_address[1]}"
        for address in ("127.0.0.1:9", "nohost.invalid:6379", "127.0.0.1", "somewhere", "auto", listening):
            begun = time.monotonic()
            with pytest.raises(UserError, match="Ray cluster") as error:
                OnRay(behave, address)
            assert address in str(error.value)
            assert "\n" not in str(error.value)
            assert time.monotonic() - begun < 30, "and not the minutes that Ray tries for"
        server.shutdown()
    with pytest.raises(UserError, match="above 0"):
        OnRay(behave, "127.0.0.1:9", cpus=0)
