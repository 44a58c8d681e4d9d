"""Trials on a Ray cluster: each is a Ray task with its share of CPUs and GPUs, on whichever node has room.

    ray start --head --port 6379                 on the first machine
    ray start --address FIRST:6379               on each of the others
    segnas search ... execution.ray=FIRST:6379

segnas has to be installed on every machine, and the data to lie at the same place. Ray itself starts a task again when its
worker or node dies; the search need not notice.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from segnas.errors import UserError
from segnas.runs.outcomes import Attempt, Kind, Outcome, Task, Work, attempt, describe, require_importable, too_long

ANSWER = 5.0  # seconds within which the head node has to answer
SETTINGS = 4  # the type of this frame in HTTP/2
GRACE = 60.0  # seconds that a task may go on after its time, in a call that cannot be interrupted, before its worker is killed


class OnRay:
    """Tasks on a Ray cluster.

    Nodes may come and go: `workers` is what fits at the moment. A task is stopped after its time by an exception in the work;
    where the work hangs in a call that lets none through, its worker is killed.
    """

    def __init__(
        self,
        work: Work,
        address: str,
        cpus: float = 1,
        gpus: float = 0,
        workers: int | None = None,
        retries: int = 2,
        timeout: float | None = None,
    ) -> None:
        """address: HOST:PORT of the head node, "auto" (the cluster that this machine belongs to), "local" (start one here).
        cpus, gpus: of a task; fractions of a GPU share it. workers: the most tasks at once; None: as many as fit. retries: how
        often Ray starts a task again whose worker or node died. timeout: seconds that a task may run.

        Raises UserError when Ray is not installed, the cluster does not answer, or none of its nodes has room for a task.
        """
        require_importable(work)
        if not cpus and not gpus:
            raise UserError("a trial on a Ray cluster needs cpus_per_trial or gpus_per_trial above 0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told not to
        try:
            import ray
        except ImportError:
            raise UserError("a Ray cluster needs the package ray: pip install 'segnas[ray]'") from None
        self._ray, self._cpus, self._gpus = ray, cpus, gpus
        self.most, self.timeout, self.retries = workers, timeout, retries
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _connect(ray, address)
        self._tasks: dict[Any, tuple[Task, float]] = {}  # reference -> what runs, and since when
        self._names: dict[str, str] = {}
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=False)(_on_node)
        self._work = work
        if not self.workers:
            self.close()
            raise UserError(f"no node of the Ray cluster at {address} has {cpus:g} CPUs and {gpus:g} GPUs for a trial")

    @property
    def workers(self) -> int:
        """How many tasks fit on the nodes that are alive now, at most as many as were asked for."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        fit = sum(room(node["Resources"], self._cpus, self._gpus) for node in nodes)
        return fit if self.most is None else min(fit, self.most)

    def free(self) -> int:
        return max(0, self.workers - len(self._tasks))

    def submit(self, task: Task) -> None:
        # free() is not asked again: a node may have died since the caller did, and Ray keeps what has no room in its queue
        reference = self._remote.remote(self._work, {**task.payload, "slot": 0}, self.timeout)
        self._tasks[reference] = (task, time.monotonic())

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        if not self._tasks:
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        if ready:  # and what else is there already
            ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._outcome(reference) for reference in ready]

    def close(self) -> None:
        for reference in self._tasks:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference, force=True)
        self._tasks = {}
        if self._started_here:
            self._ray.shutdown()

    def _outcome(self, reference: Any) -> Outcome:
        task, started = self._tasks.pop(reference)
        exceptions = self._ray.exceptions
        try:
            done, node = self._ray.get(reference)
        except (exceptions.RayTaskError, exceptions.RaySystemError) as error:  # before the work began, or after it
            said = describe(getattr(error, "cause", None) or error)
            if "No module named" in said:
                said += "; segnas has to be installed on every machine of the cluster"
            return Outcome(task.number, None, said, "failed", time.monotonic() - started, "")
        except exceptions.RayError as error:
            said = describe(error) if isinstance(error, exceptions.OutOfMemoryError) else _death(error, self.retries)
            return Outcome(task.number, None, said, "died", time.monotonic() - started, "")
        machine = self._name(node)
        if done.error is None:
            return Outcome(task.number, done.result, None, "ok", done.seconds, machine)
        kind: Kind = "timeout" if self.timeout is not None and done.error == too_long(self.timeout) else "failed"
        return Outcome(task.number, None, done.error, kind, done.seconds, machine)

    def _name(self, node: str) -> str:
        """What a node was called when it was started, else its host's name."""
        if node not in self._names:
            for one in self._ray.nodes():  # also those that have died
                own = one.get("NodeName") or one["NodeManagerAddress"]
                self._names[one["NodeID"]] = one["NodeManagerHostname"] if own == one["NodeManagerAddress"] else own
        return self._names[node]


def room(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many tasks fit on a node. Several share a GPU by fractions; one task has a fraction of one GPU, or whole ones."""
    limits = []
    if cpus:
        limits.append(math.floor(resources.get("CPU", 0) / cpus + 1e-9))
    if gpus:
        there = math.floor(resources.get("GPU", 0))
        limits.append(there * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(there / gpus))
    return min(limits)


class _TookTooLong(BaseException):
    """Not an Exception, so that the work does not take it for one of its own."""


def _on_node(work: Work, payload: dict[str, Any], timeout: float | None) -> tuple[Attempt, str]:
    """What a Ray worker runs: the outcome, and the node on which it came about."""
    import ray

    started = time.monotonic()
    try:
        with _at_most(timeout):
            done = attempt(work, payload)
    except _TookTooLong:
        done = Attempt(None, too_long(timeout or 0), time.monotonic() - started)
    return done, ray.get_runtime_context().get_node_id()


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Raise _TookTooLong in the block when its time is over; kill the process when that does not help."""
    if seconds is None:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TookTooLong

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=2)  # a thread that needs no interpreter
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


def require_cluster(address: str) -> None:
    """Raise UserError, soon, for what is no address, or where no cluster listens."""
    if address not in ("local", "auto"):
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise UserError(f"'{address}' is no address of a Ray cluster; write HOST:PORT, auto or local")
        try:
            with socket.create_connection((host, int(port)), ANSWER) as connection:
                speaks = os.environ.get("RAY_USE_TLS") in ("1", "true") or _speaks_http2(connection)
            said = "it is no Ray that listens there"
        except (OSError, OverflowError) as error:
            speaks, said = False, getattr(error, "strerror", None) or str(error)
        if not speaks:
            raise UserError(f"no Ray cluster answers at {address} ({said}); start one with: ray start --head")


def _connect(ray: Any, address: str) -> None:
    """Raises UserError where there is no cluster, at once: Ray itself would try for a minute, or end the process."""
    require_cluster(address)
    termination = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    here = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the Ray cluster at {address}: {describe(error)}") from None
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: nobody sends signals there
            signal.signal(signal.SIGTERM, termination)


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server, as Ray's head node is one, answers: both sides begin with their settings (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]))
    header = connection.recv(9, socket.MSG_WAITALL)  # length (3 bytes), type, flags, stream (4 bytes)
    return len(header) == 9 and header[3] == SETTINGS and header[5:] == bytes(4)


def _death(error: BaseException, retries: int) -> str:
    lost = "the node died" if "Node" in type(error).__name__ else "the worker died"
    return f"{lost} ({type(error).__name__}, started {retries + 1} times)"
