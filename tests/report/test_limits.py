"""Budget and time on the page: limits beside what was measured, and a problem where one is not met."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from segnas.report import write_report
from segnas.report.cautions import cautions
from segnas.report.information import gather
from segnas.report.limits import Budget, Exported, Limit, TimeLimit, time_in_words, width_in_words
from segnas.report.tables import budget_table
from segnas.runs.run import Run


def rows(budget: Budget) -> list[list[str]]:
    body = budget_table(budget).split("<tbody>")[1]
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in body.split("</tr>")[:-1]]


def problems(run: Run) -> list[str]:
    return [item.text for item in cautions(gather(run)) if item.level == "problem"]


def test_each_limit_stands_beside_what_was_measured(make_run: Callable[[], Run]) -> None:
    run = make_run()
    budget = gather(run).budget
    assert budget is not None
    assert rows(budget) == [
        ["parameters", "1,250,000", "1,204,331", "1,204,331", "yes"],
        ["latency at 360 × 480", "150 ms", "148.2 ms", "93.25 ms", "yes"],
    ]
    page = write_report(run).read_text(encoding="utf-8")
    assert "What was found was narrowed from 20 to 8 filters; all other widths are in proportion." in page
    assert "Latency on cpu (Xeon), torch 2.13.0; that of the exported file with onnxruntime 1.32.0." in page
    assert problems(run) == []


def test_a_limit_that_is_not_met_is_a_problem(make_run: Callable[[], Run]) -> None:
    run = make_run()
    content = run.read_json("budget.json")
    content["limits"]["max_parameters"] = {"limit": 1_200_000, "measured": 1_204_331, "met": False}
    content["exported"] = {"parameters": None, "latency_ms": 150.04, "met": False}
    run.write_json("budget.json", content)
    assert problems(run) == [
        "The budget is not met: the trained network has 1,204,331 parameters, and the limit is 1,200,000.",
        "The budget is not met: the exported file answers in 150.04 ms, and the limit is 150 ms.",
    ]
    budget = gather(run).budget
    assert budget is not None
    assert [row[-1] for row in rows(budget)] == ["NO", "NO"]


def test_missing_keys_are_dashes() -> None:
    budget = Budget({"max_multiply_adds": Limit(2e9), "max_latency_ms": Limit(20.0, 18.1)}, exported=Exported())
    assert rows(budget) == [
        ["multiply-adds", "2,000,000,000", "–", "–", "–"],
        ["latency", "20 ms", "18.1 ms", "–", "yes"],
    ]
    assert width_in_words(budget) == ""


@pytest.mark.parametrize(
    ("limit", "exported", "expected"),
    [
        (Limit(10, 10), None, []),
        (Limit(10, None, False), None, ["the trained network exceeds the limit of 10 on parameters"]),
        (Limit(10, 9, True), Exported(met=False), ["the exported file exceeds it"]),
        (Limit(10, 9, True), Exported(11, met=False), ["the exported file has 11 parameters, and the limit is 10"]),
    ],
)
def test_what_the_run_decided_counts_too(
    make_run: Callable[[], Run], limit: Limit, exported: Exported | None, expected: list[str]
) -> None:
    run = make_run()
    content: dict[str, Any] = {"limits": {"max_parameters": vars(limit)}, "exported": vars(exported) if exported else None}
    run.write_json("budget.json", content)
    assert problems(run) == [f"The budget is not met: {text}." for text in expected]


@pytest.mark.parametrize(
    ("now", "before", "most", "expected"),
    [
        (14, 20, 320, "What was found was narrowed from 20 to 14 filters; all other widths are in proportion."),
        (320, 20, 320, "What was found was widened from 20 to 320 filters, the most that it is widened to; all other widths are "
         "in proportion."),
        (1, 1, None, "The network keeps the width that it was searched for, 1 filter."),
    ],
)  # fmt: skip
def test_the_width_in_words(now: int, before: int, most: int | None, expected: str) -> None:
    assert width_in_words(Budget({}, now, before, most)) == expected


def test_the_time_in_words() -> None:
    assert time_in_words(TimeLimit(7200, 6900.0, 6500.0, (5, 12), (25, 25))) == (
        "Sized to 2 h 0 min: the search has 12 epochs in place of the 5 of the preset and the retraining has 25 epochs; "
        "forecast 1 h 48 min, used 1 h 55 min."
    )
    assert time_in_words(TimeLimit(90, forecast_seconds=80.0, retrain_epochs=(25, 1))) == (
        "Sized to 1 min 30 s: the retraining has 1 epoch in place of the 25 of the preset; forecast 1 min 20 s."
    )
    assert time_in_words(TimeLimit(90)) == "Sized to 1 min 30 s."
    assert time_in_words(TimeLimit(90, search_trials=(12, 5))) == (
        "Sized to 1 min 30 s: the search has 5 trials in place of the 12 of the preset."
    )
