"""Searches simulated on tables: by hand on a made-up one, and against another implementation's figures on the published ones."""

from __future__ import annotations

import json
import statistics
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from made_up_tables import NAME, value_of, write

from segnas.benchmarking import Row, options_of, simulate
from segnas.errors import UserError
from segnas.estimators.tabular import Published, TabularBenchmark
from segnas.randomness import numpy_generator
from segnas.spaces.tabular import TransNasMacroSpace

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tabular_searches.json").read_text())
SEEDS = 150


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> TabularBenchmark:
    return TabularBenchmark(NAME, write(tmp_path_factory.mktemp("tables")))


def test_random_search_by_hand(made_up: TabularBenchmark) -> None:
    steps: list[int] = []
    rows = simulate(made_up, "random", {}, evaluations=5, seeds=4, step=lambda: steps.append(1))
    best = []
    for seed in range(4):
        drawn = [TransNasMacroSpace().sample(numpy_generator(seed, "strategy", number)) for number in range(5)]
        best.append(max(map(value_of, drawn)))
    mean, std = pytest.approx(statistics.fmean(best), abs=1e-4), pytest.approx(float(np.std(best)), abs=1e-4)
    assert rows[0] == Row("random", "val mIoU", mean, std, 4, 5, Published(28.37))
    assert rows[1].metric == "test mIoU"
    assert (rows[1].mean, rows[1].std, rows[1].published) == (pytest.approx(rows[0].mean - 5), std, None)
    assert len(steps) == 4


def test_several_processes_give_the_same(made_up: TabularBenchmark) -> None:
    options = options_of(made_up, "evolution")
    assert simulate(made_up, "evolution", options, 20, 5, workers=2) == simulate(made_up, "evolution", options, 20, 5)


def test_what_searches_finds_more_than_chance(made_up: TabularBenchmark) -> None:
    means = {}
    for strategy in ("random", "evolution", "local-search", "nsga2", "tpe"):
        small = {"nsga2": ["population=10"], "evolution": ["replacement=true"]}
        options = options_of(made_up, strategy, small.get(strategy, []))
        means[strategy] = simulate(made_up, strategy, options, evaluations=60, seeds=4)[0].mean
    assert min(means, key=lambda strategy: means[strategy]) == "random", means


def test_options(made_up: TabularBenchmark) -> None:
    published = {"population": 10, "sample": 10, "replacement": False, "aging": True, "crossover": 0.0}
    assert options_of(made_up, "evolution") == published
    assert options_of(made_up, "evolution", ["sample=3", "aging=false"]) == {**published, "sample": 3, "aging": False}
    assert options_of(made_up, "random") == {}
    for strategy, assignments, message in [
        ("evolutoin", [], "unknown strategy 'evolutoin'; did you mean 'evolution'"),
        ("evolution", ["samples=3"], "evolution: unknown key 'samples'; did you mean 'sample'"),
        ("evolution", ["sample=0"], "evolution: .*sample: .*greater than or equal to 1"),
        ("random", ["sample"], "random has no options; leave out sample"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            options_of(made_up, strategy, assignments)
        assert "\n" not in str(error.value)


def cases() -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((row["benchmark"], row["strategy"], row["evaluations"]) for row in GOLDEN["rows"]))


@pytest.mark.parametrize(("benchmark", "strategy", "evaluations"), cases())
def test_figures_of_another_implementation(benchmark: str, strategy: str, evaluations: int, shared: Path) -> None:
    """Within three standard errors of the difference."""
    table = TabularBenchmark(benchmark, shared / "data" / "tabular")
    rows = {row.metric: row for row in simulate(table, strategy, options_of(table, strategy), evaluations, SEEDS)}
    for golden in GOLDEN["rows"]:
        if (golden["benchmark"], golden["strategy"], golden["evaluations"]) == (benchmark, strategy, evaluations):
            error = golden["std"] * sqrt(1 / SEEDS + 1 / 500)
            assert rows[golden["metric"]].mean == pytest.approx(golden["mean"], abs=3 * error), golden["metric"]
            assert rows[golden["metric"]].std == pytest.approx(golden["std"], rel=0.3)
