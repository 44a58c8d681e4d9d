"""The verbs of segnas as functions; the command line is a thin layer over this file.

    import segnas

    segnas.run("auto-deeplab", data="my_images", out="runs/first", preset="small")
    model = segnas.load("runs/first")

Every function raises `UserError` (one line) for what the caller can mend, before any work is done where that is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segnas import zoo
from segnas.benchmarking import Row, options_of, simulate
from segnas.comparison import compare, remaining, require_baseline
from segnas.config import override
from segnas.costs.counts import Counts
from segnas.costs.counts import count as count_architecture
from segnas.costs.latency import Latency, Precision, measure_latency, measure_onnx_latency
from segnas.data.check import Report
from segnas.data.check import check as check_data
from segnas.errors import UserError
from segnas.estimators.tabular import TabularBenchmark, benchmarks
from segnas.export import Parity, missing_packages
from segnas.nets import build
from segnas.plans import Plan, plan, planned, resumed
from segnas.report import write_comparison
from segnas.report import write_report as write_page
from segnas.report.several import Several
from segnas.runs.progress import StageProgress
from segnas.runs.run import Run, working_on
from segnas.spaces.architecture import Architecture, from_json, identity, usual_input_of
from segnas.stages import (
    architecture_stage,
    budget_stage,
    evaluate_splits,
    evaluate_stage,
    export_stage,
    latency_stage,
    retrain_stage,
    search_stage,
    time_stage,
)
from segnas.systems.settings import DEFAULT_PRESET
from segnas.training.classify import Classification, classify
from segnas.training.device import DeviceConfig, launch
from segnas.training.evaluate import Evaluation
from segnas.training.model import TrainedModel
from segnas.training.predict import Prediction, found_images
from segnas.training.predict import predict as predict_images
from segnas.training.preflight import require_packages, require_size
from segnas.training.timing import measure_trained
from segnas.workplace import opened, reopened, timed


def search(
    system: str,
    data: str | None,
    out: str | Path,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> Architecture:
    """Search an architecture for a data set; writes it as architecture.json into the run directory `out`.

    data: a folder, or "demo"; None only when a run is resumed. preset: quick, small (the default), paper. overrides: `key=value`.
    """
    asked = _asked(system, data, out, preset, overrides, resume)
    with opened(asked, Path(out), resume, ["search"]) as place:
        architecture = search_stage(place)
        time_stage(place)
        return architecture


def retrain(
    source: str | Path,
    data: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    form: str | None = None,
) -> TrainedModel:
    """Train an architecture from scratch: that of a run, or of a JSON file or zoo name.

    A run is trained where it lies, with its own configuration and data; a file or name needs `data` and `out`.
    form: of the network of cells from a file or the zoo.
    """
    architecture = zoo.find(str(source), form)
    _refuse({word: word.startswith("comparison.") for word in overrides}, "retraining compares nothing")
    if out is None and Path(source).is_dir():
        _refuse({"--form": form}, f"{source} is trained as it was found")
        asked = resumed(Path(source), None, data, preset, overrides)
        with opened(asked, Path(source), True, ["retrain"], architecture) as place:
            return retrain_stage(place)
    if out is None:
        raise UserError(f"{source} is no run directory: say on which data to train and where to write (--data DIR --out RUN)")
    asked = _asked(None, data, out, preset, overrides, resume)
    if resume:
        architecture = _same(Path(out), architecture, str(source))
    with opened(asked, Path(out), resume, ["retrain"], architecture) as place:
        architecture_stage(place, architecture, {"from": str(source)})
        return retrain_stage(place)


def run(
    system: str,
    data: str | None,
    out: str | Path,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    export: bool = True,
) -> Path:
    """Everything: search, retrain, evaluate, measure, export, compare with baselines, report. Returns the path of report.html.

    Several processes (torchrun) share searching, training and evaluation; the rest is done by the first of them alone.
    """
    asked = _asked(system, data, out, preset, overrides, resume)
    out, task = Path(out), asked.task
    require_baseline(asked.config, task)
    stages = ["search", "retrain", *(["export"] if export else [])]
    with opened(asked, out, resume, stages, others=lambda config: remaining(out, config, asked.system, task)) as place:
        search_stage(place)
        retrain_stage(place)
        evaluate_splits(place)
        if place.device.is_global_zero:
            latency_stage(place)
            if export and not place.run.has("model.onnx"):
                export_stage(place, asked.config.export.size)
            budget_stage(place)
            write_page(place.run)  # once before the comparison: it may take long
        place.device.barrier()  # nobody else computes while it is timed
        if place.config.comparison.baseline != "none" or place.config.comparison.seeds > 1:
            with timed(place.run, "compare"):
                compare(place)
        time_stage(place)
        return write_page(place.run) if place.device.is_global_zero else place.run.path / "report.html"


def evaluate(path: str | Path, overrides: Sequence[str] = (), data: str | None = None) -> Evaluation:
    """Score a run's model on a whole split; overrides change the protocol (`split=test`, `scales=[0.75,1,1.25]`, `flip=true`)."""
    with reopened(Path(path), data, overrides) as place:
        return evaluate_stage(place, override(place.config.evaluation, overrides))


def predict(
    path: str | Path, images: str | Path | Sequence[str | Path], out: str | Path | None = None, **options: Any
) -> list[Prediction] | list[Classification]:
    """Segment or classify image files, or folders with all below them, with a run or model file.

    options: those of `predict` in training/predict.py, or of `classify` in training/classify.py, by the model's task.
    Writes into `out`; by default into the folder `predictions` of the run, or beside the model file.
    """
    model = TrainedModel.load(Path(path))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    out = Path(out) if out else folder / "predictions"
    found_images(images)  # a slip in their names is told before the device is
    if model.task.dense:
        return predict_images(model, images, out, launch(DeviceConfig()), **options)
    tiled = {"--tile": options.pop("tile", None), "overlap": options.pop("overlap", None)}
    _refuse(tiled, f"{path} says one class of a whole image")
    return classify(model, images, out, launch(DeviceConfig()), **options)


def export_onnx(path: str | Path, size: tuple[int, int] | None = None, data: str | None = None) -> Parity:
    """Write model.onnx of a run and check it against torch on real images; UserError when they differ."""
    require_packages(missing_packages())
    size = size or planned(Run.open(Path(path))).config.export.size
    if size is not None and TrainedModel.load(Path(path)).task.dense:
        require_size("the export size", size)  # a slip is told before the device is
    with reopened(Path(path), data) as place:
        return export_stage(place, size)


def write_report(path: str | Path) -> Path:
    """Write report.html of a run, whatever stages it has; returns its path."""
    return write_page(Run.open(Path(path)))


def compare_runs(paths: Sequence[str | Path], out: str | Path = "compare.html") -> Several:
    """Write one page with several runs beside each other; returns their figures (`to_json`), the warnings, the correlations."""
    return write_comparison([Path(path) for path in paths], Path(out))


def check(data: str | Path) -> Report:
    """Look at a data set: pairs, sizes, classes, unknown ids, unreadable files; `report.ok`, `.problems`, `.lines()`."""
    return check_data(data)


def load(path: str | Path) -> TrainedModel:
    """The trained model of a run directory or model.safetensors, on the CPU, ready for use."""
    return TrainedModel.load(Path(path))


def count(
    source: str | Path,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    overrides: Sequence[str] = (),
    form: str | None = None,
) -> Counts:
    """Parameters and multiply-adds of a zoo name, JSON file or run; `filters=4` and the like override the network's options.

    size: (height, width) and num_classes: None means the run's own, and for anything else those that papers count with, see
    `usual_input`. form: of the network of cells that come in several.
    """
    architecture = zoo.with_options(zoo.find(str(source), form), overrides)
    own_size, own_classes = usual_input(source, architecture)
    return count_architecture(architecture, size or own_size, num_classes or own_classes)


def usual_input(source: str | Path, architecture: Architecture) -> tuple[tuple[int, int], int]:
    """(height, width) at which a trained run sees its images, and its number of classes.

    For anything else those that papers count with: of Cityscapes, or of the images that the network is made for.
    """
    path = Path(source)
    size, classes = usual_input_of(architecture)
    if (path / "cost.json").exists():
        height, width = Run(path).read_json("cost.json")["size"]
        size = (height, width)
    if (path / "data.json").exists():
        classes = len(Run(path).read_json("data.json")["classes"])
    return size, classes


def published(size: tuple[int, int] | None = None, form: str | None = None) -> list[dict[str, Any]]:
    """The networks of the zoo, smallest first: our counts beside the figures that their papers print.

    size: None means that of the paper's figures. form: of the networks of cells that come in several.
    """
    rows = []
    for entry in map(zoo.load, zoo.names()):
        entry = entry if form is None else zoo.in_form(entry, form)
        own_size, classes = usual_input("", entry.architecture)
        shape = size or own_size
        counts = count_architecture(entry.architecture, shape, classes)
        multiply_adds = entry.paper.get("multiply_adds_g") if shape == own_size else None
        rows.append(
            {
                "name": entry.name,
                "size": list(shape),
                "classes": classes,
                "parameters": counts.parameters,
                "multiply_adds": counts.multiply_adds,
                "paper_multiply_adds": counts.paper_multiply_adds,
                "printed_parameters_m": entry.paper.get("parameters_m"),
                "printed_multiply_adds_g": multiply_adds,
                "paper": entry.paper,
            }
        )
    return sorted(rows, key=lambda row: int(row["parameters"]))


def latency(
    source: str | Path,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    overrides: Sequence[str] = (),
    batch: int = 1,
    device: str | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
    channels_last: bool | None = None,
    form: str | None = None,
    **timing: Any,
) -> Latency:
    """Time one pass of a zoo name, JSON file, run or exported .onnx file; `timing`: warmup, runs, time_limit_s, seed.

    A trained run is timed from RGB pixels to logits, anything built anew as a network alone; `includes` says which.
    size: (height, width); None means that at which a trained run sees its images, or that of the .onnx file.
    A condition left at None is as the run was configured; for a name or JSON file it is the CPU, torch's threads and float32.
    latency.json of a trained run is replaced only when nothing besides `source` is given.
    """
    path = Path(source)
    given = {"--classes": num_classes, "KEY=VALUE": overrides, "--device": device, "--precision": precision, "--form": form}
    if path.suffix == ".onnx" and not path.is_dir():
        fixed = {**given, "--device": device not in (None, "cpu"), "--precision": precision not in (None, "32")}
        _refuse({**fixed, "channels_last": channels_last}, f"{source} is timed in onnxruntime, on the CPU, in float32")
        return measure_onnx_latency(path, size, batch, threads, **timing)
    architecture = zoo.with_options(zoo.find(str(source), form), overrides)
    trained = (path / "model.safetensors").exists()
    own = trained and batch == 1 and not any((*given.values(), size, threads, channels_last is not None, timing))
    if size is None and not trained:
        raise UserError(f"{source} is no trained run: say the input size (--size HxW)")
    model = TrainedModel.load(path) if trained and not overrides and form is None else None
    if model is not None:
        _refuse({"--classes": num_classes}, f"{source} is timed as trained, with its {len(model.classes)} classes")
    config = planned(Run.open(path)).config.device if (path / "config.yaml").exists() else DeviceConfig(accelerator="cpu")
    conditions = {
        "device": device or launch(config).device,
        "threads": config.threads if threads is None else threads,
        "precision": precision or config.precision,
        "channels_last": config.channels_last if channels_last is None else channels_last,
        **timing,
    }
    shape = (batch, 3, *(size or Run(path).read_json("cost.json")["size"]))
    if model is None:
        return measure_latency(build(architecture, num_classes or usual_input(path, architecture)[1]), shape, **conditions)
    measured = measure_trained(model, shape, **conditions)
    if own:
        with working_on(Run.open(path)) as found:
            found.write_json("latency.json", measured.to_json())
    return measured


def benchmark(
    name: str,
    data: str | Path | None,
    strategies: Sequence[str] = ("random", "evolution"),
    evaluations: int | None = None,
    seeds: int = 100,
    options: Sequence[str] = (),
    workers: int = 1,
) -> list[Row]:
    """Whole searches simulated on a tabular benchmark; a row for each strategy and reported figure.

    data: the folder of the table. evaluations: of one search; None means as many as the published searches have. seeds: number of
    searches. options: `strategy.key=value`. workers: processes; the figures do not depend on it.
    """
    known = benchmarks[name]
    if data is None:
        raise UserError(f"say where the table of {name}, {known.file}, lies: --data DIR")
    table = TabularBenchmark(name, data)
    assignments: dict[str, list[str]] = {strategy: [] for strategy in strategies}
    for option in options:
        strategy, separator, assignment = option.partition(".")
        if not separator or strategy not in assignments:
            raise UserError(f"'{option}' sets no option; write one of {', '.join(f'{one}.KEY=VALUE' for one in assignments)}")
        assignments[strategy].append(assignment)
    asked = {strategy: options_of(table, strategy, given) for strategy, given in assignments.items()}
    rows = []
    with StageProgress("benchmark", seeds * len(asked)) as progress:
        for number, (strategy, values) in enumerate(asked.items(), 1):
            found = simulate(table, strategy, values, evaluations or known.evaluations, seeds, workers, progress.step)
            progress.epoch(number, len(asked), {"strategy": strategy, found[0].metric: f"{found[0].mean:.2f}"})
            rows += found
    return rows


def _refuse(options: Mapping[str, object], fact: str) -> None:
    """Raise UserError for an option that is given (true) although the fact leaves nothing to choose."""
    wrong = [name for name, value in options.items() if value]
    if wrong:
        raise UserError(f"{fact}; leave out {', '.join(wrong)}")


def _asked(
    system: str | None, data: str | None, out: str | Path, preset: str | None, overrides: Sequence[str], resume: bool
) -> Plan:
    if resume and not Run.begun(Path(out)):
        raise UserError(f"there is no run in {out} to go on with; correct --out, or leave out --resume to begin one")
    if resume and (Path(out) / "config.yaml").exists():
        return resumed(Path(out), system, data, preset, overrides)
    if data is None:
        raise UserError("say which images to work on: --data DIR (or --data demo)")
    return plan(system, data, preset or DEFAULT_PRESET, overrides)


def _same(out: Path, architecture: Architecture, source: str) -> Architecture:
    """What the run in `out` trains, which must be `architecture`, or that scaled to a budget; itself before the run has it."""
    if not (out / "architecture.json").exists():
        return architecture
    content = Run(out).read_json("architecture.json")
    stored = from_json(content)
    if identity(architecture) not in (identity(stored), content.get("provenance", {}).get("scaled_from")):
        raise UserError(
            f"{out} trains the architecture {identity(stored)}, and {source} is {identity(architecture)}; choose another --out"
        )
    return stored
