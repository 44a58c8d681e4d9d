"""What is asked of the simulated cluster: how busy its workers are, how soon a quality is reached, what asynchrony costs.

Every figure is over searches of the seeds 0 .. seeds - 1, and the searches that are compared have the same ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster import Cluster, Lookup, Search, lookup_in, search
from segnas.benchmarking import all_strategies, options_of
from segnas.estimators.tabular import TabularBenchmark

GROWING = "evolution-growing"  # evolution whose population is as large as the cluster
WORKERS = (1, 4, 16, 64, 256, 1024, 4096)
STRATEGIES = ("random", "evolution", GROWING)
TRIALS_A_WORKER = (1, 4, 16)
EVALUATIONS = (50, 256, 1024, 4096)  # after which the best is looked at; a search has as many as the last says
TARGETS = (25.5, 26.0)
CONDITIONS: Mapping[str, Mapping[str, float]] = {  # of a cluster that is no ideal one
    "60 s a start": {"start_seconds": 60.0},
    "1 s a proposal": {"proposal_seconds": 1.0},
    "10 s a proposal": {"proposal_seconds": 10.0},
    "0.02 deaths an hour": {"failures_per_hour": 0.02},
}
DEATHS = (0.0, 0.01, 0.03, 0.1, 0.3)  # an hour of running time
FAILING_WORKERS, FAILING_EVALUATIONS = 64, 1024

Step = Callable[[str], None]  # is told what was measured


@dataclass(frozen=True)
class Utilisation:
    """Random search on a cluster. busy: by trials a worker, the share of the workers' time that they trained, 0 to 1."""

    workers: int
    condition: str
    busy: Mapping[int, float]

    @property
    def longest(self) -> float:
        """That of the longest search."""
        return self.busy[max(self.busy)]


@dataclass(frozen=True)
class Loss:
    """Best score with one worker less that with several, of the same strategy and seeds: mean and its error (None: one seed)."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Quality:
    """A strategy on a cluster.

    best: by number of evaluations, the mean over seeds. loss: likewise, against one worker with the same options. hours: by
    target, the median over seeds of the virtual time until it is reached, None where half of the searches do not reach it.
    reached: by target, how many do. utilisation: of the whole search, 0 to 1.
    """

    strategy: str
    workers: int
    population: int | None
    seeds: int
    best: Mapping[int, float]
    loss: Mapping[int, Loss]
    hours: Mapping[float, float | None]
    reached: Mapping[float, int]
    utilisation: float


@dataclass(frozen=True)
class Failing:
    """A search whose workers die. useful: share of occupied time that led to a score; failed: share of trials without one."""

    deaths_per_hour: float
    attempts: float
    useful: float
    failed: float
    hours: float | None
    best: float


def options_for(benchmark: TabularBenchmark, strategy: str, workers: int) -> tuple[str, dict[str, Any]]:
    """The registered name and the options: those of the published searches on this benchmark, and a population that grows."""
    name = "evolution" if strategy == GROWING else strategy
    options = options_of(benchmark, name)
    if strategy == GROWING:
        options["population"] = max(options["population"], workers)
    return name, options


def searches(
    benchmark: TabularBenchmark, strategy: str, options: Mapping[str, Any], evaluations: int, seeds: int, cluster: Cluster
) -> Iterator[Search]:
    """A search of each seed."""
    lookup: Lookup = lookup_in(benchmark)
    for seed in range(seeds):
        yield search(all_strategies()[strategy](benchmark.table.space, seed, options), lookup, evaluations, cluster)


def utilisations(
    benchmark: TabularBenchmark,
    workers: Sequence[int],
    seeds: int,
    ideal: Cluster,
    conditions: Mapping[str, Mapping[str, float]],
    step: Step,
) -> list[Utilisation]:
    """Rows of the given cluster at every size, then under each of the conditions."""
    rows = []
    for condition, settings in {"": {}, **conditions}.items():
        for count in workers:
            cluster = replace(ideal, workers=count, **settings)
            shares = [
                [one.utilisation(each * count) for each in TRIALS_A_WORKER]
                for one in searches(benchmark, "random", {}, count * max(TRIALS_A_WORKER), seeds, cluster)
            ]
            means = map(statistics.fmean, zip(*shares, strict=True))
            rows.append(Utilisation(count, condition, dict(zip(TRIALS_A_WORKER, means, strict=True))))
        step(f"utilisation, {condition or 'the cluster'}: " + ", ".join(f"{row.longest:.2f}" for row in rows[-len(workers) :]))
    return rows


def qualities(
    benchmark: TabularBenchmark, strategies: Sequence[str], workers: Sequence[int], evaluations: Sequence[int],
    targets: Sequence[float], seeds: int, ideal: Cluster, step: Step,
) -> list[Quality]:  # fmt: skip
    """A row for each strategy and size of the cluster."""
    rows = []
    for strategy in strategies:
        alone: dict[str, list[Search]] = {}  # by options: what is compared with
        for count in workers:
            name, options = options_for(benchmark, strategy, count)

            def run(cluster: Cluster, name: str = name, options: dict[str, Any] = options) -> list[Search]:
                return list(searches(benchmark, name, options, max(evaluations), seeds, cluster))

            if str(options) not in alone:
                alone[str(options)] = run(replace(ideal, workers=1))
            base = alone[str(options)]
            found = base if count == 1 else run(replace(ideal, workers=count))
            rows.append(_quality(strategy, count, options.get("population"), found, base, evaluations, targets))
            step(f"{strategy}, {count} workers: {rows[-1].best[max(evaluations)]:.2f}")
    return rows


def _quality(
    strategy: str, workers: int, population: int | None, found: Sequence[Search], base: Sequence[Search],
    evaluations: Sequence[int], targets: Sequence[float],
) -> Quality:  # fmt: skip
    hours = {target: [one.hours_until(target) for one in found] for target in targets}
    pairs = list(zip(base, found, strict=True))
    lost = {count: [one.best(count) - several.best(count) for one, several in pairs] for count in evaluations}
    return Quality(
        strategy,
        workers,
        population,
        len(found),
        best={count: statistics.fmean(one.best(count) for one in found) for count in evaluations},
        loss={count: Loss(statistics.fmean(values), standard_error(values)) for count, values in lost.items()},
        hours={target: median(values) for target, values in hours.items()},
        reached={target: sum(value is not None for value in values) for target, values in hours.items()},
        utilisation=statistics.fmean(one.utilisation(max(evaluations)) for one in found),
    )


def failing(benchmark: TabularBenchmark, deaths: Sequence[float], target: float, seeds: int, ideal: Cluster) -> list[Failing]:
    """Evolution with a population as large as the cluster, at several rates of deaths."""
    name, options = options_for(benchmark, GROWING, ideal.workers)
    rows = []
    for rate in deaths:
        cluster = replace(ideal, failures_per_hour=rate)
        found = list(searches(benchmark, name, options, FAILING_EVALUATIONS, seeds, cluster))
        trials = [trial for one in found for trial in one.trials]
        rows.append(
            Failing(
                rate,
                attempts=statistics.fmean(trial.attempts for trial in trials),
                useful=sum(trial.trained for trial in trials) / sum(trial.occupied for trial in trials),
                failed=statistics.fmean(trial.score is None for trial in trials),
                hours=median([one.hours_until(target) for one in found]),
                best=statistics.fmean(one.best(FAILING_EVALUATIONS) for one in found),
            )
        )
    return rows


def median(values: Sequence[float | None]) -> float | None:
    """The median where None is later than every time; None when it is not reached."""
    found = statistics.median(math.inf if value is None else value for value in values)
    return found if math.isfinite(found) else None


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
