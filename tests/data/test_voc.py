"""PASCAL VOC: official names and colours, splits by list, and everything that can be wrong with such a set."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import label_of, write, write_image, write_indexed
from PIL import Image
from published_sets import VOC_COLORS, refused, unreadable, voc_set

from segnas.data import describe, open_dataset
from segnas.data.base import IGNORE
from segnas.data.check import check, require
from segnas.data.masks import UnknownIds, other_colors
from segnas.data.voc import CLASSES, Voc
from segnas.errors import UserError


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_folder_of_the_year_and_the_two_above_it(tmp_path: Path, up: int) -> None:
    inner = voc_set(tmp_path)
    dataset = open_dataset((inner, inner.parent, tmp_path)[up])
    assert isinstance(dataset, Voc)
    assert (dataset.name, dataset.task, dataset.path) == ("VOC2012", "segmentation", inner)
    assert dataset.splits == {
        "train": ("2007_000001", "2007_000002", "2007_000003"),
        "val": ("2008_000001", "2008_000002"),
    }, "what is in no list does not count"
    sample = dataset.read("val", 1)
    expected = label_of(1 + len("val"))
    expected[0] = IGNORE
    assert np.array_equal(sample.label, expected)
    assert (sample.name, sample.image.shape) == ("2008_000002", (24, 36, 3))
    assert dataset.size("val", 1) == (24, 36)
    assert check(dataset).problems == ()
    require(dataset)


def test_names_and_colours() -> None:
    names = CLASSES.names
    assert len(names) == 21
    assert (names[0], names[5], names[12], names[15], names[20]) == ("background", "bottle", "dog", "person", "tvmonitor")
    assert names[1:] == tuple(sorted(names[1:])), "VOC numbers its classes by the alphabet"
    assert CLASSES.colors == tuple(map(tuple, VOC_COLORS[:21].tolist()))


def test_the_newest_year_counts(tmp_path: Path) -> None:
    voc_set(tmp_path, "VOC2007")
    newest = voc_set(tmp_path, "VOC2012")
    (tmp_path / "VOCdevkit/VOC2013/JPEGImages").mkdir(parents=True)
    assert open_dataset(tmp_path).path == newest, "a year without masks is no segmentation set"  # type: ignore[attr-defined]


def test_test_is_a_split_only_with_masks(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    (inner / "ImageSets/Segmentation/test.txt").write_text("2009_000001\n")
    dataset = open_dataset(inner)
    assert list(dataset.splits) == ["train", "val"]
    assert any("'test' is left out" in note for note in describe(dataset)["notes"])
    write_indexed(inner / "SegmentationClass/2009_000001.png", label_of(1), VOC_COLORS)
    assert open_dataset(inner).splits["test"] == ("2009_000001",)


def test_a_description_tells_layout_and_split(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    about = describe(open_dataset(tmp_path))
    assert (about["path"], about["layout"], about["split"]) == (str(inner), "PASCAL VOC", "lists train.txt, val.txt")
    assert about["classes"][15] == {"train_id": 15, "name": "person", "color": [192, 128, 128], "source_id": 15}


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("JPEGImages", "no folder JPEGImages"),
        ("SegmentationClass", "no folder SegmentationClass"),
        ("ImageSets", "ImageSets/Seg"),
    ],
)
def test_a_folder_is_missing(tmp_path: Path, folder: str, complaint: str) -> None:
    inner = voc_set(tmp_path)
    shutil.rmtree(inner / folder)
    assert complaint in refused(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_list_is_missing_or_empty(tmp_path: Path, split: str) -> None:
    inner = voc_set(tmp_path)
    file = inner / f"ImageSets/Segmentation/{split}.txt"
    file.write_text("\n\n")
    assert refused(tmp_path) == f"{file} names no image; it should hold one a line"
    file.write_bytes(b"\xff\xfe\xff")
    assert f"cannot read {file}" in refused(tmp_path)
    file.unlink()
    assert f"the list {file} is missing" in refused(tmp_path)


def test_listed_names_without_image_or_mask_are_problems(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    (inner / "SegmentationClass/2007_000002.png").unlink()
    (inner / "JPEGImages/2008_000001.jpg").unlink()
    with (inner / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("2007_000001\n")
    report = check(inner)
    assert [re.sub(r"^\S+/", "", line) for line in report.problems] == [
        f"train.txt, line 2: '2007_000002' has no mask {inner}/SegmentationClass/2007_000002.png",
        f"val.txt, line 1: '2008_000001' has no image {inner}/JPEGImages/2008_000001.jpg",
        "val.txt, line 3: '2007_000001' is in train.txt already",
    ]
    assert {split: figures.pairs for split, figures in report.splits.items()} == {"train": 2, "val": 1}
    with pytest.raises(UserError, match=r"has no mask .* \(and 2 more\); see segnas data check"):
        require(open_dataset(inner))
    shutil.rmtree(inner / "SegmentationClass")
    (inner / "SegmentationClass").mkdir()
    assert "names no image with a mask" in refused(inner)


def test_unknown_ids_are_named(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    write_indexed(inner / "SegmentationClass/2007_000001.png", np.full((24, 36), 21, np.uint8), VOC_COLORS)
    with pytest.raises(UnknownIds, match=r"2007_000001\.png holds the unknown id 21; allowed: 0, 1, .* \(22 in all\); take the"):
        open_dataset(inner).read("train", 0)
    report = check(inner)
    assert [one.ids for one in report.unknown] == [("21",)]
    assert not any("classes.json" in line for line in (*report.suggestions, *report.problems))


def test_masks_converted_to_colours_are_refused(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    write(inner / "SegmentationClass/2007_000001.png", VOC_COLORS[label_of(5)])
    assert "2007_000001.png is a mask in colour, but PASCAL VOC masks store one id" in unreadable(inner, "train")


def test_palettes_made_anew_are_refused(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    mask = inner / "SegmentationClass/2007_000001.png"
    colored = np.full((24, 36, 3), VOC_COLORS[15], np.uint8)
    colored[:5] = VOC_COLORS[12]
    Image.fromarray(colored).quantize(4).save(mask)
    assert "has another palette than PASCAL VOC (index 0 is (" in unreadable(inner, "train")
    write_indexed(mask, label_of(0), VOC_COLORS[[0, 2, 1]])
    assert "(index 1 is (0, 128, 0) instead of (128, 0, 0)), so its indices are not" in unreadable(inner, "train")
    assert len(check(inner).problems) == 1


def test_a_palette_that_ends_before_an_index() -> None:
    colors = tuple((red, green, blue) for red, green, blue in VOC_COLORS.tolist())
    assert other_colors(np.array([[0, 2]], np.uint8), colors[:2], colors) == "index 2 is beyond it"
    assert other_colors(np.array([[0, 1]], np.uint8), colors[:2], colors) == ""


def test_other_ways_of_storing_the_ids_are_read(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    mask, label = inner / "SegmentationClass/2007_000001.png", label_of(0)
    write(mask, label)
    assert np.array_equal(open_dataset(inner).read("train", 0).label, label)
    write_indexed(mask, label, np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))
    assert np.array_equal(open_dataset(inner).read("train", 0).label, label)


def test_sizes_that_differ_and_damaged_files(tmp_path: Path) -> None:
    inner = voc_set(tmp_path)
    write_image(inner / "JPEGImages/2007_000001.jpg", label_of(0, 20, 30))
    assert "is 20x30 but its mask" in unreadable(inner, "train")
    (inner / "JPEGImages/2007_000001.jpg").write_bytes(b"no image")
    assert "cannot read the image" in unreadable(inner, "train")
    (inner / "SegmentationClass/2007_000002.png").write_bytes(b"no mask")
    assert "cannot read the mask" in unreadable(inner, "train", 1)


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClass", "ImageSets", "ImageSets/Segmentation"])
@pytest.mark.parametrize("prefix", ["", "voc:"])
def test_a_part_of_the_set_is_no_set(tmp_path: Path, part: str, prefix: str) -> None:
    inner = voc_set(tmp_path)
    assert refused(f"{prefix}{inner / part}").endswith(f"did you mean {inner}?")


def test_real_images(shared: Path) -> None:
    root = shared / "data/formats/voc"
    dataset = open_dataset(root)
    assert dataset.splits == {"train": ("2007_004189", "2008_002536"), "val": ("2007_006449", "2010_005582")}
    expected = {"2007_004189": "dog", "2007_006449": "bicycle", "2008_002536": "dog sheep", "2010_005582": "bottle person"}
    for split, names in dataset.splits.items():
        for index, name in enumerate(names):
            sample = dataset.read(split, index)
            ids = set(np.unique(sample.label).tolist()) - {IGNORE}
            assert {dataset.classes.names[train_id] for train_id in ids} == {"background", *expected[name].split()}
            shown = np.asarray(Image.open(root / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png").convert("RGB"))
            counted = sample.label != IGNORE
            assert np.array_equal(np.array(dataset.classes.colors, np.uint8)[sample.label[counted]], shown[counted])
            assert (shown[~counted] == (224, 224, 192)).all()
    assert check(root).ok
