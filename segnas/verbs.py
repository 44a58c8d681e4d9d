"""The verbs of the command line: one a function, each a thin layer over api.py, in the order in which a user meets them.

Figures go to standard output, everything else to standard error; cli.py turns what goes wrong into one line and a status.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from segnas.errors import UserError
from segnas.options import (
    AsJson,
    Baseline,
    BudgetDevice,
    Data,
    Form,
    MaxLatency,
    MaxMultiplyAdds,
    MaxParameters,
    MovedData,
    Network,
    NoExport,
    NumClasses,
    Options,
    Out,
    Preset,
    Protocol,
    Ray,
    Resume,
    RunDirectory,
    Seeds,
    Settings,
    Size,
    System,
    Time,
    Workers,
    as_settings,
    examples,
    parse_size,
    required_out,
)
from segnas.printing import print_figures, print_json, print_runs, print_table, print_zoo, summary

HELP = """Search, train, measure and export segmentation and classification networks for your own images.

Figures go to standard output (as JSON with --json), progress and errors to standard error. A mistake in what was asked for is
one line and exit status 2; Ctrl-C saves a run, says how to go on, and exits with 130."""


app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "data check my_images",
        "run auto-deeplab --data my_images --out runs/first",
        "run auto-deeplab --data demo --preset quick --out runs/demo",
        "run --help",
    ),
)
data_app = typer.Typer(rich_markup_mode=None, help="Look at a data set before working with it.")


@app.command(
    epilog=examples(
        "run auto-deeplab --data demo --preset quick --out runs/demo",
        "run auto-deeplab --data my_images --out runs/first retrain.epochs=100",
        "run darts --data my_images --out runs/b --max-latency-ms 30 --time 2h",
        "run auto-deeplab --out runs/first --resume",
    )
)
def run(
    system: System,
    overrides: Settings = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    resume: Resume = False,
    time: Time = None,
    max_parameters: MaxParameters = None,
    max_multiply_adds: MaxMultiplyAdds = None,
    max_latency_ms: MaxLatency = None,
    device: BudgetDevice = None,
    baseline: Baseline = None,
    seeds: Seeds = None,
    workers: Workers = None,
    ray: Ray = None,
    no_export: NoExport = False,
    as_json: AsJson = False,
) -> None:
    """From images to a report in one go. Searches, retrains, evaluates, exports, and compares with a network made by hand and a
    random one. Writes RUN/report.html."""
    from segnas import api

    limits = (max_parameters, max_multiply_adds, max_latency_ms, device, time)
    settings = as_settings(*limits, baseline, seeds, workers, ray)
    page = api.run(system, data, required_out(out), preset, [*settings, *(overrides or ())], resume, not no_export)
    print_figures(summary(Path(page).parent), as_json, str(page))


@app.command(
    epilog=examples(
        "search auto-deeplab --data my_images --out runs/a search.epochs=20",
        "search auto-deeplab --out runs/a --resume",
    )
)
def search(
    system: System,
    overrides: Settings = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    resume: Resume = False,
    time: Time = None,
    max_parameters: MaxParameters = None,
    max_multiply_adds: MaxMultiplyAdds = None,
    max_latency_ms: MaxLatency = None,
    device: BudgetDevice = None,
    workers: Workers = None,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Search an architecture for a data set. Writes RUN/architecture.json."""
    from segnas import api
    from segnas.spaces.architecture import identity, to_json

    limits = (max_parameters, max_multiply_adds, max_latency_ms, device, time)
    settings = as_settings(*limits, workers=workers, ray=ray)
    architecture = api.search(system, data, required_out(out), preset, [*settings, *(overrides or ())], resume)
    found = {"run": str(out), "id": identity(architecture), "architecture": to_json(architecture)}
    if as_json:
        print_json(found)
    else:
        print(f"{out}/architecture.json  {found['id']}")


@app.command(
    epilog=examples(
        "retrain runs/first",
        "retrain runs/first/architecture.json --data my_images --out runs/b",
        "retrain auto-deeplab-s --data my_images --out runs/s --preset paper",
        "retrain my.json --data my_images --out runs/m --max-parameters 2e6",
    )
)
def retrain(
    source: Network,
    overrides: Settings = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    form: Form = None,
    resume: Resume = False,
    max_parameters: MaxParameters = None,
    max_multiply_adds: MaxMultiplyAdds = None,
    max_latency_ms: MaxLatency = None,
    device: BudgetDevice = None,
    as_json: AsJson = False,
) -> None:
    """Train an architecture from scratch. That of a run where the run lies, any other with --data and --out."""
    from segnas import api
    from segnas.runs.run import Run

    settings = as_settings(max_parameters, max_multiply_adds, max_latency_ms, device)
    api.retrain(source, data, out, preset, [*settings, *(overrides or ())], resume, form)
    figures = Run.open(out or Path(source)).read_json("retrain.json")
    print_figures(figures, as_json, f"{out or source}/model.safetensors")


@app.command(epilog=examples("evaluate runs/first", "evaluate runs/first split=test scales=[0.75,1.0,1.25] flip=true"))
def evaluate(run_directory: RunDirectory, overrides: Protocol = None, data: MovedData = None, as_json: AsJson = False) -> None:
    """Score a run's model on a whole split. The run's own protocol, unless settings change it."""
    from segnas import api

    found = api.evaluate(run_directory, overrides or (), data)
    if as_json:
        print_json(found.to_json())
        return
    figure, values = ("IoU %", found.scores.iou) if found.model.task.dense else ("accuracy %", found.scores.accuracy)
    shown = ["absent" if value is None else f"{value:.2f}" for value in values]
    print_table(("class", figure), list(zip(found.model.classes.names, shown, strict=True)))
    print("  ".join(f"{name} {value:.2f}" for name, value in found.figures.items()))
    print(found.protocol.text)


@app.command(
    epilog=examples("predict runs/first photo.jpg more_photos/ --out masks", "predict runs/first large.tif --tile 512x512")
)
def predict(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="run directory, or a model.safetensors")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="image files, or folders of them")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="[default: RUN/predictions]")] = None,
    tile: Annotated[str | None, typer.Option("--tile", metavar="HxW", help="work in overlapping tiles of this size")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="average with the mirrored image")] = False,
    as_json: AsJson = False,
) -> None:
    """Segment or classify images with a trained model. Writes index masks, coloured masks and overlays as PNG files.

    A model for classification prints the likeliest class of each image and writes predictions.csv, with the five likeliest.
    """
    from segnas import api
    from segnas.training.predict import Prediction

    predictions = api.predict(source, images, out, tile=parse_size(tile) if tile else None, flip=flip)
    if as_json:
        print_json([prediction.to_json() for prediction in predictions])
        return
    for prediction in predictions:
        if isinstance(prediction, Prediction):
            print(*prediction.files, sep="\n")
        else:
            print(f"{prediction.image}  {prediction.name}  {100 * prediction.probability:.1f} %")


@app.command(epilog=examples("export runs/first", "export runs/first --size 512x1024"))
def export(run_directory: RunDirectory, size: Size = None, data: MovedData = None, as_json: AsJson = False) -> None:
    """Write RUN/model.onnx and check it. Compared with torch on real images; fails when they differ."""
    from segnas import api

    parity = api.export_onnx(run_directory, parse_size(size) if size else None, data)
    print_figures(parity.to_json(), as_json, str(run_directory / "model.onnx"))


@app.command(epilog=examples("report runs/first"))
def report(run_directory: RunDirectory, as_json: AsJson = False) -> None:
    """Write RUN/report.html. Shows whatever stages the run has."""
    from segnas import api

    page = api.write_report(run_directory)
    print_figures(summary(run_directory), as_json, str(page))


@app.command(epilog=examples("compare runs/evolution runs/random", "compare runs/* --out all.html", "compare runs/first --json"))
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run directories")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="page to write")] = Path("compare.html"),
    as_json: AsJson = False,
) -> None:
    """Draw several runs on one page. Table, best so far, Pareto fronts, rank correlations; warns of unequal terms."""
    from segnas import api

    found = api.compare_runs(runs, out)
    if as_json:
        print_json({**found.to_json(), "written": str(out)})
    else:
        print_runs(found)
        print(out)


@app.command(
    epilog=examples(
        "latency runs/first",
        "latency runs/first/model.onnx --threads 1",
        "latency auto-deeplab-s --size 512x1024 --device cuda",
    )
)
def latency(
    source: Annotated[
        str, typer.Argument(metavar="NETWORK", help="run directory, exported .onnx file, JSON file or name of the zoo")
    ],
    overrides: Options = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda [default: the run's, else cpu]")
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="images in one pass")] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="[default: the run's, else torch's]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="NAME", help="32 or bf16 [default: the run's, else 32]")
    ] = None,
    classes: NumClasses = None,
    form: Form = None,
    as_json: AsJson = False,
) -> None:
    """Milliseconds from pixels to logits. Median, quartiles, and whether they were steady.

    A run without options is timed as it was configured, and its latency.json is replaced; with options it is only printed.
    """
    from segnas import api
    from segnas.costs.latency import checked_precision

    chosen = None if precision is None else checked_precision(precision)
    shape = parse_size(size) if size else None
    measured = api.latency(source, shape, classes, overrides or (), batch, device, threads, chosen, form=form)
    if as_json:
        print_json(measured.to_json())
        return
    steady = " (unsteady: the machine was busy)" if measured.unsteady else ""
    print(f"{measured.median_ms:.2f} ms median, {measured.q1_ms:.2f} to {measured.q3_ms:.2f} ms quartiles{steady}")
    conditions = ["x".join(map(str, measured.input)), f"precision {measured.precision}", measured.device, measured.runtime]
    if measured.threads:
        conditions.append(f"{measured.threads} thread{'s' if measured.threads > 1 else ''}")
    if measured.channels_last:
        conditions.append("channels last")
    print(f"input {', '.join(conditions)}")
    print(f"{measured.warmup} runs to warm up, {measured.runs} timed; {measured.includes}")


@app.command(epilog=examples("count auto-deeplab-s --size 1025x2049", "count runs/first --size 360x480 filters=8 --json"))
def count(
    source: Network,
    overrides: Options = None,
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="[default: the run's, else the papers']")] = None,
    classes: NumClasses = None,
    form: Form = None,
    as_json: AsJson = False,
) -> None:
    """Exact parameters and multiply-adds of a network, by part."""
    from segnas import api
    from segnas import zoo as collection

    architecture = collection.find(source, form)
    own_size, own_classes = api.usual_input(source, architecture)
    shape, classes = parse_size(size) if size else own_size, classes or own_classes
    counts = asdict(api.count(source, shape, classes, overrides or (), form))
    if as_json:
        print_json({**counts, "size": list(shape), "classes": classes})
        return
    rows = [*counts["by_part"].items(), ("all", counts)]
    cells = [(part, f"{figures['parameters']:,}", f"{figures['multiply_adds']:,}") for part, figures in rows]
    print_table(("part", "parameters", "multiply-adds"), cells)
    print(f"at {shape[0]}x{shape[1]}, {classes} classes")
    if counts["paper_multiply_adds"] is not None:
        print(f"multiply-adds in the convention of the Auto-DeepLab paper: {counts['paper_multiply_adds']:,}")


@app.command(
    epilog=examples(
        "benchmark nasbench201 --data tables",
        "benchmark nasbench201 --data tables --strategies local-search,tpe",
        "benchmark nasbench-macro --data tables --options evolution.sample=5",
    )
)
def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="nasbench201, transnas-segmentation-micro, ...")],
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="folder of the benchmark's table")] = None,
    strategies: Annotated[str, typer.Option("--strategies", metavar="LIST", help="names, comma apart")] = "random,evolution",
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", metavar="N", min=1, help="of a search  [default: as published]")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="searches of each strategy")] = 100,
    options: Annotated[
        list[str] | None, typer.Option("--options", metavar="KEY=VALUE", help="such as evolution.sample=3; may be repeated")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="processes")] = 1,
    as_json: AsJson = False,
) -> None:
    """How well strategies search, on a tabular benchmark. Mean and deviation over seeds, beside what papers print."""
    from segnas import api

    listed = [word.strip() for word in strategies.split(",")]
    rows = api.benchmark(name, data, listed, evaluations, seeds, options or (), workers)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(("strategy", "figure", "mean %", "std", "published"), [row.cells for row in rows], text_columns=2)
    print(f"{rows[0].evaluations} evaluations a search, {rows[0].seeds} seeds")


@app.command()
def zoo(size: Size = None, form: Form = None, as_json: AsJson = False) -> None:
    """Published architectures: our counts beside the papers'. For the paper's input size and classes, unless --size is given."""
    from segnas import api

    rows = api.published(parse_size(size) if size else None, form)
    if as_json:
        print_json(rows)
    else:
        print_zoo(rows)


@app.command()
def systems(as_json: AsJson = False) -> None:
    """The architecture-search systems and their presets."""
    from segnas.systems.base import all_systems

    found = all_systems()
    if as_json:
        rows = [{"name": one.name, "paper": one.paper, "state": one.state, "presets": list(one.presets)} for one in found]
        print_json([{**row, "tasks": presets_by_task(one)} for row, one in zip(rows, found, strict=True)])
        return
    texts = []
    for one in found:
        lines = [f"{task} presets: {', '.join(names)}" for task, names in presets_by_task(one).items()]
        texts.append((one.name, "\n".join([one.paper, one.state, *lines])))
    spaces = ", ".join(one.name for one in found if one.space is not None)
    texts.append(("random space=NAME", f"random search over the space of another system, or another strategy over it\n{spaces}"))
    print_table(("", ""), texts, text_columns=2)


@data_app.command("check", epilog=examples("data check my_images", "data check my_images --json"))
def data_check(
    data: Annotated[str, typer.Argument(metavar="DIR", help="folder of images and masks, FORMAT:DIR, or 'demo'")],
    as_json: AsJson = False,
) -> None:
    """Whether a data set can be trained on. Reads every image and mask; exit status 2 when something is wrong."""
    from segnas.data.check import check

    found = check(data)
    if as_json:
        print_json(found.to_json())
    else:
        first, *others = found.lines()
        print(first)
        header, *rows = found.rows()
        print_table(header, rows)
        for line in others:
            print(line)
    if not found.ok:
        count = len(found.problems)
        raise UserError(f"{found.where} has {count} problem{'s' if count > 1 else ''}; training refuses it until mended")


app.add_typer(data_app, name="data")


def presets_by_task(system: Any) -> dict[str, list[str]]:
    """The names of a system's presets for each task that it searches networks for."""
    return {task: list(system.presets_for(task)) for task in system.tasks}
