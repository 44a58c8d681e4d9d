"""The command line: one verb a function, each a thin layer over api.py.

Figures go to standard output (as JSON with --json), progress and errors to standard error. A user's mistake is one line and
exit status 2; an interrupted run is saved, says how to go on, and exits with 130.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from segnas.errors import Interrupted, UserError
from segnas.runs.run import FULL_DISK

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Look at a data set before working with it.")
app.add_typer(data_app, name="data")

Data = Annotated[str | None, typer.Option("--data", help="folder of images and masks, or 'demo'")]
Out = Annotated[Path | None, typer.Option("--out", help="run directory to write")]
Preset = Annotated[str | None, typer.Option("--preset", help="quick, small or paper [default: small]")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides of the configuration")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Size = Annotated[str | None, typer.Option("--size", metavar="HxW", help="height x width of the input, for example 360x480")]
NumClasses = Annotated[int | None, typer.Option("--classes", min=1, help="number of classes [default: the run's, else 19]")]


@app.command()
def systems(as_json: AsJson = False) -> None:
    """The architecture-search systems that are here, with their presets and state."""
    from segnas.systems.base import all_systems

    rows = [
        {"name": system.name, "paper": system.paper, "state": system.state, "presets": list(system.presets)}
        for system in all_systems()
    ]
    show(rows, as_json, ["name", "state", "presets", "paper"])


@app.command()
def zoo(size: Size = None, as_json: AsJson = False) -> None:
    """Published architectures: what their papers print and what is counted here (19 classes, 1025x2049 unless told)."""
    from segnas import zoo as collection
    from segnas.costs.counts import count as count_architecture

    shape = parse_size(size) if size else (1025, 2049)
    rows = []
    for name in collection.names():
        entry = collection.load(name)
        counts = count_architecture(entry.architecture, shape, 19)
        paper_multiply_adds = counts.paper_multiply_adds
        rows.append(
            {
                "name": name,
                "paper_parameters_m": entry.paper.get("parameters_m"),
                "parameters": counts.parameters,
                "paper_multiply_adds_g": entry.paper.get("multiply_adds_g"),
                "multiply_adds_in_its_convention": paper_multiply_adds,
                "multiply_adds": counts.multiply_adds,
                "size": list(shape),
                "paper": entry.paper,
            }
        )
    show(rows, as_json, [key for key in rows[0] if key not in ("size", "paper")])


@data_app.command("check")
def data_check(data: Annotated[str, typer.Argument(metavar="DIR", help="folder, or 'demo'")], as_json: AsJson = False) -> None:
    """Pairs, sizes, classes, unknown ids, unreadable files; exit status 2 when something is wrong."""
    from segnas.data.check import check

    report = check(data)
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        for row in report.rows():
            print(row)
    if not report.ok:
        raise typer.Exit(2)


@app.command()
def count(
    source: Annotated[str, typer.Argument(metavar="NAME_OR_JSON", help="zoo name, JSON file or run")],
    overrides: Overrides = None,
    size: Annotated[str, typer.Option("--size", metavar="HxW")] = "1025x2049",
    classes: NumClasses = None,
    as_json: AsJson = False,
) -> None:
    """Exact parameters and multiply-adds of a network; `filters=4` and the like override its options."""
    from segnas import api

    counts = asdict(api.count(source, parse_size(size), classes, overrides or ()))
    if as_json:
        print(json.dumps(counts, indent=1))
        return
    rows = [{"part": part, **figures} for part, figures in counts["by_part"].items()]
    rows.append({"part": "all", "parameters": counts["parameters"], "multiply_adds": counts["multiply_adds"]})
    show(rows, False, ["part", "parameters", "multiply_adds"])
    if counts["paper_multiply_adds"] is not None:
        print(f"multiply-adds in the convention of the Auto-DeepLab paper: {counts['paper_multiply_adds']:,}")


@app.command()
def latency(
    source: Annotated[str, typer.Argument(metavar="ARCH", help="run, zoo name or JSON file")],
    overrides: Overrides = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda")] = "cpu",
    size: Size = None,
    batch: Annotated[int, typer.Option("--batch", min=1)] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="[default: torch's]")] = None,
    precision: Annotated[str, typer.Option("--precision", help="32 or bf16")] = "32",
    classes: NumClasses = None,
    as_json: AsJson = False,
) -> None:
    """Milliseconds of one forward pass: median, quartiles, and whether they were steady."""
    from segnas import api

    if precision not in ("32", "bf16"):
        raise UserError(f"unknown precision '{precision}'; allowed: 32, bf16")
    shape = parse_size(size) if size else None
    measured = api.latency(source, shape, classes, overrides or (), batch, device=device, threads=threads, precision=precision)
    if as_json:
        print(json.dumps(measured.to_json(), indent=1))
        return
    steady = " (unsteady: the machine was busy)" if measured.unsteady else ""
    shape_text = "x".join(map(str, measured.input))
    print(f"{measured.median_ms:.2f} ms median, {measured.q1_ms:.2f} to {measured.q3_ms:.2f} ms quartiles{steady}")
    print(
        f"{measured.device}, {measured.runtime}, input {shape_text}, threads {measured.threads}, precision {measured.precision}"
    )
    print(f"{measured.warmup} runs to warm up, {measured.runs} timed; {measured.includes}")


@app.command()
def search(
    system: Annotated[str, typer.Argument(metavar="SYSTEM")],
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Search an architecture; writes RUN/architecture.json."""
    from segnas import api
    from segnas.spaces.architecture import identity, to_json

    architecture = api.search(system, data, required_out(out), preset, overrides or (), resume)
    if as_json:
        print(json.dumps({"id": identity(architecture), "architecture": to_json(architecture)}, indent=1))
    else:
        print(f"{out}/architecture.json  {identity(architecture)}")


@app.command()
def retrain(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_ARCHITECTURE", help="run, JSON file or zoo name")],
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train the architecture of a run (or of a JSON file or the zoo, with --data and --out) from scratch."""
    from segnas import api
    from segnas.runs.run import Run

    api.retrain(source, data, out, preset, overrides or (), resume)
    figures = Run.open(out or Path(source)).read_json("retrain.json")
    show_figures(figures, as_json, f"{out or source}/model.safetensors")


@app.command()
def run(
    system: Annotated[str, typer.Argument(metavar="SYSTEM")],
    overrides: Overrides = None,
    data: Data = None,
    out: Out = None,
    preset: Preset = None,
    resume: Resume = False,
    no_export: Annotated[bool, typer.Option("--no-export", help="leave out the ONNX file")] = False,
    as_json: AsJson = False,
) -> None:
    """Search, retrain, evaluate, measure, export and report in one go."""
    from segnas import api

    page = api.run(system, data, required_out(out), preset, overrides or (), resume, not no_export)
    show_figures(summary(Path(page).parent), as_json, str(page))


@app.command()
def evaluate(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's model on a whole split; `split=test`, `scales=[0.75,1.0,1.25]`, `flip=true` change the protocol."""
    from segnas import api

    found = api.evaluate(run_directory, overrides or (), data)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    for name, iou in zip(found.model.classes.names, found.scores.iou, strict=True):
        print(f"{name:20} {'absent' if iou is None else f'{iou:6.2f}'}")
    print(f"mIoU {found.scores.mIoU:.2f}  mAcc {found.scores.mAcc:.2f}  aAcc {found.scores.aAcc:.2f}")
    print(found.protocol.text)


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files, or folders of them")],
    out: Annotated[Path | None, typer.Option("--out", help="folder [default: RUN/predictions]")] = None,
    tile: Annotated[str | None, typer.Option("--tile", metavar="HxW", help="work in overlapping tiles of this size")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="average with the mirrored image")] = False,
    as_json: AsJson = False,
) -> None:
    """Write index masks, coloured masks and overlays of images."""
    from segnas import api

    predictions = api.predict(source, images, out, tile=parse_size(tile) if tile else None, flip=flip)
    if as_json:
        print(json.dumps([prediction.to_json() for prediction in predictions], indent=1))
        return
    for prediction in predictions:
        for path in prediction.files:
            print(path)


@app.command()
def export(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN")], size: Size = None, data: Data = None, as_json: AsJson = False
) -> None:
    """Write RUN/model.onnx and check it against torch on real images."""
    from segnas import api

    parity = api.export_onnx(run_directory, parse_size(size) if size else None, data)
    show_figures(parity.to_json(), as_json, str(run_directory / "model.onnx"))


@app.command()
def report(run_directory: Annotated[Path, typer.Argument(metavar="RUN")], as_json: AsJson = False) -> None:
    """Write RUN/report.html."""
    from segnas import api

    page = api.write_report(run_directory)
    show_figures(summary(run_directory), as_json, str(page))


def parse_size(text: str) -> tuple[int, int]:
    """`360x480` -> (360, 480); UserError for anything else."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UserError(f"'{text}' is no size; write height x width, for example 360x480")
    return int(height), int(width)


def required_out(out: Path | None) -> Path:
    """The run directory; UserError when none was given."""
    if out is None:
        raise UserError("say where to write the run: --out RUN")
    return out


def summary(run_directory: Path) -> dict[str, Any]:
    """The figures of a run that people ask for first."""
    from segnas.runs.run import Run

    found = Run.open(run_directory)
    figures: dict[str, Any] = {"run": str(run_directory)}
    if found.has("architecture.json"):
        figures["architecture"] = found.read_json("architecture.json")["id"]
    for path in sorted(run_directory.glob("evaluation*.json")):
        evaluation = found.read_json(path.name)
        figures[f"mIoU_{evaluation['split']}"] = evaluation["mIoU"]
    if found.has("cost.json"):
        cost = found.read_json("cost.json")
        figures |= {"parameters": cost["parameters"], "multiply_adds": cost["multiply_adds"]}
    if found.has("latency.json"):
        figures["latency_ms"] = found.read_json("latency.json")["median_ms"]
    if found.has("parity.json"):
        figures["largest_logit_difference"] = found.read_json("parity.json")["largest_logit_difference"]
    if found.has("timing.json"):
        figures["seconds"] = found.read_json("timing.json")
    return figures


def show_figures(figures: dict[str, Any], as_json: bool, written: str) -> None:
    """One figure a line and the file that was written, or all as JSON."""
    if as_json:
        print(json.dumps({**figures, "written": written}, indent=1))
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {formatted(item)}" for key, item in value.items())
        print(f"{name:26} {formatted(value)}")
    print(written)


def show(rows: Sequence[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    """Rows as a table within the terminal's width, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        number = isinstance(rows[0][column], (int, float))
        table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(formatted(row[column]) for column in columns))
    Console(highlight=False).print(table)


def formatted(value: Any) -> str:
    """A value for people: thousands apart, four significant digits, lists with commas."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a verb and turns what goes wrong into one line and an exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(args=given, prog_name="segnas", standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except Interrupted as error:
        words = [word for word in given if word != "--resume"]
        fail(f"{str(error).removesuffix('; go on with --resume')}; go on with: segnas {shlex.join([*words, '--resume'])}", 130)
    except KeyboardInterrupt:
        fail("stopped; what was saved last is kept (--resume goes on from it)", 130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        fail(f"the disk is full: cannot write {error.filename or 'a file'}; free some space and go on with --resume")
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own complaints about the words of the command
            raise
        fail(error.format_message().replace("\n", " "))
    else:
        sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one line on standard error and exit."""
    print(f"segnas: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
