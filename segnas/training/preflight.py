"""What a run will take, measured before it starts: seconds a step, total time, peak memory, packages and disk."""

from __future__ import annotations

import dataclasses
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segnas.costs.memory import available_memory, peak_memory
from segnas.data.loading import Batch
from segnas.errors import UserError
from segnas.processes import world


class DoesNotFit(UserError):
    """A step needs more memory than there is."""


SMALLEST = 33  # pixels: below this the coarsest map is a single pixel at stride 32; one limit for all families


@dataclass(frozen=True)
class Measurement:
    """A few real steps of one stage on a copy. memory_bytes: peak of the steps on the device (on the CPU: of the process)."""

    stage: str
    steps: int
    seconds_per_step: float
    seconds: float  # of the whole stage, from the last of them
    memory_bytes: int
    state_bytes: int  # of a checkpoint at most: weights, their moving average and two moments
    epochs: int | None = None  # (or trials) that `steps` and `seconds` are for; None: it is not measured in them
    scoring: float = 0.0  # seconds of evaluating once what the stage trained, on every split that is scored
    settings: tuple[str, ...] = ()  # key=value: what it was measured with, in the place of what was asked for
    unit: str = "step"  # what `steps` counts
    once: float = 0.0  # those of `seconds` that are spent once, however many steps there are

    def with_loading(self, seconds: float, workers: int) -> Measurement:
        """The same with `seconds` a step of reading images: before each step, or beside it when there are workers."""
        step = self.seconds_per_step
        whole = step + seconds if workers == 0 else max(step, seconds / workers)
        return dataclasses.replace(self, seconds_per_step=whole, seconds=self.seconds + (whole - step) * self.steps)


@dataclass(frozen=True)
class Size:
    """The three settings that the memory of a step grows with, and the keys that change them."""

    crop: tuple[int, int]
    batch_size: int
    filters: int | None  # None: no setting of the run changes the width
    crop_key: str
    batch_key: str
    filters_key: str


def measure(
    stage: str,
    step: Callable[[Batch], None],
    batch: Batch,
    steps: int,
    device: torch.device,
    size: Size,
    network: nn.Module,
    warm_up: int = 1,
) -> Measurement:
    """Run `step` on a quarter of the batch's area, see whether the whole would fit, run it `warm_up` times and time one more.

    Several processes measure together, each with its part of the batch: their steps wait for one another.
    Raises DoesNotFit with the settings that would fit when the memory does not suffice.
    """
    height, width = batch.images.shape[2:]
    rows, columns = (min(side, max(SMALLEST, -(-side // 2))) for side in (height, width))
    available = available_memory(device)
    fixed = growing = seconds = 0.0

    def some_steps() -> None:
        nonlocal seconds
        for _ in range(warm_up):
            step(batch)
        synchronize(device)
        started = time.perf_counter()
        step(batch)
        synchronize(device)
        seconds = time.perf_counter() - started

    try:
        step(part_of(batch, min(height, SMALLEST), min(width, SMALLEST)))  # loads what is loaded once
        fixed = peak_memory(lambda: None, device)
        # The first step of its size: a second one would find memory that the process has been given back, but the system not.
        growing = peak_memory(lambda: step(part_of(batch, rows, columns)), device) - fixed
        growing *= height * width / (rows * columns)
        require_memory(fixed, growing, available, size, stage)
        memory = peak_memory(some_steps, device)
    except torch.OutOfMemoryError:  # only a GPU says so; what did not fit is at least a tenth over what is there
        require_memory(fixed, max(growing, 1.1 * available - fixed), available, size, stage)
        raise
    state = 4 * sum(tensor.nbytes for tensor in network.state_dict().values())
    return Measurement(stage, steps, seconds, seconds * steps, memory, state)


def part_of(batch: Batch, rows: int, columns: int) -> Batch:
    """The upper left corner of every image and of its label, unless that is one for the whole image."""
    labels = batch.labels[..., :rows, :columns] if batch.labels.dim() == 3 else batch.labels
    return Batch(batch.images[..., :rows, :columns], labels, batch.names)


def require_memory(fixed: float, growing: float, available: float, size: Size, stage: str) -> None:
    """Raise DoesNotFit when a step does not fit, with the crop, the batch and the width that would.

    fixed: bytes that the process holds before a step. growing: bytes of a step, which are mostly activations and grow
    linearly with the crop's area, the batch and the filters; each suggestion changes one of them alone.
    """
    if fixed + growing <= available:
        return
    share = max(0.0, available - fixed) / growing
    crop = [int(side * share**0.5 - 1) // 32 * 32 + 1 for side in size.crop]
    batch, filters = int(size.batch_size * share) // world() * world(), int((size.filters or 0) * share)
    ways = [f"{size.crop_key}=[{crop[0]},{crop[1]}]"] if min(crop) >= SMALLEST else []
    ways += [f"{size.batch_key}={batch}"] if batch >= 1 else []
    ways += [f"{size.filters_key}={filters}"] if filters >= 2 else []
    gib = 2**30
    fact = f"a step of the {stage} needs about {(fixed + growing) / gib:.1f} GiB and {available / gib:.1f} GiB are free"
    advice = f"what would fit: {', or '.join(ways)}" if ways else f"lower {size.crop_key}, {size.batch_key} and the filters"
    raise DoesNotFit(f"{fact}; {advice}")


def require_size(what: str, size: Sequence[int]) -> None:
    """Raise UserError when `size` (height, width) is smaller than a dense network takes."""
    if min(size) < SMALLEST:
        raise UserError(f"{what} {size[0]}x{size[1]} is too small: sizes under {SMALLEST} pixels are not supported")


def require_packages(missing: Sequence[str]) -> None:
    """Raise UserError when packages that a later stage needs are not installed."""
    if missing:
        fact = f"the export needs {', '.join(missing)}, not installed"
        raise UserError(f"{fact}; pip install 'segnas[onnx]', or go without it (--no-export)")


def require_disk(folder: Path, needed: int) -> None:
    """Raise UserError when the disk under `folder` (which need not exist yet) has less than `needed` bytes free."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        mib = 2**20
        raise UserError(
            f"{existing} has {free / mib:.0f} MiB free and the run needs about {needed / mib:.0f} MiB; free some space"
        )


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def seconds_to_save(state: Any) -> float:
    """Of a checkpoint, which ends every epoch; into memory, as a disk's cache takes it."""
    return seconds_of(lambda: torch.save(state, io.BytesIO()))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
