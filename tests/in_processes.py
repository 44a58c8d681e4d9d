"""Work in several connected processes, forked from the test's own: quick, and with whatever the test has patched."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segnas.runs.progress import console
from segnas.training.device import disconnect

PATIENCE = 60.0  # seconds
LINGER = 1.0  # seconds that a failing rank 0 lives on: the others may still be connecting to its store, which torchrun would hold


@dataclass(frozen=True)
class Ended:
    """How a process ended: what its work returned or raised, or the signal that killed it."""

    value: Any = None
    error: BaseException | None = None
    signal: int | None = None
    seconds: float = 0.0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_processes(folder: Path, count: int, work: Callable[[], Any]) -> list[Ended]:
    """Call `work` in `count` processes that see what torchrun would give them; how each ended, by rank."""
    port, children = free_port(), []
    started = time.monotonic()
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _run(folder, rank, count, port, work)
        children.append(child)
    ended: dict[int, Ended] = {}
    while len(ended) < count:
        for rank, child in enumerate(children):
            if rank in ended:
                continue
            if time.monotonic() - started > PATIENCE:
                os.kill(child, 9)
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended[rank] = _ending(folder / f"{rank}.pickle", status, time.monotonic() - started)
        time.sleep(0.01)
    return [ended[rank] for rank in range(count)]


def values(folder: Path, count: int, work: Callable[[], Any]) -> list[Any]:
    """What `work` returned in each process, none of which may fail."""
    ended = in_processes(folder, count, work)
    for one in ended:
        if one.error is not None:
            raise one.error
        assert one.signal is None
    return [one.value for one in ended]


def _run(folder: Path, rank: int, count: int, port: int, work: Callable[[], Any]) -> None:
    """In the child, which never returns."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    console.quiet = rank > 0
    try:
        outcome = Ended(value=work())
        disconnect()
    except BaseException as error:
        outcome = Ended(error=error)
        if rank == 0:
            time.sleep(LINGER)
    try:
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(outcome))
    finally:
        os._exit(0)


def _ending(path: Path, status: int, seconds: float) -> Ended:
    if os.WIFSIGNALED(status):
        return Ended(signal=os.WTERMSIG(status), seconds=seconds)
    found: Ended = pickle.loads(path.read_bytes())
    path.unlink()
    return Ended(found.value, found.error, None, seconds)
