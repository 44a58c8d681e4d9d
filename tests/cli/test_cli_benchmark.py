"""`segnas benchmark` on a made-up table: the figures, the table, and what a mistake is met with."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import segnas
from made_up_tables import NAME, write

from segnas.benchmarking import options_of, simulate
from segnas.estimators.tabular import Published, TabularBenchmark


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "of mine")


def test_figures(tables: Path) -> None:
    words = ["benchmark", NAME, "--data", tables, "--strategies", "random,evolution", "--seeds", 3, "--evaluations", 20]
    answer = segnas(*words, "--options", "evolution.sample=4", "--options", "evolution.aging=false", "--json")
    assert answer.status == 0, answer.err
    benchmark = TabularBenchmark(NAME, tables)
    options = options_of(benchmark, "evolution", ["sample=4", "aging=false"])
    expected = [*simulate(benchmark, "random", {}, 20, 3), *simulate(benchmark, "evolution", options, 20, 3)]
    for printed, row in zip(answer.json, expected, strict=True):
        figures = (printed["strategy"], printed["metric"], printed["mean"], printed["std"], printed["seeds"])
        assert figures == (row.strategy, row.metric, row.mean, row.std, 3)
    assert [row["published"] for row in answer.json] == [{"mean": 28.37, "std": None}, None, {"mean": 28.87, "std": None}, None]
    assert [line.split()[:4] for line in answer.err.splitlines()] == [
        ["benchmark", "1/2", "strategy", "random"],
        ["benchmark", "2/2", "strategy", "evolution"],
    ]


def test_table(tables: Path) -> None:
    answer = segnas("benchmark", NAME, "--data", tables, "--strategies", "local-search", "--seeds", 2)
    header, _, first, second, last = answer.out.splitlines()
    assert header.split() == ["strategy", "figure", "mean", "%", "std", "published"]
    assert first.split()[:3] == ["local-search", "val", "mIoU"]
    assert second.split()[-1] == "-"
    assert str(Published(90.934, 0.36)) == "90.93 ± 0.36"
    assert last == "50 evaluations a search, 2 seeds"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (f"{NAME}", f"say where the table of {NAME}, macro.csv.gz, lies: --data DIR"),
        ("nasbench-201", "unknown benchmark 'nasbench-201'; did you mean 'nasbench201'?"),
        (f"{NAME} --data nowhere", "there is no macro.csv.gz in nowhere"),
        (f"{NAME} --data TABLES --strategies random,evolutoin", "unknown strategy 'evolutoin'; did you mean 'evolution'?"),
        (
            f"{NAME} --data TABLES --options sample=3",
            "'sample=3' sets no option; write one of random.KEY=VALUE, evolution.KEY=VALUE",
        ),
        (f"{NAME} --data TABLES --options evolution.smple=3", "evolution: unknown key 'smple'; did you mean 'sample'?"),
        (f"{NAME} --data TABLES --options evolution.sample=few", "sample: "),
        (f"{NAME} --data TABLES --seeds 0", "'--seeds'"),
    ],
)
def test_mistakes_are_one_line(words: str, complaint: str, tables: Path) -> None:
    given = [tables if word == "TABLES" else word for word in words.split()]
    assert complaint in segnas("benchmark", *given).complaint


def test_help() -> None:
    answer = segnas("benchmark", "--help")
    assert answer.status == 0
    assert "segnas benchmark nasbench201 --data tables" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
