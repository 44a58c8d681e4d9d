"""ADE20K: ids 1 .. 150 to 0 .. 149, names from the set or from the table, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import label_of, write, write_image
from PIL import Image
from published_sets import ade_set, refused, unreadable

from segnas.data import describe, open_dataset
from segnas.data.ade20k import NAMES, Ade20k, read_names
from segnas.data.base import IGNORE
from segnas.data.check import check, require
from segnas.data.folder import Folder
from segnas.errors import UserError

TABLE = "Idx\tRatio\tTrain\tVal\tName\n" + "".join(f"{number}\t0.1\t1\t1\tthing {number} , object\n" for number in range(1, 151))


@pytest.mark.parametrize("up", [0, 1])
def test_splits_names_and_labels(tmp_path: Path, up: int) -> None:
    inner = ade_set(tmp_path)
    dataset = open_dataset((inner, tmp_path)[up])
    assert isinstance(dataset, Ade20k)
    assert dataset.splits == {"train": ("ADE_train_00000001", "ADE_train_00000002"), "val": ("ADE_val_00000001",)}
    assert (len(dataset.classes), dataset.classes.names[0], dataset.classes.names[149]) == (150, "wall", "flag")
    assert (dataset.classes.source_ids, dataset.classes.ignore_source_id) == (tuple(range(1, 151)), 0)
    assert np.array_equal(dataset.read("train", 1).label, np.array([IGNORE, 0, 149])[label_of(2 + len("training"))])
    assert describe(dataset)["layout"] == "ADE20K"
    require(dataset)


def test_names_come_from_the_set_when_it_has_them(tmp_path: Path) -> None:
    inner = ade_set(tmp_path)
    (inner / "objectInfo150.txt").write_text(TABLE)
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names[:2] == ("thing 1", "thing 2")
    assert describe(dataset)["notes"] == ["classes from objectInfo150.txt"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param(TABLE[: len(TABLE) // 2], id="cut off"),
        pytest.param(TABLE.replace("thing 7 ,", "thing 8 ,"), id="a name twice"),
        pytest.param(TABLE.replace("thing 7 ,", " ,"), id="a name empty"),
        pytest.param(TABLE.replace("7\t0.1", "200\t0.1", 1), id="another id"),
    ],
)
def test_wrong_name_files(tmp_path: Path, content: str) -> None:
    inner = ade_set(tmp_path)
    (inner / "objectInfo150.txt").write_text(content)
    assert (
        refused(tmp_path) == f"{inner}/objectInfo150.txt should list the ids 1 to 150 in their order, each with a name of its own"
    )


def test_ids_beyond_150_and_colours(tmp_path: Path) -> None:
    inner = ade_set(tmp_path)
    mask = inner / "annotations/validation/ADE_val_00000001.png"
    write(mask, np.full((24, 36), 151, np.uint8))
    assert f"{mask} holds the unknown id 151; allowed: 0, 1, 2" in unreadable(tmp_path, "val")
    write_image(mask, label_of(0))
    assert f"{mask} is a mask in colour, but ADE20K masks store one id" in unreadable(tmp_path, "val")


def test_incomplete_pairs_and_folders(tmp_path: Path) -> None:
    inner = ade_set(tmp_path)
    (inner / "annotations/training/ADE_train_00000002.png").unlink()
    write(inner / "annotations/validation/ADE_val_00000007.png", label_of(0))
    report = check(tmp_path)
    assert [line.split("/")[-3:] for line in report.problems] == [
        f"images/training/ADE_train_00000002.jpg has no mask in {inner}/annotations/training".split("/")[-3:],
        f"annotations/validation/ADE_val_00000007.png has no image in {inner}/images/validation".split("/")[-3:],
    ]
    with pytest.raises(UserError, match="has no mask in"):
        require(open_dataset(tmp_path))
    shutil.rmtree(inner / "annotations/training")
    assert "it has no folder annotations/training" in refused(tmp_path)
    (inner / "annotations/training").mkdir()
    assert f"{inner}/annotations/training holds no masks" in refused(tmp_path)
    for path in (inner / "images/training").iterdir():
        path.unlink()
    assert f"{inner}/images/training holds no images" in refused(tmp_path)
    shutil.rmtree(inner / "images")
    assert "no complete ADE20K set: it has no folder images; expected ADEChallengeData2016/" in refused(tmp_path)
    (inner / "images").mkdir()
    shutil.rmtree(inner / "annotations")
    (inner / "annotations").mkdir()
    assert "has neither training/ nor validation/" in refused(tmp_path)


def test_validation_alone_cannot_be_trained_on(tmp_path: Path) -> None:
    inner = ade_set(tmp_path)
    for kind in ("images", "annotations"):
        shutil.rmtree(inner / kind / "training")
    dataset = open_dataset(tmp_path)
    assert list(dataset.splits) == ["val"]
    with pytest.raises(UserError, match="there are no training images"):
        require(dataset)


def test_under_another_name_and_beside_a_class_file(tmp_path: Path) -> None:
    root = ade_set(tmp_path / "a").rename(tmp_path / "scenes")
    assert isinstance(open_dataset(root), Ade20k), "by the names of its files"
    (root / "classes.json").write_text('{"classes": [{"id": 1, "name": "wall"}, {"id": 150, "name": "flag"}], "ignore_index": 0}')
    assert isinstance(open_dataset(root), Folder), "whoever writes down classes wants them"
    (root / "classes.json").unlink()
    for path in sorted(root.rglob("ADE_*")):
        path.rename(path.with_name(path.name.removeprefix("ADE_")))
    assert isinstance(open_dataset(root), Folder)
    assert isinstance(open_dataset(f"ade20k:{root}"), Ade20k)


@pytest.mark.parametrize("part", ["images", "annotations", "images/training"])
@pytest.mark.parametrize("prefix", ["", "ade20k:"])
def test_a_part_of_the_set_is_no_set(tmp_path: Path, part: str, prefix: str) -> None:
    inner = ade_set(tmp_path)
    assert refused(f"{prefix}{inner / part}").endswith(f"did you mean {inner}?")


def test_real_images(shared: Path) -> None:
    root = shared / "data/formats/ade20k"
    dataset = open_dataset(root)
    assert dataset.classes.names == NAMES == read_names(root / "ADEChallengeData2016/objectInfo150.txt")
    assert dataset.splits == {"val": ("ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003")}
    present = set()
    for index, name in enumerate(dataset.splits["val"]):
        label = dataset.read("val", index).label
        stored = np.asarray(Image.open(root / f"ADEChallengeData2016/annotations/validation/{name}.png")).astype(int)
        assert np.array_equal(label.astype(int), np.where(stored == 0, IGNORE, stored - 1))
        present |= {dataset.classes.names[train_id] for train_id in set(np.unique(label).tolist()) - {IGNORE}}
    expected = "wall building sky tree road grass plant earth sidewalk car signboard bus streetlight escalator van"
    assert present == set(expected.split())
