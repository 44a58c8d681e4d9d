"""Opening a run for work: the command resolved to a plan, everything checked and measured, then the directory made.

Nothing is written before all of it is known to be possible: packages, disk, data, memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segnas
from segnas.config import flat, from_dict, override, replace, to_dict
from segnas.costs.memory import available_memory
from segnas.data import absolute_data, describe, open_dataset, task_of_data
from segnas.data.base import Dataset
from segnas.data.check import require
from segnas.data.loading import Batch
from segnas.data.statistics import measure_normalization
from segnas.data.transforms import Normalization, scaled_size
from segnas.errors import UserError, did_you_mean
from segnas.export import missing_packages
from segnas.processes import is_first, program
from segnas.runs.progress import console, duration
from segnas.runs.run import Run, environment, first_difference, working_on
from segnas.spaces.architecture import Architecture, family_of
from segnas.spaces.width import filters_of, widths
from segnas.systems.base import Job, load_system, preset
from segnas.systems.settings import RunConfig, run_preset
from segnas.training.device import Device, launch
from segnas.training.model import TrainedModel, require_task
from segnas.training.preflight import Measurement, Size, measure, require_disk, require_packages, seconds_of
from segnas.training.retrain import Retraining

DONE = {"search": "architecture.json", "retrain": "retrain.json", "export": "model.onnx"}  # what a finished stage leaves
DISK_BYTES = 64 * 2**20  # besides the checkpoints: panels, report, ONNX file, logs
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Plan:
    """What a command asks for, resolved: everything that config.yaml holds."""

    system: str | None
    preset: str
    dataset: str
    config: Any  # the system's configuration, a subclass of RunConfig

    def to_dict(self) -> dict[str, Any]:
        """As written to config.yaml."""
        head = {"segnas": segnas.__version__, "system": self.system, "preset": self.preset, "dataset": self.dataset}
        return {**head, **to_dict(self.config)}


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

    @property
    def device(self) -> Device:
        """The device."""
        return self.job.device

    def seen_size(self) -> tuple[int, int]:
        """(height, width) at which the retrained network sees the first evaluated image."""
        return seen_size(self.dataset, self.config.evaluation.split, self.config.data.resize)


def plan(system: str | None, data: str, preset_name: str, overrides: Sequence[str] = ()) -> Plan:
    """The resolved configuration of a command.

    UserError for an unknown system, preset or key, a value that does not fit, or a system that is not for the data's task.
    """
    config = preset_config(system, preset_name, task_of_data(data))
    return Plan(_system(system), preset_name, absolute_data(data), absolute_weights(override(config, overrides)))


def preset_config(system: str | None, preset_name: str, task: str) -> Any:
    """The configuration of a system's preset, or of one without a search, for a task; UserError as `plan` says."""
    return run_preset(preset_name, task) if system is None else preset(load_system(system), preset_name, task)


def absolute_weights(config: Any) -> Any:
    """The configuration with the file that training starts from named wherever the run is continued from."""
    if config.retrain.weights is None:
        return config
    return replace(config, retrain=replace(config.retrain, weights=config.retrain.weights.absolute()))


def planned(run: Run) -> Plan:
    """The plan that an existing run was started with."""
    values = run.config()
    head = {key: values.pop(key, None) for key in ("segnas", "system", "preset", "dataset")}
    cls = RunConfig if head["system"] is None else load_system(head["system"]).config
    config = from_dict(cls, values, where=str(run.path / "config.yaml"))
    return Plan(head["system"], str(head["preset"]), str(head["dataset"]), config)


def resumed(out: Path, system: str | None, data: str | None, preset_name: str | None, overrides: Sequence[str]) -> Plan:
    """The plan of the run in `out`, which what the command says must not contradict."""
    stored = planned(Run.open(out))
    dataset = stored.dataset if data is None else absolute_data(data)
    return Plan(
        _system(system) or stored.system,
        preset_name or stored.preset,
        dataset,
        absolute_weights(override(stored.config, overrides)),
    )


@contextmanager
def opened(
    asked: Plan, out: Path, resume: bool, stages: Sequence[str], architecture: Architecture | None = None
) -> Iterator[Workplace]:
    """A run made ready for `stages`: checked and measured before anything is written, then locked until the block ends.

    architecture: what will be retrained, when it is known already. Several processes open a run together.
    """
    Run.check(out, asked.to_dict(), resume)
    todo = [stage for stage in stages if not (out / DONE[stage]).exists()]
    if "search" in todo and asked.config.retrain.weights is not None:
        raise UserError("retrain.weights needs a known architecture: search first, then segnas retrain RUN/architecture.json")
    if "export" in todo:
        require_packages(missing_packages())
    dataset = open_dataset(asked.dataset, seed=asked.config.seed)
    if architecture is not None:
        require_task(architecture, dataset)
    require_split(dataset, asked.config.evaluation.split)
    if is_first() and {"search", "retrain"} & set(todo):
        require(dataset)
    device = launch(asked.config.device)
    stored = Run(out).read_json("data.json") if (out / "data.json").exists() else None
    if stored is not None:
        require_same_data(stored, dataset, out)
        changed = first_difference(Run(out).config(), asked.to_dict(), apart_from=("dataset",))
        if changed:
            console.print(f"note: the run was started with {changed}; figures may differ in rounding from here on")
        announce_processes(Run(out), device)
    normalization = Normalization(tuple(stored["mean"]), tuple(stored["std"])) if stored else measure_normalization(dataset)
    job = Job(asked.config, dataset, normalization, Run(out), device)
    preflight(asked, job, todo, architecture)
    device.barrier()  # all have looked at the folder before rank 0 writes into it
    run = Run.create(out, asked.to_dict(), resume)
    try:
        if stored is None:
            write_data(run, dataset, normalization)
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
def reopened(path: Path, data: str | None = None) -> Iterator[Workplace]:
    """A trained run, for what comes after training; `data` says where its data set lies now, if it moved."""
    run = Run.open(path)
    stored = planned(run)
    normalization = TrainedModel.load(path).normalization
    dataset = open_dataset(data or stored.dataset, seed=stored.config.seed)
    require_same_data(run.read_json("data.json"), dataset, path)  # what was trained on must not become what is scored
    with working_on(run):
        yield Workplace(stored, run, Job(stored.config, dataset, normalization, run, launch(stored.config.device)))


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


def preflight(asked: Plan, job: Job, todo: Sequence[str], architecture: Architecture | None) -> None:
    """Measure two real steps of each stage that is to be done, on copies, and say what the run will take.

    Raises UserError when memory or disk do not suffice.
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
    if not measured:
        return
    available = available_memory(job.device.device) / GIB
    for stage in measured:
        what = f"{stage.stage}: {stage.seconds_per_step:.2f} s a step x {stage.steps} = {duration(stage.seconds)}"
        console.print(f"{what}, peak memory {stage.memory_bytes / GIB:.1f} of {available:.1f} GiB")
    console.print(f"about {duration(sum(stage.seconds for stage in measured))} in all, validation, evaluation and export apart")
    require_disk(job.run.path, DISK_BYTES + 3 * max(stage.state_bytes for stage in measured))


def measure_retraining(job: Job, architecture: Architecture) -> Measurement:
    """Two real steps of retraining on a network made for this alone."""
    config = job.config.retrain
    begun = (job.run.path / "checkpoints" / "retrain.pt").exists()  # then nothing starts from the weights of another model
    weights = None if begun else config.weights
    this = Retraining(architecture, job.dataset, job.config.data, job.normalization, config, job.device, job.config.seed, weights)
    batches = this.remaining_batches()
    batch: Batch = next(batches)
    loading = seconds_of(lambda: next(batches, None))
    key = widths[family_of(architecture)].filters if hasattr(job.config, "network") else ""
    filters = filters_of(architecture) if key else None
    size = Size(job.config.data.crop, config.batch_size, filters, "data.crop", "retrain.batch_size", key)
    measured = measure("retrain", this.train_step, batch, this.steps, job.device.device, size, this.network)
    return measured.with_loading(loading, job.config.data.workers)


def require_same_data(stored: Mapping[str, Any], dataset: Dataset, out: Path) -> None:
    """Raise UserError when the data set holds other names, splits or classes than data.json says the run saw."""
    if stored["fingerprint"] != fingerprint(dataset):
        raise UserError(f"{dataset.name} holds other images, splits or classes than when {out} was started; choose another --out")


def command(asked: Plan, out: Path) -> str:
    """The command that repeats the run from the beginning: its preset, and every setting that differs from it."""
    base = preset_config(asked.system, asked.preset, task_of_data(asked.dataset))
    usual, here = flat(to_dict(base)), flat(to_dict(asked.config))
    changed = [f"{key}={as_override(value)}" for key, value in here.items() if usual.get(key) != value]
    verb = ["run", asked.system] if asked.system is not None else ["retrain", str(out / "architecture.json")]
    words = [*program(), *verb, "--data", asked.dataset, "--preset", asked.preset, "--out", str(out), *changed]
    return shlex.join(words)


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


def seen_size(dataset: Dataset, split: str, resize: float) -> tuple[int, int]:
    """(height, width) at which a network sees the first image of a split."""
    return scaled_size(*dataset.size(split, 0), resize)


def fingerprint(dataset: Dataset) -> str:
    """12 hex digits that change when names of samples, their split or the classes change."""
    text = repr((dataset.classes, sorted((split, tuple(names)) for split, names in dataset.splits.items())))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_override(value: Any) -> str:
    """A value as `override` reads it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _system(name: str | None) -> str | None:
    """What config.yaml says of the system: its name, or a file wherever the run is continued from."""
    return str(Path(name).absolute()) if name is not None and name.endswith(".py") else name
