"""What a few real steps of an estimator's own trainings take: for forecasts before a search begins."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from segnas.costs.memory import peak_memory
from segnas.errors import UserError
from segnas.training.preflight import Measurement, synchronize


def timed(step: Callable[[], object], device: torch.device, settings: str) -> tuple[float, int]:
    """(seconds of the second of two steps, bytes that the process holds at their peak).

    Raises UserError, naming the settings that would help, when they do not fit in the memory.
    """
    seconds = 0.0

    def twice() -> None:
        nonlocal seconds
        step()
        synchronize(device)
        begun = time.perf_counter()
        step()
        synchronize(device)
        seconds = time.perf_counter() - begun

    try:
        memory = peak_memory(twice, device)
    except torch.OutOfMemoryError:
        raise UserError(f"a step of a candidate's training does not fit into the memory; lower {settings}") from None
    return seconds, memory


def measurement(trials: int, workers: int, of_trial: float, before: float, memory: int) -> Measurement:
    """Of a search: seconds of one trial, seconds that come once before all, and the memory of one process."""
    rounds = -(-trials // max(1, workers))
    return Measurement(
        "search", trials, of_trial, before + of_trial * rounds, memory, 0, epochs=trials, unit="trial", once=before
    )
