"""The script that measures a GPU runs through on a CPU, at a tiny setting."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_supernet_step.py"
TINY = ["--device", "cpu", "--layers", "2", "--blocks", "1", "--filters", "2", "--crop", "33", "--steps", "1"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gpu_supernet_step", PATH)
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules["gpu_supernet_step"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_it_measures_every_mode_and_writes_a_table(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.md"
    assert script.main([*TINY, "--precision", "32", "--json", "--write", str(table)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["mode"] for row in rows] == ["plain", "fused", "fused replayed"]
    for row in rows:
        assert row["finite"]
        assert not row["replays"], "there is no GPU to replay on"
        assert min(row["seconds_both"], row["seconds_weights"]) > 0
        both, weights = row["seconds_both"], row["seconds_weights"]
        assert row["hours"] == pytest.approx((40 * 744 * weights + 20 * 744 * (both - weights)) / 3600)
        assert row["ratio_both"] == pytest.approx(rows[0]["seconds_both"] / both)
    text = table.read_text()
    assert "Not a measurement of a GPU" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 5


def test_a_row_of_a_process_of_its_own_and_what_goes_wrong_there(script: ModuleType) -> None:
    case = script.Case("plain", "32", 2, 33, 2, 1, 2, 3, "cpu", 1)
    row = script.Bench(60.0).row(case, apart=True)
    assert row["finite"]
    refused = script.Bench(60.0).row(script.Case("fused", "bf16", 2, 33, 2, 1, 2, 3, "cpu", 1))
    assert "device.precision=32" in refused["error"]
    assert script.Bench(0.0).row(case)["error"] == "no time left"


def test_the_largest_batch_is_found_to_an_eighth(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def row(self: object, case: object, apart: bool | None = None) -> dict[str, str]:
        tried.append(case.batch)  # type: ignore[attr-defined]
        return {"error": "out of memory"} if case.batch > 37 else {}  # type: ignore[attr-defined]

    monkeypatch.setattr(script.Bench, "row", row)
    found = script.Bench(60.0).largest(script.Case("fused replayed"))
    assert 37 * 7 / 8 <= found <= 37
    assert tried[:6] == [2, 4, 8, 16, 32, 64]
    monkeypatch.setattr(script.Bench, "row", lambda *_: {"error": "out of memory"})
    assert script.Bench(60.0).largest(script.Case("fused replayed")) == 0
