"""Where trials run: in this process, in worker processes on this machine, or on a Ray cluster (ray_execution.py).

    executor = make_executor(config.execution, work)            work(payload) -> plain result, a top-level function
    while executor.free():
        executor.submit(Task(number, payload))
    for outcome in executor.wait():
        ...

Worker processes are those of pebble, which survives the death of a worker and stops tasks that take too long; the standard
library's pool does neither. Each worker is a pool of its own: a worker that is killed at a bad moment leaves locks behind that
nobody else then waits for.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from segnas.config import configuration
from segnas.errors import UserError
from segnas.runs.database import require_database
from segnas.runs.outcomes import Executor, Outcome, Task, Work, attempt, describe, require_importable, too_long
from segnas.runs.ray_execution import OnRay, require_cluster

__all__ = ["ExecutionConfig", "Executor", "InProcess", "OnRay", "Outcome", "Processes", "Task", "describe", "make_executor"]

LOOK = 0.5  # seconds between a worker's looks at whether its driver lives


@configuration
class ExecutionConfig:
    """Where and how trials run.

    workers: processes on this machine; 0: in this process, one trial after the other. On a Ray cluster: the most trials at a
    time, 0: as many as fit. ray: the address of a cluster (HOST:PORT, "auto"; "local" starts one on this machine).
    cpus_per_trial, gpus_per_trial: what a trial asks of the cluster; GPUs may be fractions. timeout_minutes: a trial that takes
    longer has failed. storage: a database for the trials (postgresql://...); empty: a SQLite file in the run. failing_share:
    a search whose share of failed trials is larger stops.
    """

    workers: NonNegativeInt = 0
    ray: str = ""
    cpus_per_trial: NonNegativeFloat = 1
    gpus_per_trial: NonNegativeFloat = 0
    timeout_minutes: Annotated[float, Field(gt=0)] | None = None
    storage: str = ""
    failing_share: Annotated[float, Field(gt=0, le=1)] = 0.5


def make_executor(config: ExecutionConfig, work: Work) -> Executor:
    """The executor that the configuration asks for; raises UserError where it cannot be had."""
    require_possible(config)
    timeout = None if config.timeout_minutes is None else 60 * config.timeout_minutes
    if config.ray:
        return OnRay(work, config.ray, config.cpus_per_trial, config.gpus_per_trial, config.workers or None, timeout=timeout)
    return Processes(work, config.workers, timeout) if config.workers else InProcess(work)


def require_possible(config: ExecutionConfig) -> None:
    """Raise UserError for settings that do not go together."""
    if not config.ray and (config.cpus_per_trial, config.gpus_per_trial) != (1, 0):
        raise UserError("cpus_per_trial and gpus_per_trial are for a Ray cluster; give its address too (execution.ray=HOST:PORT)")
    if not config.ray and not config.workers and config.timeout_minutes is not None:
        raise UserError("a trial in this process cannot be stopped after timeout_minutes; ask for a worker (execution.workers=1)")


def require_reachable(config: ExecutionConfig) -> None:
    """Raise UserError where no cluster or no database answers, before anything is written."""
    if config.ray:
        require_cluster(config.ray)
    if config.storage:
        require_database(config.storage)


class InProcess:
    """One task after the other, in this process and thread: a breakpoint in the work is reached, Ctrl-C passes through."""

    workers = 1

    def __init__(self, work: Work) -> None:
        self.work = work
        self._waiting: deque[Task] = deque()

    def free(self) -> int:
        return self.workers - len(self._waiting)

    def submit(self, task: Task) -> None:
        if not self.free():
            raise RuntimeError("a task waits already")
        self._waiting.append(task)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Does the work now, however long it takes."""
        if not self._waiting:
            return []
        task = self._waiting.popleft()
        done = attempt(self.work, {**task.payload, "slot": 0})
        return [Outcome(task.number, done.result, done.error, "failed" if done.error else "ok", done.seconds, platform.node())]

    def close(self) -> None:
        self._waiting.clear()


@dataclass
class _Slot:
    """One worker: its pool, once it was needed, and what it works on."""

    pool: Any = None
    task: Task | None = None
    future: Any = None
    started: float = 0.0


class Processes:
    """Worker processes on this machine, started afresh (spawn): no state of this one, no CUDA context that was forked.

    A worker is kept for the next task. One that dies or is stopped is replaced, and only its task is lost. When this process is
    killed, its workers end within a second.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        timeout: float | None = None,
        threads: int | None = None,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        """timeout: seconds that a task may run. threads: of torch, in each worker; by default OMP_NUM_THREADS, else the cores
        divided by the workers. initializer: called in a worker before its first task.

        Raises ValueError for a work that cannot be imported by its name.
        """
        require_importable(work)
        self.work, self.workers, self.timeout = work, workers, timeout
        self.threads = threads or threads_of_each(workers)
        self.initializer = initializer
        self._slots = [_Slot() for _ in range(workers)]

    def free(self) -> int:
        return sum(slot.task is None for slot in self._slots)

    def submit(self, task: Task) -> None:
        number = next((number for number, slot in enumerate(self._slots) if slot.task is None), None)
        if number is None:
            raise RuntimeError("every worker has a task")
        slot = self._slots[number]
        if slot.pool is not None and not slot.pool.active:  # its worker was killed while it had nothing to do
            self._end(slot)
        if slot.pool is None:
            slot.pool = self._pool()
        slot.task, slot.started = task, time.monotonic()
        slot.future = slot.pool.schedule(attempt, args=(self.work, {**task.payload, "slot": number}), timeout=self.timeout)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        running = [slot.future for slot in self._slots if slot.task is not None]
        if not running:
            return []
        futures.wait(running, timeout, futures.FIRST_COMPLETED)
        return [self._outcome(slot) for slot in self._slots if slot.task is not None and slot.future.done()]

    def close(self) -> None:
        used = [slot for slot in self._slots if slot.pool is not None]
        if used:
            with futures.ThreadPoolExecutor(len(used)) as at_once:  # a worker that does not listen is waited for
                list(at_once.map(self._end, used))
        for slot in self._slots:
            slot.task = slot.future = None

    def _pool(self) -> Any:
        import multiprocessing

        import pebble

        begin = (os.getpid(), self.threads, self.initializer)
        return pebble.ProcessPool(1, initializer=_begin, initargs=begin, context=multiprocessing.get_context("spawn"))

    def _end(self, slot: _Slot) -> None:
        slot.pool.stop()
        slot.pool.join()
        slot.pool = None

    def _outcome(self, slot: _Slot) -> Outcome:
        import pebble

        task, error = slot.task, slot.future.exception()
        assert task is not None
        seconds, machine = time.monotonic() - slot.started, platform.node()
        if error is None:
            done = slot.future.result()
            slot.task = slot.future = None
            return Outcome(task.number, done.result, done.error, "failed" if done.error else "ok", done.seconds, machine)
        slot.task = slot.future = None
        if isinstance(error, TimeoutError):
            self._end(slot)
            return Outcome(task.number, None, too_long(self.timeout or 0), "timeout", seconds, machine)
        if isinstance(error, (pebble.ProcessExpired, futures.process.BrokenProcessPool)):
            self._end(slot)
            return Outcome(task.number, None, _death(getattr(error, "exitcode", None)), "died", seconds, machine)
        raise error


def threads_of_each(workers: int) -> int:
    """Threads of torch in each of so many worker processes: OMP_NUM_THREADS, else the cores divided by the workers."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, cores() // workers))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _death(exitcode: int | None) -> str:
    if exitcode is None:
        return "the worker died before it began"
    return f"the worker died (signal {-exitcode})" if exitcode < 0 else f"the worker died (exit status {exitcode})"


def _begin(driver: int, threads: int, initializer: Callable[[], None] | None) -> None:
    """In a worker, before its first task."""
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # it has read the environment already
        sys.modules["torch"].set_num_threads(threads)
    if initializer is not None:
        initializer()


def _end_with(driver: int) -> None:
    """End this process when the driver is gone. (Linux could send a signal then, but when the thread ends that started it.)"""
    while os.getppid() == driver:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGKILL)
