"""How the command line shows figures: aligned tables within the terminal's width for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from segnas.report.comparison import Comparison
    from segnas.report.several import Several
    from segnas.report.trials import Trial, TrialSearch

WIDTH_OF_NO_TERMINAL = 160  # columns where the output goes to a file or a pipe
LAST_TRIALS = 5
COLORS = {"done": "", "running": "cyan", "stopped": "yellow", "failed": "red", "over budget": "dim"}


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Rows of cells under a header; the first `text_columns` columns are texts (left, wrapped at words), the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(header))
    for place, name in enumerate(header):
        if place < text_columns:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = shutil.get_terminal_size((WIDTH_OF_NO_TERMINAL, 24)).columns
    Console(highlight=False, markup=False, width=width).print(table)


def print_figures(figures: Mapping[str, Any], as_json: bool, written: str) -> None:
    """One figure a line and the file that was written, or all as JSON."""
    if as_json:
        print_json({**figures, "written": written})
        return
    for name, value in figures.items():
        if isinstance(value, Mapping):  # a line each, so that none is wider than a terminal
            lines = [f"{key} {formatted(item)}" for key, item in value.items()]
        else:
            lines = [formatted(value)]
        for line in lines or ["-"]:
            print(f"{name:26} {line}")
            name = ""
    print(written)


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
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def in_units(value: float | None, unit: float, digits: int) -> str:
    """`value` in multiples of `unit` with so many digits after the point, `-` for None."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def print_zoo(rows: Sequence[dict[str, Any]]) -> None:
    """Millions of parameters and billions of multiply-adds, ours beside the paper's, within 80 columns."""
    cells = []
    for row in rows:
        ours = row["paper_multiply_adds"] or row["multiply_adds"]
        cells.append(
            (
                row["name"],
                "x".join(map(str, row["size"])),
                in_units(row["parameters"], 1e6, 2),
                "-" if row["printed_parameters_m"] is None else f"{row['printed_parameters_m']:.2f}",
                in_units(ours, 1e9, 2),
                "-" if row["printed_multiply_adds_g"] is None else f"{row['printed_multiply_adds_g']:.2f}",
            )
        )
    print_table(("name", "input", "parameters\nM", "paper", "multiply-\nadds G", "paper"), cells, text_columns=2)
    if any(row["paper_multiply_adds"] for row in rows):
        print("multiply-adds as the papers count them; exact figures and our own: --json")


def summary(run_directory: Path) -> dict[str, Any]:
    """The figures of a run that people ask for first."""
    from segnas.report.information import read_comparison
    from segnas.runs.run import Run

    found = Run.open(run_directory)
    figures: dict[str, Any] = {"run": str(run_directory)}
    if found.has("architecture.json"):
        figures["architecture"] = found.read_json("architecture.json")["id"]
    for path in sorted(run_directory.glob("evaluation*.json")):
        evaluation = found.read_json(path.name)
        if path.name not in ("evaluation.json", f"evaluation_{evaluation['split']}.json"):
            continue  # by another protocol
        metric = evaluation.get("metric", "mIoU")  # older files have no other
        figures[f"{metric}_{evaluation['split']}"] = evaluation[metric]
    if found.has("cost.json"):
        cost = found.read_json("cost.json")
        figures |= {"parameters": cost["parameters"], "multiply_adds": cost["multiply_adds"]}
    if found.has("latency.json"):
        figures["latency_ms"] = found.read_json("latency.json")["median_ms"]
    figures |= _baselines(read_comparison(found))
    if found.has("parity.json"):
        figures["largest_logit_difference"] = found.read_json("parity.json")["largest_logit_difference"]
    if found.has("timing.json"):
        figures["seconds"] = found.read_json("timing.json")
    return figures


def print_runs(found: Several) -> None:
    """A line for each run of a comparison within 80 columns, then what speaks against comparing them."""
    rows = []
    for member in found.members:
        row = member.row
        ended = "-" if row.trials is None else f"{row.trials}/{row.planned}" if row.planned is not None else str(row.trials)
        scores = ["-" if score is None else f"{score:.2f}" for score in (row.best, row.val, row.test)]
        rows.append(
            (row.run, row.strategy or "-", ended, *scores, in_units(row.parameters, 1e6, 2), in_units(row.latency_ms, 1, 1))
        )
    print_table(("run", "strategy", "trials", "search", "val", "test", "M params", "ms"), rows, text_columns=2)
    for text in found.warnings:
        print(text)


def trials_table(search: Mapping[str, Any]) -> Table:
    """What search.json of a search by trials says, within 80 columns: two lines on the whole, then the last trials.

    Raises UserError where it is no such search.
    """
    from segnas.config import from_dict
    from segnas.report.trials import TrialSearch

    found = from_dict(TrialSearch, search, "search.json")
    trials = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("trial", "architecture"):
        trials.add_column(name, no_wrap=True)
    for name in (found.main.label, "parameters", "time"):
        trials.add_column(name, justify="right", no_wrap=True)
    trials.add_column("")  # gives way where the terminal is narrow
    for trial in sorted(found.trials, key=lambda trial: trial.number)[-LAST_TRIALS:]:
        trials.add_row(*_trial_cells(found, trial), style=COLORS[trial.status])
    whole = Table.grid()
    for line in _trials_in_lines(found):
        whole.add_row(Text(line, no_wrap=True, overflow="ellipsis"))
    whole.add_row(trials)
    return whole


def _trials_in_lines(found: TrialSearch) -> tuple[str, str]:
    """How far a search has come and its best; then what runs, what failed, and the time that is left."""
    from segnas.report.trial_charts import shown
    from segnas.runs.progress import clock

    ended, planned = len(found.tried), found.planned
    best = found.best_trial
    words = "no score yet" if best is None else f"best {found.main.noun} {shown(found.main.name, found.best_score)}"
    first = [found.system, f"{ended}/{planned}" if planned is not None else str(ended), words]
    first += [f"trial {best.number}, {best.id}"] if best is not None else []
    second = [f"{len(found.having(status))} {status}" for status in ("running", "stopped", "failed") if found.having(status)]
    if found.seconds is not None:
        second.append(clock(found.seconds))
        if planned is not None and 0 < ended < planned:
            second.append(f"{clock(found.seconds / ended * max(0, planned - ended))} left")
    return "  ".join(first), "  ".join(second)


def _trial_cells(found: TrialSearch, trial: Trial) -> list[Text]:
    """A row of the table of trials; a trial that runs has the time since it began."""
    from segnas.runs.progress import clock

    seconds, score, parameters = trial.seconds, found.score(trial), trial.costs.get("parameters")
    if trial.status == "running" and found.seconds is not None and trial.started is not None:
        seconds = max(0.0, found.seconds - trial.started)
    about = [trial.status if trial.status != "done" else "", "judged again" if trial.stage == "rerank" else "", trial.error or ""]
    figures = ["-" if score is None else f"{score:.4g}", "-" if parameters is None else f"{parameters:,.0f}"]
    figures.append("-" if seconds is None else clock(seconds))
    return [
        Text(cell, no_wrap=True, overflow="ellipsis")
        for cell in (str(trial.number), trial.id, *figures, ": ".join(filter(None, about)))
    ]


def _baselines(comparison: Comparison | None) -> dict[str, dict[str, float | None]]:
    """What each network that the run is compared with reaches on each split, the mean over seeds."""
    figures: dict[str, dict[str, float | None]] = {}
    if comparison is None:
        return figures
    for entry in comparison.entries:
        splits = dict.fromkeys(split for training in entry.runs for split in training.scores)
        if entry.kind != "searched" and splits:
            name = entry.kind.replace(" ", "_") if entry.drawn else entry.name
            figures[f"compared_{name}"] = {f"{comparison.metric}_{split}": entry.mean(split) for split in splits}
    return figures
