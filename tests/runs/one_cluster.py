"""One Ray cluster at a time on this machine, however many processes run tests: clusters side by side take each other's nodes."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone() -> Iterator[None]:
    """Wait for the tests of other processes that have a cluster."""
    with open(Path(tempfile.gettempdir()) / "segnas-tests-ray.lock", "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
