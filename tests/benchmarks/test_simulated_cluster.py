"""The simulated cluster: against the sequential simulation, by hand and in closed form; its tables, its page, mistakes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_up_tables import NAME, value_of, write

import simulated_cluster
from cluster import HOUR, Cluster, Lookup, Search, lookup_in, search
from cluster_figure import SHOWN, figure
from cluster_studies import GROWING, Quality, Utilisation, median, options_for, qualities, utilisations
from cluster_tables import loss_table, lost, time_table, utilisation_table
from pages import PAGE, replaced
from segnas.benchmarking import all_strategies, found_by, options_of
from segnas.estimators.tabular import TabularBenchmark
from segnas.spaces.architecture import Architecture
from segnas.spaces.tabular import TransNasMacroSpace
from segnas.strategies.base import Result, Strategy

DURATION = 100.0


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> TabularBenchmark:
    return TabularBenchmark(NAME, write(tmp_path_factory.mktemp("tables")))


def equal(architecture: Architecture) -> tuple[float, float]:
    return value_of(architecture), DURATION


def by_depth(architecture: Architecture) -> tuple[float, float]:
    """Ends in another order than they began."""
    return value_of(architecture), 100.0 * architecture.depth + value_of(architecture)


class Spy:
    """A strategy that notes what it is asked and told."""

    def __init__(self, name: str, seed: int = 0, options: dict[str, Any] | None = None) -> None:
        self.strategy: Strategy = all_strategies()[name](TransNasMacroSpace(), seed, options or {})
        self.asked: list[Architecture] = []
        self.told: list[Result] = []
        ask, tell = self.strategy.ask, self.strategy.tell

        def asks() -> Architecture:
            self.asked.append(ask())
            return self.asked[-1]

        def tells(result: Result) -> None:
            self.told.append(result)
            tell(result)

        self.strategy.ask, self.strategy.tell = asks, tells  # type: ignore[method-assign]


def run(lookup: Lookup, count: int, cluster: Cluster, name: str = "random", seed: int = 0) -> Search:
    return search(Spy(name, seed).strategy, lookup, count, cluster)


@pytest.mark.parametrize("name", ["random", "evolution", "local-search", "near-best", "nsga2"])
def test_one_worker_is_the_sequential_simulation(name: str, made_up: TabularBenchmark) -> None:
    """The very same architectures are asked for and results told, whatever trials take."""
    options = options_of(made_up, name)
    alone, here = Spy(name, 3, options), Spy(name, 3, options)
    best = found_by(alone.strategy, made_up, 40)
    found = search(here.strategy, lookup_in(made_up), 40, Cluster(1))
    assert here.asked == alone.asked
    assert here.told == alone.told
    assert found.best(40) == pytest.approx(value_of(best), abs=1e-4)
    assert found.seconds(40) == sum(100 * architecture.depth for architecture in here.asked)
    assert found.utilisation(40) == pytest.approx(1)


@pytest.mark.parametrize("workers", [1, 3, 8, 64])
@pytest.mark.parametrize("start", [0.0, 25.0])
def test_utilisation_of_equal_durations(workers: int, start: float) -> None:
    """ceil(N / W) rounds of all workers, the last of them not full."""
    found = run(equal, 20, Cluster(workers, start_seconds=start))
    rounds = math.ceil(20 / workers)
    assert found.seconds(20) == rounds * (DURATION + start)
    assert found.utilisation(20) == pytest.approx(20 * DURATION / (workers * rounds * (DURATION + start)))


def test_a_slow_driver_by_hand() -> None:
    """Proposals of 100 s for trials of 100 s, 2 workers: starts at 100, 200, 300, 400; ends at 200, 300, 400, 500."""
    found = run(equal, 4, Cluster(2, proposal_seconds=100.0))
    assert [trial.time for trial in found.trials] == [200.0, 300.0, 400.0, 500.0]
    assert found.utilisation(4) == 4 * 100 / (2 * 500)


def test_what_ends_while_the_driver_is_busy_is_told_afterwards() -> None:
    """3 workers, proposals of 60 s: the first trial ends at 160, while the third is proposed, until 180."""
    found = run(equal, 3, Cluster(3, proposal_seconds=60.0))
    assert [trial.time for trial in found.trials] == [180.0, 220.0, 280.0]


@pytest.mark.parametrize("workers", [1, 7, 200])
def test_every_trial_ends_once(workers: int) -> None:
    spy = Spy("evolution", options={"population": 10, "sample": 3})
    found = search(spy.strategy, by_depth, 120, Cluster(workers, failures_per_hour=5.0))
    assert len(spy.asked) == len(found.trials) == 120
    assert sorted(result.number for result in spy.told) == list(range(120))
    assert all(spy.asked[result.number] == result.architecture for result in spy.told)
    failed = {result.number for result in spy.told if result.status == "failed"}
    assert failed == {number for number, trial in enumerate(found.trials) if trial.score is None}
    assert 0 < len(failed) < 60
    assert {trial.attempts for trial in found.trials} == {1, 2, 3}
    for number, (trial, architecture) in enumerate(zip(found.trials, spy.asked, strict=True)):
        score, seconds = by_depth(architecture)
        assert (trial.score, trial.trained) == ((None, 0.0) if number in failed else (score, seconds))
        assert trial.attempts == 3 or number not in failed
        assert (trial.occupied == seconds) == (trial.attempts == 1)
    assert sum(trial.occupied for trial in found.trials) <= workers * found.seconds(120) * (1 + 1e-12)
    told = [found.trials[result.number].time for result in spy.told]
    assert told == sorted(told)


def test_deaths_are_as_frequent_as_the_rate_says() -> None:
    """An attempt dies with p = 1 - exp(-rate time): 1 + p + p^2 attempts, a share p^3 fails."""
    count, cluster = 4000, Cluster(50, failures_per_hour=12.0, start_seconds=50.0)
    trials = run(equal, count, cluster).trials
    p = 1 - math.exp(-12 * 150 / HOUR)
    assert sum(trial.attempts for trial in trials) / count == pytest.approx(1 + p + p**2, abs=4 * 0.8 / math.sqrt(count))
    failed = sum(trial.score is None for trial in trials) / count
    assert failed == pytest.approx(p**3, abs=4 * math.sqrt(p**3 * (1 - p**3) / count))


@pytest.mark.parametrize("rate", [0.0, 5.0])
@pytest.mark.parametrize("workers", [1, 5, 30])
def test_a_shorter_search_is_the_beginning_of_a_longer_one(rate: float, workers: int) -> None:
    cluster = Cluster(workers, failures_per_hour=rate, start_seconds=9.0)
    short, long = (run(by_depth, count, cluster, "evolution") for count in (25, 60))
    assert long.trials[:25] == short.trials


def test_figures_of_a_search_by_hand() -> None:
    """Two workers: 0 and 1 at once, 2 where 0 was, 3 where 1 was."""
    spy = Spy("random")
    takes, scores = iter([3600.0, 7200.0, 7200.0, 1800.0]), iter([1.0, 3.0, 5.0, 2.0])
    found = search(spy.strategy, lambda architecture: (next(scores), next(takes)), 4, Cluster(2))
    assert [trial.time / HOUR for trial in found.trials] == [1.0, 2.0, 3.0, 2.5]
    assert [result.number for result in spy.told] == [0, 1, 3, 2]
    assert (found.best(2), found.best(4)) == (3.0, 5.0)
    assert (found.hours_until(2.0), found.hours_until(4.0), found.hours_until(6.0)) == (2.0, 3.0, None)
    assert found.utilisation(4) == (1 + 2 + 2 + 0.5) / (2 * 3)


def test_an_impossible_cluster() -> None:
    for change in ({"workers": 0}, {"failures_per_hour": -1.0}, {"proposal_seconds": -1.0}, {"start_seconds": -1.0}):
        with pytest.raises(ValueError, match="a cluster has workers"):
            replace(Cluster(1), **change)  # type: ignore[arg-type]


def test_a_table_without_seconds(made_up: TabularBenchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "table", replace(made_up.table, seconds=None))
    with pytest.raises(ValueError, match="no training seconds"):
        lookup_in(made_up)


def test_the_population_grows(made_up: TabularBenchmark) -> None:
    assert [options_for(made_up, GROWING, workers)[1]["population"] for workers in (1, 10, 64)] == [10, 10, 64]
    assert options_for(made_up, "evolution", 64)[1]["population"] == 10
    assert options_for(made_up, GROWING, 64)[0] == "evolution"


def studied(made_up: TabularBenchmark, strategies: tuple[str, ...] = ("random", "evolution", GROWING)) -> list[Quality]:
    return qualities(made_up, strategies, (1, 20), (5, 40), (18.0, 99.0), 3, Cluster(1), lambda line: None)


def test_random_search_loses_nothing_and_evolution_only_after_its_first_population(made_up: TabularBenchmark) -> None:
    rows = {(row.strategy, row.workers): row for row in studied(made_up)}
    assert all(loss.mean == 0 for loss in rows["random", 20].loss.values())
    assert rows["evolution", 20].loss[5].mean == 0
    assert rows[GROWING, 20].population == 20
    for strategy in ("evolution", GROWING):
        lookup, (name, options) = lookup_in(made_up), options_for(made_up, strategy, 20)
        both = [
            [search(Spy(name, seed, options).strategy, lookup, 40, Cluster(workers)).best(40) for workers in (1, 20)]
            for seed in range(3)
        ]
        assert rows[strategy, 20].loss[40].mean == pytest.approx(sum(one - several for one, several in both) / 3)
        assert rows[strategy, 20].best[40] == pytest.approx(sum(several for _, several in both) / 3)
    assert all(row.reached[99.0] == 0 and row.hours[99.0] is None for row in rows.values())


def test_a_median_counts_what_is_not_reached() -> None:
    assert median([3.0, None, 1.0]) == 3.0
    assert median([None, None, 1.0]) is None


def test_overheads_and_deaths_leave_less(made_up: TabularBenchmark) -> None:
    conditions = {"start": {"start_seconds": 100.0}, "deaths": {"failures_per_hour": 2.0}}
    rows = utilisations(made_up, (1, 8), 2, Cluster(1), conditions, lambda line: None)
    assert [(row.condition, row.workers) for row in rows] == [(name, count) for name in ("", *conditions) for count in (1, 8)]
    ideal, late, dying = rows[::2]
    assert ideal.busy == pytest.approx({1: 1.0, 4: 1.0, 16: 1.0})
    assert max(late.longest, dying.longest) < 1
    assert max(rows[3].longest, rows[5].longest) < rows[1].longest


def canned(value: Callable[[int], float | None] = lambda workers: 100 / workers) -> tuple[list[Utilisation], list[Quality]]:
    utilisation = [Utilisation(count, name, {1: 0.5, 4: 0.7, 16: 0.9}) for name in ("", "slow") for count in (1, 16, 4096)]
    quality = [
        Quality(strategy, count, population, 4, {50: 25.0, SHOWN: 26.0 + count / 1e4}, {}, {25.5: value(count)}, {25.5: 3}, 0.8)
        for strategy, population in (("random", None), ("evolution", 10), (GROWING, 10))
        for count in (1, 16, 4096)
    ]
    return utilisation, quality


def test_the_figure_is_xml_and_tells_its_values() -> None:
    utilisation, quality = canned(lambda workers: None if workers == 4096 else 100 / workers)
    root = ElementTree.fromstring(figure(utilisation, quality))
    names = [element.tag.split("}")[1] for element in root.iter()]
    assert names.count("circle") == 3 * 3 + 3 * 2 + 3 * 3  # where nothing is reached there is no dot
    told = "".join(root.itertext())
    assert "evolution, population as workers, 16 workers: 26" in told
    assert "Hours until 25.5 % mIoU" in told
    assert "slow" not in told


def test_tables_by_hand() -> None:
    utilisation, quality = canned()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in utilisation_table(utilisation).splitlines()]
    assert cells[0] == ["workers", "1 trial a worker", "4 trials a worker", "16 trials a worker", "slow"]
    assert cells[-1] == ["4,096", "50.0", "70.0", "90.0", "90.0"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in time_table(quality).splitlines()]
    assert cells[3] == ["random", "16", "6.2 (3 of 4)", "16.0", "80"]


def test_losses_in_words(made_up: TabularBenchmark) -> None:
    from cluster_studies import Loss

    assert [lost(Loss(0.123, 0.04)), lost(Loss(0.0, 0.0)), lost(Loss(-0.5, None))] == ["-0.12 ± 0.04", "0", "+0.50"]
    assert loss_table(studied(made_up, ("random",))).count("(0)") == 2


def test_the_script_prints_all_studies(made_up: TabularBenchmark, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(made_up.folder), "--benchmark", NAME, "--workers", "4,1", "--evaluations", "8,16", "--seeds", "2"]
    common += ["--targets", "18", "--strategies", "random,local-search", "--json"]
    simulated_cluster.main([*common, "--start-seconds", "5"])
    found = json.loads(capsys.readouterr().out)
    assert [(row["workers"], row["condition"]) for row in found["utilisation"]] == [(1, ""), (4, "")]
    assert [(row["strategy"], row["workers"]) for row in found["quality"]] == [
        (name, workers) for name in ("random", "local-search") for workers in (1, 4)
    ]
    assert found["failing"] == []
    assert found["utilisation"][0]["busy"]["1"] < 1
    assert found["trials"] == 2 * (2 * 16 * 2 + 16 * 5)  # two strategies by two sizes, then 16 trials a worker


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--strategies", "evolutoin"], "did you mean 'evolution'"),
        (["--workers", "0"], "whole number of at least 1"),
        (["--failures-per-hour", "-1"], "no number of at least 0"),
        (["--write", "--workers", "1"], "leave out --workers"),
        (["--benchmark", "nasbench201"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulated_cluster.parsed(["--data", "tables", *arguments])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1


def test_a_folder_without_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulated_cluster.main(["--data", str(tmp_path)])
    assert ended.value.code == 2
    assert "there is no micro.csv.gz" in capsys.readouterr().err


def test_a_part_of_a_page() -> None:
    page = "a\n<!-- x: written by s.py -->\nold\n<!-- end of x -->\nb\n"
    once = replaced(page, "x", "s.py", "new")
    assert once == "a\n<!-- x: written by s.py -->\n\nnew\n\n<!-- end of x -->\nb\n"
    assert replaced(once, "x", "s.py", "new") == once
    with pytest.raises(ValueError, match="0 parts 'y'"):
        replaced(page, "y", "s.py", "new")


def test_the_committed_page_has_the_parts_that_are_written() -> None:
    """And the figure is the file that it shows."""
    text = PAGE.read_text(encoding="utf-8")
    assert "(simulated_cluster.svg)" in replaced(text, "cluster", simulated_cluster.SCRIPT, "(simulated_cluster.svg)")
    assert "| 4,096 " in text
    ElementTree.parse(PAGE.with_suffix(".svg"))
