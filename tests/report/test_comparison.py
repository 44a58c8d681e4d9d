"""Beside baselines: means, spreads, words and warnings against figures worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from segnas.errors import UserError
from segnas.report import write_report
from segnas.report.baselines import baselines, comparison_table, plot
from segnas.report.cautions import cautions
from segnas.report.comparison import Comparison, Entry, Training, beside, in_words
from segnas.report.information import gather
from segnas.report.page import in_words as headline
from segnas.report.plots import DotRow, dot_plot
from segnas.runs.run import Run

Figures = tuple[float | None, ...]


def entry(kind: Any, name: str, test: Figures, val: Figures = (), **costs: Any) -> Entry:
    runs = []
    for seed, score in enumerate(test):
        scores = {"test": score} if not val else {"test": score, "val": val[seed]}
        runs.append(Training(seed, "." if (kind, seed) == ("searched", 0) else f"{name}-{seed}", scores=scores, **costs))
    return Entry(kind, name, tuple(runs))


def comparison(searched: Figures, unet: Figures, random: Figures = (), seeds: int = 3, **costs: Any) -> Comparison:
    entries = [entry("searched", "darts", searched, **costs), entry("hand-made", "unet", unet, **costs)]
    entries += [entry("random", "random architectures", random, **costs)] if random else []
    return Comparison("mIoU", tuple(entries), seeds)


def text_of(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup)).strip()


def test_means_and_sample_standard_deviations() -> None:
    found = comparison((44.0, 46.0, 48.0), (41.0, 42.0, 43.0))
    searched = found.entries[0]
    assert (searched.mean("test"), searched.deviation("test")) == (46.0, 2.0)  # sqrt((4 + 0 + 4) / 2)
    (difference,) = found.differences
    assert (difference.points, difference.spread) == (4.0, pytest.approx(5**0.5))
    assert difference.decided
    (close,) = comparison((44.0, 46.0, 48.0), (43.0, 44.0, 45.0)).differences
    assert not close.decided  # 2 points, and the spread is 2.24


def test_the_words_for_several_seeds() -> None:
    assert in_words(comparison((44.0, 46.0, 48.0), (41.0, 42.0, 43.0), (45.0, 47.0, 49.0))) == (
        "On test the searched network reaches 46.0 ± 2.0 % mIoU (3 seeds). "
        "That is 4.0 points above U-Net (42.0 ± 1.0 %; more than the spread over seeds, 2.2 points) and "
        "1.0 points below random architectures (47.0 ± 2.0 %; within the spread over seeds, 2.8 points)."
    )


def test_one_seed_cannot_tell() -> None:
    told = in_words(comparison((44.6,), (44.58,), seeds=1))
    assert "reaches 44.6 % mIoU (one seed). That is level with U-Net (44.6 %). One seed cannot tell" in told
    assert "spread" not in told


def test_what_is_not_trained_yet_is_said() -> None:
    found = comparison((44.0, 46.0), (), seeds=3)
    assert in_words(found).endswith("reaches 45.0 ± 1.4 % mIoU (2 of 3 seeds). Not trained yet: U-Net.")
    assert found.split == "test"
    assert in_words(Comparison("mIoU", ())) == "The searched network has no figure to compare yet."


def test_a_missing_figure_does_not_count() -> None:
    found = comparison((44.0, None, 46.0), (41.0, 42.0, 43.0))
    assert found.entries[0].mean("test") == 45.0
    assert found.seeds_of(found.entries[0]) == "2 of 3 seeds"
    assert [item.name for item in found.unfinished] == ["darts"]


def test_val_decides_where_something_trained_has_no_figure_on_test() -> None:
    both = entry("searched", "darts", (44.0,), (54.0,))
    assert Comparison("mIoU", (both, entry("hand-made", "unet", (40.0,), (50.0,)))).split == "test"
    assert Comparison("mIoU", (both, entry("hand-made", "unet", (None,), (50.0,)))).split == "val"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ", 3.1 points above a U-Net of equal cost"),
        ({"theirs": 1_090}, ", 3.1 points above a U-Net of equal cost"),
        ({"theirs": 2_000}, ", 3.1 points above a U-Net of 2.00 k multiply-adds"),
        ({"score": 44.6 + 0.2}, ""),  # the figure is of another evaluation
        ({"split": "val"}, ""),
        ({"metric": "accuracy"}, ""),
        ({"unet": (47.7,)}, ", 3.1 points below a U-Net of equal cost"),
        ({"searched": (44.6, 46.6), "unet": (41.0, 42.0)}, ", 4.1 points above a U-Net of equal cost (means of 2 seeds)"),
        ({"searched": (44.6, 46.6)}, ", 4.1 points above a U-Net of equal cost (means over unequal numbers of seeds)"),
        ({"unet": ()}, ""),
    ],
)
def test_the_headline_says_only_what_was_measured(changes: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {
        "searched": (44.6,),
        "unet": (41.5,),
        "theirs": 1_000,
        "split": "test",
        "metric": "mIoU",
        "score": 44.6,
    }
    given |= changes
    found = Comparison("mIoU", (
        entry("searched", "darts", given["searched"], multiply_adds=1_000),
        entry("hand-made", "unet", given["unet"], multiply_adds=given["theirs"]),
    ))  # fmt: skip
    assert beside(found, given["split"], given["metric"], given["score"]) == expected
    assert beside(None, "test", "mIoU", 44.6) == ""


def warnings(run: Run) -> list[tuple[str, str]]:
    words = re.compile("baselines|does not beat")
    return [(item.level, item.text) for item in cautions(gather(run)) if words.search(item.text)]


def as_json(searched: list[float], unet: list[float], random: list[float], seeds: int) -> dict[str, Any]:
    named = (("searched", "auto-deeplab", searched), ("hand-made", "unet", unet), ("random", "random architectures", random))
    entries = [
        {"kind": kind, "name": name, "runs": [{"seed": seed, "scores": {"test": score}} for seed, score in enumerate(scores)]}
        for kind, name, scores in named
    ]
    return {"metric": "mIoU", "seeds": seeds, "entries": entries}


def test_a_search_that_does_not_beat_its_baselines_is_a_caution(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.write_json("comparison.json", as_json([44.0, 45.0], [45.0, 45.0], [44.0, 45.0], 2))
    assert warnings(run) == [
        ("caution", "The searched network does not beat U-Net on test: 44.5 ± 0.7 % mIoU against 45.0 ± 0.0 %; the simpler "
         "network will do."),
        ("caution", "The searched network does not beat random architectures on test: 44.5 ± 0.7 % mIoU against 44.5 ± 0.7 %; "
         "the search found nothing better than chance."),
    ]  # fmt: skip


def test_one_seed_and_unfinished_comparisons_are_notes(make_run: Callable[[], Run]) -> None:
    run = make_run()
    assert warnings(run) == []
    run.write_json("comparison.json", as_json([45.0], [44.0], [43.0], 1))
    assert warnings(run) == [
        ("note", "Searched network and baselines are compared by one seed: differences of a point or two are within chance.")
    ]
    run.write_json("comparison.json", as_json([45.0, 46.0, 45.0], [44.0, 43.0], [43.0, 43.0, 43.0], 3))
    assert warnings(run) == [("note", "The comparison with baselines is not finished: U-Net has 2 of 3 seeds.")]


def test_baselines_of_another_cost_or_above_the_budget_are_cautions(make_run: Callable[[], Run]) -> None:
    run = make_run()
    assert not [item for item in cautions(gather(run)) if "U-Net" in item.text]
    told = run.read_json("comparison.json")
    for training in told["entries"][1]["runs"]:
        training |= {"parameters": 1_400_000, "multiply_adds": 6_000_000_000, "latency_ms": 151.0}
    run.write_json("comparison.json", told)
    found = [item.text for item in cautions(gather(run)) if item.level == "caution" and "U-Net" in item.text]
    assert found == [
        "U-Net: 6.00 G multiply-adds, 76% more than the searched network; no width comes nearer, so part of the difference "
        "may be due to that.",
        "A baseline does not keep the budget: U-Net has 1,400,000 parameters, and the limit is 1,250,000.",
        "A baseline does not keep the budget: U-Net answers in 151 ms, and the limit is 150 ms.",
    ]


def test_no_comparison_is_a_note_where_something_was_searched(make_run: Callable[[], Run]) -> None:
    run = make_run()
    (run.path / "comparison.json").unlink()
    note = ("note", "There is no comparison with baselines: a hand-made network of the same cost may do as well.")
    assert warnings(run) == [note]
    (run.path / "search.json").unlink()  # as in the run of a baseline
    assert warnings(run) == []


def test_the_table_holds_every_seed_and_the_range_of_random_networks(make_run: Callable[[], Run]) -> None:
    found = gather(make_run()).comparison
    assert found is not None
    rows = re.findall(r"<tr.*?</tr>", comparison_table(found))
    assert [text_of(row) for row in rows] == [
        "network mIoU on val, % parameters multiply-adds latency training time",
        "auto-deeplab searched 61.8 ± 0.7 61.9 · 62.4 · 61.1 1.20 M 3.41 G 148 ms 52 min 2 s",
        "U-Net hand-made 58.9 ± 0.5 58.4 · 58.9 · 59.3 1.21 M 3.39 G 61.0 ms 52 min 2 s",
        "Random architectures of the same space 60.0 ± 1.2 60.2 · 61.0 · 58.7 1.19 M to 1.24 M 3.38 G 148 ms 52 min 2 s",
    ]
    assert rows[1].startswith('<tr class="strong">')


def test_val_stands_beside_test_and_missing_figures_are_dashes() -> None:
    found = Comparison("mIoU", (entry("searched", "darts", (44.6,), (54.3,)), Entry("hand-made", "unet")))
    rows = [text_of(row) for row in re.findall(r"<tr.*?</tr>", comparison_table(found))]
    assert rows[0] == "network mIoU on test, % mIoU on val, % parameters multiply-adds latency training time"
    assert rows[1] == "darts searched 44.6 54.3 – – – –"
    assert rows[2] == "U-Net hand-made, 0 of 1 seed – – – – – –"


def test_a_dot_stands_for_each_seed_and_the_mean_is_marked() -> None:
    figure = ElementTree.fromstring(plot(comparison((40.0, 44.0, 45.0), (50.0,), (40.0, 50.0))))
    dots = [(float(dot.get("cx", "")), dot.get("class"), dot.findtext("title")) for dot in figure.iter("circle")]
    assert [kind for _, kind, _ in dots] == ["seed a"] * 3 + ["seed b"] + ["seed c"] * 2
    assert dots[0][2] == "darts, seed 0: 40"
    at = {float(str(title).rsplit(" ", 1)[1]): x for x, _, title in dots}
    assert at[45.0] == pytest.approx((at[40.0] + at[50.0]) / 2, abs=0.02)
    means = [float(line.get("x1", "")) for line in figure.iter("line") if line.get("class") == "mean"]
    assert means == [pytest.approx(at[40.0] + 0.3 * (at[50.0] - at[40.0]), abs=0.02), pytest.approx(at[45.0], abs=0.02)]


@pytest.mark.parametrize("values", [(50.0,), (50.0, 50.01), (0.0, 100.0)])
def test_a_small_difference_looks_small(values: tuple[float, ...]) -> None:
    figure = ElementTree.fromstring(dot_plot("T", "mIoU, %", [DotRow("a", tuple((value, "") for value in values))]))
    places = [float(dot.get("cx", "")) for dot in figure.iter("circle")]
    assert all(12 <= place <= 428 for place in places)
    assert max(places) - min(places) <= 416 * (values[-1] - values[0]) / 4 + 0.02
    assert dot_plot("T", "mIoU, %", []) == ""


def test_the_section_follows_the_summary(make_run: Callable[[], Run]) -> None:
    run = make_run()
    page = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page)[:3] == ["summary", "baselines", "accuracy"]
    information = gather(run)
    section = baselines(information)
    assert section is not None
    told = text_of(section.body)
    assert "U-Net: without drop path, which it does not have. Random architectures of the same space: a new archi" in told
    assert "All are trained and evaluated as the searched network was" in told
    words = headline(information).replace("\u00a0", " ")
    assert "on the val split, 2.9 points above a U-Net of equal cost (means of 3 seeds), has 1.20 M parameters" in words


def test_an_entry_of_an_unknown_kind_is_named(make_run: Callable[[], Run]) -> None:
    run = make_run()
    run.write_json("comparison.json", {"metric": "mIoU", "entries": [{"kind": "lucky", "name": "x"}]})
    with pytest.raises(UserError, match=r"^comparison\.json: entries\.0\.kind[^\n]*$"):
        gather(run)
