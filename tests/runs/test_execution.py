"""Executors: outcomes in this process and in workers, deaths, time limits, and that workers end with their driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from light_work import behave, double

from segnas.config import from_dict
from segnas.errors import Diverged, UserError
from segnas.runs.execution import ExecutionConfig, Executor, InProcess, Outcome, Processes, Task, describe, make_executor
from segnas.runs.outcomes import out_of_memory
from segnas.runs.ray_execution import OnRay, room

PATIENCE = 30.0  # seconds


def outcomes(executor: Executor, payloads: list[dict[str, Any]]) -> dict[int, Outcome]:
    """Of all payloads, by number, as a driver gets them."""
    waiting = [Task(number, payload) for number, payload in enumerate(payloads)]
    found: dict[int, Outcome] = {}
    while len(found) < len(payloads):
        while waiting and executor.free():
            executor.submit(waiting.pop(0))
        for outcome in executor.wait(PATIENCE):
            assert outcome.number not in found
            found[outcome.number] = outcome
    return found


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    executor = Processes(behave, 2)
    yield executor
    executor.close()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_in_this_process() -> None:
    executor = InProcess(double)
    assert executor.wait() == []
    assert executor.free() == 1
    executor.submit(Task(7, {"value": 4}))
    assert executor.free() == 0
    with pytest.raises(RuntimeError):
        executor.submit(Task(8, {"value": 4}))
    (outcome,) = executor.wait()
    assert (outcome.number, outcome.kind, outcome.error, outcome.result["twice"]) == (7, "ok", None, 8)
    assert outcome.result["pid"] == os.getpid()
    assert executor.wait() == []


def test_in_this_process_an_error_is_an_outcome_and_an_interrupt_is_not() -> None:
    def work(payload: dict[str, Any]) -> None:
        raise payload["error"]

    executor = InProcess(work)
    executor.submit(Task(0, {"error": Diverged("no number")}))
    (outcome,) = executor.wait()
    assert (outcome.kind, outcome.error, outcome.result) == ("failed", "Diverged: no number", None)
    executor.submit(Task(1, {"error": KeyboardInterrupt()}))
    with pytest.raises(KeyboardInterrupt):
        executor.wait()


def test_workers_share_tasks_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("segnas.runs.execution.cores", lambda: 7)
    executor = Processes(double, 2)
    try:
        found = outcomes(executor, [{"value": value} for value in range(6)])
        assert [found[number].result["twice"] for number in range(6)] == [0, 2, 4, 6, 8, 10]
        assert {outcome.kind for outcome in found.values()} == {"ok"}
        places = {(outcome.result["slot"], outcome.result["pid"]) for outcome in found.values()}
        assert {slot for slot, _ in places} <= {0, 1}
        assert len(places) == len({slot for slot, _ in places}), "a slot is one process"
        assert os.getpid() not in {pid for _, pid in places}
        assert {outcome.result["threads"] for outcome in found.values()} == {"3"}
    finally:
        executor.close()
    assert not any(alive(pid) for _, pid in places)


def test_what_workers_raise_becomes_a_line(two: Processes) -> None:
    ways = ["diverge", "out of memory", "leave", "unpicklable"]
    found = outcomes(two, [{"how": how} for how in ways])
    assert {outcome.kind for outcome in found.values()} == {"failed"}
    assert found[0].error == "Diverged: the loss is no number"
    assert found[1].error == "out of memory"
    assert found[2].error == "SystemExit: 4"
    assert "lambda" in (found[3].error or "")


def test_a_death_ends_its_own_task_only(two: Processes) -> None:
    payloads = [{"how": "be killed"}, {"how": "return", "value": 5}, {"how": "exit"}, {"how": "return", "value": 6}]
    found = outcomes(two, payloads)
    assert [found[number].kind for number in range(4)] == ["died", "ok", "died", "ok"]
    assert found[0].error == "the worker died (signal 9)"
    assert found[2].error == "the worker died (exit status 3)"
    assert (found[1].result, found[3].result) == (5, 6)


def test_an_idle_worker_that_is_killed_is_replaced(two: Processes, tmp_path: Path) -> None:
    outcomes(two, [{"how": "return", "value": 0, "folder": str(tmp_path)}])
    idle = int((tmp_path / "pid").read_text())
    os.kill(idle, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while alive(idle) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # the pool has seen it
    found = outcomes(two, [{"how": "return", "value": value} for value in range(3)])
    assert [found[number].result for number in range(3)] == [0, 1, 2]


def test_a_task_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    executor = Processes(behave, 1, timeout=0.5)
    try:
        found = outcomes(executor, [{"how": "sleep", "folder": str(tmp_path)}, {"how": "return", "value": 1}])
        assert (found[0].kind, found[0].error) == ("timeout", "took longer than 0.5 s")
        assert found[0].seconds >= 0.5
        assert not alive(int((tmp_path / "pid").read_text()))
        assert found[1].result == 1, "in a new worker"
    finally:
        executor.close()


def test_closing_stops_what_runs(tmp_path: Path) -> None:
    executor = Processes(behave, 1)
    executor.submit(Task(0, {"how": "sleep", "folder": str(tmp_path)}))
    assert executor.wait(0.1) == []
    assert executor.free() == 0
    pid = started(tmp_path)
    executor.close()
    assert not alive(pid)


def started(folder: Path) -> int:
    """The number of the process that works, once it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        text = (folder / "pid").read_text() if (folder / "pid").exists() else ""
        if text:
            return int(text)
        time.sleep(0.01)
    raise AssertionError("no worker has begun")


DRIVER = """
import sys
from light_work import behave
from segnas.runs.execution import Processes, Task
if __name__ == "__main__":
    executor = Processes(behave, 1)
    executor.submit(Task(0, {"how": "sleep", "folder": sys.argv[1]}))
    executor.wait()
"""


def test_workers_end_with_their_driver(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    driver = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    worker = started(tmp_path)
    assert alive(worker)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + PATIENCE
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def test_the_work_must_be_importable() -> None:
    for work in (lambda payload: None, describe_locally(), Diverged("x").with_traceback):
        with pytest.raises(ValueError, match="top of a module"):
            Processes(work, 1)  # type: ignore[arg-type]


def describe_locally() -> Any:
    def inner(payload: dict[str, Any]) -> None: ...

    return inner


def test_errors_in_one_line() -> None:
    assert describe(ValueError("\n first\n second")) == "ValueError: first"
    assert describe(KeyError()) == "KeyError"
    assert describe(MemoryError()) == "out of memory"
    assert describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")).startswith("out of memory: CUDA")
    assert not out_of_memory(RuntimeError("shapes do not fit"))
    assert len(describe(ValueError("x" * 10_000))) < 400


def test_the_allocator_of_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert describe(error.value).startswith("out of memory: ")


def test_a_configuration_makes_its_executor() -> None:
    assert isinstance(make_executor(ExecutionConfig(), double), InProcess)
    executor = make_executor(ExecutionConfig(workers=3, timeout_minutes=0.5), double)
    assert isinstance(executor, Processes)
    assert (executor.workers, executor.free(), executor.timeout) == (3, 3, 30.0)
    executor.close()
    with pytest.raises(UserError, match="workers=1"):
        make_executor(ExecutionConfig(timeout_minutes=1), double)
    with pytest.raises(UserError, match="Ray cluster"):
        make_executor(ExecutionConfig(gpus_per_trial=0.5), double)
    for wrong in ({"workers": -1}, {"timeout_minutes": 0}, {"failing_share": 1.5}, {"gpus_per_trial": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            from_dict(ExecutionConfig, wrong)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"segnas\[ray\]"):
        OnRay(double, "localhost:6379")


def test_how_many_tasks_fit_on_a_node() -> None:
    node = {"CPU": 8.0, "GPU": 2.0}
    assert room(node, 1, 0) == 8
    assert room(node, 3, 0) == 2
    assert room(node, 0.5, 0) == 16
    assert room(node, 1, 0.5) == 4
    assert room(node, 1, 0.4) == 4, "a task has its share of one GPU"
    assert room(node, 1, 0.1) == 8, "then the CPUs are what is scarce"
    assert room(node, 1, 2) == 1
    assert room(node, 0, 0.1) == 20
    assert room({"CPU": 8.0}, 1, 1) == 0
