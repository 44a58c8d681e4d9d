"""The live table of a search by trials, as a terminal of 80 columns shows it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segnas.errors import UserError
from segnas.printing import trials_table

sys.path.insert(0, str(Path(__file__).parent / "report"))
from trial_runs import counted, parsed, search_json


def lines(search: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(trials_table(search))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_last_five_trials_and_the_best_are_shown() -> None:
    search = search_json(3, running=3)
    best = parsed(search).best_trial
    assert best is not None
    first, second, head, _, *rows = lines(search)
    done = f"{counted(search)}/{search['planned']}"
    assert first == f"amoebanet  {done}  best mIoU {best.metrics['mIoU']:.1f} %  trial {best.number}, {best.id}"
    failed = sum(row["status"] == "failed" for row in search["trials"])
    assert "3 running" in second
    assert f"{failed} failed" in second
    assert head.split() == ["trial", "architecture", "mIoU,", "%", "parameters", "time"]
    assert [row.split()[0] for row in rows] == ["55", "56", "57", "58", "59"]
    assert [row.endswith("running") for row in rows] == [False, False, True, True, True]


def test_the_time_left_is_that_of_the_trials_left_at_the_rate_so_far() -> None:
    search = {**search_json(3, running=30), "seconds": 600.0}
    left = round(600 / counted(search) * 30)
    assert lines(search)[1].endswith(f"10:00  {left // 60}:{left % 60:02d} left")
    assert "left" not in lines(search_json(3))[1]


def test_a_search_without_a_trial_is_a_table_too() -> None:
    shown = lines({**search_json(0, trials=0), "planned": 60, "seconds": None})
    assert shown[0] == "amoebanet  0/60  no score yet"
    assert lines(search_json(0, trials=2, running=2))[0] == "amoebanet  0/2  no score yet"


def test_long_reasons_and_brackets_stay_within_the_width() -> None:
    search = search_json(3)
    search["trials"] = search["trials"][:60]
    search["trials"][-1] |= {"status": "failed", "error": "[red]out of memory[/] " * 20, "metrics": {}}
    shown = lines(search)
    assert max(map(len, shown)) <= 80
    assert "failed: [red]out" in shown[-1], "what a trial says is no markup"


def test_another_search_is_refused() -> None:
    with pytest.raises(UserError, match=r"^search\.json: "):
        trials_table({"system": "darts", "epochs": []})
