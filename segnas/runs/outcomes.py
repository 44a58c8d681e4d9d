"""What an executor takes and gives: tasks, outcomes, and an error in one line.

An executor calls one function, the *work*, with the payload of each task: in this process, in worker processes, on a Ray
cluster (execution.py, ray_execution.py). What the work raises becomes an outcome, so that one failure ends one trial.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Work = Callable[[dict[str, Any]], Any]  # payload -> plain result; a top-level function, so that a worker can import it
Kind = Literal["ok", "failed", "died", "timeout"]

LONGEST = 300  # characters of an error's line


@dataclass(frozen=True)
class Task:
    """payload: plain values; the work finds in it, too, the `slot` of its worker (0 .. workers - 1). attempt: from 1."""

    number: int
    payload: dict[str, Any]
    attempt: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    result: what the work returned. error: one line. kind: "failed" where the work raised, which it would again; "died" where its
    worker was killed and "timeout" where it took too long. seconds: that it ran. machine: where.
    """

    number: int
    result: Any
    error: str | None
    kind: Kind
    seconds: float
    machine: str


class Executor(Protocol):
    """Runs tasks, several at a time."""

    @property
    def workers(self) -> int:
        """How many tasks run at once."""
        ...

    def free(self) -> int:
        """How many more tasks may be submitted now."""
        ...

    def submit(self, task: Task) -> None:
        """Have a task run. Where nothing is free it waits in the queue of a cluster; on one machine: RuntimeError."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """The outcomes that came since the last call: at least one, unless `timeout` seconds pass. Nothing runs: none."""
        ...

    def close(self) -> None:
        """Stop what still runs."""
        ...


@dataclass(frozen=True)
class Attempt:
    """What came back from a call of the work."""

    result: Any
    error: str | None
    seconds: float


def attempt(work: Work, payload: dict[str, Any]) -> Attempt:
    """Call the work; its errors become lines here, as not every exception survives the way back from another process."""
    started = time.monotonic()
    try:
        result = work(payload)
        pickle.dumps(result)  # here, where a result that cannot be sent ends its own trial and not the worker
    except (Exception, SystemExit) as error:
        return Attempt(None, describe(error), time.monotonic() - started)
    return Attempt(result, None, time.monotonic() - started)


def describe(error: BaseException) -> str:
    """An error in one line: `out of memory: ...` for what a smaller batch or network would mend, else `TypeName: message`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0][:LONGEST] if lines else ""
    if out_of_memory(error):
        return f"out of memory: {said}" if said else "out of memory"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or of the machine did not suffice."""
    torch = sys.modules.get("torch")  # where it was never imported, it raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def too_long(seconds: float) -> str:
    """The line of a task that was stopped."""
    return f"took longer than {seconds:g} s"


def require_importable(work: Work) -> None:
    """Raise ValueError for a function that another process cannot import."""
    name = getattr(work, "__qualname__", "")
    if not name or "<" in name or "." in name:
        raise ValueError(f"the work must be a function at the top of a module, so that a worker can import it; not {work!r}")
