"""How long a step of the Auto-DeepLab supernet takes on a GPU, and the paper's whole search: plain, fused, and replayed.

    python benchmarks/gpu_supernet_step.py                         the paper's setting: crop 321, batch 2, F=8, B=5, 12 layers
    python benchmarks/gpu_supernet_step.py --batch max             the largest batch that fits the fused engine, replayed
    python benchmarks/gpu_supernet_step.py --json --limit 540      what is measured within nine minutes, one row a line
    python benchmarks/gpu_supernet_step.py --device cpu --layers 2 --blocks 1 --filters 2 --crop 33        does it run at all?

A step is the search's own (`search_step`): gradients, clipping as in the preset `paper` (none), SGD, then Adam; images lie on the
device. Each row is measured in a process of its own on a GPU, so that one that finds no memory leaves nothing behind. Seconds are
medians over steps, each waited for. Kernels and their time are read from torch.profiler in a step apart, which slows launches but
no kernel: the share of time in which the GPU computes is their sum over the seconds of a step that is not profiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segnas.config import to_dict
from segnas.data.base import Classes, Sample
from segnas.data.loading import Batch
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import UserError
from segnas.nets import compiled
from segnas.runs.run import Run
from segnas.systems.auto_deeplab import AutoDeepLabConfig, Search, SearchConfig
from segnas.systems.base import Job
from segnas.training.device import DeviceConfig, launch
from segnas.training.preflight import synchronize

MODES = {  # engine, and whether steps are replayed
    "plain": ("plain", False),
    "plain replayed": ("plain", True),
    "fused": ("fused", False),
    "fused replayed": ("fused", True),
}
WEIGHT_STEPS, ARCHITECTURE_STEPS = 40 * 744, 20 * 744  # half of Cityscapes' 2,975 images in batches of 2; alpha from epoch 20 on
IMAGES = 2  # of those batches
SHORT = 20.0  # seconds: so much is measured of a kind of step, at most


@dataclass(frozen=True)
class Case:
    """What one row measures."""

    mode: str
    precision: str = "32"
    batch: int = 2
    crop: int = 321
    layers: int = 12
    blocks: int = 5
    filters: int = 8
    classes: int = 19
    device: str = "cuda"
    steps: int = 10


@dataclass
class Noise:
    """A data set of random images and labels, side x side."""

    count: int
    side: int
    classes: Classes
    name: str = "noise"
    task: str = "segmentation"
    splits: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.splits = {"train": tuple(str(number) for number in range(self.count)), "val": ("0",)}

    def read(self, split: str, index: int) -> Sample:
        """Drawn for the index."""
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return Sample(str(index), image, generator.integers(0, len(self.classes), (self.side, self.side), dtype=np.uint8))

    def size(self, split: str, index: int) -> tuple[int, int]:
        """Of every image."""
        return self.side, self.side


def search_of(case: Case, folder: Path) -> Search:
    """A search at the preset `paper`'s settings but for what the case says."""
    engine, replayed = MODES[case.mode]
    settings: dict[str, Any] = {"layers": case.layers, "blocks": case.blocks, "filters": case.filters, "engine": engine}
    config = AutoDeepLabConfig(
        data=DataConfig(crop=(case.crop, case.crop), cache="none"),
        device=DeviceConfig(accelerator=case.device, precision=case.precision, graphs=replayed),  # type: ignore[arg-type]
        search=SearchConfig(crop=(case.crop, case.crop), batch_size=case.batch, **settings),
    )
    colors = tuple((number, number, number) for number in range(case.classes))
    dataset = Noise(2 * case.batch, case.crop, Classes(tuple(f"class {number}" for number in range(case.classes)), colors))
    run = Run.create(folder / "run", to_dict(config), False)
    return Search(Job(config, dataset, Normalization((0.5,) * 3, (0.29,) * 3), run, launch(config.device)))


def measure(case: Case) -> dict[str, Any]:
    """The row of a case."""
    with tempfile.TemporaryDirectory() as folder:
        this = search_of(case, Path(folder))
        device = this.job.device.device
        batch, _ = next(this.pairs())
        batch = Batch(*this.placed(batch), batch.names)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        def step() -> None:
            this.search_step(batch, batch)

        found: dict[str, float] = {}
        for name, epoch in (("weights", 0), ("both", this.config.architecture_from_epoch)):
            this.epoch = epoch
            for _ in range(1 + this.replays.warm_up):
                step()
            found[name] = seconds_a_step(step, device, case.steps)
        counted, busy = kernels_of(step) if device.type == "cuda" else (None, None)
        losses = this.sums.tolist()
        this.job.run.release()
        hours = (WEIGHT_STEPS * found["weights"] + ARCHITECTURE_STEPS * (found["both"] - found["weights"])) / 3600
        return {
            **dataclasses.asdict(case),
            "title": this.job.device.title,
            "torch": torch.__version__,
            "compiled": device.type == "cpu" and compiled.library() is not None,
            "replays": this.replays.recorder is not None,
            "seconds_weights": found["weights"],
            "seconds_both": found["both"],
            "peak_memory_gib": torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None,
            "kernels": counted,
            "busy": None if busy is None else busy / found["both"],
            "hours": hours * IMAGES / case.batch,
            "finite": bool(np.isfinite(losses).all()),
        }


def seconds_a_step(step: Callable[[], None], device: torch.device, steps: int) -> float:
    """The median, over `steps` steps or as many as are done in `SHORT` seconds."""
    seconds: list[float] = []
    synchronize(device)
    while len(seconds) < steps and sum(seconds) < SHORT:
        started = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def kernels_of(step: Callable[[], None]) -> tuple[int, float]:
    """How many kernels a step of both kinds runs on the GPU, and the seconds that they run for."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    events = profile.profiler.kineto_results.events()  # as they are: torch's own tables take minutes for so many
    ran = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
    kernels_ = [event for event in ran if not event.name().startswith(("Memcpy", "Memset"))]
    return len(kernels_), sum(event.duration_ns() for event in ran) / 1e9


class Bench:
    """Measures cases within a time limit; on a GPU each in a process of its own."""

    def __init__(self, limit: float) -> None:
        self.ends = time.monotonic() + limit

    def left(self) -> float:
        return self.ends - time.monotonic()

    def row(self, case: Case, apart: bool | None = None) -> dict[str, Any]:
        """The row of a case, with the key `error` instead of figures when there are none."""
        if self.left() <= 0:
            return {**dataclasses.asdict(case), "error": "no time left"}
        apart = case.device == "cuda" if apart is None else apart
        return self._apart(case) if apart else measured(case)

    def _apart(self, case: Case) -> dict[str, Any]:
        command = [sys.executable, __file__, "--case", json.dumps(dataclasses.asdict(case))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, self.left()))
        except subprocess.TimeoutExpired:
            return {**dataclasses.asdict(case), "error": "no time left"}
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return {**dataclasses.asdict(case), "error": reason}
        row: dict[str, Any] = json.loads(lines[-1])
        return row

    def largest(self, case: Case) -> int:
        """The largest batch whose step fits: doubled until one does not, then bisected to an eighth; 0: none."""
        fits, fails = 0, 0
        while self.left() > 0 and (not fails or fails - fits > max(1, fails // 8)):
            size = (fits + fails) // 2 if fails else max(case.batch, 2 * fits)
            error = self.row(dataclasses.replace(case, batch=size, steps=1)).get("error", "")
            if "no time" in error:
                break
            if error and "out of memory" not in error:
                raise SystemExit(f"batch {size}: {error}")
            fits, fails = (fits, size) if error else (size, fails)
            say(f"batch {size}: {'does not fit' if error else 'fits'}")
        return fits


def measured(case: Case) -> dict[str, Any]:
    """The row of a case, measured in this process."""
    try:
        return measure(case)
    except torch.OutOfMemoryError:
        return {**dataclasses.asdict(case), "error": "out of memory"}
    except (UserError, RuntimeError) as error:
        return {**dataclasses.asdict(case), "error": str(error).splitlines()[0]}
    finally:
        gc.collect()


def rows(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows that are asked for, each as soon as it is there, with its ratio to plain eager of the same precision."""
    bench = Bench(asked.limit)
    shape = {name: getattr(asked, name) for name in ("crop", "layers", "blocks", "filters", "device", "steps")}
    for precision in asked.precision:
        batch = 2
        if asked.batch != "max":
            batch = int(asked.batch)
        elif asked.device == "cuda":
            batch = bench.largest(Case("fused replayed", precision, 2, **shape)) or batch
        plain: dict[str, Any] = {}
        for mode in asked.modes:
            row = bench.row(Case(mode, precision, batch, **shape))
            plain = row if mode == "plain" else plain
            for name in ("weights", "both"):
                key = f"seconds_{name}"
                row[f"ratio_{name}"] = plain[key] / row[key] if key in plain and key in row else None
            yield row


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows as a table, under what they were measured on."""
    first = next((row for row in found if "error" not in row), found[0])
    shape = f"{first['layers']} layers, B={first['blocks']}, F={first['filters']}, crop {first['crop']}"
    place = f"{first.get('title', first['device'])}, torch {torch.__version__}, Python {platform.python_version()}"
    head = ["engine", "precision", "batch", "weights, s", "both, s", "to plain", "memory, GiB", "kernels", "computing"]
    head.append("search, h")
    lines = [f"Auto-DeepLab's supernet, {shape}, {first['classes']} classes; {place}; {date.today()}.", ""]
    if first["device"] == "cpu":
        lines += ["Not a measurement of a GPU: on the CPU nothing is replayed.", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (head, ["--"] * len(head), *map(cells_of, found))]
    hours = f"{WEIGHT_STEPS:,} weight steps and {ARCHITECTURE_STEPS:,} architecture steps of {IMAGES} images"
    lines += ["", "*both*: a step of weights, then of the architecture. *computing*: the share of it in which kernels run."]
    lines += [f"*search, h*: {hours}, or as many images in larger batches."]
    return "\n".join(lines) + "\n"


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """The row's line of the table, or its error in the place of figures."""
    begin = [row["mode"], row["precision"], str(row["batch"])]
    if "error" in row:
        return [*begin, row["error"], *[""] * 6]

    def shown(key: str, form: str) -> str:
        return "" if row[key] is None else format(row[key], form)

    figures = (("seconds_weights", ".4g"), ("seconds_both", ".4g"), ("ratio_both", ".1f"), ("peak_memory_gib", ".1f"))
    return [*begin, *(shown(*figure) for figure in (*figures, ("kernels", ",d"), ("busy", ".0%"), ("hours", ".2f")))]


def say(text: str) -> None:
    """Progress and complaints, beside the output."""
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    default = Case("plain")
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--batch", default="2", help="images a step, or max")
    options.add_argument("--modes", nargs="+", choices=list(MODES), default=["plain", "fused", "fused replayed"])
    options.add_argument("--precision", nargs="+", choices=("32", "bf16"), default=["32", "bf16"])
    for name in ("crop", "layers", "blocks", "filters", "steps"):
        options.add_argument(f"--{name}", type=int, default=getattr(default, name))
    options.add_argument("--limit", type=float, default=540.0, help="seconds after which no further row is begun")
    options.add_argument("--json", action="store_true", help="a row a line on the standard output")
    options.add_argument("--write", type=Path, help="a file for the table")
    options.add_argument("--case", help=argparse.SUPPRESS)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for, row by row; the exit status."""
    asked = parser().parse_args(arguments)
    if asked.case:
        print(json.dumps(measured(Case(**json.loads(asked.case)))))
        return 0
    if asked.device == "cuda" and not torch.cuda.is_available():
        say("torch finds no CUDA device here; --device cpu runs the script without one")
        return 2
    found: list[dict[str, Any]] = []
    for row in rows(asked):
        found.append(row)
        print(json.dumps(row) if asked.json else " ".join(cells_of(row)), flush=True)
        if asked.write:  # after each row: what is there is there
            asked.write.write_text(markdown(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
