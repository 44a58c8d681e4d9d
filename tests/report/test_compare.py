"""Several runs on one page: the table, warnings, rank correlations, the plots, and what cannot be compared."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from test_page import Page
from trial_runs import begun_run, counted, parsed, search_json, write_trials

from segnas.cli import main
from segnas.errors import UserError
from segnas.report.compare import HUES, render, write_comparison
from segnas.report.several import Several, gather_several
from segnas.report.trials import spearman
from segnas.runs.run import Run

Make = Callable[..., Path]


@pytest.fixture
def make(finished_run: Path, tmp_path: Path) -> Make:
    """Makes a finished run that searched by trials, with a score on val (and test) of its own."""

    def made(name: str, seed: int, val: float = 60.0, test: float | None = None, **search: object) -> Path:
        run = Run.open(Path(shutil.copytree(finished_run, tmp_path / name)))
        write_trials(run, search_json(seed, **search))  # type: ignore[arg-type]
        evaluation = {**run.read_json("evaluation.json"), "mIoU": val}
        run.write_json("evaluation.json", evaluation)
        if test is not None:
            run.write_json("evaluation_test.json", {**evaluation, "split": "test", "mIoU": test})
        return run.path

    return made


def warned(found: Several) -> str:
    return " ".join(found.warnings)


def test_the_table_has_the_figures_of_each_run(make: Make, finished_run: Path, tmp_path: Path) -> None:
    search = search_json(1)
    begun = begun_run(tmp_path / "begun", search_json(2, running=5)).path
    rows = [member.row for member in gather_several([make("a", 1, 61.0, 58.0), finished_run, begun]).members]
    first, gradients, last = rows
    assert (first.run, first.system, first.strategy, first.space) == ("a", "amoebanet", "evolution", "amoebanet")
    assert (first.trials, first.planned) == (counted(search), counted(search))
    assert (first.objective, first.best) == ("mIoU", parsed(search).best_score)
    assert (first.val, first.test, first.parameters, first.multiply_adds) == (61.0, 58.0, 1_204_331, 3_412_334_592)
    assert (first.search_seconds, first.latency_ms) == (search["seconds"], 148.2)
    epochs = Run.open(finished_run).read_json("search.json")["epochs"]
    assert (gradients.strategy, gradients.epochs, gradients.trials) == ("gradients", 40, None)
    assert gradients.best == epochs[37]["score_one_hot"]  # of epoch 38, which the run goes on with
    assert (last.trials, last.planned, last.val, last.parameters) == (last.planned - 5, last.planned, None, None)


def test_the_page_is_well_formed_and_loads_nothing(make: Make, finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "compare.html"
    found = write_comparison([make("a", 1), make("b", 2), make("c", 3), finished_run], out)
    html = out.read_text(encoding="utf-8")
    parsed_page = Page(html)
    assert parsed_page.loads == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", html)
    assert parsed_page.tags["script"] == 0
    assert max(parsed_page.ids.values()) == 1
    assert parsed_page.images_without_alt == 0
    assert all(link[1:] in parsed_page.ids for link in parsed_page.links)
    assert parsed_page.tags["svg"] == 5  # by trial, by time, two fronts, search and retraining
    for member in found.members:
        assert member.name in parsed_page.text
    assert render(found) == html, "the same runs give the same page"


def test_each_search_has_a_line_of_its_own(make: Make) -> None:
    found = gather_several([make(name, number) for number, name in enumerate("abcd")])
    html = render(found)
    course = html.split('<section id="course">')[1].split("</section>")[0]
    lines = re.findall(r'<path d="[^"]+" class="line (r\d) dash(\d)">', course)
    assert len(lines) == 8
    assert len(set(lines)) == 4


def test_nothing_is_warned_of_where_the_terms_are_equal(make: Make) -> None:
    assert gather_several([make("a", 1), make("b", 5)]).warnings == ()


def test_unequal_terms_are_told(make: Make, finished_run: Path, tmp_path: Path) -> None:
    first = make("a", 1)
    other = Run.open(make("b", 2, trials=30))
    other.write_json("data.json", {**other.read_json("data.json"), "name": "cityscapes"})
    other.write_json("latency.json", {**other.read_json("latency.json"), "device": "cuda:0"})
    other.write_json("retrain.json", {**other.read_json("retrain.json"), "steps": 99})
    search = other.read_json("search.json")
    other.write_json("search.json", {**search, "constraints": ["parameters <= 2e6"]})
    begun = begun_run(tmp_path / "begun", search_json(3, running=2, objectives=(("mIoU", "maximize"),))).path
    several = gather_several([first, other.path, begun, finished_run])
    planned, told = [member.row.planned or 0 for member in several.members], warned(several)
    budgets = "; ".join(f"{number}: {name}" for number, name in zip(planned[:3], ("a", "b", "begun"), strict=True))
    for sentence in ("worked on different data (camvid, 11 classes", "different objectives", "in different ways", "in a supernet",
                     f"different budgets of trials ({budgets})", "limits on the networks differ", "parameters <= 2e6",
                     "trained for different lengths (3660 steps: a and first; 99 steps: b)", "under different conditions",
                     f"begun has not ended its search: {planned[2] - 2} trials are over"):  # fmt: skip
        assert sentence in told, sentence
    assert "Different metrics decide" not in told


def test_search_scores_and_retrained_scores_are_correlated_where_three_runs_share_data_and_metric(make: Make) -> None:
    tests = (51.0, 55.0, 53.0)
    paths = [make(name, number, 60.0, tests[number]) for number, name in enumerate("abc")]
    best = [parsed(search_json(number)).best_score or 0 for number in range(3)]
    (found,) = [one for one in gather_several(paths).correlations if one.kind == "retrained"]
    assert (found.count, found.split, found.metric) == (3, "test", "mIoU")
    order, reached = np.argsort(np.argsort(best)), np.argsort(np.argsort(tests))
    assert found.value == pytest.approx(1 - 6 * int(((order - reached) ** 2).sum()) / (3 * 8))
    assert not [one for one in gather_several(paths[:2]).correlations if one.kind == "retrained"]
    run = Run.open(paths[2])
    run.write_json("data.json", {**run.read_json("data.json"), "name": "other"})
    assert not [one for one in gather_several(paths).correlations if one.kind == "retrained"]


def test_two_searches_are_correlated_on_the_architectures_that_both_tried(make: Make) -> None:
    paths = [make("a", 1), make("b", 2), make("c", 3, space=1)]
    (found,) = [one for one in gather_several(paths).correlations if one.kind == "shared"]
    assert found.runs == ("a", "b"), "c draws from another space"
    scores: list[dict[str, float]] = [{}, {}]
    for number, seen in enumerate(scores):
        for row in search_json(number + 1)["trials"]:
            if row["stage"] == "search" and row["status"] == "done":
                seen[row["id"]] = max(row["metrics"]["mIoU"], seen.get(row["id"], 0))
    both = [name for name in scores[0] if name in scores[1]]
    assert found.count == len(both) >= 3
    assert found.value == pytest.approx(spearman([scores[0][name] for name in both], [scores[1][name] for name in both]))


def test_folders_of_the_same_name_are_told_apart(make: Make) -> None:
    first, second = make("x/first", 1), make("y/first", 2)
    assert [member.name for member in gather_several([first, second]).members] == ["x/first", "y/first"]


def test_what_cannot_be_compared_is_one_line(make: Make, tmp_path: Path) -> None:
    first = make("a", 1)
    unsearched = Run.open(make("b", 1))
    (unsearched.path / "search.json").unlink()
    for paths, complaint in (
        ([], "name one run or more to compare"),
        ([first, tmp_path / "nowhere"], r"there is no run in .*nowhere: no such folder"),
        ([first, tmp_path / "a" / ".." / "a"], "is named twice"),
        ([unsearched.path], "no search to compare: there is no search.json in"),
    ):
        with pytest.raises(UserError, match=complaint) as caught:
            gather_several(paths)
        assert "\n" not in str(caught.value)
    members = gather_several([first, unsearched.path]).members
    assert [member.row.strategy for member in members] == ["evolution", None], "beside a search it stands in the table"


def test_the_verb_prints_rows(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "all.html"
    words = ["compare", str(make("a", 1)), str(make("b", 2, trials=30)), "--out", str(out)]
    main([*words, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in printed["runs"]] == ["a", "b"]
    assert printed["written"] == str(out)
    assert any("different budgets" in text for text in printed["warnings"])
    assert out.is_file()
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"a +evolution +(\d+)/\1 .*", lines[2])
    assert max(map(len, lines[:4])) <= 80
    assert lines[-1] == str(out)


# Colours --------------------------------------------------------------------------------------------------------------

DICHROMATS = {  # Machado, Oliveira and Fernandes (2009), table of severity 1.0: linear RGB as seen without one kind of cones
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "none": np.eye(3).tolist(),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[place : place + 2], 16) for place in (0, 2, 4)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.clip(TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089]), 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_runs_are_told_apart_whatever_colours_one_sees(scheme: str) -> None:
    """Lab distances of 20 between any two colours of runs, and 3:1 against the paper (WCAG 2.1, 1.4.11)."""
    style = resources.files("segnas.report").joinpath("report.css").read_text(encoding="utf-8")
    block = style.split("prefers-color-scheme: dark")[scheme == "dark"]
    colors = {name: linear(value) for name, value in re.findall(r"--(r\d|paper): #([0-9a-f]{6})", block)}
    assert set(colors) == {*HUES, "paper"}
    for matrix in DICHROMATS.values():
        for first, second in itertools.combinations(HUES, 2):
            distance = np.linalg.norm(lab(np.array(matrix) @ colors[first]) - lab(np.array(matrix) @ colors[second]))
            assert distance > 20, (first, second)
    for hue in HUES:
        bright, dark = sorted((float(TO_XYZ[1] @ colors[name]) for name in (hue, "paper")), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 3, hue
