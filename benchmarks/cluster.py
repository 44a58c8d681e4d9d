"""A cluster in virtual time: the loop of a search by trials (segnas/systems/trial_search.py) with a clock that jumps.

    found = search(strategy, lookup, evaluations=1000, cluster=Cluster(workers=64, failures_per_hour=0.02))
    found.utilisation(1000), found.best(50), found.hours_until(25.5)

What trials score and how long they train comes from a table, so that 4,096 workers need one process. One driver asks the strategy
for every free worker, then waits for the next trial that ends, tells its result and asks again; what ends while it is asking is
told afterwards. A proposal never depends on how many are to come, so that a search of fewer evaluations is the beginning of a
longer one, and figures are given for the first `count` trials. (Where proposals take time, the driver of the longer one is busy
with more of them: its results may be told later.)
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from segnas.estimators.tabular import TabularBenchmark
from segnas.randomness import numpy_generator
from segnas.spaces.architecture import Architecture
from segnas.strategies.base import Result, Strategy
from segnas.systems.trial_search import ATTEMPTS

HOUR = 3600.0  # seconds

Lookup = Callable[[Architecture], tuple[float, float]]  # -> (score, larger is better; seconds of training)


@dataclass(frozen=True)
class Cluster:
    """What trials run on.

    failures_per_hour: of running time of a trial, its start included; its worker then dies at an exponentially distributed time,
    and it is run again as soon as a worker is free, twice at most. proposal_seconds: that the driver is busy with one proposal.
    start_seconds: that a worker needs before it trains, at every attempt.
    """

    workers: int
    failures_per_hour: float = 0.0
    proposal_seconds: float = 0.0
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1 or min(self.failures_per_hour, self.proposal_seconds, self.start_seconds) < 0:
            raise ValueError(f"a cluster has workers, and neither rates nor times below 0: {self}")


@dataclass(frozen=True)
class Ended:
    """A trial that has ended.

    score: None for one that has failed. time: when its result was told, in seconds from the start of the search. occupied:
    seconds that it held a worker, in all its attempts; trained: those of training that led to a score.
    """

    score: float | None
    time: float
    occupied: float
    trained: float
    attempts: int


@dataclass(frozen=True)
class Search:
    """The trials of a search, in the order of the proposals."""

    cluster: Cluster
    trials: tuple[Ended, ...]

    def seconds(self, count: int) -> float:
        """Virtual time until the last of the first `count` trials has ended."""
        return max(trial.time for trial in self.trials[:count])

    def utilisation(self, count: int) -> float:
        """Share of the workers' time until then in which they trained for a result, 0 to 1."""
        return sum(trial.trained for trial in self.trials[:count]) / (self.cluster.workers * self.seconds(count))

    def best(self, count: int) -> float:
        """The best score of the first `count` trials; raises ValueError where all of them failed."""
        return max(trial.score for trial in self.trials[:count] if trial.score is not None)

    def hours_until(self, score: float) -> float | None:
        """Virtual hours until the first result of at least this score is told; None where there is none."""
        times = [trial.time for trial in self.trials if trial.score is not None and trial.score >= score]
        return min(times) / HOUR if times else None


@dataclass
class _Running:
    """A trial on its way; `waited` and `died` of the attempt that runs."""

    number: int
    architecture: Architecture
    score: float
    training: float
    attempts: int = 0
    occupied: float = 0.0
    died: bool = False


def search(strategy: Strategy, lookup: Lookup, evaluations: int, cluster: Cluster) -> Search:
    """A search of so many trials. The strategy is new; its seed is that of the failures too."""
    ended: dict[int, Ended] = {}
    again: deque[_Running] = deque()  # trials whose worker died
    events: list[tuple[float, int, _Running]] = []  # (when it ends, number, trial): a heap
    now, asked = 0.0, 0

    while True:
        while len(events) < cluster.workers and (again or asked < evaluations):
            if again:
                trial = again.popleft()
            else:
                architecture = strategy.ask()
                trial = _Running(asked, architecture, *lookup(architecture))
                asked += 1
                now += cluster.proposal_seconds
            lasts = _run(trial, cluster, strategy.seed)
            heapq.heappush(events, (now + lasts, trial.number, trial))
        if not events:
            return Search(cluster, tuple(ended[number] for number in range(evaluations)))
        now = max(now, events[0][0])
        while events and events[0][0] <= now:
            trial = heapq.heappop(events)[2]
            if trial.died and trial.attempts < ATTEMPTS:
                again.append(trial)
            elif trial.died:
                ended[trial.number] = Ended(None, now, trial.occupied, 0.0, trial.attempts)
                strategy.tell(Result(trial.number, trial.architecture, "failed", None))
            else:
                ended[trial.number] = Ended(trial.score, now, trial.occupied, trial.training, trial.attempts)
                strategy.tell(Result(trial.number, trial.architecture, "done", (trial.score,)))


def _run(trial: _Running, cluster: Cluster, seed: int) -> float:
    """Begin an attempt; the seconds that it will hold its worker."""
    trial.attempts += 1
    lasts = cluster.start_seconds + trial.training
    if cluster.failures_per_hour:
        generator = numpy_generator(seed, "death of a worker", trial.number, trial.attempts)
        dies = float(generator.exponential(HOUR / cluster.failures_per_hour))
        trial.died = dies < lasts
        lasts = min(dies, lasts)
    trial.occupied += lasts
    return lasts


def lookup_in(benchmark: TabularBenchmark) -> Lookup:
    """Score and training seconds from a table; raises ValueError for one that has no seconds."""
    if benchmark.table.seconds is None:
        raise ValueError(f"{benchmark} has no training seconds")

    def lookup(architecture: Architecture) -> tuple[float, float]:
        found = benchmark.estimate(architecture, 0, {})
        return found.metrics[benchmark.table.metric], found.costs["training_seconds"]

    return lookup
