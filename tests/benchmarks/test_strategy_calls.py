"""What strategies take: the figures by hand, the processes that measure, mistakes. Nothing here asserts a time."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strategy_calls
from pages import PAGE, replaced
from segnas.benchmarking import all_strategies
from segnas.spaces.choice import sample
from segnas.spaces.tabular import NASBENCH201_OPERATIONS, NasBench201, NasBench201Space
from strategy_calls import BENCHMARK, COLUMNS, LIMITS_MS, figures, synthetic, table, timed, verdict


def row(name: str, milliseconds: float) -> dict[str, Any]:
    return figures(name, [milliseconds / 1e3], [0.0], [milliseconds / 1e3])


def test_figures_by_hand() -> None:
    found = figures("random", [1e-4, 3e-4, 2e-4, 9e-4], [1e-5, 3e-5, 2e-5, 8e-5], [2e-3, 1e-3])
    assert found == {
        "strategy": "random",
        "ask, us": pytest.approx(250),
        "tell, us": pytest.approx(25),
        "both, ms": pytest.approx(0.275),
        "mean, ms": pytest.approx(0.41),
        "longest, ms": pytest.approx(0.98),
        "search, ms": pytest.approx(1.5),
        "limit, ms": 0.2,
        "kept": False,
    }


def test_the_median_of_both_is_not_the_sum_of_the_medians() -> None:
    assert figures("tpe", [1e-3, 2e-3, 9e-3], [9e-3, 2e-3, 1e-3], [1.0])["both, ms"] == pytest.approx(10)


def test_limits() -> None:
    assert LIMITS_MS == {"random": 0.2, "evolution": 0.2, "reinforce": 5.0}
    told = verdict([row("random", 0.1), row("evolution", 0.21), row("reinforce", 4.9), row("tpe", 99.0)])
    assert "random takes 0.1 ms, within 0.2 ms" in told
    assert "evolution takes 0.21 ms, NOT within 0.2 ms" in told
    assert "reinforce takes 4.9 ms, within 5 ms" in told
    assert "tpe" not in told
    assert verdict([row("tpe", 1.0)]).endswith("of none of these")


def test_made_up_scores_by_hand() -> None:
    """The k-th choice counts k times its index: at most 4 (1 + ... + 6) = 84."""
    first, last = NASBENCH201_OPERATIONS[0], NASBENCH201_OPERATIONS[4]
    assert synthetic(NasBench201((first,) * 6)) == 20
    assert synthetic(NasBench201((last,) * 6)) == 90
    assert synthetic(NasBench201((first, first, last, first, first, NASBENCH201_OPERATIONS[1]))) == pytest.approx(
        20 + 70 * 18 / 84
    )


def test_every_call_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks once a look: an ask and a tell of a second each, and the scores outside."""
    ticks = itertools.count()
    monkeypatch.setattr(strategy_calls.time, "perf_counter", lambda: float(next(ticks)))

    def score(architecture: Any) -> float:
        next(ticks)
        return synthetic(architecture)

    strategy = strategy_calls.made("evolution", 1)
    assert timed(strategy, score, 12) == ([1.0] * 12, [1.0] * 12)
    assert strategy.asked == 12
    assert len(strategy.population) == 10  # type: ignore[attr-defined]


def test_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--strategies", "local-search", "--evaluations", "3", "--searches", "1", "--threads", "1"]
    strategy_calls.main([*common, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [one["strategy"] for one in rows] == ["local-search"]
    assert all(one.keys() == {"strategy", "kept", *COLUMNS} and one["both, ms"] > 0 for one in rows)
    assert all(one["longest, ms"] >= one["mean, ms"] > 0 for one in rows)


def test_every_strategy_is_measured_by_default() -> None:
    assert strategy_calls.parsed([]).strategies == list(all_strategies())
    for name in all_strategies():
        asks, tells = timed(strategy_calls.made(name, 0), synthetic, 2)
        assert len(asks) == len(tells) == 2


def test_the_table_gives_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        table = strategy_calls.benchmarks[BENCHMARK]

        def __init__(self, name: str, folder: str) -> None:
            assert (name, folder) == (BENCHMARK, "tables")

        def estimate(self, architecture: Any, seed: int, hint: Any) -> Any:
            return type("Estimate", (), {"metrics": {"accuracy": 7.0}})()

    monkeypatch.setattr(strategy_calls, "TabularBenchmark", Stub)
    architecture = sample(NasBench201Space(), np.random.default_rng(0))
    assert strategy_calls.scores_of("tables")(architecture) == 7.0
    assert strategy_calls.scores_of(None) is synthetic


def test_the_table_has_a_line_each() -> None:
    lines = table([row("random", 0.1), row("tpe", 12.0)]).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["strategy", *COLUMNS]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["tpe", "12000", "0", "12", "12", "12", "12", "-"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--strategies", "randm"], "did you mean 'random'"),
        (["--evaluations", "0"], "whole number of at least 1"),
        (["--measure", "random", "--data", "no/such/folder"], "there is no accuracy.csv.gz in no/such/folder"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        strategy_calls.main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1


def test_the_committed_page_has_the_part_that_is_written() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert replaced(text, "strategy calls", strategy_calls.SCRIPT, "new") != text
    assert all(f"| {name} " in text for name in all_strategies())
