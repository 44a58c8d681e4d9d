"""How well strategies search, measured in seconds: whole searches simulated on a tabular benchmark, over many seeds.

    benchmark = TabularBenchmark("nasbench201", "tables/nasbench201")
    rows = simulate(benchmark, "evolution", {"sample": 3}, evaluations=100, seeds=500)

A search proposes so many architectures, one after the other, and ends with the one of the largest value seen; what is reported
of that one is averaged over the seeds. An architecture that is proposed again counts again.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from segnas.config import from_dict, override, to_dict
from segnas.errors import Registry, UserError
from segnas.estimators.tabular import Published, TabularBenchmark
from segnas.spaces.architecture import Architecture
from segnas.strategies.base import Result, Strategy, strategies


@dataclass(frozen=True)
class Row:
    """One reported figure, in percent: its mean over the searches, their standard deviation, and what a paper prints."""

    strategy: str
    metric: str
    mean: float
    std: float
    seeds: int
    evaluations: int
    published: Published | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Strategy, figure, mean, standard deviation and the published figure, for people."""
        return self.strategy, self.metric, f"{self.mean:.2f}", f"{self.std:.2f}", str(self.published or "-")


def all_strategies() -> Registry[type[Strategy]]:
    """The registry, with everything in segnas/strategies/ in it."""
    import segnas.strategies as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segnas.strategies.{module.name}")
    return strategies


def options_of(benchmark: TabularBenchmark, strategy: str, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """A strategy's options: its own defaults, those of the published searches on this benchmark, then `key=value`.

    Raises UserError for a strategy or key that is unknown, a value that does not fit and a space that the strategy refuses.
    """
    kind = all_strategies()[strategy]
    config: Any = from_dict(kind.options, benchmark.table.options.get(strategy, {}))
    if assignments and not to_dict(config):
        raise UserError(f"{strategy} has no options; leave out {', '.join(assignments)}")
    try:
        options = to_dict(override(config, assignments))
    except UserError as error:
        raise UserError(f"{strategy}: {error}") from None
    kind(benchmark.table.space, 0, options)
    return options


def found_by(strategy: Strategy, benchmark: TabularBenchmark, evaluations: int) -> Architecture:
    """The architecture of the largest value in a search; the first of equals."""
    best: tuple[float, Architecture] | None = None
    for number in range(evaluations):
        architecture = strategy.ask()
        value = benchmark.estimate(architecture, strategy.seed, {}).metrics[benchmark.table.metric]
        strategy.tell(Result(number, architecture, "done", (value,)))
        if best is None or value > best[0]:
            best = value, architecture
    if best is None:
        raise ValueError("a search needs an evaluation")
    return best[1]


def simulate(
    benchmark: TabularBenchmark,
    strategy: str,
    options: Mapping[str, Any],
    evaluations: int,
    seeds: int,
    workers: int = 1,
    step: Callable[[], None] = lambda: None,
) -> list[Row]:
    """A row for each reported figure, over searches of the seeds 0 .. seeds - 1.

    workers: processes that share the seeds; the figures do not depend on it. step: called after each search.
    """
    reports = []
    for report in _reports(benchmark, _Searches(strategy, options, evaluations), seeds, workers):
        reports.append(report)
        step()
    published = benchmark.table.published.get(strategy, {})
    rows = []
    for metric in benchmark.table.reported:
        values = [report[metric] for report in reports]
        mean, std = statistics.fmean(values), statistics.pstdev(values)
        rows.append(Row(strategy, metric, mean, std, seeds, evaluations, published.get(metric)))
    return rows


@dataclass(frozen=True)
class _Searches:
    """Searches that differ in their seed."""

    strategy: str
    options: Mapping[str, Any]
    evaluations: int

    def report(self, benchmark: TabularBenchmark, seed: int) -> dict[str, float]:
        strategy = all_strategies()[self.strategy](benchmark.table.space, seed, self.options)
        return benchmark.report(found_by(strategy, benchmark, self.evaluations))


def _reports(benchmark: TabularBenchmark, searches: _Searches, seeds: int, workers: int) -> Iterator[dict[str, float]]:
    """The reported figures of each seed, in order."""
    if workers == 1:
        for seed in range(seeds):
            yield searches.report(benchmark, seed)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _begin, (benchmark.name, benchmark.folder, searches))
    try:
        yield from pool.map(_report, range(seeds), chunksize=max(1, seeds // (4 * workers)))
    finally:
        pool.shutdown(cancel_futures=True)


_work: tuple[TabularBenchmark, _Searches]  # of a process of the pool


def _begin(name: str, folder: Any, searches: _Searches) -> None:
    """Reads the table once in each process; Ctrl-C is for the process that a person started."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = TabularBenchmark(name, folder), searches


def _report(seed: int) -> dict[str, float]:
    benchmark, searches = _work
    return searches.report(benchmark, seed)
