"""The tables of a run and the page that holds them: Markdown, from plain values alone. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from settings import BASE, ENGINES, PUBLIC, QUICK, SCALING, SETTINGS

COLUMNS = {
    "setting": "see below",
    "engine": "see below",
    "threads": "of torch and of the compiled kernels",
    "seconds": "of a whole search step, weights and architecture, optimizers included: median of the timed steps",
    "time_ratio": "seconds of plain / seconds",
    "memory_mib": "peak of the process' resident set, less what it held after its imports: supernet, optimizers and step",
    "memory_ratio": "memory of plain / memory",
    "kernels": "operations that torch carries out in a step (views and allocations aside; one over a list counts once) "
    "and calls of compiled kernels",
    "floor_seconds": "the larger of two: arithmetic of convolutions at the peak of a matrix product, operands of convolutions, "
    "batch norms and poolings at the bandwidth of a copy (benchmarks/floor.py counts both by hand)",
    "share": "floor_seconds / seconds",
}


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that is also readable as text."""
    cells = [[_shown(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def step_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of steps, with the columns that were measured."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    return markdown(columns, [[row.get(name) for name in columns] for row in rows])


def public_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Steps of public implementations beside the fused engine with the same number of threads."""
    table = []
    for public in PUBLIC:
        ours = _row(rows, public.setting, public.threads)
        if ours is not None:
            gib = ours["memory_mib"] / 1024
            table.append((public.setting, public.threads, public.seconds, ours["seconds"], public.seconds / ours["seconds"],
                          public.memory_gib, gib))  # fmt: skip
    header = ("setting", "threads", "public seconds", "fused seconds", "ratio", "public GiB", "fused GiB")
    return markdown(header, table)


def _row(rows: Sequence[Mapping[str, Any]], setting: str, threads: int) -> Mapping[str, Any] | None:
    found = (row for row in rows if (row["setting"], row["engine"], row["threads"]) == (setting, "fused", threads))
    return next(found, None)


def scaling_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds as one thing grows: in all and for each unit of it, relative to the smallest; and the slope of each step up,
    relative to that of the first."""
    table = []
    for row in rows:
        first, second, *_ = series = [one for one in rows if one["grows"] == row["grows"]]
        size, seconds = row["size"] / first["size"], row["seconds"] / first["seconds"]
        place = series.index(row)
        slope = _slope(series[place - 1], row) / _slope(first, second) if place else None
        table.append((row["grows"], row["size"], row["seconds"], row["memory_mib"], size, seconds, seconds / size, slope))
    header = (
        "what grows",
        "size",
        "seconds",
        "memory_mib",
        "size / first",
        "seconds / first",
        "per unit / first",
        "slope / first",
    )
    return markdown(header, table)


def _slope(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Seconds that a unit more takes."""
    slope: float = (other["seconds"] - one["seconds"]) / (other["size"] - one["size"])
    return slope


def pipeline_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Samples a second that the input pipeline makes and that a step of the fused engine uses."""
    table = [(row["setting"], row["crop"], row["decoding"], row["kept"], row["used"], row["kept"] / row["used"]) for row in rows]
    return markdown(("setting", "crop", "decoding", "kept in memory", "used by fused", "kept / used"), table)


def page(results: Mapping[str, Any]) -> str:
    """benchmarks/README.md."""
    machine, pipeline = results["machine"], results["pipeline"]
    height, width = pipeline["size"]
    alone = [row for row in results["rows"] if row["threads"] == machine["threads"]]
    start = next(iter(SCALING["crop area (pixels)"].values()))
    parts = [
        "# What a search step takes",
        f"Written by `{results['command']}`, which took {results['minutes']:.0f} minutes; `--quick` ends within one. Nothing on "
        "this page is typed by hand.",
        _machine(machine),
        "## Search steps",
        step_table(alone),
        "Each engine has a process of its own. Those of a setting take their steps in turn, never two at once, after a first "
        f"step that is not timed: {results['steps']} timed steps, and {results['fewer_steps']} of `plain-frozen` and "
        "`plain-frozen-channels_last`. Images are random and lie in memory.",
        _listed({name: meaning for name, meaning in COLUMNS.items() if meaning != "see below"}),
        "Engines:",
        _listed({name: engine.words + " (the base of the ratios)" * (name == BASE) for name, engine in ENGINES.items()}),
        "Settings (those of `--quick` are small):",
        _listed({name: setting.in_words() for name, setting in {**SETTINGS, **QUICK}.items()}),
        "## The floor",
        floor_table(results["floors"], machine),
        "## Beside public implementations",
        "Their figures were measured elsewhere, on two CPU cores, and are given for orientation.",
        public_table(results["rows"]),
        "## How time grows",
        f"The fused engine, one thing at a time from {start.in_words()} (with a narrow stem and head, so that it is cells that "
        "are timed). Where time is less than in proportion, `per unit / first` falls below 1. Where it grows linearly, on top of "
        "what every call costs however small it is, `slope / first` stays near 1: seconds for each unit added, relative to the "
        "first step up. Cheap and dear operations are added in turn.",
        scaling_table(results["scaling"]),
        "## The input pipeline",
        "Samples a second, read and augmented in the training process alone (`data.workers=0`), of "
        f"{pipeline['images']} images of {height}x{width} ({pipeline['data']}). A search decodes in its first epoch; afterwards "
        "samples are kept in memory, if a quarter of what is free holds them all (`data.cache=auto`). A step uses two batches.",
        pipeline_table(pipeline["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def floor_table(floors: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """Work of a step of each setting, and what it takes at peak and bandwidth."""
    header = ("setting", "arithmetic, GFLOP", "operands, GB", "arithmetic, seconds", "operands, seconds")
    rows = [
        (
            one["setting"],
            one["flops"] / 1e9,
            one["bytes"] / 1e9,
            one["flops"] / machine["peak"],
            one["bytes"] / machine["bandwidth"],
        )
        for one in floors
    ]
    return markdown(header, rows)


def _machine(machine: Mapping[str, Any]) -> str:
    kernels = "compiled" if machine["compiled"] else "not compiled (no C compiler, or SEGNAS_KERNELS=off)"
    lines = [
        f"- {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {machine['system']}",
        f"- torch {machine['torch']}, Python {machine['python']}, float32; kernels of the fused engine: {kernels}",
        f"- peak of a matrix product {machine['peak'] / 1e9:.0f} GFLOP/s; bandwidth of a copy, read and written, "
        f"{machine['bandwidth'] / 1e9:.1f} GB/s",
        f"- {machine['date']}",
    ]
    return "\n".join(lines)


def _listed(meanings: Mapping[str, str]) -> str:
    return "\n".join(f"- `{name}`: {meaning}" for name, meaning in meanings.items())
