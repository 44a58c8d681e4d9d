"""The page of a run that searched by trials: at any time, with and without a random search beside it, and its warnings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from trial_runs import begun_run, counted, parsed, search_json, write_random_search, write_trials

from segnas.report import scatter, write_report
from segnas.report.cautions import cautions
from segnas.report.information import gather
from segnas.report.scatter import Dot, DotChart, Layer, dot_chart
from segnas.report.trial_charts import cost_unit, front_chart, over_time, over_trials, shown
from segnas.report.trials import Objective
from segnas.runs.run import Run


def page(run: Run) -> str:
    return write_report(run).read_text(encoding="utf-8")


def told(run: Run) -> list[tuple[str, str]]:
    return [(caution.level, caution.text) for caution in cautions(gather(run))]


def texts(run: Run) -> str:
    return " ".join(text for _, text in told(run))


def test_a_finished_search_is_shown(make_run: Callable[[], Run]) -> None:
    run = make_run()
    search = search_json(1)
    write_trials(run, search)
    html = page(run)
    best = search["trials"][search["best"]]
    for text in ("Best so far, by trial", "Best so far, by time", "mIoU and latency", "The best 10 of", "Judging again",
                 "What failed", f"{search['planned']}<small> / {search['planned']}",
                 f"trial {best['number']}", best["id"], f"{best['metrics']['mIoU']:.1f} %", "parameters ≤ 1e6",
                 "judged by short training of 3 epochs", "CUDA out of memory"):  # fmt: skip
        assert text in html, text
    assert "The search has not ended" not in html
    assert "random search" not in html


def test_the_system_and_the_section_come_from_the_trials(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_trials(run, search_json(1))
    information = gather(run)
    assert (information.system, information.search) == ("amoebanet", None)
    assert page(run).count('<section id="search">') == 1


@pytest.mark.parametrize("ended", [0, 1, 2, 25])
def test_a_search_that_still_runs_is_shown_at_any_time(tmp_path: Path, ended: int) -> None:
    search = search_json(3, trials=ended + 3, running=3)
    html = page(begun_run(tmp_path / "run", search))
    assert f"The search has not ended: {counted(search)} of {counted(search) + 3} trials are over" in html
    assert "3 trials are running" in html
    assert f"{counted(search)}<small> / {counted(search) + 3}" in html
    refused = ended - counted(search)
    assert (f", {refused} over budget" in html) is bool(refused)


def test_a_search_that_has_not_proposed_anything_yet_is_shown(tmp_path: Path) -> None:
    search = {**search_json(0, trials=0), "planned": 60, "seconds": None}
    assert "No trial has a score yet" in page(begun_run(tmp_path / "run", search))


def test_the_best_so_far_is_drawn_before_the_run_has_its_architecture(make_run: Callable[[], Run]) -> None:
    run = make_run()
    content = run.read_json("architecture.json")
    search = search_json(2, running=5)
    search["trials"][search["best"]]["id"] = content["id"]
    write_trials(run, search, best=content)
    html = page(run)
    assert "The path through the resolutions" in html
    assert f"trial {search['best']} of the search, the best so far, for the search has not ended" in html
    write_trials(run, search, best={**content, "architecture": {"family": "dense-prediction-cell", "branches": [[1, 6, 3]]}})
    html = page(run)
    assert "There is no drawing for the family dense-prediction-cell" in html
    assert "branches" in html


def test_scores_against_parameters_where_there_is_one_objective(tmp_path: Path) -> None:
    search = search_json(4, objectives=(("mIoU", "maximize"),))
    html = page(begun_run(tmp_path / "run", search))
    assert "mIoU and parameters" in html
    assert "parameters, thousands" in html or "parameters, millions" in html
    found = parsed(search)
    chart = front_chart(found, found.main, Objective("parameters", "minimize"))
    front = next(layer for layer in chart.layers if layer.name == "Pareto front")
    done = [(row["costs"]["parameters"] / 1e3, row["metrics"]["mIoU"]) for row in search["trials"]
            if row["status"] == "done" and row["stage"] == "search"]  # fmt: skip
    expected = {(x, y) for x, y in done if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in done)}
    assert {(dot.x, dot.y) for dot in front.dots} == expected
    assert list(front.steps) == sorted(expected)


def test_three_objectives_have_a_chart_each_and_no_line(tmp_path: Path) -> None:
    objectives = (("mIoU", "maximize"), ("latency_ms", "minimize"), ("parameters", "minimize"))
    search = search_json(4, objectives=objectives)
    html = page(begun_run(tmp_path / "run", search))
    assert "mIoU and latency" in html
    assert "mIoU and parameters" in html
    found = parsed(search)
    front = next(layer for layer in front_chart(found, *found.objectives[:2]).layers if layer.name == "Pareto front")
    assert front.steps == ()
    assert len(front.dots) == len(found.front(*found.objectives))


def test_a_random_search_stands_beside_it(make_run: Callable[[], Run]) -> None:
    run = make_run()
    ours, theirs = search_json(1), search_json(7, strategy="random", gain=0.0, reranked=0)
    write_trials(run, ours)
    write_random_search(run, theirs)
    html = page(run)
    assert "Beside random search with the same budget" in html
    assert f"{max(row['metrics'].get('mIoU', 0) for row in theirs['trials'] if row['status'] == 'done'):.1f} %" in html
    assert html.count('class="line d dash1"') == 2, "its curve over trials and over time"
    assert ">Random search<" in html, "its training stands among the baselines"
    assert "Random search found as good" not in texts(run)


def test_a_strategy_that_is_no_better_than_random_search_is_a_caution(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_trials(run, search_json(1, gain=0.0))
    write_random_search(run, search_json(7, strategy="random", gain=20.0, reranked=0), score=70.0)
    assert "Random search found as good an architecture in as many trials" in texts(run)
    assert "does not beat random search on val" in texts(run)
    assert "the search found nothing better than chance" in texts(run)


def changed(search: dict[str, Any], numbers: range, **values: Any) -> dict[str, Any]:
    for number in numbers:
        search["trials"][number] |= values
    return search


def test_warnings_of_a_search_that_says_little(make_run: Callable[[], Run]) -> None:
    run = make_run()
    write_trials(run, search_json(3, trials=12, reranked=0))
    scored = sum(row["status"] == "done" for row in run.read_json("search.json")["trials"])
    assert f"Only {scored} trials have a score" in texts(run)
    search = changed(search_json(3, reranked=0), range(20), status="failed", error="no memory", metrics={})
    write_trials(run, search)
    failed = sum(row["status"] == "failed" for row in search["trials"])
    assert f"{failed} of " in texts(run)
    assert "the most frequent reason (20 trials): no memory" in texts(run)
    search = changed(search_json(3, reranked=0), range(60), status="failed", error="no memory", metrics={})
    write_trials(run, {**search, "best": None, "pareto": []})
    assert ("problem", "All 60 trials failed; the most frequent reason (60 trials): no memory.") in told(run)
    page(run)


def test_a_best_trial_at_the_edge_or_at_the_end_is_told(make_run: Callable[[], Run]) -> None:
    run = make_run()
    search = search_json(1, reranked=0)
    best = search["trials"][20]
    best |= {"status": "done", "metrics": {"mIoU": 90.0}, "costs": {"parameters": 960_000}}
    write_trials(run, {**search, "best": 20})
    assert "at the edge of the budget (parameters: 960 k of 1.00 M)" in texts(run)
    assert "last tenth" not in texts(run)
    best["costs"]["parameters"] = 940_000
    search["trials"][55] |= {"status": "done", "metrics": {"mIoU": 91.0}}
    write_trials(run, {**search, "best": 20})
    assert "edge of the budget" not in texts(run)
    assert f"found in the last tenth (trial 55 of {counted(search)})" in texts(run)


def test_leading_trials_within_what_a_seed_changes(make_run: Callable[[], Run]) -> None:
    run = make_run()
    search = search_json(1, reranked=0)
    for number, row in enumerate(search["trials"]):
        row |= {"id": f"{number:012x}", "status": "done", "metrics": {"mIoU": 40.0 + 0.1 * number}}
    write_trials(run, search)
    assert "The best 5 trials lie within 0.40 of mIoU" in texts(run)
    assert "from the comparison with baselines" in texts(run)
    for number in (0, 1):
        search["trials"][number] |= {"id": "aaaaaaaaaaaa", "metrics": {"mIoU": 30.0 + 0.01 * number}}
    write_trials(run, search)
    assert "of mIoU, and a seed" not in texts(run), "a seed changes a score by 0.007 only"


# The charts -----------------------------------------------------------------------------------------------------------


def test_every_trial_is_drawn_once_and_the_failed_at_the_foot() -> None:
    search = search_json(1)
    found = parsed(search)
    for chart in (over_trials(found), over_time(found)):
        dots = {layer.name: layer.dots for layer in chart.layers}
        assert len(dots["trials"]) == len(found.having("done"))
        assert len(dots["stopped early"]) == len(found.having("stopped"))
        assert [len(feet.places) for feet in chart.feet] == [len(found.having("failed")), len(found.having("over budget"))]
        figure = ElementTree.fromstring(dot_chart(chart))
        assert len(list(figure.iter("circle"))) == len(found.having("done", "stopped"))
        assert sum(path.get("class") == "cross" for path in figure.iter("path")) == len(found.having("failed"))


def test_a_line_holds_each_value_until_the_next() -> None:
    layer = Layer("l", "a", steps=((0.0, 1.0), (4.0, 3.0)), until=10.0)
    figure = ElementTree.fromstring(dot_chart(DotChart("t", "x", "y", (layer,))))
    (path,) = [path.get("d", "") for path in figure.iter("path")]
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    assert re.fullmatch(r"M[\d.]+ [\d.]+ H[\d.]+ V[\d.]+ H[\d.]+", path)
    start, low, corner, high, end = numbers
    assert (corner - start) / (end - start) == pytest.approx(0.4, abs=1e-3)
    assert high < low  # up is less in SVG


def test_thousands_of_trials_stay_a_small_drawing() -> None:
    dots = tuple(Dot(float(number), float(number % 97), "trial") for number in range(20_000))
    figure = dot_chart(DotChart("t", "trial", "y", (Layer("trials", "a", dots),)))
    assert figure.count("<circle") == 20_000 / 20 == scatter.MOST_DOTS
    assert "Of 20,000 points (trials) one in 20 is drawn." in figure
    assert len(figure) < 100_000


def test_nothing_to_draw_is_nothing() -> None:
    assert dot_chart(DotChart("t", "x", "y", (Layer("l", "a"),))) == ""


def test_figures_have_their_units() -> None:
    assert [shown(*pair) for pair in (("mIoU", 41.23), ("latency_ms", 3.14159), ("parameters", 123456), ("loss", 0.123456))] == [
        "41.2 %", "3.14 ms", "123 k", "0.1235",
    ]  # fmt: skip
    assert shown("mIoU", None) == "–"
    assert cost_unit(Objective("parameters"), [2e5, 3e6]) == (1e6, "parameters, millions")
    assert cost_unit(Objective("latency_ms"), [2e5]) == (1.0, "latency, ms")
