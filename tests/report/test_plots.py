"""Plots, tables and warnings against numbers worked out by hand."""

import dataclasses
import math
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from segnas.report.cautions import cautions
from segnas.report.information import ClassScore, Evaluation, Search, gather
from segnas.report.markup import count, escape, file_size, join, listing, tag, three_digits
from segnas.report.plots import LineChart, Series, histogram, line_chart, nice_ticks, thinned
from segnas.report.tables import confusion, confusion_table, flat, largest_confusions
from segnas.runs.run import Run


def test_markup_escapes_everything_but_itself() -> None:
    assert tag("a", "<&>", tag("b", '"'), title='"<', data_x=1.50, hidden=True, id=None) == (
        '<a title="&quot;&lt;" data-x="1.5" hidden>&lt;&amp;&gt;<b>&quot;</b></a>'
    )
    assert join(["<", tag("br")]) == "&lt;<br>"
    assert escape(escape("<")) == "&lt;"


def test_numbers_as_people_write_them() -> None:
    assert [count(value) for value in (987, 1204331, 44_424_691, 333.25e9, 0)] == ["987", "1.20 M", "44.4 M", "333 G", "0"]
    assert [three_digits(value) for value in (9.994, 9.996, 99.96, 1234.5)] == ["9.99", "10.0", "100", "1234"]
    assert (file_size(912_000), file_size(40_600_000), file_size(3)) == ("912 kB", "40.6 MB", "1 kB")
    assert (listing(["a"]), listing(["a", "b", "c"]), listing("abcd", 2)) == ("a", "a, b and c", "a, b and 2 more")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 47, [0, 10, 20, 30, 40]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3e-5, 9e-5, [4e-5, 6e-5, 8e-5]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_thinning_keeps_the_mean_and_the_end() -> None:
    points = [(float(step), float(step % 7)) for step in range(1, 1001)]
    thin = thinned(points, 250)
    assert len(thin) == 250
    assert thin[-1][0] == 1000
    assert np.mean([y for _, y in thin]) == pytest.approx(np.mean([y for _, y in points]))
    assert thinned(points[:10], 250) == tuple(points[:10])


def test_a_line_goes_through_its_points() -> None:
    figure = ElementTree.fromstring(
        line_chart(LineChart("T", "epoch", (Series("a", ((0, 0), (1, 10), (2, 5))),), y_range=(0, 10)))
    )
    circles = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in figure.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2) = circles
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.02)
    assert y1 < y0  # up is less in SVG


@pytest.mark.parametrize("points", [((1, 3),), ((1, 0), (2, 0)), ((1, -4), (2, -4)), ((1, 1e-9), (2, 2e-9)), ((5, 2), (5, 2))])
def test_flat_single_and_tiny_series_are_drawn(points: tuple[tuple[float, float], ...]) -> None:
    figure = ElementTree.fromstring(line_chart(LineChart("T", "epoch", (Series("a", points),))))
    for dot in figure.iter("circle"):
        assert 0 <= float(dot.get("cx", "")) <= 440
        assert 0 <= float(dot.get("cy", "")) <= 250


def test_a_chart_without_points_is_nothing() -> None:
    assert line_chart(LineChart("T", "epoch", (Series("a", ()),))) == ""


def test_a_histogram_counts_every_image_once() -> None:
    figure = ElementTree.fromstring(histogram("T", [0.0, 4.9, 5.0, 62.0, 100.0]))
    titles = [bar.findtext("title") for bar in figure.iter("rect")]
    assert titles == ["0 to 5 %: 2", "5 to 10 %: 1", "60 to 65 %: 1", "95 to 100 %: 1"]


def evaluation(matrix: list[list[float]]) -> Evaluation:
    classes = tuple(ClassScore(f"c{index}", (index, 0, 0), IoU=50.0) for index in range(len(matrix)))
    return Evaluation("val", classes, mIoU=50.0, confusion=tuple(map(tuple, matrix)))


def test_confusion_rows_sum_to_one_or_are_marked_as_never_labelled() -> None:
    matrix = confusion(evaluation([[60, 20, 20], [0, 0, 0], [5, 0, 95]]))
    assert matrix is not None
    np.testing.assert_allclose(matrix.shares, [[0.6, 0.2, 0.2], [0, 0, 0], [0.05, 0, 0.95]])
    assert "never labelled" in confusion_table(matrix)
    assert largest_confusions(matrix, 2) == [
        "c0 is taken for c2 in 20 % of its pixels",
        "c0 is taken for c1 in 20 % of its pixels",
    ]


def test_rare_classes_of_a_large_matrix_are_summed_up() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(1, 100, (150, 150)).astype(float) * np.arange(150, 0, -1)[:, None]
    matrix = confusion(evaluation(pixels.tolist()), most=10)
    assert matrix is not None
    assert len(matrix.names) == 10
    assert matrix.names[-1] == "141 others"
    np.testing.assert_allclose(matrix.shares.sum(1), 1)
    assert matrix.labelled.sum() == pixels.sum()
    kept = sorted(np.argsort(-pixels.sum(1))[:9])
    assert matrix.names[:-1] == tuple(f"c{index}" for index in kept)
    np.testing.assert_allclose(matrix.shares[0, 1], pixels[kept[0], kept[1]] / pixels[kept[0]].sum())


def test_largest_entropies_follow_from_the_options_there_are() -> None:
    beta = (((0.0, 0.5, 0.5), (0.0, 0.0, 0.0)), ((0.0, 0.9, 0.1), (0.2, 0.3, 0.5)))
    search = Search("auto-deeplab", operations=("none", "skip", "sep", "atrous"), beta=beta)
    assert search.largest_entropy_alpha == pytest.approx(math.log(4))
    assert search.largest_entropy_beta == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


def test_nested_values_read_as_text() -> None:
    assert flat({"a": {"b": [1, 2.5], "c": None}, "d": True}) == [("a.b", "1, 2.5"), ("a.c", "–"), ("d", "yes")]


def test_what_a_search_should_warn_about(make_run: Callable[[], Run]) -> None:
    run = make_run()
    search = run.read_json("search.json")
    search["epochs"][37] |= {"score_supernet": 45.0, "score_one_hot": 12.0}  # epoch 38, the kept one
    search["epochs"][-1]["entropy_alpha"] = 0.99 * math.log(8)
    architecture = run.read_json("architecture.json")
    for block in architecture["architecture"]["cell"][:3]:
        block["operations"] = ["skip_connect", "skip_connect"]
    run.write_json("search.json", search)
    run.write_json("architecture.json", architecture)
    told = " ".join(caution.text for caution in cautions(gather(run)))
    assert "Decoding cost 33.0 points" in told
    assert "99 % of its maximum" in told
    assert "6 of its 10 operations are skip connections" in told


def test_the_kept_epoch_is_stated_or_the_one_that_decoded_the_same(make_run: Callable[[], Run]) -> None:
    run = make_run()
    assert gather(run).kept_epoch == 38
    architecture = run.read_json("architecture.json")
    run.write_json("architecture.json", {**architecture, "provenance": {"epoch": 36}})
    assert gather(run).kept_epoch == 36
    run.write_json("architecture.json", {**architecture, "provenance": {}})
    assert gather(run).kept_epoch == 38  # the best one
    search = run.read_json("search.json")
    run.write_json("search.json", {**search, "best_epoch": 5})  # decoded something else
    assert gather(run).kept_epoch == 40
    (run.path / "search.json").unlink()
    assert gather(run).kept_epoch is None


def test_a_sound_run_on_a_gpu_has_no_warning(make_run: Callable[[], Run]) -> None:
    information = gather(make_run())
    good = Evaluation("test", (ClassScore("a", (0, 0, 0), 90.0),), mIoU=90.0, protocol={"images": 500})
    assert information.search is not None
    assert information.data is not None
    assert information.latency is not None
    sound = dataclasses.replace(
        information,
        evaluations=(good,),
        environment={"device": "cuda:0"},
        search=dataclasses.replace(information.search, warnings=(), last_epoch=38),
        data=dataclasses.replace(information.data, notes=()),
        latency=dataclasses.replace(information.latency, unsteady=False),
    )
    assert cautions(information)
    assert cautions(sound) == ()
