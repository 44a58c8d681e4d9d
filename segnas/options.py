"""The options of the command line: what each is called, what it means, and how its text becomes a value."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from segnas.errors import UserError

System = Annotated[str, typer.Argument(metavar="SYSTEM", help="a name that `segnas systems` lists, or a Python file")]
Network = Annotated[str, typer.Argument(metavar="ARCHITECTURE", help="run directory, JSON file or name of the zoo")]
RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="settings, such as retrain.epochs=50")]
Options = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="network options, such as filters=8")]
Protocol = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="split=test, scales=[0.75,1.0,1.25], flip=true, batch_size=4")
]
Data = Annotated[str | None, typer.Option("--data", metavar="DIR", help="folder of images and masks, FORMAT:DIR, or 'demo'")]
MovedData = Annotated[str | None, typer.Option("--data", metavar="DIR", help="where the run's images lie now, if they moved")]
Out = Annotated[Path | None, typer.Option("--out", metavar="RUN", help="run directory to write")]
Preset = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="quick, small or paper  [default: small]")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out")]
Form = Annotated[str | None, typer.Option("--form", metavar="NAME", help="network of the cells: cifar, imagenet or segmentation")]
NoExport = Annotated[bool, typer.Option("--no-export", help="leave out the ONNX file")]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", metavar="NAME", help="unet, deeplab-v3-plus, resnet, auto or none  [default: auto]"),
]
Seeds = Annotated[int | None, typer.Option("--seeds", metavar="N", min=1, help="trainings of each network  [default: 1]")]
Time = Annotated[str | None, typer.Option("--time", metavar="T", help="such as 2h or 90min: sizes search and training")]
MaxParameters = Annotated[str | None, typer.Option("--max-parameters", metavar="N", help="the widest network within it")]
MaxMultiplyAdds = Annotated[str | None, typer.Option("--max-multiply-adds", metavar="N", help="for one image, such as 1e9")]
MaxLatency = Annotated[float | None, typer.Option("--max-latency-ms", metavar="MS", help="for one image, measured on --device")]
BudgetDevice = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda: where latency counts [default: the run's]")
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", min=0, help="processes that do trials  [default: 0]")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="of a Ray cluster that does the trials")]
Size = Annotated[str | None, typer.Option("--size", metavar="HxW", help="height x width of the input, such as 360x480")]
NumClasses = Annotated[int | None, typer.Option("--classes", metavar="K", min=1, help="[default: the run's, else the papers']")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, with exact figures")]

UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}  # seconds


def examples(*lines: str) -> str:
    r"""The end of a verb's help: commands to copy, kept line by line (`\b`)."""
    return "\b\nExamples:\n" + "\n".join(f"  segnas {line}" for line in lines)


def parse_size(text: str) -> tuple[int, int]:
    """`360x480` -> (360, 480); UserError for anything else."""
    height, separator, width = text.lower().partition("x")
    if not (separator and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"'{text}' is no size; write height x width, for example 360x480")
    return int(height), int(width)


def parse_duration(text: str) -> float:
    """`2h`, `90min`, `1h30min`, `45s`, `1d` -> seconds; UserError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text.lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.lower().replace(" ", ""):
        raise UserError(f"'{text}' is no length of time; write for example 2h, 90min or 1h30min")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UserError(f"'{text}' is no time at all; write for example 2h")
    return seconds


def parse_limit(option: str, text: str) -> int:
    """`2e6`, `2000000` -> 2000000; UserError, naming the option, for what is no whole number from 1 to 1e18."""
    try:
        number = Decimal(text)
        if 1 <= number <= 10**18 and number == int(number):
            return int(number)
    except (ArithmeticError, ValueError):
        pass
    raise UserError(f"{option} takes a whole number from 1 to 1e18, such as 2e6 or 2000000, not '{text}'")


def as_settings(
    max_parameters: str | None = None,
    max_multiply_adds: str | None = None,
    max_latency_ms: float | None = None,
    device: str | None = None,
    time: str | None = None,
    baseline: str | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> list[str]:
    """The options that stand for settings, as `key=value`; those that are not given are left out."""
    values = {
        "budget.max_parameters": None if max_parameters is None else parse_limit("--max-parameters", max_parameters),
        "budget.max_multiply_adds": None if max_multiply_adds is None else parse_limit("--max-multiply-adds", max_multiply_adds),
        "budget.max_latency_ms": max_latency_ms,
        "budget.device": device,
        "time_limit": None if time is None else parse_duration(time),
        "comparison.baseline": baseline,
        "comparison.seeds": seeds,
        "execution.workers": workers,
        "execution.ray": ray,
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def required_out(out: Path | None) -> Path:
    """The run directory; UserError when none was given."""
    if out is None:
        raise UserError("say where to write the run: --out RUN")
    return out
