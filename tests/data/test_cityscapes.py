"""Cityscapes: 34 ids to 19 classes, either kind of label file, dummies of the test split, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import label_of, write, write_image
from PIL import Image
from published_sets import city_set, refused, unreadable

from segnas.data import describe, open_dataset
from segnas.data.base import IGNORE
from segnas.data.check import check, require
from segnas.data.cityscapes import Cityscapes
from segnas.data.masks import UnknownIds
from segnas.errors import UserError

# trainId of the ids 0 .. 33 in the official labels.py, read off one by one
OFFICIAL = (
    255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255,
    255, 16, 17, 18,
)  # fmt: skip
NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def test_splits_names_and_labels(tmp_path: Path) -> None:
    dataset = open_dataset(city_set(tmp_path))
    assert isinstance(dataset, Cityscapes)
    assert dataset.splits == {
        "train": ("aachen/aachen_000000_000010", "bochum/bochum_000000_000011"),
        "val": ("munster/munster_000000_000012",),
    }
    assert dataset.classes.names == NAMES
    assert dataset.classes.source_ids[13] == 26
    assert dataset.classes.colors[13] == (0, 0, 142)
    sample = dataset.read("train", 1)
    assert np.array_equal(sample.label, np.array([0, 2, 13])[label_of(1)])
    assert np.array_equal(sample.image, np.asarray(Image.open(dataset.pairs["train"][1].image)))
    assert any("'test' is left out" in note for note in dataset.notes)
    assert describe(dataset)["layout"] == "Cityscapes"
    require(dataset)


def test_all_ids_as_the_official_table_has_them(tmp_path: Path) -> None:
    city_set(tmp_path)
    (mask,) = tmp_path.glob("gtFine/val/*/*labelIds.png")
    ids = np.resize(np.array([*range(34), 255], np.uint8), (24, 36))
    write(mask, ids)
    expected = np.array([*OFFICIAL, *[0] * 221, 255])[ids]
    assert np.array_equal(open_dataset(tmp_path).read("val", 0).label, expected)


def test_train_ids_are_read_when_there_are_no_label_ids(tmp_path: Path) -> None:
    one, two = open_dataset(city_set(tmp_path / "a")), open_dataset(city_set(tmp_path / "b", "labelTrainIds"))
    assert two.splits == one.splits
    assert two.classes.names == one.classes.names
    assert two.classes.source_ids == ()
    for index in range(2):
        assert np.array_equal(two.read("train", index).label, one.read("train", index).label)
    (mask,) = tmp_path.glob("b/gtFine/val/*/*TrainIds.png")
    write(mask, np.full((24, 36), 26, np.uint8))
    assert "holds the unknown id 26; allowed: 0, 1" in unreadable(tmp_path / "b", "val")


def test_test_labels_that_count_make_a_split(tmp_path: Path) -> None:
    city_set(tmp_path)
    (mask,) = tmp_path.glob("gtFine/test/*/*labelIds.png")
    label = np.full((24, 36), 3, np.uint8)
    label[0, 0] = 7
    write(mask, label)
    assert open_dataset(tmp_path).splits["test"] == ("berlin/berlin_000000_000013",)
    shutil.rmtree(tmp_path / "gtFine/test")
    assert "test" not in open_dataset(tmp_path).splits


def test_pairs_that_are_incomplete_are_problems(tmp_path: Path) -> None:
    city_set(tmp_path)
    write_image(tmp_path / "leftImg8bit/val/munster/lonely_leftImg8bit.png", label_of(0))
    write(tmp_path / "gtFine/train/aachen/alone_gtFine_labelIds.png", label_of(0))
    report = check(tmp_path)
    assert len(report.problems) == 2
    assert report.problems[0].endswith("gtFine/train/aachen/alone_gtFine_labelIds.png has no image")
    assert report.problems[1].endswith(f"lonely_leftImg8bit.png has no label *_gtFine_labelIds.png in {tmp_path}/gtFine/val")
    with pytest.raises(UserError, match=r"has no image \(and 1 more\)"):
        require(open_dataset(tmp_path))


def test_val_alone_can_be_checked_but_not_trained_on(tmp_path: Path) -> None:
    city_set(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit/train")
    dataset = open_dataset(tmp_path)
    assert list(dataset.splits) == ["val"]
    assert any("'train' is left out" in note for note in dataset.notes)
    report = check(dataset)
    assert report.problems == ("there are no training images (there is val): the set can be evaluated on, but not trained on",)
    assert not any("never in train" in line for line in report.warnings)
    with pytest.raises(UserError, match=f"there are no training images .*; see segnas data check {tmp_path}$"):
        require(dataset)


def test_a_missing_half(tmp_path: Path) -> None:
    city_set(tmp_path / "a")
    shutil.rmtree(tmp_path / "a/gtFine")
    assert "no complete Cityscapes set: it has no folder gtFine; expected leftImg8bit/" in refused(tmp_path / "a")
    city_set(tmp_path / "b")
    shutil.rmtree(tmp_path / "b/leftImg8bit")
    assert "it has no folder leftImg8bit" in refused(tmp_path / "b")
    city_set(tmp_path / "c")
    shutil.rmtree(tmp_path / "c/gtFine/train")
    assert "has its label *_gtFine_labelIds.png in" in refused(tmp_path / "c")


def test_empty_splits(tmp_path: Path) -> None:
    city_set(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit/val/munster")
    assert refused(tmp_path) == f"{tmp_path}/leftImg8bit/val holds no images CITY/*_leftImg8bit.png"
    shutil.rmtree(tmp_path / "leftImg8bit/val")
    shutil.rmtree(tmp_path / "leftImg8bit/train")
    assert "has neither train/ nor val/" in refused(tmp_path)


def test_wrong_ids_and_colours(tmp_path: Path) -> None:
    city_set(tmp_path)
    (mask,) = tmp_path.glob("gtFine/val/*/*labelIds.png")
    write(mask, np.full((24, 36), 34, np.uint8))
    with pytest.raises(UnknownIds, match=f"{mask} holds the unknown id 34"):
        open_dataset(tmp_path).read("val", 0)
    write_image(mask, label_of(0))
    assert "is a mask in colour, but Cityscapes masks store one id a pixel" in unreadable(tmp_path, "val")


@pytest.mark.parametrize("part", ["leftImg8bit", "gtFine", "leftImg8bit/train", "gtFine/val", "leftImg8bit/train/aachen"])
@pytest.mark.parametrize("prefix", ["", "cityscapes:"])
def test_a_part_of_the_set_is_no_set(tmp_path: Path, part: str, prefix: str) -> None:
    city_set(tmp_path)
    assert refused(f"{prefix}{tmp_path / part}").endswith(f"did you mean {tmp_path}?")


def test_a_real_image(shared: Path) -> None:
    root = shared / "data/formats/cityscapes_small_256x128"
    dataset = open_dataset(root)
    assert dataset.splits == {"val": ("frankfurt/frankfurt_000000_000294",)}
    label = dataset.read("val", 0).label
    stem = root / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    assert np.array_equal(label, np.array(OFFICIAL)[np.asarray(Image.open(stem))])
    train_ids = np.asarray(Image.open(str(stem).replace("labelIds", "labelTrainIds")))
    assert (label != train_ids).sum() == 77, "resized apart, at borders"
    assert IGNORE in label
    assert check(root).problems == (
        "there are no training images (there is val): the set can be evaluated on, but not trained on",
    )
