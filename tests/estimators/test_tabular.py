"""Tables as estimators: what is read, how a broken file is met, and that the published tables hold what papers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_tables import NAME, value_of, write

from segnas.errors import UserError
from segnas.estimators.tabular import TabularBenchmark, benchmarks
from segnas.spaces.choice import NotInSpace
from segnas.spaces.tabular import NasBench201, NasBenchMacro, TransNasMacro, TransNasMicro

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tabular_searches.json").read_text())
FOLDERS = {
    "nasbench201": "nasbench201",
    "transnas-segmentation-micro": "transnasbench101",
    "transnas-segmentation-macro": "transnasbench101",
    "nasbench-macro": "nasbench_macro",
}


def test_figures_of_a_made_up_table(tmp_path: Path) -> None:
    benchmark = TabularBenchmark(NAME, write(tmp_path))
    architecture = TransNasMacro(5, (1, 4, 2, 1, 3))
    value = value_of(architecture)
    for seed in (0, 1):
        estimate = benchmark.estimate(architecture, seed, benchmark.hint([]))
        assert estimate.metrics == {"mIoU": pytest.approx(value, abs=1e-4)}
        assert estimate.costs == {"training_seconds": 500}
        assert not estimate.stopped
    assert benchmark.costs(architecture) == {}
    expected = {"val mIoU": pytest.approx(value, abs=1e-4), "test mIoU": pytest.approx(value - 5, abs=1e-4)}
    assert benchmark.report(architecture) == expected
    largest = value_of(TransNasMacro(6, (4, 4, 4, 1, 1, 1)))
    assert benchmark.best() == {"val mIoU": pytest.approx(largest, abs=1e-4), "test mIoU": pytest.approx(largest - 5, abs=1e-4)}
    with pytest.raises(NotInSpace, match="has no such architecture"):
        benchmark.estimate(NasBenchMacro(("identity",) * 8), 0, {})


def set_cell(rows: list[list[str]], value: str) -> None:
    rows[7][1] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[0].__setitem__(1, "segmentsemantic.valid_miou"),
            r"no column 'segmentsemantic.valid_mIoU'; did you mean",
        ),
        (lambda rows: rows[0].__setitem__(0, "name"), "no column 'arch'"),
        (lambda rows: set_cell(rows, "many"), "line 8: segmentsemantic.valid_mIoU is 'many', which is no number"),
        (lambda rows: set_cell(rows, "nan"), "is 'nan', which is no number"),
        (lambda rows: rows[7].__delitem__(slice(1, None)), "line 8: segmentsemantic.valid_mIoU is ''"),
        (lambda rows: rows.append(rows[3]), "'64-1124-basic' stands there twice"),
        (lambda rows: rows.__delitem__(1), "has no architecture '64-1114-basic'; it needs the 3,256 of its space"),
        (lambda rows: rows.append(["64-1111-basic", "1", "1", "1"]), "has an unknown architecture '64-1111-basic'"),
        (lambda rows: rows.clear(), "no column 'arch'"),
    ],
)
def test_a_malformed_table_is_one_line(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        TabularBenchmark(NAME, write(tmp_path, change))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no macro\.csv\.gz in .*: --data is where the table lies"):
        TabularBenchmark(NAME, tmp_path)
    whole = write(tmp_path).joinpath("macro.csv.gz").read_bytes()
    for content in (b"arch,a\n", whole[: len(whole) // 2], whole[:200] + bytes(100) + whole[300:]):
        (tmp_path / "macro.csv.gz").write_bytes(content)
        with pytest.raises(UserError, match="is no gzipped CSV file, or a part of one"):
            TabularBenchmark(NAME, tmp_path)
    with pytest.raises(UserError, match="unknown benchmark 'nasbench-201'; did you mean 'nasbench201'"):
        TabularBenchmark("nasbench-201", tmp_path)


def test_published_figures_belong_to_reported_ones() -> None:
    for name in benchmarks:
        for figures in benchmarks[name].published.values():
            assert set(figures) <= set(benchmarks[name].reported), name


@pytest.mark.parametrize("name", benchmarks)
def test_the_published_tables(name: str, shared: Path) -> None:
    benchmark = TabularBenchmark(name, shared / "data" / "tabular" / FOLDERS[name])
    best = benchmark.best()
    for label, value in GOLDEN["best"][name].items():
        assert best[label] == pytest.approx(value, abs=6e-3), label


def test_some_lines_of_the_published_tables(shared: Path) -> None:
    tables = shared / "data" / "tabular"
    benchmark = TabularBenchmark("nasbench201", tables / "nasbench201")
    every_3x3 = NasBench201(("nor_conv_3x3",) * 6)
    assert benchmark.costs(every_3x3) == {"parameters": 1_531_546, "multiply_adds": 220_119_680}
    assert benchmark.estimate(every_3x3, 0, {}).costs == {}
    identities = NasBenchMacro(("identity",) * 8)
    convolutions = [(3, 32, 9, 32), (32, 64, 1, 16), (64, 128, 1, 8), (128, 256, 1, 4), (256, 1280, 1, 4)]  # in, out, area, side
    costs = TabularBenchmark("nasbench-macro", tables / "nasbench_macro").costs(identities)
    assert costs["multiply_adds"] == sum(a * b * c * side**2 for a, b, c, side in convolutions) + 1280 * 10
    assert costs["parameters"] == sum(a * b * c + 2 * b for a, b, c, _ in convolutions) + 1280 * 10 + 10
    nothing = TransNasMicro(("none",) * 6)
    estimate = TabularBenchmark("transnas-segmentation-micro", tables / "transnasbench101").estimate(nothing, 0, {})
    assert estimate.metrics == {"mIoU": 5.40575}
    assert estimate.costs == {"training_seconds": 15821}
