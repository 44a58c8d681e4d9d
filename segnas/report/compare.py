"""Several runs on one page: their figures in a table, the best so far of their searches in one plot, fronts, correlations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from segnas.report import tables
from segnas.report.markup import Markup, count, join, listing, percent, plural, tag, three_digits
from segnas.report.page import document
from segnas.report.plots import HUES
from segnas.report.scatter import Dot, DotChart, Layer, dot_chart
from segnas.report.sections import Section, figures, paragraph
from segnas.report.several import Correlation, Member, Several, gather_several
from segnas.report.trial_charts import cost_unit, scaled, shown, time_unit
from segnas.report.trials import Objective, TrialSearch
from segnas.runs.progress import duration
from segnas.runs.run import Run

DASHES = 3  # kinds of lines; with the hues, that many times as many runs differ in more than the hue


def write_comparison(runs: Sequence[Path], out: Path) -> Several:
    """Write the page that compares the runs; returns what stands on it. Raises UserError as `gather_several` does."""
    found = gather_several(runs)
    Run(out.parent).write_text(out.name, render(found))
    return found


def render(found: Several) -> str:
    """The whole page as HTML text."""
    written = [runs(found), course(found), fronts(found), correlations(found)]
    names = [member.name for member in found.members]
    title = f"{plural(len(names), 'run')} compared"
    header = tag(
        "header",
        tag("p", " · ".join(names), class_="about"),
        tag("h1", title),
        tag("p", in_words(found), class_="lead"),
    )
    shown_sections = [section for section in written if section is not None]
    return document(f"{title}: segnas", header, shown_sections, tag("footer", "Written by segnas."))


def in_words(found: Several) -> str:
    """Which run leads, where that can be said."""
    told = []
    for split in ("test", "val"):
        scored = [member.row for member in found.members if getattr(member.row, split) is not None]
        if len(scored) > 1 and len({(row.data, row.metric) for row in scored}) == 1:
            best = max(scored, key=lambda row: float(getattr(row, split)))
            told.append(f"Retrained, {best.run} is the best on {split}: {best.metric} {percent(getattr(best, split))}.")
            break
    for objective, members in _by_objective(found.members):
        scored_searches = [(member.name, search.best_score) for member, search in members if search.best_score is not None]
        if len(scored_searches) > 1:
            sign = 1 if objective.direction == "maximize" else -1
            name, score = max(scored_searches, key=lambda pair: sign * pair[1])
            told.append(f"In the search {name} has the best {objective.noun}: {shown(objective.name, score)}.")
    return " ".join(told) or "There is no figure that two of the runs have in common."


def looks(members: Sequence[Member]) -> dict[str, tuple[str, int]]:
    """Name of a run -> (hue, dashes) of its lines: neighbours differ in both, so that no two need colours to be told apart."""
    return {member.name: (HUES[number % len(HUES)], number % DASHES) for number, member in enumerate(members)}


# Sections -------------------------------------------------------------------------------------------------------------


def runs(found: Several) -> Section:
    """What speaks against comparing them, then the table."""
    listed = [tag("li", tag("b", "caution"), " ", text, class_="caution") for text in found.warnings]
    warned = tag("ul", *listed, class_="cautions") if listed else Markup("")
    look = looks(found.members)
    rows = []
    for member in found.members:
        row, (hue, dashes) = member.row, look[member.name]
        about = [row.system or "given", f"by {row.strategy}" if row.strategy else "", f"space {row.space}" if row.space else ""]
        name = join([tag("span", row.run, class_=f"key {hue} dash{dashes}"), tag("small", ", ".join(filter(None, about)))])
        trials = "–" if row.trials is None else f"{row.trials} / {row.planned}" if row.planned is not None else str(row.trials)
        noun = "" if row.objective is None else Objective(row.objective).noun
        rows.append((
            name,
            trials if row.epochs is None else plural(row.epochs, "epoch"),
            "–" if row.objective is None or row.best is None else f"{noun} {shown(row.objective, row.best)}",
            "–" if row.search_seconds is None else duration(row.search_seconds),
            *("–" if score is None else shown(row.metric or "", score) for score in (row.val, row.test)),
            *("–" if cost is None else count(cost) for cost in (row.parameters, row.multiply_adds)),
            "–" if row.latency_ms is None else f"{three_digits(row.latency_ms)} ms",
        ))  # fmt: skip
    metrics = {member.row.metric for member in found.members} - {None}
    score = f"{next(iter(metrics))} " if len(metrics) == 1 else ""
    head = (
        "run",
        "trials",
        "best in the search",
        "search",
        f"{score}val",
        f"{score}test",
        "parameters",
        "multiply-adds",
        "latency",
    )
    caption = "val and test: the retrained network. What a supernet decoded is scored with the weights of the supernet."
    return Section("runs", "The runs", join([warned, tables.table(caption, head, rows, class_="baselines runs")]))


def course(found: Several) -> Section | None:
    """The best so far of all searches with the same objective, by trial and by time."""
    charts = []
    for objective, members in _by_objective(found.members):
        charts += [dot_chart(chart) for chart in _course(found, objective, members)]
    if not any(charts):
        return None
    note = "A line is the best score so far; it ends with the last trial. Trials are counted from 0, as they were proposed."
    return Section("course", "Best so far", join([figures(charts), paragraph(note, "note")]))


def _course(found: Several, objective: Objective, members: Sequence[tuple[Member, TrialSearch]]) -> Iterable[DotChart]:
    look = looks(found.members)
    ends = {member.name: max((trial.finished or 0.0 for trial in search.ended), default=0.0) for member, search in members}
    unit, noun = time_unit(max(ends.values()))
    by_trial, by_time = [], []
    for member, search in members:
        hue, dashes = look[member.name]
        last = float(max((trial.number for trial in search.ended), default=0))
        by_trial.append(Layer(member.name, hue, steps=search.by_number(), until=last, dashes=dashes))
        by_time.append(
            Layer(member.name, hue, steps=scaled(search.by_time(), unit), until=ends[member.name] / unit, dashes=dashes)
        )
    yield DotChart(f"{objective.title} by trial", "trial", objective.label, tuple(by_trial), whole=True)
    yield DotChart(f"{objective.title} by time", f"{noun} since the search began", objective.label, tuple(by_time))


def fronts(found: Several) -> Section | None:
    """The Pareto front of each search: the score against parameters, and against each further objective."""
    charts = []
    for objective, members in _by_objective(found.members):
        others = [other for _, search in members for other in search.objectives[1:]]
        for other in dict.fromkeys([*others, Objective("parameters", "minimize")]):
            charts.append(dot_chart(_fronts(found, objective, other, members)))
    if not any(charts):
        return None
    note = "Each line is what no other trial of its run beats in one without losing in the other."
    return Section("fronts", "Pareto fronts", join([figures(charts), paragraph(note, "note")]))


def _fronts(
    found: Several, vertical: Objective, horizontal: Objective, members: Sequence[tuple[Member, TrialSearch]]
) -> DotChart:
    look = looks(found.members)
    points = {
        member.name: [
            (
                float(trial.value(horizontal.name) or 0.0),
                float(search.score(trial) or 0.0),
                f"{member.name}, trial {trial.number}",
            )
            for trial in search.front(vertical, horizontal)
        ]
        for member, search in members
    }
    unit, label = cost_unit(horizontal, [x for rows in points.values() for x, _, _ in rows])
    layers = []
    for name, rows in points.items():
        hue, dashes = look[name]
        ordered = sorted(((x / unit, y) for x, y, _ in rows), reverse=horizontal.direction == "maximize")
        dots = tuple(Dot(x / unit, y, f"{told}: {y:.4g} at {x / unit:.4g}") for x, y, told in rows)
        layers.append(Layer(name, hue, dots, "strong", tuple(ordered), dashes=dashes))
    return DotChart(f"{vertical.title} and {horizontal.noun}", label, vertical.label, tuple(layers))


def correlations(found: Several) -> Section | None:
    """Whether search scores say anything of retrained ones, and whether two searches rank the same architectures alike."""
    if not found.correlations:
        return None
    rows = [(_what(one), listing(one.runs), str(one.count), "–" if one.value is None else f"{one.value:.2f}")
            for one in found.correlations]  # fmt: skip
    note = "1 means the same order, 0 none, -1 the opposite one. With few pairs chance alone gives large values."
    table = tables.table(
        "Rank correlations (Spearman)", ("between", "runs", "pairs", "correlation"), rows, class_="reasons words"
    )
    return Section("correlations", "Rank correlations", join([table, paragraph(note, "note")]))


def _what(one: Correlation) -> str:
    noun = Objective(one.metric).noun
    if one.kind == "retrained":
        return f"best {noun} in the search and {noun} of the retrained network on {one.split}"
    return f"{noun} of the architectures that both searches tried"


def _by_objective(members: Sequence[Member]) -> list[tuple[Objective, list[tuple[Member, TrialSearch]]]]:
    """The searches by trials, those for the same objective together."""
    groups: dict[Objective, list[tuple[Member, TrialSearch]]] = {}
    for member in members:
        if member.trials is not None:
            groups.setdefault(member.trials.main, []).append((member, member.trials))
    return list(groups.items())
