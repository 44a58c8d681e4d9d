"""`check` finds everything that is wrong with a set, and `require` refuses it in one line; statistics against plain sums."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import label_of, split_set, write, write_image
from PIL import Image

from segnas.data import open_dataset
from segnas.data.check import Report, check, require
from segnas.data.statistics import class_pixels, evenly_spaced, measure_normalization, median_frequency_weights
from segnas.errors import UserError


def test_a_sound_set_passes(tmp_path: Path) -> None:
    report = check(split_set(tmp_path))
    assert report.ok
    assert (report.problems, report.warnings, report.unknown) == ((), (), ())
    assert {split: figures.pairs for split, figures in report.splits.items()} == {"train": 4, "val": 2, "test": 1}
    assert report.splits["train"].sizes == (((24, 36), 4),)
    assert report.lines()[0] == f"{tmp_path.name}: 7 pairs (train 4, val 2, test 1), all 24x36 (height x width)"
    assert require(open_dataset(tmp_path)) == report


def test_a_single_pair_is_one(tmp_path: Path) -> None:
    report = check(split_set(tmp_path))
    alone = dataclasses.replace(report, splits={"test": report.splits["test"]})
    assert alone.lines()[0].startswith(f"{tmp_path.name}: 1 pair (test 1), ")


def test_frequencies_against_a_plain_count(tmp_path: Path) -> None:
    dataset = open_dataset(split_set(tmp_path))
    report = check(dataset)
    labels = np.stack([dataset.read("train", index).label for index in range(4)])
    expected = [100 * (labels == train_id).mean() for train_id in range(3)]
    assert report.frequencies("train") == pytest.approx(expected)
    header, *rows = report.rows()
    assert header == ("class", "train %", "val %", "test %")
    assert [row[1] for row in rows] == [*(f"{value:.3f}" for value in expected), "0.000"]


def test_all_problems_are_found_and_counted(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text('["sky", "road", "car"]')
    image = tmp_path / "images/train/a.png"
    image.write_bytes(image.read_bytes()[:-40])
    (tmp_path / "labels/train/b.png").write_bytes(b"no image")
    write(tmp_path / "labels/val/e.png", np.full((24, 36), 17, np.uint8))
    write(tmp_path / "labels/val/f.png", label_of(0, 20, 36))
    write_image(tmp_path / "images/test/lonely.png", label_of(0))
    report = check(tmp_path)
    assert not report.ok
    assert len(report.problems) == 5
    text = "\n".join(report.problems)
    for part in (
        "lonely.png has no mask",
        "cannot read the image",
        "cannot read the mask",
        "e.png holds the unknown id 17; allowed: 0, 1, 2, 255",
        "f.png is 24x36 but its mask",
    ):
        assert part in text
    assert [(Path(one.file).name, one.ids, one.allowed) for one in report.unknown] == [("e.png", ("17",), ("0", "1", "2", "255"))]
    assert any('"ignore_index": 17' in line for line in report.suggestions)
    assert (report.splits["train"].pairs, report.splits["train"].readable) == (4, 2)
    with pytest.raises(UserError, match=rf"\(and 4 more\); see segnas data check {tmp_path}$") as caught:
        require(open_dataset(tmp_path))
    assert "\n" not in str(caught.value)
    shown = [line for line in report.lines(limit=2) if line.startswith(("problem", "..."))]
    assert shown == [*(f"problem: {line}" for line in report.problems[:2]), "... and 3 more problems (--json lists all)"]


def test_one_class_only_is_a_problem(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text('["sky", "road", "car"]')
    for name in "abcd":
        write(tmp_path / f"labels/train/{name}.png", np.full((24, 36), 1, np.uint8))
    assert "hold one class only ('road')" in check(tmp_path).problems[0]
    for name in "abcd":
        write(tmp_path / f"labels/train/{name}.png", np.full((24, 36), 255, np.uint8))
    report = check(tmp_path)
    assert "'train' hold nothing but ignored pixels" in report.problems[0]
    assert any("4 masks hold nothing but ignored" in line for line in report.warnings)


def test_absent_classes_and_leaks_are_warned_of(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text('["sky", "road", "car", "boat", "plane"]')
    write(tmp_path / "labels/val/e.png", np.full((24, 36), 3, np.uint8))
    write(tmp_path / "images/val/f.png", np.asarray(Image.open(tmp_path / "images/train/c.png")))
    report = check(tmp_path)
    assert report.ok
    assert report.warnings == (
        "the class 'boat' occurs in val but never in train: it cannot be learned",
        "the class 'plane' occurs in no mask",
        "1 images of val are in train too (the first: f is c)",
    )


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((360, 480), (353, 481)),
        ((64, 80), (65, 65)),
        ((72, 96), (65, 97)),
        ((97, 200), (97, 193)),
        ((49, 50), (33, 65)),
        ((20, 20), (33, 33)),
        ((600, 300), (513, 289)),
    ],
)
def test_suggested_crop(tmp_path: Path, size: tuple[int, int], crop: tuple[int, int]) -> None:
    for name in "ab":
        write_image(tmp_path / f"images/{name}.png", label_of(ord(name), *size))
        write(tmp_path / f"masks/{name}.png", label_of(ord(name), *size))
    report = check(tmp_path)
    assert report.crop == crop
    assert f"data.crop=[{crop[0]}, {crop[1]}]" in report.suggestions


def test_one_small_image_does_not_shrink_the_suggested_crop(tmp_path: Path) -> None:
    for name, size in {"a": (64, 128), "b": (64, 128), "c": (30, 130), "d": (64, 120), "e": (70, 40)}.items():
        write_image(tmp_path / f"images/{name}.png", label_of(ord(name), *size))
        write(tmp_path / f"masks/{name}.png", label_of(ord(name), *size))
    assert check(tmp_path).crop == (65, 129)


def masks_of(root: Path, *rows: int) -> Path:
    """The split set with masks of 24 rows, each of one value; the rows not given are 0."""
    split_set(root)
    mask = np.zeros((24, 36), np.uint8)
    mask[: len(rows)] = np.asarray(rows, np.uint8)[:, None]
    for path in root.glob("labels/*/*.png"):
        write(path, mask)
    return root


def test_blurred_masks_of_0_and_255_are_refused(tmp_path: Path) -> None:
    root = masks_of(tmp_path, 60, 120, 255, 255, 255, 255)
    report = check(root)
    assert report.problems == (
        "255 covers 16.7 % of the pixels and is ignored, but the other ids (0, 60, 120) look like grey levels; "
        "if these are masks of 0 and 255 with blurred edges, threshold them, or write classes.json",
    )
    with pytest.raises(UserError, match="% of the pixels and is ignored"):
        require(open_dataset(root))
    levels = [{"id": value, "name": f"level {value}"} for value in (0, 60, 120)]
    (root / "classes.json").write_text(json.dumps({"classes": levels}))
    assert (check(root).problems, check(root).warnings) == ((), ())


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((128, 255, 255), id="one level beside 0 may be a class"),
        pytest.param((3, 18, 90, 255), id="classes of a long list, few pixels ignored"),
        pytest.param((100, 200, *[255] * 22), id="without 0"),
    ],
)
def test_ids_with_gaps_beside_255_are_warned_of(tmp_path: Path, rows: tuple[int, ...]) -> None:
    report = check(masks_of(tmp_path, *rows))
    assert report.ok
    assert len([line for line in report.warnings if "look like grey levels" in line]) == 1


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((*range(1, 17), *[255] * 8), id="no gaps"),
        pytest.param((*[1, 2, 4, 7] * 2, *[255] * 16), id="small ids with gaps"),
        pytest.param((7, 8, 11, 33, *[255] * 15), id="Cityscapes label ids"),
        pytest.param((60, 120, 180), id="no 255"),
        pytest.param((255,) * 6, id="0 and 255 alone"),
    ],
)
def test_ordinary_ids_are_no_grey_levels(tmp_path: Path, rows: tuple[int, ...]) -> None:
    report = check(masks_of(tmp_path, *rows))
    assert report.ok
    assert not any("grey levels" in line for line in report.warnings)


def test_a_split_that_cannot_be_read_has_no_figures(tmp_path: Path) -> None:
    split_set(tmp_path)
    for name in "ef":
        (tmp_path / f"images/val/{name}.png").write_bytes(b"no image")
    write(tmp_path / "labels/test/g.png", np.full((24, 36), 255, np.uint8))
    rows = check(tmp_path).rows()
    assert {row[2] for row in rows[1:]} == {"-"}
    assert [row[3] for row in rows[1:]] == ["0.000", "0.000", "0.000", "100.000"]
    assert "-" not in {row[1] for row in rows}


def test_a_void_class_is_pointed_out(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text('["sky", "road", "Void"]')
    assert any("'Void' counts like any other; \"ignore_index\": 2" in line for line in check(tmp_path).suggestions)


def test_the_report_as_json(tmp_path: Path) -> None:
    report: Report = check(split_set(tmp_path))
    values = json.loads(json.dumps(report.to_json()))
    assert values["ok"] is True
    assert values["splits"]["val"]["sizes"] == [{"height": 24, "width": 36, "images": 2}]
    assert values["splits"]["val"]["frequencies_percent"] == list(report.frequencies("val"))
    assert values["crop"] == [33, 33]


def test_normalization_against_float64(tmp_path: Path) -> None:
    dataset = open_dataset(split_set(tmp_path))
    pixels = np.stack([dataset.read("train", index).image for index in range(4)]).reshape(-1, 3) / 255
    measured = measure_normalization(dataset)
    assert measured.mean == pytest.approx(pixels.mean(axis=0), rel=1e-12)
    assert measured.std == pytest.approx(pixels.std(axis=0), rel=1e-9)
    two = np.stack([dataset.read("train", index).image for index in (0, 2)]).reshape(-1, 3) / 255
    assert measure_normalization(dataset, limit=2).mean == pytest.approx(two.mean(axis=0), rel=1e-12)
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]


def test_median_frequency_weights_by_hand() -> None:
    labels = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 0, 255]], np.uint8)]
    counts = class_pixels(labels, 3)
    assert (counts.pixels, counts.present, counts.ignored) == ((6, 1, 0), (8, 4, 0), 1)
    # f = 6/8 and 1/4, their median 1/2; class 2 never occurs
    assert median_frequency_weights(counts) == pytest.approx((0.5 / 0.75, 0.5 / 0.25, 0.0))
    with pytest.raises(UserError, match="no class occurs"):
        median_frequency_weights(class_pixels([np.full((2, 2), 255, np.uint8)], 3))


def test_camvid(shared: Path) -> None:
    root = shared / "data/camvid"
    written = json.loads((root / "classes.json").read_text())
    report = check(root)
    assert report.ok
    assert report.warnings == ()
    assert {split: figures.pairs for split, figures in report.splits.items()} == written["splits"]
    for split, expected in written["pixel_counts"].items():
        counts = report.splits[split].classes
        assert [*counts.pixels, counts.ignored] == expected
        assert report.splits[split].sizes[0][0] == (360, 480)
    readme = (root / "README.md").read_text()
    for name, *percent in report.rows()[1:-1]:
        assert " | ".join(percent) in next(line for line in readme.splitlines() if f"| {name}" in line)
    weights = median_frequency_weights(report.splits["train"].classes)
    assert weights == pytest.approx(written["median_frequency_weights_train"], abs=1e-4)
    measured = measure_normalization(open_dataset(root))
    assert measured.mean == pytest.approx((0.4116, 0.4249, 0.4322), abs=1e-4)
    assert measured.std == pytest.approx((0.3068, 0.3114, 0.3069), abs=1e-4)
