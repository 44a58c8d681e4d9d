"""Opening a run for work: the command resolved to a plan, everything checked and measured, then the directory made.

Nothing is written before all of it is known to be possible: packages, disk, data, memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segnas.config import override
from segnas.data import describe, open_dataset
from segnas.data.base import Dataset
from segnas.data.check import require
from segnas.data.statistics import measure_normalization
from segnas.data.transforms import Normalization, seen_size
from segnas.errors import UserError, did_you_mean
from segnas.export import missing_packages
from segnas.forecast import (
    afterwards,
    as_measured,
    forecast,
    preflight,
    require_budget,
    require_export_size,
    sized_to_time,
    typical_of,
)
from segnas.plans import RANDOM_SEARCH, Plan, command, planned
from segnas.processes import is_first
from segnas.runs.progress import console
from segnas.runs.run import Run, environment, first_difference, working_on
from segnas.spaces.architecture import Architecture
from segnas.systems.base import Job
from segnas.training.device import Device, launch
from segnas.training.model import TrainedModel, require_task
from segnas.training.preflight import require_packages

DONE = {"search": "architecture.json", "retrain": "retrain.json", "export": "model.onnx"}  # what a finished stage leaves


@dataclass(frozen=True)
class Workplace:
    """A run that is open for work, with its data and device."""

    plan: Plan
    run: Run
    job: Job

    @property
    def config(self) -> Any:
        """The configuration of the run."""
        return self.plan.config

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.job.dataset

    def has(self, name: str) -> bool:
        """Whether a file of the run is there, as its first process sees it: all of them decide alike."""
        return self.device.first(lambda: self.run.has(name))

    @property
    def device(self) -> Device:
        """The device."""
        return self.job.device

    def seen_size(self) -> tuple[int, int]:
        """(height, width) at which the retrained network sees the first evaluated image."""
        return seen_size(self.dataset, self.config.evaluation.split, self.config.data.resize)


@contextmanager
def opened(
    asked: Plan,
    out: Path,
    resume: bool,
    stages: Sequence[str],
    architecture: Architecture | None = None,
    others: Callable[[Any], Sequence[str]] = lambda config: (),
) -> Iterator[Workplace]:
    """A run made ready for `stages`: checked and measured before anything is written, then locked until the block ends.

    architecture: what will be retrained, when it is known already. others: configuration -> the kinds (comparison.py) of
    more networks of about the same cost that will be trained. Several processes open a run together.
    """
    begun = (out / "config.yaml").exists()
    Run.check(out, asked.to_dict(), resume)
    todo = [stage for stage in stages if not (out / DONE[stage]).exists()]
    kinds = others(asked.config)
    todo += ["compare"] if kinds else []
    todo += [kind for kind in kinds if kind == RANDOM_SEARCH]
    if "search" in todo and asked.config.retrain.weights is not None:
        raise UserError("retrain.weights needs a known architecture: search first, then segnas retrain RUN/architecture.json")
    if "export" in todo:
        require_packages(missing_packages())
        require_export_size(asked)
    dataset = open_dataset(asked.dataset, seed=asked.config.seed)
    if architecture is not None:
        require_task(architecture, dataset)
    for expected in typical_of(asked, todo):
        require_task(expected, dataset, form_setting="network.form=")
    require_split(dataset, asked.config.evaluation.split)
    if is_first() and {"search", "retrain", "compare"} & set(todo):
        require(dataset)
    device = launch(asked.config.device)
    stored = Run(out).read_json("data.json") if (out / "data.json").exists() else None
    if stored is not None:
        require_same_data(stored, dataset, out)
        changed = first_difference(Run(out).config(), asked.to_dict(), apart_from=("dataset", "budget", "comparison"))
        if changed:
            console.print(f"note: the run was started with {changed}; figures may differ in rounding from here on")
        announce_processes(Run(out), device)
    if begun and (out / "architecture.json").exists() and planned(Run(out)).config.budget != asked.config.budget:
        raise UserError(f"the architecture in {out} is scaled already, and cannot meet another budget; choose another --out")
    normalization = Normalization(tuple(stored["mean"]), tuple(stored["std"])) if stored else measure_normalization(dataset)
    job = Job(asked.config, dataset, normalization, Run(out), device)
    require_budget(asked, job, todo, architecture)
    measured = preflight(asked, job, todo, architecture)
    networks = len(kinds) + ("retrain" in todo)
    apart = afterwards(measured, networks, "export" in todo)
    if asked.config.time_limit is not None and not begun:
        asked, sizes = sized_to_time(asked, measured, networks, device, apart)
        job = dataclasses.replace(job, config=asked.config)
    job = dataclasses.replace(job, config=as_measured(job.config, measured))
    forecast(measured, asked, job, networks, apart)
    device.barrier()  # all have looked at the folder before rank 0 writes into it
    run = Run.create(out, asked.to_dict(), resume)
    try:
        if stored is None:
            write_data(run, dataset, normalization)
        if asked.config.time_limit is not None and not begun:
            run.write_json("time.json", sizes)
        write_environment(run, environment(asked.config.seed, device.title, command(asked, out)))
        device.barrier()
        yield Workplace(asked, run, dataclasses.replace(job, run=run))
    finally:
        run.release()


def announce_processes(run: Run, device: Device) -> None:
    """Say so when a run goes on in another number of processes than it was started in."""
    before = run.read_json("environment.json").get("processes", 1) if run.has("environment.json") else device.world_size
    if before != device.world_size:
        difference = f"processes={before}, not {device.world_size}"
        console.print(f"note: the run was started with {difference}; batch norm sees other parts, so figures differ from here on")


@contextmanager
def reopened(path: Path, data: str | None = None, protocol: Sequence[str] = ()) -> Iterator[Workplace]:
    """A trained run, for what comes after training; `data` says where its data set lies now, if it moved.

    protocol: settings of an evaluation, which are refused before the device is set up.
    """
    run = Run.open(path)
    stored = planned(run)
    normalization = TrainedModel.load(path).normalization
    dataset = open_dataset(data or stored.dataset, seed=stored.config.seed)
    require_same_data(run.read_json("data.json"), dataset, path)  # what was trained on must not become what is scored
    require_split(dataset, override(stored.config.evaluation, protocol).split)
    with working_on(run):
        yield Workplace(stored, run, Job(stored.config, dataset, normalization, run, launch(stored.config.device)))


@contextmanager
def beside(place: Workplace, asked: Plan, out: Path) -> Iterator[Workplace]:
    """Another run directory for work with the data and device of one that is open, begun or gone on with."""
    device = place.device
    device.barrier()
    run = Run.create(out, asked.to_dict(), resume=(out / "config.yaml").exists())
    try:
        run.write_json("data.json", place.run.read_json("data.json"))
        write_environment(run, environment(asked.config.seed, device.title, command(asked, out)))
        device.barrier()
        yield Workplace(asked, run, Job(asked.config, place.dataset, place.job.normalization, run, device))
    finally:
        run.release()


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Write the seconds of a stage to timing.json under its name: those of the block, added to what is there.

    A stage that counts its own seconds through kills and resumes leaves them in <stage>.json; they take their place.
    """
    started = time.monotonic()

    def add() -> None:
        timing = run.read_json("timing.json") if run.has("timing.json") else {}
        own = run.read_json(f"{stage}.json").get("seconds") if run.has(f"{stage}.json") else None
        timing[stage] = round(timing.get(stage, 0.0) + time.monotonic() - started if own is None else own, 3)
        run.write_json("timing.json", timing)

    try:
        yield
    except BaseException:
        with suppress(UserError):  # on a full disk, what could not be written first is what counts
            add()
        raise
    add()


def require_same_data(stored: Mapping[str, Any], dataset: Dataset, out: Path) -> None:
    """Raise UserError when the data set holds other names, splits or classes than data.json says the run saw."""
    if stored["fingerprint"] != fingerprint(dataset):
        raise UserError(f"{dataset.name} holds other images, splits or classes than when {out} was started; choose another --out")


def write_environment(run: Run, here: dict[str, Any]) -> None:
    """environment.json as of the run's beginning; where a later stage ran in another one, it is added under `later`."""
    if not run.has("environment.json"):
        run.write_json("environment.json", here)
        return
    stored = run.read_json("environment.json")
    later = stored.pop("later", [])
    if all(here != known for known in [stored, *later]):
        run.write_json("environment.json", {**stored, "later": [*later, here]})


def require_split(dataset: Dataset, split: str) -> None:
    """Raise UserError when the data set has no such split."""
    if not dataset.splits.get(split):
        raise UserError(f"the data set {dataset.name} has no split '{split}'{did_you_mean(split, dataset.splits)}")


def write_data(run: Run, dataset: Dataset, normalization: Normalization) -> None:
    """data.json: what the run saw as its data, shown in the report and compared on resume."""
    about = describe(dataset)
    names = about.pop("splits")
    run.write_json(
        "data.json",
        {
            **about,
            "splits": {split: len(members) for split, members in names.items()},
            "members": names,
            "mean": list(normalization.mean),
            "std": list(normalization.std),
            "fingerprint": fingerprint(dataset),
        },
    )


def fingerprint(dataset: Dataset) -> str:
    """12 hex digits that change when names of samples, their split or the classes change."""
    text = repr((dataset.classes, sorted((split, tuple(names)) for split, names in dataset.splits.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
