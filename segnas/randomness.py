"""Randomness as a function of where it is used: (seed, epoch, step) or (seed, epoch, index), never of what ran before.

So a resumed run, another number of loader workers or another order of calls draws the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def derive(*position: int | str) -> int:
    """A 63-bit seed from a seed and a position such as (seed, "retrain", epoch, step); equal on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in position).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(*position: int | str) -> np.random.Generator:
    """A NumPy generator of its own for this position."""
    return np.random.default_rng(derive(*position))


@contextlib.contextmanager
def forked(*position: int | str) -> Iterator[None]:
    """Inside the block torch's global generators (CPU and CUDA) are seeded for this position; outside nothing changes."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*position))
        yield
