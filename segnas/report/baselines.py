"""Beside baselines: the section of the report that holds the searched network against hand-made and random ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from segnas.report import tables
from segnas.report.comparison import Comparison, Entry, Training, in_words, score_in_words
from segnas.report.information import Information
from segnas.report.markup import Markup, count, join, plural, tag, three_digits
from segnas.report.plots import DotRow, dot_plot
from segnas.report.sections import Section, figures, paragraph
from segnas.runs.progress import duration


def baselines(information: Information) -> Section | None:
    """Scores over seeds as a plot and a table, costs beside them, and what the difference is worth."""
    comparison = information.comparison
    if comparison is None or not comparison.entries:
        return None
    notes = [f"{_label(entry)}: {entry.note.rstrip('.')}." for entry in comparison.entries if entry.note]
    notes.append(
        "Latency: median with torch, under this run's conditions. Training time: of one training, without the search that came "
        "before it."
    )
    parts = [
        paragraph(in_words(comparison).replace(" ± ", "\u00a0±\u00a0")),
        figures([plot(comparison)]),
        comparison_table(comparison),
        paragraph(f"{comparison.protocol.rstrip('.')}." if comparison.protocol else ""),
        paragraph(" ".join(notes), "note"),
    ]
    return Section("baselines", "Beside baselines", join(parts))


def plot(comparison: Comparison) -> Markup:
    """A row an entry with a dot a seed; nothing when no entry has a figure."""
    split = comparison.split
    rows = []
    for entry in comparison.entries:
        dots = [(run.scores.get(split), f"seed {run.seed}") for run in entry.runs]
        values = tuple((score, name) for score, name in dots if score is not None)
        if values:
            rows.append(DotRow(_label(entry), values, score_in_words(entry, split)))
    several = any(len(row.values) > 1 for row in rows)
    note = "A dot is a training with a seed of its own; the line marks the mean." if several else "A dot is a training."
    metric = "Accuracy" if comparison.metric == "accuracy" else comparison.metric
    return dot_plot(f"{metric} on {split}", f"{comparison.metric}, %", rows, note)


def comparison_table(comparison: Comparison) -> Markup:
    """Scores (mean ± sample standard deviation, and each seed's), costs and times of all entries."""
    split = comparison.split
    validation = split != "val" and any(entry.scores("val") for entry in comparison.entries)
    splits = [split, "val"] if validation else [split]
    rows = [
        (
            _name(comparison, entry),
            *(_score(entry, name) for name in splits),
            _range(entry.runs, lambda run: run.parameters, count),
            _range(entry.runs, lambda run: run.multiply_adds, count),
            _range(entry.runs, lambda run: run.latency_ms, lambda value: f"{three_digits(value)} ms"),
            _time(entry.runs),
        )
        for entry in comparison.entries
    ]
    head = ("network", *(f"{comparison.metric} on {name}, %" for name in splits), "parameters", "multiply-adds", "latency",
            "training time")  # fmt: skip
    seeds = plural(comparison.seeds, "seed")
    caption = f"Trained alike with {seeds} each"
    caption += ": mean ± standard deviation, below it each seed" if comparison.seeds > 1 else ""
    return tables.table(caption, head, rows, class_="baselines", strong_first=comparison.entries[0].kind == "searched")


def _name(comparison: Comparison, entry: Entry) -> Markup:
    about = [] if entry.drawn else [str(entry.kind)]
    about += [comparison.seeds_of(entry)] if entry in comparison.unfinished else []
    return join([_label(entry), tag("small", ", ".join(about)) if about else ""])


def _score(entry: Entry, split: str) -> Markup:
    scores = entry.scores(split)
    if not scores:
        return Markup("–")
    shown = score_in_words(entry, split).removesuffix(" %")
    return join([shown, tag("small", " · ".join(f"{score:.1f}" for score in scores))]) if len(scores) > 1 else Markup(shown)


def _range(runs: Iterable[Training], value: Callable[[Training], float | None], written: Callable[[float], str]) -> str:
    """One figure where all trainings have the same as written, else the least and the most."""
    found = [figure for figure in map(value, runs) if figure is not None]
    if not found:
        return "–"
    least, most = written(min(found)), written(max(found))
    return least if least == most else f"{least} to {most}"


def _time(runs: Iterable[Training]) -> str:
    found = [run.seconds for run in runs if run.seconds is not None]
    return duration(statistics.fmean(found)) if found else "–"


def _label(entry: Entry) -> str:
    """The entry at the head of a row: its name, or words that begin with a capital letter."""
    return f"{entry.shown[:1].upper()}{entry.shown[1:]}" if entry.drawn else entry.shown
