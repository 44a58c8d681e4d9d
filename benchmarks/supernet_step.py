"""How long a search step takes and how much memory it needs, with the plain and the fused engine, side by side.

    python benchmarks/supernet_step.py --quick          three small settings, under a minute
    python benchmarks/supernet_step.py --write          everything, and benchmarks/README.md from it
    python benchmarks/supernet_step.py --settings darts --engines plain,fused --threads 1
    python benchmarks/supernet_step.py --scaling | --pipeline [--data DIR]

Each engine runs in a process of its own (child.py), and those of a setting take their steps in turn. README.md says how each
column is measured; settings.py holds the settings, floor.py what is counted by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from segnas.errors import did_you_mean
from settings import BASE, ENGINES, MAIN_ENGINES, PUBLIC, QUICK, SCALING, SETTINGS, Setting, engines_of
from tables import page, pipeline_table, public_table, scaling_table, step_table

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
FEWER = 3  # timed steps of engines that are shown beside the main ones
EVERY = {**SETTINGS, **QUICK}
NO_KERNELS = "note: the compiled kernels are not in use (no C compiler, or SEGNAS_KERNELS=off): fused runs on torch's operations"

Row = dict[str, Any]


class Child:
    """A process of child.py. Where it fails the program ends, with a line and status 2."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.name = " ".join(str(task[key]) for key in ("task", "engine") if key in task)
        command = [sys.executable, str(HERE / "child.py"), json.dumps(task)]
        paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))  # this checkout, not another
        environment = {**os.environ, "PYTHONPATH": paths}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, question: str = "") -> Row:
        """The next answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if question and self.process.poll() is None:
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            if status != 2:  # else it said itself what was wrong
                print(f"error: the process '{self.name}' ended with status {status} before it answered", file=sys.stderr)
            sys.exit(2)
        found: Row = json.loads(line)
        return found

    def last(self, question: str = "") -> Row:
        """The next answer, after which the process has ended."""
        found = self.ask(question)
        self.end()
        return found

    def end(self) -> None:
        """Wait for it, or make it end when it was left in its midst."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def in_turn(tasks: Sequence[tuple[Setting, str]], threads: int | None, steps: int, count_kernels: bool) -> list[Row]:
    """A row for each (setting, engine): a process each, a step of each in turn, now in this order and now in the other."""
    children = [
        Child({"task": "step", "setting": asdict(setting), "engine": engine, "threads": threads}) for setting, engine in tasks
    ]
    rows = [{**child.ask(), "steps": []} for child in children]
    for number in range(1 + steps):
        for row, child in list(zip(rows, children, strict=True))[:: 1 if number % 2 else -1]:
            row["steps"].append(child.ask("step")["seconds"])
    for row, child in zip(rows, children, strict=True):
        row["steps"] = row["steps"][1:]  # the first is never like the others
        row |= {"seconds": median(row["steps"]), **child.last("kernels" if count_kernels else "end")}
    return rows


def measured(
    names: Sequence[str], asked: Sequence[str] | None, threads: int | None, steps: int, count_kernels: bool
) -> list[Row]:
    """The rows of settings and engines, with ratios to the base where it is among them. asked: None for all of the setting's."""
    rows = []
    for name in names:
        engines = asked or engines_of(EVERY[name])
        groups = [[engine for engine in engines if (engine in MAIN_ENGINES) == main] for main in (True, False)]
        found: dict[str, Row] = {}
        for group, number in zip(groups, (steps, min(steps, FEWER)), strict=True):
            tasks = [(EVERY[name], engine) for engine in group]
            found |= dict(zip(group, in_turn(tasks, threads, number, count_kernels and group is groups[0]), strict=True))
        base = found.get(BASE)
        for engine in engines:
            row = {"setting": name, "engine": engine, **found[engine]}
            for ratio, figure in (("time_ratio", "seconds"), ("memory_ratio", "memory_mib")):
                row[ratio] = None if base is None else base[figure] / row[figure]
            rows.append(row)
            told(f"{name} {engine}: {row['seconds']:.3g} s, {row['memory_mib']:.0f} MiB")
    return rows


def with_floors(rows: Sequence[Row], threads: int | None) -> Row:
    """Peak, bandwidth and the work of each setting's step; the rows are given their floor and its share."""
    names = list(dict.fromkeys(row["setting"] for row in rows))
    found = Child({"task": "floor", "settings": [asdict(EVERY[name]) for name in names], "threads": threads}).last()
    floors = [{"setting": name, **work} for name, work in zip(names, found["work"], strict=True)]
    for row in rows:
        work = next(one for one in floors if one["setting"] == row["setting"])
        row["floor_seconds"] = max(work["flops"] / found["peak"], work["bytes"] / found["bandwidth"])
        row["share"] = row["floor_seconds"] / row["seconds"]
    return {"peak": found["peak"], "bandwidth": found["bandwidth"], "floors": floors}


def of_public_threads(rows: Sequence[Row], steps: int) -> list[Row]:
    """The fused engine with the threads of the public figures, where `rows` lacks it."""
    there = {(row["setting"], row["threads"]) for row in rows if row["engine"] == "fused"}
    missing = [public for public in PUBLIC if (public.setting, public.threads) not in there]
    return [row for public in missing for row in measured([public.setting], ["fused"], public.threads, min(steps, FEWER), False)]


def scaling(threads: int | None, steps: int) -> list[Row]:
    """Seconds of the fused engine as crops, edges and operations grow."""
    rows = []
    for grows, sizes in SCALING.items():
        found = in_turn([(setting, "fused") for setting in sizes.values()], threads, min(steps, FEWER), False)
        rows += [{"grows": grows, "size": size, **row} for size, row in zip(sizes, found, strict=True)]
        told(f"{grows}: " + ", ".join(f"{row['size']} {row['seconds']:.3g} s" for row in rows if row["grows"] == grows))
    return rows


def loading(data: str, names: Sequence[str]) -> Row:
    """Samples a second of the input pipeline at the crops and batches of these settings."""
    chosen = {name: EVERY[name] for name in names}
    crops, batches = ([getattr(setting, key) for setting in chosen.values()] for key in ("crop", "batch"))
    found = Child({"task": "pipeline", "data": data, "crops": crops, "batches": batches}).last()
    source = "scenes of the demo set in PNG files" if data == "demo" else Path(data).name
    rows = [{"setting": name, "crop": EVERY[name].crop, **rates} for name, rates in zip(chosen, found["samples"], strict=True)]
    return {"rows": rows, "size": found["size"], "images": found["images"], "data": source}


def beside_steps(loaded: Row, rows: Sequence[Row]) -> Row:
    """The same with the samples a second that the fused steps in `rows` use."""
    seconds = {row["setting"]: row["seconds"] for row in rows if row["engine"] == "fused"}
    for row in loaded["rows"]:
        row["used"] = EVERY[row["setting"]].images_a_step / seconds[row["setting"]]
    return loaded


def everything(options: argparse.Namespace) -> Row:
    """All that the page holds."""
    begin = time.monotonic()
    loaded = loading(options.data, list(SETTINGS))  # first, as the folder may be no data set
    rows = measured(list(SETTINGS), None, options.threads, options.steps, True)
    machine = with_floors(rows, options.threads)
    used = rows[0]["threads"]
    return {
        "rows": [*rows, *of_public_threads(rows, options.steps)],
        "floors": machine.pop("floors"),
        "scaling": scaling(options.threads, options.steps),
        "pipeline": beside_steps(loaded, rows),
        "machine": {**machine, **about(rows), "threads": used},
        "steps": options.steps,
        "fewer_steps": min(options.steps, FEWER),
        "command": " ".join(["python", "benchmarks/supernet_step.py", *sys.argv[1:]]),
        "minutes": (time.monotonic() - begin) / 60,
    }


def about(rows: Sequence[Row]) -> Row:
    """The machine, and what ran on it."""
    from segnas.costs.latency import processor

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": rows[0]["torch"],
        "python": platform.python_version(),
        "compiled": all(row["compiled"] for row in rows),
        "date": time.strftime("%Y-%m-%d"),
    }


def told(line: str) -> None:
    """Progress, beside the output."""
    print(line, file=sys.stderr, flush=True)


def several(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """Names with commas between them, each one of `known`."""

    def parsed(text: str) -> list[str]:
        names = list(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown '{name}'{did_you_mean(name, known)}")
        return names

    return parsed


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least 1")
    return int(text)


class Parser(argparse.ArgumentParser):
    """One line for a mistake."""

    def error(self, message: str) -> Any:
        self.exit(2, f"error: {message}\n")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a mistake ends the program with one line and status 2."""
    parser = Parser(description="Seconds and memory of a search step: everything, unless an option says what.")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--quick", action="store_true", help="small settings, plain and fused: under a minute")
    part.add_argument("--scaling", action="store_true", help="how the fused step's time grows, alone")
    part.add_argument("--pipeline", action="store_true", help="the input pipeline beside the fused steps, alone")
    part.add_argument("--write", action="store_true", help="everything, written to benchmarks/README.md too")
    parser.add_argument("--settings", type=several(EVERY), metavar="A,B", help=", ".join(EVERY))
    parser.add_argument("--engines", type=several(ENGINES), metavar="A,B", help=", ".join(ENGINES))
    parser.add_argument("--steps", type=positive, help="timed steps of an engine (default 5, with --quick 3)")
    parser.add_argument("--threads", type=positive, help="default: as many as torch takes by itself")
    parser.add_argument("--data", default="demo", help="folder that the input pipeline reads (default: drawn scenes)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if (options.settings or options.engines) and (options.quick or options.scaling or options.write):
        parser.error("--settings and --engines choose what is measured, and so do --quick, --scaling and --write")
    options.steps = options.steps or (FEWER if options.quick else 5)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the options ask for, and print it."""
    options = parsed(arguments)
    tables: list[str]
    if options.scaling:
        rows = scaling(options.threads, options.steps)
        tables = [scaling_table(rows)]
    elif options.pipeline:
        names = options.settings or list(SETTINGS)
        loaded = loading(options.data, names)
        steps = measured(names, ["fused"], options.threads, options.steps, False)
        rows = beside_steps(loaded, steps)["rows"]
        tables = [pipeline_table(rows)]
    elif options.quick:
        rows = measured(list(QUICK), [BASE, "fused"], options.threads, options.steps, False)
        tables = [step_table(rows)]
    elif options.settings or options.engines:
        rows = measured(options.settings or list(SETTINGS), options.engines, options.threads, options.steps, True)
        with_floors(rows, options.threads)
        tables = [step_table(rows)]
    else:
        results = everything(options)
        rows = results["rows"]
        tables = [step_table(rows), public_table(rows), scaling_table(results["scaling"]),
                  pipeline_table(results["pipeline"]["rows"])]  # fmt: skip
        if options.write:
            README.write_text(page(results), encoding="utf-8")
    if not all(row.get("compiled", True) for row in rows):
        told(NO_KERNELS)
    print(json.dumps(rows, indent=1) if options.json else "\n\n".join(tables))


if __name__ == "__main__":
    main()
