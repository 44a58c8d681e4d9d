"""docs/make_benchmarks.py: what `segnas benchmark --json` prints becomes the table of the page, and stays until it is renewed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from segnas.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGE = "before\n<!-- benchmarks: written by docs/make_benchmarks.py -->\n<!-- end of benchmarks -->\nafter\n"


@pytest.fixture
def make_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_benchmarks", ROOT / "docs" / "make_benchmarks.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    return module


def printed(path: Path, strategy: str, mean: float, published: dict[str, float | None] | None, evaluations: int = 100) -> Path:
    row = {"strategy": strategy, "metric": "c10 val", "mean": mean, "std": 0.314, "seeds": 7, "evaluations": evaluations}
    path.write_text(json.dumps([{**row, "published": published}]), encoding="utf-8")
    return path


def table(make_benchmarks: ModuleType) -> list[str]:
    text = make_benchmarks.PAGE.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("-->\nafter\n")
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_rows_are_written_renewed_and_kept(make_benchmarks: ModuleType, tmp_path: Path) -> None:
    macro = printed(tmp_path / "nasbench-macro-all.json", "random", 92.876, None)
    cells = printed(tmp_path / "a.json", "evolution", 91.204, {"mean": 91.19, "std": 0.31})
    make_benchmarks.main([str(macro), f"nasbench201={cells}"])
    first = "| nasbench201 | evolution | c10 val | 91.20 | 0.31 | 7 | 100 | 91.19 ± 0.31 |"
    other = "| nasbench-macro | random | c10 val | 92.88 | 0.31 | 7 | 100 | - |"
    assert table(make_benchmarks) == [other, first]

    printed(cells, "evolution", 90.0, {"mean": 91.19, "std": None})
    longer = printed(tmp_path / "nasbench201.json", "evolution", 91.5, None, evaluations=300)
    make_benchmarks.main([f"nasbench201={cells}", str(longer)])
    renewed = "| nasbench201 | evolution | c10 val | 90.00 | 0.31 | 7 | 100 | 91.19 |"
    assert table(make_benchmarks) == [other, renewed, "| nasbench201 | evolution | c10 val | 91.50 | 0.31 | 7 | 300 | - |"]


@pytest.mark.parametrize("word", ["results.json", "nasbench999=results.json"])
def test_a_file_of_no_benchmark_is_refused(word: str, make_benchmarks: ModuleType) -> None:
    with pytest.raises(UserError, match="write NAME=FILE"):
        make_benchmarks.main([word])
