"""What a run will take and whether it can: memory, time, disk and budget, measured or counted before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from segnas.config import replace
from segnas.costs.budget import require_possible
from segnas.costs.memory import available_memory
from segnas.data.base import Dataset
from segnas.data.loading import Batch
from segnas.data.transforms import scaled_size
from segnas.errors import UserError
from segnas.plans import Plan
from segnas.runs.progress import console, duration
from segnas.spaces.architecture import Architecture, family_of
from segnas.spaces.width import filters_of, widths
from segnas.systems.base import Job, load_system
from segnas.training.device import Device
from segnas.training.preflight import Measurement, Size, measure, require_disk, seconds_of
from segnas.training.retrain import Retraining
from segnas.training.timing import latency_meter

DISK_BYTES = 64 * 2**20  # of a run besides its checkpoints: panels, report, ONNX file, logs
GIB = 2**30
CANDIDATES = 4  # random architectures that a budget is held against before a search
BISECTIONS = 30
TIME_USED = 0.9  # of a time limit: the rest is for evaluation, export, and steps that take longer than those measured


def require_budget(asked: Plan, job: Job, todo: Sequence[str], architecture: Architecture | None) -> None:
    """Refuse a budget that what is to be trained could not meet at any width; UserError with the smallest that would do.

    Before a search that is not one network, so a few random ones of the space that is searched stand for it.
    """
    system = load_system(asked.system) if asked.system is not None else None
    if not asked.config.budget.limits or not {"search", "retrain"} & set(todo):
        return
    if architecture is not None:
        candidates = [architecture]
    elif "search" in todo and system is not None and system.typical is not None:
        candidates = [system.typical(replace(asked.config, seed=asked.config.seed + draw)) for draw in range(CANDIDATES)]
    else:
        return
    size = seen_size(job.dataset, asked.config.evaluation.split, asked.config.data.resize)
    require_possible(asked.config.budget, candidates, size, len(job.dataset.classes), budget_meter(job, size))


def budget_meter(job: Job, size: tuple[int, int]) -> Callable[[Architecture], float]:
    """The milliseconds of an untrained network on the budget's device, else the run's own."""
    device = job.config.budget.device or job.device.device
    return latency_meter(job.dataset, job.normalization, size, device, job.config.device)


def preflight(asked: Plan, job: Job, todo: Sequence[str], architecture: Architecture | None) -> list[Measurement]:
    """Measure two real steps of each stage that is to be done, on copies.

    Raises UserError when memory does not suffice.
    """
    system = load_system(asked.system) if asked.system is not None else None
    measured: list[Measurement] = []
    if "search" in todo and system is not None and system.preflight is not None:
        measured.append(system.preflight(job))
    if "retrain" in todo:
        if architecture is None and system is not None and system.typical is not None:
            architecture = system.typical(asked.config)
        if architecture is not None:
            measured.append(measure_retraining(job, architecture))
    return measured


def measure_retraining(job: Job, architecture: Architecture) -> Measurement:
    """Two real steps of retraining on a network made for this alone."""
    config = job.config.retrain
    begun = (job.run.path / "checkpoints" / "retrain.pt").exists()  # then nothing starts from the weights of another model
    weights = None if begun else config.weights
    this = Retraining(
        architecture, job.dataset, job.config.data, job.normalization, config, job.device, job.config.training_seed, weights
    )
    batches = this.remaining_batches()
    batch: Batch = next(batches)
    loading = seconds_of(lambda: next(batches, None))
    key = widths[family_of(architecture)].filters if hasattr(job.config, "network") else ""
    filters = filters_of(architecture) if key else None
    size = Size(job.config.data.crop, config.batch_size, filters, "data.crop", "retrain.batch_size", key)
    measured = measure("retrain", this.train_step, batch, this.steps, job.device.device, size, this.network)
    measured = measured.with_loading(loading, job.config.data.workers)
    if config.validate_every:
        validations = -(-this.epochs // config.validate_every)
        measured = dataclasses.replace(measured, seconds=measured.seconds + validations * this.seconds_of_validation())
    return dataclasses.replace(measured, epochs=None if config.steps else config.epochs)


def forecast(measured: Sequence[Measurement], asked: Plan, job: Job, others: int) -> None:
    """Say what the run will take, with `others` more trainings of the kind that was measured; UserError for too little disk."""
    if not measured:
        return
    available = available_memory(job.device.device) / GIB
    for stage in measured:
        stage = lengthened(stage, asked.config)
        networks = f" x {1 + others} networks" if others and stage.stage == "retrain" else ""
        what = f"{stage.stage}: {stage.seconds_per_step:.2f} s a step x {stage.steps} = {duration(stage.seconds)}{networks}"
        console.print(f"{what}, peak memory {stage.memory_bytes / GIB:.1f} of {available:.1f} GiB")
    console.print(f"about {duration(whole_time(measured, asked.config, others))} in all, evaluation and export apart")
    state = max(stage.state_bytes for stage in measured)
    require_disk(job.run.path, DISK_BYTES * (1 + others) + (3 + others) * state)


def lengthened(stage: Measurement, config: Any) -> Measurement:
    """A measurement made for other lengths of search and retraining, for those of `config`."""
    epochs = {"search": getattr(getattr(config, "search", None), "epochs", stage.epochs), "retrain": config.retrain.epochs}
    if stage.epochs is None or (stage.stage == "retrain" and config.retrain.steps):
        return stage
    factor = epochs[stage.stage] / stage.epochs
    return dataclasses.replace(
        stage, steps=round(stage.steps * factor), seconds=stage.seconds * factor, epochs=epochs[stage.stage]
    )


def whole_time(measured: Sequence[Measurement], config: Any, others: int) -> float:
    """Seconds of all stages at the lengths of `config`, with `others` more trainings."""
    stages = [lengthened(stage, config) for stage in measured]
    return sum(stage.seconds * (1 + others if stage.stage == "retrain" else 1) for stage in stages)


def sized_to_time(asked: Plan, measured: Sequence[Measurement], others: int, device: Device) -> tuple[Plan, dict[str, Any]]:
    """The plan with lengths of search and retraining that fit its time limit, in the preset's proportion; and time.json.

    Raises UserError with the shortest time that would do.
    """
    config, limit = asked.config, asked.config.time_limit
    system = load_system(asked.system) if asked.system is not None else None
    if not measured or config.retrain.steps or (system is not None and system.sized is None):
        raise UserError("--time needs lengths in epochs: leave out retrain.steps, and use a system whose search can be sized")
    resize = system.sized if system is not None else None

    def sized(factor: float) -> Any:
        longer = config if resize is None else resize(config, factor)
        return replace(longer, retrain=replace(longer.retrain, epochs=max(1, int(longer.retrain.epochs * factor))))

    usable, shortest = TIME_USED * limit, whole_time(measured, sized(0.0), others)
    if device.gather(shortest)[0] > usable:
        needed = duration(math.ceil(shortest / TIME_USED)).replace(" ", "")
        raise UserError(
            f"{duration(limit)} are too short: an epoch or two of each stage take {duration(shortest)}; "
            f"use --time {needed} or more, a smaller preset, or --baseline none"
        )
    low, high = 0.0, usable / whole_time(measured, config, others) + 1  # of the first the time suffices; lengths are whole epochs
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if whole_time(measured, sized(middle), others) <= usable else (low, middle)
    chosen = sized(device.gather(low)[0])
    planned_seconds = whole_time(measured, chosen, others)
    told = {"asked_seconds": limit, "used_seconds": None, "forecast_seconds": planned_seconds}
    if hasattr(config, "search"):
        told["search_epochs"] = [config.search.epochs, chosen.search.epochs]
    told["retrain_epochs"] = [config.retrain.epochs, chosen.retrain.epochs]
    return dataclasses.replace(asked, config=chosen), told


def seen_size(dataset: Dataset, split: str, resize: float) -> tuple[int, int]:
    """(height, width) at which a network sees the first image of a split."""
    return scaled_size(*dataset.size(split, 0), resize)
