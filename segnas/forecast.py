"""What a run will take and whether it can: memory, time, disk and budget, measured or counted before anything is written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from segnas.config import override, replace
from segnas.costs.budget import Fitted, fit, require_possible
from segnas.costs.memory import available_memory
from segnas.data.transforms import seen_size
from segnas.errors import UserError
from segnas.plans import RANDOM_SEARCH, Plan
from segnas.runs.progress import console, duration
from segnas.spaces.architecture import Architecture, family_of, from_json
from segnas.spaces.width import filters_of, widths
from segnas.systems.base import Job, load_system
from segnas.tasks import tasks
from segnas.training.device import Device
from segnas.training.preflight import Measurement, Size, require_disk, require_size, seconds_to_save
from segnas.training.rehearsal import rehearse
from segnas.training.retrain import Retraining
from segnas.training.timing import latency_meter

DISK_BYTES = 64 * 2**20  # of a run besides its checkpoints: panels, report, ONNX file, logs
GIB = 2**30
CANDIDATES = 4  # random architectures that a budget is held against before a search
BISECTIONS = 30
TIME_USED = 0.9  # of a time limit: the rest is for steps that take longer than those measured
EXPORT_SECONDS = 8.0  # of a small network on a small machine, its check on 20 images included
LATENCY_SECONDS = 1.0  # of a network of milliseconds
ROUNDING = 1.02  # times the steps: more than that is time for something else


def typical_of(asked: Plan, todo: Sequence[str], count: int = 1) -> list[Architecture]:
    """Random architectures of the space that is to be searched, which stand for what will be found; none without a search."""
    system = load_system(asked.system) if asked.system is not None else None
    if "search" not in todo or system is None or system.typical is None:
        return []
    return [system.typical(replace(asked.config, seed=asked.config.seed + draw)) for draw in range(count)]


def require_budget(asked: Plan, job: Job, todo: Sequence[str], architecture: Architecture | None) -> None:
    """Refuse a budget that what is to be trained could not meet at any width; UserError with the smallest that would do.

    Before a search that is not one network, so a few random ones of the space stand for it.
    """
    if not asked.config.budget.limits or job.run.has("architecture.json"):  # that one is scaled already
        return
    candidates = typical_of(asked, todo, CANDIDATES) if architecture is None else [architecture]
    if candidates:
        size, classes = _seen_size(job), len(job.dataset.classes)
        job.device.first(lambda: require_possible(asked.config.budget, candidates, size, classes, budget_meter(job, size)))


def within_budget(architecture: Architecture, job: Job) -> Fitted:
    """The architecture at the largest width that the run's budget allows, as the first process measures it."""
    size, classes = _seen_size(job), len(job.dataset.classes)
    return job.device.first(lambda: fit(architecture, job.config.budget, size, classes, budget_meter(job, size)))


def budget_meter(job: Job, size: tuple[int, int]) -> Callable[[Architecture], float]:
    """The milliseconds of an untrained network on the budget's device, else the run's own."""
    device = job.config.budget.device or job.device.device
    return latency_meter(job.dataset, job.normalization, size, device, job.config.device)


def _seen_size(job: Job) -> tuple[int, int]:
    return seen_size(job.dataset, job.config.evaluation.split, job.config.data.resize)


def require_export_size(asked: Plan) -> None:
    """Raise UserError for a size of the exported network that is not supported, whatever the network's stride."""
    size = asked.config.export.size
    if size is not None and tasks[asked.task].dense:
        require_size("export.size", size)


def preflight(asked: Plan, job: Job, todo: Sequence[str], architecture: Architecture | None) -> list[Measurement]:
    """Measure two real steps of each stage that is to be done, on copies; as often as it is in `todo`, for a random search.

    What is retrained is the run's architecture, or `architecture`, or a random one of the space, scaled to the budget. Raises
    UserError when memory does not suffice.
    """
    system = load_system(asked.system) if asked.system is not None else None
    measured: list[Measurement] = []
    if {"search", RANDOM_SEARCH} & set(todo) and system is not None and system.preflight is not None:
        found = system.preflight(job)
        measured += [found] if "search" in todo else []
        measured += [dataclasses.replace(found, stage=RANDOM_SEARCH)] * todo.count(RANDOM_SEARCH)
    if {"retrain", "compare"} & set(todo):
        known = [architecture] if architecture is not None else typical_of(asked, todo)
        if job.run.has("architecture.json"):
            known = [from_json(job.run.read_json("architecture.json"))]
        elif known and asked.config.budget.limits:
            known = [within_budget(known[0], job).architecture]
        measured += [measure_retraining(job, one) for one in known]
    return measured


def measure_retraining(job: Job, architecture: Architecture) -> Measurement:
    """Two real steps of retraining on a network made for this alone."""
    config = job.config.retrain
    begun = (job.run.path / "checkpoints" / "retrain.pt").exists()  # then nothing starts from the weights of another model
    weights = None if begun else config.weights
    this = Retraining(
        architecture, job.dataset, job.config.data, job.normalization, config, job.device, job.config.training_seed, weights
    )
    family = family_of(architecture)
    key = widths[family].filters if hasattr(job.config, "network") and family in widths else ""
    filters = filters_of(architecture) if key else None
    size = Size(job.config.data.crop, config.batch_size, filters, "data.crop", "retrain.batch_size", key)
    measured = rehearse(this, "retrain", size, job.config.data.workers)
    splits = {split: len(images) for split, images in job.dataset.splits.items()}
    of_image = this.seconds_of_scoring(job.dataset, job.config.evaluation.split) / splits[job.config.evaluation.split]
    validations = -(-this.epochs // config.validate_every) if config.validate_every else 0
    seconds = measured.seconds + validations * of_image * splits.get("val", 0) + this.epochs * seconds_to_save(this.state())
    scoring = of_image * sum(splits.get(split, 0) for split in {job.config.evaluation.split, "test"})
    return dataclasses.replace(measured, seconds=seconds, scoring=scoring, epochs=None if config.steps else config.epochs)


def afterwards(measured: Sequence[Measurement], networks: int, exported: bool) -> float:
    """About how many seconds the run takes apart from search and training: to score and time each network, and to export one."""
    scoring = sum(stage.scoring for stage in measured) + LATENCY_SECONDS
    return networks * scoring + (EXPORT_SECONDS if exported else 0.0)


def forecast(measured: Sequence[Measurement], asked: Plan, job: Job, networks: int, apart: float) -> None:
    """Say what the run will take, with so many trainings of the kind that was measured and `apart` seconds besides (see
    `afterwards`); UserError for too little disk."""
    if not measured:
        return
    available = available_memory(job.device.device) / GIB
    for stage in measured:
        stage = lengthened(stage, asked.config)
        several = f" x {networks} networks" if networks > 1 and stage.stage == "retrain" else ""
        steps = stage.seconds_per_step * stage.steps
        more = " + scores" if stage.seconds > ROUNDING * steps else ""
        more = f" + {duration(stage.once)} once" if stage.once else more
        each = f"{stage.seconds_per_step:.2f} s a {stage.unit} x {stage.steps}"
        what = f"{stage.stage}: {each}{more} = {duration(stage.seconds)}{several}"
        console.print(f"{what}, memory {stage.memory_bytes / GIB:.1f} of {available:.1f} GiB")
    begun = any((job.run.path / "checkpoints").glob("*.pt"))
    since = ", counted from its start" if begun else ""
    console.print(f"about {duration(whole_time(measured, asked.config, networks) + apart)} in all{since}")
    state = max(stage.state_bytes for stage in measured)
    require_disk(job.run.path, DISK_BYTES * max(1, networks) + (2 + networks) * state)


def as_measured(config: Any, measured: Sequence[Measurement]) -> Any:
    """The configuration with what the measurements had to set so that the stages fit; it changes no result."""
    return override(config, [setting for stage in measured for setting in stage.settings])


def lengthened(stage: Measurement, config: Any) -> Measurement:
    """A measurement made for other lengths of search and retraining, for those of `config`."""
    if stage.epochs is None or (stage.stage == "retrain" and config.retrain.steps):
        return stage
    epochs = config.retrain.epochs if stage.stage == "retrain" else search_length(config) or stage.epochs
    factor = epochs / stage.epochs
    seconds = stage.once + (stage.seconds - stage.once) * factor
    return dataclasses.replace(stage, steps=round(stage.steps * factor), seconds=seconds, epochs=epochs)


def search_length(config: Any) -> int | None:
    """The epochs or trials of a search; None without one, or for one that has neither."""
    search = getattr(config, "search", None)
    return getattr(search, "epochs", None) or getattr(search, "trials", None)


def whole_time(measured: Sequence[Measurement], config: Any, networks: int) -> float:
    """Seconds of all stages at the lengths of `config`, with so many trainings."""
    stages = [lengthened(stage, config) for stage in measured]
    return sum(stage.seconds * (networks if stage.stage == "retrain" else 1) for stage in stages)


def sized_to_time(
    asked: Plan, measured: Sequence[Measurement], networks: int, device: Device, apart: float = 0.0
) -> tuple[Plan, dict[str, Any]]:
    """The plan with lengths of search and retraining that fit its time limit, in the preset's proportion; and time.json.

    apart: seconds of the limit that evaluation, export and the like will take (see `afterwards`).
    A stage that is not to be done, and so was not measured, keeps its length. Raises UserError with the shortest time that
    would do.
    """
    config, limit = asked.config, asked.config.time_limit
    system = load_system(asked.system) if asked.system is not None else None
    if not measured or config.retrain.steps or (system is not None and system.sized is None):
        raise UserError("--time needs lengths in epochs: leave out retrain.steps, and use a system whose search can be sized")
    resize = system.sized if system is not None else None
    stages = {stage.stage for stage in measured}

    def sized(factor: float) -> Any:
        longer = config if resize is None or "search" not in stages else resize(config, factor)
        if "retrain" not in stages:
            return longer
        return replace(longer, retrain=replace(longer.retrain, epochs=max(1, int(longer.retrain.epochs * factor))))

    apart = device.gather(apart)[0]
    usable, shortest = TIME_USED * limit - apart, whole_time(measured, sized(0.0), networks)
    if device.gather(shortest)[0] > usable:
        needed = duration(math.ceil((shortest + apart) / TIME_USED)).replace(" ", "")
        also = f", evaluation and export {duration(apart)}" if apart else ""
        raise UserError(
            f"{duration(limit)} are too short: an epoch or two of each stage take {duration(shortest)}{also}; "
            f"use --time {needed} or more, a smaller preset, or --baseline none"
        )
    growing = whole_time(measured, config, networks) - sum(stage.once for stage in measured)
    low, high = 0.0, usable / growing + 1  # for the first there is time
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if whole_time(measured, sized(middle), networks) <= usable else (low, middle)
    chosen = sized(device.gather(low)[0])
    planned_seconds = whole_time(measured, chosen, networks)
    told = {"asked_seconds": limit, "used_seconds": None, "forecast_seconds": planned_seconds + apart}
    if "search" in stages:
        kind = "search_epochs" if hasattr(config.search, "epochs") else "search_trials"
        told[kind] = [search_length(config), search_length(chosen)]
    if "retrain" in stages:
        told["retrain_epochs"] = [config.retrain.epochs, chosen.retrain.epochs]
    return dataclasses.replace(asked, config=chosen), told
