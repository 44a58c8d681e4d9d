"""Searches on clusters of up to 4,096 workers, in virtual time, from a table of trained networks.

    python benchmarks/simulated_cluster.py --data tables/transnasbench101            everything, in some minutes
    python benchmarks/simulated_cluster.py --data tables/transnasbench101 --write    and the page and its figure from it
    python benchmarks/simulated_cluster.py --data ... --strategies local-search,evolution --workers 1,64 --failures-per-hour 0.05

What is simulated stands in cluster.py, what is asked of it in cluster_studies.py, what came of it in docs/simulated_cluster.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from cluster import HOUR, Cluster
from cluster_figure import figure
from cluster_studies import (
    CONDITIONS,
    DEATHS,
    EVALUATIONS,
    FAILING_EVALUATIONS,
    FAILING_WORKERS,
    GROWING,
    STRATEGIES,
    TARGETS,
    TRIALS_A_WORKER,
    WORKERS,
    failing,
    options_for,
    qualities,
    utilisations,
)
from cluster_tables import failing_table, loss_table, part, time_table, utilisation_table
from pages import DOCS, write_part
from segnas.benchmarking import all_strategies
from segnas.errors import UserError
from segnas.estimators.tabular import TabularBenchmark, benchmarks
from supernet_step import Parser, positive, several, told

SCRIPT = "benchmarks/simulated_cluster.py --write"
BENCHMARK = "transnas-segmentation-micro"
SEEDS, UTILISATION_SEEDS = 20, 3  # shares of time differ little from seed to seed
OVERHEADS = ("failures_per_hour", "proposal_seconds", "start_seconds")


def everything(benchmark: TabularBenchmark, options: argparse.Namespace) -> dict[str, Any]:
    """The rows of all studies; of a cluster with failures or overheads of its own, those that have none of theirs."""
    begin = time.monotonic()
    ideal = Cluster(1, *(getattr(options, name) for name in OVERHEADS))
    conditions = CONDITIONS if ideal == Cluster(1) else {}
    seeds = min(options.seeds, UTILISATION_SEEDS)
    results: dict[str, Any] = {
        "utilisation": utilisations(benchmark, options.workers, seeds, ideal, conditions, told),
        "quality": qualities(
            benchmark, options.strategies, options.workers, options.evaluations, options.targets, options.seeds, ideal, told
        ),
        "failing": [],
    }
    if conditions:
        results["failing"] = failing(benchmark, DEATHS, options.targets[0], options.seeds, Cluster(FAILING_WORKERS))
    return results | {
        "minutes": (time.monotonic() - begin) / 60,
        "seeds": options.seeds,
        "utilisation_seeds": seeds,
        "trials": trials_of(benchmark, options, seeds, len(conditions)),
    }


def trials_of(benchmark: TabularBenchmark, options: argparse.Namespace, seeds: int, conditions: int) -> int:
    """How many trials were simulated in all."""
    searches = 0
    for strategy in options.strategies:
        alone = {str(options_for(benchmark, strategy, count)[1]) for count in options.workers}
        searches += options.seeds * (len(alone) + sum(count > 1 for count in options.workers))
    longest = seeds * (1 + conditions) * max(TRIALS_A_WORKER) * sum(options.workers)
    deaths = len(DEATHS) * options.seeds * FAILING_EVALUATIONS if conditions else 0
    return searches * max(options.evaluations) + longest + deaths


def about(benchmark: TabularBenchmark, targets: Sequence[float]) -> dict[str, Any]:
    """What the page says of the table and the run; no more of its data than that."""
    table = benchmark.table
    assert table.seconds is not None
    hours = [row[table.seconds] / HOUR for row in benchmark.rows.values()]
    scores = [row[table.searched] for row in benchmark.rows.values()]
    return {
        "command": f"python benchmarks/simulated_cluster.py --data tables/{benchmark.folder.name} --write",
        "date": time.strftime("%Y-%m-%d"),
        "durations": (min(hours), statistics.median(hours), max(hours)),
        "above": [sum(score >= target for score in scores) for target in targets],
        "best": max(scores),
        "size": len(scores),
    }


def numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Numbers with commas between them, in rising order, each once."""

    def parsed(text: str) -> tuple[Any, ...]:
        return tuple(sorted({kind(part) for part in text.split(",")}))

    return parsed


def rate(text: str) -> float:
    """A number that is not negative."""
    value = float(text)  # argparse says so where it is none
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of at least 0")
    return value


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a mistake ends the program with one line and status 2."""
    named = [name for name in benchmarks if benchmarks[name].seconds]
    parser = Parser(description="Utilisation, time and loss of searches on clusters of many workers, in virtual time.")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the benchmark's table (micro.csv.gz)")
    parser.add_argument("--benchmark", choices=named, default=BENCHMARK, metavar="NAME", help=", ".join(named))
    known = dict.fromkeys([*all_strategies(), GROWING])
    parser.add_argument("--strategies", type=several(known), default=STRATEGIES, metavar="A,B", help=", ".join(known))
    parser.add_argument("--workers", type=numbers(positive), default=WORKERS, metavar="N,M")
    parser.add_argument("--evaluations", type=numbers(positive), default=EVALUATIONS, metavar="N,M", help="the last: of a search")
    parser.add_argument("--targets", type=numbers(float), default=TARGETS, metavar="X,Y", help="scores, in percent")
    parser.add_argument("--seeds", type=positive, default=SEEDS)
    for name, words in zip(OVERHEADS, ("of a trial's running time", "of the driver", "of a worker, an attempt"), strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", type=rate, default=0.0, metavar="X", help=f"{words} (default 0)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/simulated_cluster.md and .svg too")
    options = parser.parse_args(arguments)
    if options.write:
        page = vars(parser.parse_args(["--data", options.data, "--write"]))
        changed = [name for name, value in vars(options).items() if name not in ("json", "data") and value != page[name]]
        if changed:
            parser.error(f"--write is the page of a run with all defaults; leave out --{changed[0].replace('_', '-')}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate what the options ask for, and print it."""
    options = parsed(arguments)
    try:
        benchmark = TabularBenchmark(options.benchmark, options.data)
        results = everything(benchmark, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    tables = [utilisation_table(results["utilisation"]), time_table(results["quality"]), loss_table(results["quality"])]
    if results["failing"]:
        tables.append(failing_table(results["failing"], options.targets[0]))
    if options.write:
        write_part("cluster", SCRIPT, part(results | about(benchmark, options.targets)))
        (DOCS / "simulated_cluster.svg").write_text(figure(results["utilisation"], results["quality"]), encoding="utf-8")
    if options.json:
        rows = {name: [asdict(row) for row in results[name]] for name in ("utilisation", "quality", "failing")}
        print(json.dumps({**results, **rows}, indent=1))
    else:
        print("\n\n".join(tables))
        told(f"{results['trials']:,} trials, {results['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
