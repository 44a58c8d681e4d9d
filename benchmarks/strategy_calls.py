"""What a strategy itself takes for a proposal: ask and tell alone, without training, on the cell of NAS-Bench-201.

    python benchmarks/strategy_calls.py                                              scores made up from the choices
    python benchmarks/strategy_calls.py --data tables/nasbench201                    scores of the published table
    python benchmarks/strategy_calls.py --strategies random,tpe --evaluations 1000 --threads 2 --json

Each strategy has a process of its own with OMP_NUM_THREADS set, and in it whole searches, one after the other, of which the
first is not timed. Options are those of the published searches on this benchmark. Searches are of 100 evaluations: a strategy
that looks at all results takes longer in longer ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import write_part
from segnas.benchmarking import all_strategies
from segnas.errors import UserError
from segnas.estimators.tabular import TabularBenchmark, benchmarks
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import encode
from segnas.strategies.base import Result, Strategy
from supernet_step import Parser, positive, several
from tables import markdown

SCRIPT = "benchmarks/strategy_calls.py --write"
BENCHMARK = "nasbench201"
LIMITS_MS = {"random": 0.2, "evolution": 0.2, "reinforce": 5.0}  # of the median of ask and tell together, on two cores
COLUMNS = {
    "ask, us": "median",
    "tell, us": "median",
    "both, ms": "median of an ask and its tell together",
    "mean, ms": "of both; where a strategy learns now and then, that is in here and not in the median",
    "longest, ms": "of both",
    "search, ms": "median over the searches of all their asks and tells",
    "limit, ms": "that the median of both must keep",
}

Score = Callable[[Architecture], float]
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in processes, one after the other, and print it; with --measure, be such a process."""
    options = parsed(arguments)
    try:
        if options.measure:
            print(json.dumps(measured(options.measure, options.data, options.evaluations, options.searches)))
            return
        rows = [in_process(name, options) for name in options.strategies]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if options.write:
        write_part("strategy calls", SCRIPT, part(rows, options))
    print(json.dumps(rows, indent=1) if options.json else f"{table(rows)}\n\n{verdict(rows)}")


def in_process(name: str, options: argparse.Namespace) -> Row:
    """The row of a strategy, from a process of its own; where that fails the program ends with its status."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    command += ["--evaluations", str(options.evaluations), "--searches", str(options.searches)]
    command += [] if options.data is None else ["--data", options.data]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(options.threads)}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)  # it said itself what was wrong
    row: Row = json.loads(ended.stdout)
    return row


def measured(name: str, data: str | None, evaluations: int, searches: int) -> Row:
    """The figures of a strategy, over all calls of `searches` searches after a first one."""
    score = scores_of(data)
    asks: list[float] = []
    tells: list[float] = []
    totals: list[float] = []
    for seed in range(searches + 1):
        ask, tell = timed(made(name, seed), score, evaluations)
        if seed:
            asks, tells, totals = [*asks, *ask], [*tells, *tell], [*totals, sum(ask) + sum(tell)]
    return figures(name, asks, tells, totals)


def timed(strategy: Strategy, score: Score, evaluations: int) -> tuple[list[float], list[float]]:
    """Seconds of each ask and of each tell of a search."""
    asks, tells = [], []
    for number in range(evaluations):
        begin = time.perf_counter()
        architecture = strategy.ask()
        asks.append(time.perf_counter() - begin)
        result = Result(number, architecture, "done", (score(architecture),))
        begin = time.perf_counter()
        strategy.tell(result)
        tells.append(time.perf_counter() - begin)
    return asks, tells


def figures(name: str, asks: Sequence[float], tells: Sequence[float], totals: Sequence[float]) -> Row:
    """A row from seconds; asks and tells belong together, totals are of searches."""
    both = [ask + tell for ask, tell in zip(asks, tells, strict=True)]
    median, limit = 1e3 * statistics.median(both), LIMITS_MS.get(name)
    return {
        "strategy": name,
        "ask, us": 1e6 * statistics.median(asks),
        "tell, us": 1e6 * statistics.median(tells),
        "both, ms": median,
        "mean, ms": 1e3 * statistics.fmean(both),
        "longest, ms": 1e3 * max(both),
        "search, ms": 1e3 * statistics.median(totals),
        "limit, ms": limit,
        "kept": None if limit is None else median < limit,
    }


def made(name: str, seed: int) -> Strategy:
    """A new strategy with the options of the published searches, where there are any."""
    known = benchmarks[BENCHMARK]
    return all_strategies()[name](known.space, seed, known.options.get(name, {}))


def scores_of(data: str | None) -> Score:
    """Of the table, in percent; without one, made up from the indices of the choices."""
    if data is None:
        return synthetic
    benchmark = TabularBenchmark(BENCHMARK, data)
    return lambda architecture: benchmark.estimate(architecture, 0, {}).metrics[benchmark.table.metric]


def synthetic(architecture: Architecture) -> float:
    """From 20 to 90 percent: each choice counts, later ones more."""
    indices = encode(benchmarks[BENCHMARK].space, architecture).values()
    most = 4 * sum(range(1, len(indices) + 1))
    return 20 + 70 * sum(place * index for place, index in enumerate(indices, start=1)) / most


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a strategy."""
    header = ["strategy", *COLUMNS]
    return markdown(header, [[row[name] for name in header] for row in rows])


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the limits are kept."""
    told = [
        f"{row['strategy']} takes {row['both, ms']:.3g} ms, {'within' if row['kept'] else 'NOT within'} {row['limit, ms']:g} ms"
        for row in rows
        if row["limit, ms"] is not None
    ]
    return f"limits of the median of ask and tell: {'; '.join(told) or 'of none of these'}"


def part(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """What the script writes into docs/simulated_cluster.md."""
    from segnas.costs.latency import processor

    scores = "made-up scores" if options.data is None else "scores of its table"
    return "\n\n".join(
        [
            f"Ask and tell on NAS-Bench-201 with {scores}: {options.searches} searches of {options.evaluations} evaluations, "
            f"each strategy in a process of its own with OMP_NUM_THREADS={options.threads} ({processor()}, {os.cpu_count()} "
            f"cores, {time.strftime('%Y-%m-%d')}).",
            table(rows),
            "\n".join(f"- `{name}`: {meaning}" for name, meaning in COLUMNS.items()),
            f"{verdict(rows)[0].upper()}{verdict(rows)[1:]}.",
        ]
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a mistake ends the program with one line and status 2."""
    known = dict.fromkeys(all_strategies())
    parser = Parser(description="Microseconds and milliseconds of ask and tell on NAS-Bench-201, for every strategy.")
    parser.add_argument("--data", metavar="DIR", help="folder with accuracy.csv.gz (default: made-up scores)")
    parser.add_argument("--strategies", type=several(known), default=list(known), metavar="A,B", help=", ".join(known))
    parser.add_argument("--evaluations", type=positive, default=100, help="of a search (default 100)")
    parser.add_argument("--searches", type=positive, default=5, help="timed ones, after a first (default 5)")
    parser.add_argument("--threads", type=positive, default=1, help="OMP_NUM_THREADS of each process (default 1)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--write", action="store_true", help="write the table into docs/simulated_cluster.md too")
    parser.add_argument("--measure", choices=known, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
