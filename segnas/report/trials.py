"""search.json of a search by trials, and what its trials say: the best so far, the Pareto front, rank correlations.

What decides is the first objective. It is called the *score*, whichever it is and in whichever direction it is better.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segnas.estimators.objectives import pareto_front

Direction = Literal["maximize", "minimize"]
Status = Literal["running", "done", "stopped", "failed", "over budget"]
Point = tuple[float, float]

NAMES = {"multiply_adds": "multiply-adds", "latency_ms": "latency", "memory_mib": "memory"}
UNITS = {"mIoU": "%", "mAcc": "%", "aAcc": "%", "accuracy": "%", "latency_ms": "ms", "memory_mib": "MiB"}
LEAST_RANKED = 3  # pairs, fewer have no rank correlation worth a figure
LIMIT = re.compile(r"\s*(\w+)\s*<=?\s*([-+.\w]+)\s*")
DIGITS = re.compile(r"\d[\d.,]*")


@dataclass(frozen=True)
class Objective:
    """What is maximised or minimised: the name of a metric or of a cost."""

    name: str
    direction: Direction = "maximize"

    def better(self, first: float, second: float) -> bool:
        """Whether `first` is strictly better."""
        return first > second if self.direction == "maximize" else first < second

    @property
    def noun(self) -> str:
        """The name as people write it."""
        return NAMES.get(self.name, self.name.replace("_", " "))

    @property
    def title(self) -> str:
        """The noun at the head of a line."""
        return self.noun.capitalize() if self.noun.islower() else self.noun

    @property
    def label(self) -> str:
        """Name and unit, for an axis or the head of a column."""
        unit = UNITS.get(self.name)
        return f"{self.noun}, {unit}" if unit else self.noun


@dataclass(frozen=True)
class Trial:
    """One trial. started, finished: seconds since the search began; seconds: what it took; metrics: as UNITS says.

    A trial of the stage "rerank" judges an architecture of the search again, more thoroughly. smaller: of a space that has stages
    it is of one before the last that was reached, and does not compete.
    """

    number: int
    status: Status
    id: str
    stage: Literal["search", "rerank"] = "search"
    error: str | None = None
    seed: int | None = None
    attempts: int = 1
    started: float | None = None
    finished: float | None = None
    seconds: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    machine: str | None = None
    smaller: bool = False

    def value(self, name: str) -> float | None:
        """The metric, or else the cost, of that name."""
        return self.metrics.get(name, self.costs.get(name))


@dataclass(frozen=True)
class TrialSearch:
    """search.json of a search by trials. best, pareto: numbers of trials; constraints: texts such as "parameters <= 1e6"."""

    system: str
    strategy: str
    space: str
    objectives: tuple[Objective, ...]
    estimator: str = ""
    constraints: tuple[str, ...] = ()
    planned: int | None = None
    workers: int = 1
    seconds: float | None = None
    best: int | None = None
    pareto: tuple[int, ...] = ()
    trials: tuple[Trial, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ValueError("objectives: a search has at least one")

    @property
    def main(self) -> Objective:
        """The objective that decides."""
        return self.objectives[0]

    @property
    def searched(self) -> tuple[Trial, ...]:
        """The trials of the search itself, without those that judged its best again, by number."""
        return tuple(sorted((trial for trial in self.trials if trial.stage == "search"), key=lambda trial: trial.number))

    @property
    def reranked(self) -> tuple[Trial, ...]:
        """The finished trials that judged architectures again."""
        return tuple(trial for trial in self.trials if trial.stage == "rerank" and self.scored(trial))

    def score(self, trial: Trial) -> float | None:
        """The figure that decides, of a trial that was finished or stopped."""
        return trial.value(self.main.name)

    def scored(self, trial: Trial) -> bool:
        """Whether it was finished and has a score; what was stopped early has only what it had reached."""
        return trial.status == "done" and self.score(trial) is not None

    @property
    def competing(self) -> tuple[Trial, ...]:
        """The scored trials of the search among which the best is chosen, by number."""
        return tuple(trial for trial in self.searched if self.scored(trial) and not trial.smaller)

    def having(self, *statuses: Status) -> tuple[Trial, ...]:
        """The trials of the search with one of these statuses."""
        return tuple(trial for trial in self.searched if trial.status in statuses)

    @property
    def ended(self) -> tuple[Trial, ...]:
        """The trials of the search that are over, however they ended."""
        return self.having("done", "stopped", "failed", "over budget")

    @property
    def tried(self) -> tuple[Trial, ...]:
        """Those of them that count: what was over budget was never tried."""
        return self.having("done", "stopped", "failed")

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """Those that compete, best first, of equals the earlier."""
        sign = -1 if self.main.direction == "maximize" else 1
        return tuple(sorted(self.competing, key=lambda trial: (sign * (self.score(trial) or 0), trial.number)))

    @property
    def best_trial(self) -> Trial | None:
        """The trial that the search names as its best; where it names none, the one with the best score."""
        named = next((trial for trial in self.trials if trial.number == self.best), None)
        return named if named is not None else next(iter(self.ranked), None)

    @property
    def best_score(self) -> float | None:
        """The score of the best trial."""
        return None if self.best_trial is None else self.score(self.best_trial)

    @property
    def complete(self) -> bool:
        """Whether all that was planned has ended."""
        return not self.having("running") and self.planned is not None and len(self.tried) >= self.planned

    @property
    def trials_per_hour(self) -> float | None:
        """Of those that were trained; what was refused for its cost took no time."""
        trained = len(self.tried)
        return 3600 * trained / self.seconds if self.seconds and trained else None

    @property
    def busy(self) -> float | None:
        """The share of the workers' time that was spent in trials, 0 .. 1."""
        spent = sum(trial.seconds or 0.0 for trial in self.trials)
        return min(1.0, spent / (self.seconds * self.workers)) if self.seconds and spent and self.workers else None

    def by_number(self) -> tuple[Point, ...]:
        """(number, best so far) at each trial that was better than all with a smaller number."""
        return improvements(((trial.number, self.score(trial)) for trial in self.competing), self.main)

    def by_time(self) -> tuple[Point, ...]:
        """(seconds since the search began, best so far) at each trial that was better than all that had finished before."""
        finished = [trial for trial in self.competing if trial.finished is not None]
        return improvements(((trial.finished or 0.0, self.score(trial)) for trial in finished), self.main)

    def front(self, *objectives: Objective) -> tuple[Trial, ...]:
        """Those that compete and that no other dominates in these objectives, in their order; the first of equals."""
        rows = [(trial, [trial.value(one.name) for one in objectives]) for trial in self.competing]
        full = [(trial, values) for trial, values in rows if None not in values]
        signs = [1.0 if one.direction == "maximize" else -1.0 for one in objectives]
        kept = pareto_front([[sign * (value or 0.0) for sign, value in zip(signs, values, strict=True)] for _, values in full])
        return tuple(full[index][0] for index in kept)

    def limits(self) -> Iterator[tuple[str, float]]:
        """(cost, limit) of each constraint that reads `cost <= number`."""
        for text in self.constraints:
            found = LIMIT.fullmatch(text)
            if found is not None:
                try:
                    yield found[1], float(found[2])
                except ValueError:  # a constraint in other words
                    continue

    def judged_again(self) -> tuple[tuple[Trial, Trial], ...]:
        """(trial of the search, the one that judged the same architecture again) for each that has both scores; of several
        trials of one architecture the best, which is what it was chosen for."""
        first = {trial.id: trial for trial in reversed(self.ranked)}
        return tuple((first[trial.id], trial) for trial in self.reranked if trial.id in first)

    def seed_spread(self) -> float | None:
        """How much a seed changes a score: the sample standard deviation, pooled over the architectures that were tried with
        several seeds in the same stage; None where there is none."""
        scores: dict[tuple[str, str], dict[int | None, float]] = {}
        for trial in self.trials:
            score = self.score(trial)
            if trial.status == "done" and score is not None:
                scores.setdefault((trial.stage, trial.id), {})[trial.seed] = score
        return pooled_deviation([tuple(by_seed.values()) for by_seed in scores.values()])


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one reason, told in the words of the first; numbers apart, the others' are the same."""

    reason: str
    trials: tuple[Trial, ...]


def failures(search: TrialSearch) -> tuple[Failure, ...]:
    """Failed trials, of either stage, by reason; the most frequent first. Reasons that differ in figures alone are one."""
    grouped: dict[str, list[Trial]] = {}
    for trial in search.trials:
        if trial.status == "failed":
            grouped.setdefault(DIGITS.sub("#", trial.error or ""), []).append(trial)
    found = [Failure(members[0].error or "no reason was left", tuple(members)) for members in grouped.values()]
    return tuple(sorted(found, key=lambda failure: -len(failure.trials)))


def improvements(points: Iterable[tuple[float, float | None]], objective: Objective) -> tuple[Point, ...]:
    """The points, in the order of x, at which the best value so far gets strictly better."""
    found: list[Point] = []
    for x, value in sorted((x, value) for x, value in points if value is not None):
        if not found or objective.better(value, found[-1][1]):
            found.append((float(x), float(value)))
    return tuple(found)


def value_at(steps: Sequence[Point], x: float) -> float | None:
    """The value of a step line at x; None before its first step."""
    before = [value for at, value in steps if at <= x]
    return before[-1] if before else None


def ranks(values: Sequence[float]) -> np.ndarray:
    """(n,) ranks from 1, the smallest first; equal values share the mean of theirs."""
    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[places])


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation (1904), from -1 to 1: Pearson's correlation of the ranks.

    None for fewer than LEAST_RANKED pairs, or where all values of one are equal.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values beside {len(second)}")
    if len(first) < LEAST_RANKED:
        return None
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / norm)) if norm else None


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """sqrt(sum (n - 1) s^2 / sum (n - 1)) over the groups with two values or more; None when there is none."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    return math.sqrt(sum((len(group) - 1) * statistics.variance(group) for group in several) / freedom) if freedom else None
