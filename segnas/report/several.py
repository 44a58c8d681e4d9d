"""Get the information: what stands of several runs in one table, what speaks against comparing them, and rank correlations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from segnas.errors import UserError
from segnas.report.information import Information, Search, gather
from segnas.report.markup import listing
from segnas.report.trials import LEAST_RANKED, TrialSearch, spearman
from segnas.runs.progress import duration
from segnas.runs.run import Run

GRADIENTS = "gradients"  # the strategy of a search through a supernet


@dataclass(frozen=True)
class Row:
    """A run in figures. best: score of its best trial, or of what a supernet decoded; trials: those that ended; scores in the
    units of the metric (percent); None for what the run does not have."""

    run: str
    system: str | None
    strategy: str | None
    space: str | None
    trials: int | None
    planned: int | None
    epochs: int | None
    objective: str | None
    best: float | None
    search_seconds: float | None
    data: str | None
    metric: str | None
    val: float | None
    test: float | None
    architecture: str | None
    parameters: int | None
    multiply_adds: int | None
    latency_ms: float | None


@dataclass(frozen=True)
class Member:
    """A run of the comparison: its name on the page, its figures and all its files."""

    row: Row
    information: Information

    @property
    def name(self) -> str:
        """The name on the page."""
        return self.row.run

    @property
    def trials(self) -> TrialSearch | None:
        """Its search by trials."""
        return self.information.trials


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over `count` pairs; value None where all values of one side are equal.

    kind "retrained": of the best search scores of several runs with what the retrained networks reach on `split`.
    kind "shared": of the scores that two runs gave to the architectures that both tried.
    """

    kind: str
    runs: tuple[str, ...]
    metric: str
    count: int
    value: float | None
    split: str | None = None


@dataclass(frozen=True)
class Several:
    """All that a comparison of runs shows."""

    members: tuple[Member, ...]
    warnings: tuple[str, ...]
    correlations: tuple[Correlation, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values: the rows of the table, the warnings and the correlations."""
        return {
            "runs": [asdict(member.row) for member in self.members],
            "warnings": list(self.warnings),
            "correlations": [{**asdict(one), "runs": list(one.runs)} for one in self.correlations],
        }


def gather_several(paths: Sequence[Path]) -> Several:
    """Read the runs. Raises UserError for none, for one twice, for a folder that is no run, and when no run has searched."""
    if not paths:
        raise UserError("name one run or more to compare")
    twice = [path for number, path in enumerate(paths) if path.resolve() in [other.resolve() for other in paths[:number]]]
    if twice:
        raise UserError(f"{twice[0]} is named twice")
    found = [gather(Run.open(path)) for path in paths]
    if not any(one.search or one.trials for one in found):
        raise UserError(f"no search to compare: there is no search.json in {listing(map(str, paths))}")
    members = tuple(Member(_row(name, one), one) for name, one in zip(_names(paths), found, strict=True))
    return Several(members, tuple(_warnings(members)), (*_with_retrained(members), *_shared(members)))


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' own names, with the folders above them as far as they need them to differ."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return [os.path.join(*part[-depth:]) for part in parts]


def _row(name: str, found: Information) -> Row:
    trials, search = found.trials, found.search
    metric = found.evaluations[0].metric if found.evaluations else None
    scores = {evaluation.split: evaluation.score for evaluation in reversed(found.evaluations)}  # the run's own protocol wins
    architecture = found.architecture or found.best_so_far
    about: dict[str, Any] = dict.fromkeys(field.name for field in fields(Row))
    about |= {"run": name, "system": found.system, "metric": metric, "val": scores.get("val"), "test": scores.get("test")}
    about |= {"data": found.data.name if found.data else None, "architecture": architecture.id if architecture else None}
    if found.cost is not None:
        about |= {"parameters": found.cost.parameters, "multiply_adds": found.cost.multiply_adds}
    if found.latency is not None:
        about |= {"latency_ms": found.latency.median_ms}
    if trials is not None:
        about |= {"strategy": trials.strategy, "space": trials.space, "trials": len(trials.tried), "planned": trials.planned}
        about |= {"objective": trials.main.name, "best": trials.best_score, "search_seconds": trials.seconds}
    elif search is not None:
        about |= {"strategy": GRADIENTS, "space": search.system, "epochs": search.last_epoch or len(search.epochs)}
        about |= {"objective": found.task.metric, "best": _decoded(found, search), "search_seconds": search.seconds}
    return Row(**about)


def _decoded(found: Information, search: Search) -> float | None:
    """What the architecture that the run goes on with had as the search decoded it, with the shared weights."""
    scores = {epoch.epoch: epoch.score_one_hot for epoch in search.epochs}
    return scores.get(found.kept_epoch) if found.kept_epoch is not None else None


# What speaks against it -----------------------------------------------------------------------------------------------


def _warnings(members: Sequence[Member]) -> Iterator[str]:
    for of, what, lesson in UNLIKE:
        yield from _unlike(members, of, what, lesson)
    for member in members:
        if member.trials is not None and member.information.architecture is None:
            yield f"{member.name} has not ended its search: {len(member.trials.tried)} trials are over."


def _unlike(members: Sequence[Member], of: Callable[[Member], Hashable], what: str, lesson: str) -> Iterator[str]:
    """A sentence where the members that have a value of `of` have different ones."""
    groups: dict[Hashable, list[str]] = {}
    for member in members:
        value = of(member)
        if value is not None:
            groups.setdefault(value, []).append(member.name)
    if len(groups) > 1:
        told = "; ".join(f"{_brief(value)}: {listing(names)}" for value, names in groups.items())
        yield f"{what} ({told}); {lesson}."


def _brief(value: Hashable) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _data(member: Member) -> Hashable:
    data = member.information.data
    if data is None:
        return None
    return (data.name, f"{len(data.classes)} classes", *(f"{split} {count}" for split, count in data.splits.items()))


def _objectives(member: Member) -> Hashable:
    if member.trials is None:  # a search by gradients follows the loss
        return None
    return tuple(f"{one.direction} {one.name}" for one in member.trials.objectives)


def _estimator(member: Member) -> Hashable:
    if member.trials is not None:
        return member.trials.estimator or None
    return "weights shared in a supernet" if member.information.search is not None else None


def _limits(member: Member) -> Hashable:
    budget = member.information.budget
    limits = [f"{name} {limit.limit:g}" for name, limit in budget.limits.items()] if budget is not None else []
    stated = [*(member.trials.constraints if member.trials else ()), *limits]
    return tuple(stated) or "none"


def _retraining(member: Member) -> Hashable:
    retrain = member.information.retrain
    return f"{retrain.steps} steps" if retrain is not None and retrain.steps else None


def _measured(member: Member) -> Hashable:
    latency = member.information.latency
    if latency is None:
        return None
    threads = f"{latency.threads} threads" if latency.threads else "threads unknown"
    return (latency.device, " × ".join(map(str, latency.input)), threads, f"precision {latency.precision}")


def _time(member: Member) -> Hashable:
    limit = member.information.time_limit
    return duration(limit.asked_seconds) if limit is not None else None


UNLIKE: tuple[tuple[Callable[[Member], Hashable], str, str], ...] = (
    (_data, "The runs worked on different data", "their scores cannot be compared"),
    (lambda one: one.row.metric, "Different metrics decide", "their scores cannot be compared"),
    (_objectives, "The searches have different objectives", "their search scores cannot be compared"),
    (_estimator, "Architectures were judged in different ways", "the search scores of one say nothing of the other's"),
    (lambda one: one.row.planned, "The searches have different budgets of trials", "more trials find more"),
    (_time, "The runs were sized to different times", "more time finds more"),
    (_limits, "The limits on the networks differ", "a larger network may be better for that alone"),
    (_retraining, "The networks were trained for different lengths", "a longer training may be better for that alone"),
    (_measured, "Latencies were measured under different conditions", "they cannot be compared"),
)  # what must be the same for a fair comparison, the sentence where it is not, and what follows

# Rank correlations ----------------------------------------------------------------------------------------------------


def _with_retrained(members: Sequence[Member]) -> Iterator[Correlation]:
    """Of search scores with retrained scores, over the runs that have data and metric in common."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        row = member.row
        if row.best is not None and row.objective == row.metric and (row.val is not None or row.test is not None):
            groups.setdefault(json.dumps([_data(member), row.metric]), []).append(member)
    for group in groups.values():
        split = "test" if all(member.row.test is not None for member in group) else "val"
        rows = [member.row for member in group if getattr(member.row, split) is not None]
        if len(rows) >= LEAST_RANKED:
            value = spearman([row.best or 0.0 for row in rows], [getattr(row, split) for row in rows])
            yield Correlation("retrained", tuple(row.run for row in rows), str(rows[0].metric), len(rows), value, split)


def _shared(members: Sequence[Member]) -> Iterator[Correlation]:
    """Of the scores of two searches for the same objective on the architectures that both tried."""
    searches = [(member.name, member.trials) for member in members if member.trials is not None]
    for (first, one), (second, other) in combinations(searches, 2):
        if one.main != other.main:
            continue
        scores = [{trial.id: search.score(trial) or 0.0 for trial in reversed(search.ranked)} for search in (one, other)]
        both = sorted(scores[0].keys() & scores[1].keys())
        if len(both) >= LEAST_RANKED:
            value = spearman([scores[0][name] for name in both], [scores[1][name] for name in both])
            yield Correlation("shared", (first, second), one.main.name, len(both), value)
