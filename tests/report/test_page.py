"""The page as a whole: well-formed, self-contained, escaped, complete, and sensible when parts are missing."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segnas.errors import UserError
from segnas.report import write_report
from segnas.report.markup import VOID
from segnas.runs.run import Run

LOADING = {"src", "srcset", "poster", "data", "action", "xlink:href"}


class Page(HTMLParser):
    """Checks nesting while parsing; collects ids, attributes that load something, headings and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.images_without_alt = 0
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.tags[tag] += 1
        given = dict(attrs)
        if given.get("id"):
            self.ids[str(given["id"])] += 1
        self.loads += [str(value) for name, value in attrs if name in LOADING]
        if tag == "link":
            self.loads.append(str(given.get("href")))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if (tag == "img" and not given.get("alt")) or (tag == "svg" and not given.get("aria-label")):
            self.images_without_alt += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page(run: Run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_a_complete_run_gives_a_well_formed_page_that_loads_nothing(make_run: Callable[[], Run]) -> None:
    path = write_report(make_run())
    html = path.read_text(encoding="utf-8")
    parsed = Page(html)
    assert path.name == "report.html"
    assert html.startswith("<!doctype html>")
    assert path.stat().st_size < 2_000_000
    assert all(load.startswith("data:") for load in parsed.loads)
    assert len(parsed.loads) == 18 + 1  # six panels of three pictures, and an empty icon
    assert not re.search(r"url\(|@import|https?://", html)
    assert parsed.tags["script"] == 0
    assert max(parsed.ids.values()) == 1
    assert parsed.links
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert parsed.images_without_alt == 0
    assert parsed.tags["h1"] == 1
    assert parsed.tags["h2"] == 9


def test_it_shows_the_figures_that_a_decision_needs(make_run: Callable[[], Run]) -> None:
    text = page(make_run()).text
    for figure in (
        "61.9 %",  # mean of the ten known classes
        "1,204,331", "1.20 M", "3.41 G", "360 × 480",
        "148 ms", "141 to 178 ms (unsteady)", "4.91 MB", "3.1e-05",
        "Auto-DeepLab-S", "10.2 M", "333 G at 1025 × 2049",
        "bicyclist", "absent: in neither label nor prediction",
        "segnas run auto-deeplab --data data/camvid --out runs/first", "0123456789abcdef", "0a1b2c3d4e5f",
        "filters: 8", "poly from 0.05", "1 h 33 min", "epoch 34 on",
    ):  # fmt: skip
        assert figure in text, figure


def test_warnings_stand_on_the_page_and_problems_come_first(make_run: Callable[[], Run]) -> None:
    run = make_run()
    parity = run.read_json("parity.json")
    run.write_json("parity.json", {**parity, "passed": False, "agreement": 0.83})
    html = write_report(run).read_text(encoding="utf-8")
    levels = re.findall(r'<li class="(problem|caution|note)">', html)
    assert levels == sorted(levels, key=("problem", "caution", "note").index)
    assert levels[0] == "problem"
    for sentence in ("Do not deploy", "bicyclist never occurred", "latency was unsteady", "used the CPU", "3 training images"):
        assert sentence in html, sentence
    assert "gives the same answers" not in html


def test_names_from_files_are_text_and_never_markup(make_run: Callable[[], Run]) -> None:
    run = make_run()
    evil = "<b>&\"'</b><script>alert(1)</script>"
    evaluation = run.read_json("evaluation.json")
    evaluation["classes"][0]["name"] = evil
    evaluation["protocol"]["text"] = evil
    data = run.read_json("data.json")
    data["classes"][0]["name"] = data["name"] = evil
    environment = {**run.read_json("environment.json"), "command": evil}
    panels = [{**panel, "name": evil} for panel in run.read_json("panels/panels.json")]
    for name, content in (
        ("evaluation.json", evaluation), ("data.json", data), ("environment.json", environment), ("panels/panels.json", panels),
    ):  # fmt: skip
        run.write_json(name, content)
    html = write_report(run).read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.tags["script"] == 0
    assert "alert(1)</script>" not in html
    assert parsed.text.count(evil) >= 5


@pytest.mark.parametrize(
    ("missing", "gone", "kept"),
    [
        (["search.json"], "The search", "The path through the resolutions"),
        (["model.onnx", "parity.json"], "The exported file beside", "not exported yet"),
        (["evaluation.json", "panels"], "Accuracy", "The retraining"),
        (["retrain.json", "metrics.jsonl"], "The retraining", "The search"),
        (["cost.json", "latency.json"], "middle half of the runs", "The exported file beside"),
        (["architecture.json"], "The cell", "edge by edge"),
        (["data.json", "environment.json", "timing.json"], "Time of each stage", "The configuration, resolved"),
        (["comparison.json"], "Beside baselines", "Accuracy"),
        (["budget.json"], "The budget", "Latency"),
        (["time.json"], "Sized to 2 h", "Time of each stage"),
    ],
)
def test_a_part_that_is_missing_is_left_out(make_run: Callable[[], Run], missing: list[str], gone: str, kept: str) -> None:
    run = make_run()
    assert gone in page(run).text
    for name in missing:
        target = run.path / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    text = page(run).text
    assert gone not in text
    assert kept in text


def test_a_run_with_nothing_but_its_configuration(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty", {"seed": 3})
    parsed = page(run)
    assert "Nothing has been measured yet." in parsed.text
    assert "seed: 3" in parsed.text
    assert parsed.tags["h2"] == 2


def test_a_family_without_a_drawing_is_shown_as_json(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.write_json("architecture.json", {"architecture": {"family": "dense-prediction-cell", "branches": [[1, 6, 3]]}})
    parsed = page(run)
    assert '"family": "dense-prediction-cell"' in parsed.text
    assert "The path through the resolutions" not in parsed.text


def test_every_evaluated_split_has_its_figures(make_run: Callable[[], Run]) -> None:
    run = make_run()
    evaluation = run.read_json("evaluation.json")
    run.write_json("evaluation_test.json", {**evaluation, "split": "test", "mIoU": 54.321})
    text = page(run).text
    assert "61.9 %" in text
    assert "54.3 %" in text
    assert "On test" in text
    assert "no figure on a test split" not in text


def test_a_file_that_does_not_fit_is_named_in_one_line(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.write_json("cost.json", {"parameters": "many", "multiply_adds": 1, "size": [1, 1]})
    with pytest.raises(UserError, match=r"^cost\.json: parameters: [^\n]*$"):
        write_report(run)
    run.write_json("cost.json", {"parameters": 1, "multiply_adds": 1, "size": [1, 1]})
    (run.path / "panels" / "best_0_image.png").unlink()
    with pytest.raises(UserError, match=r"best_0_image\.png"):
        write_report(run)


def test_the_same_run_gives_the_same_page(make_run: Callable[[], Run]) -> None:
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_many_large_panels_still_fit(make_run: Callable[[], Run]) -> None:
    run = make_run()
    panels = run.read_json("panels/panels.json")
    run.write_json("panels/panels.json", [panel for panel in panels for _ in range(6)])
    assert write_report(run).stat().st_size < 2_000_000
