"""Folders as users have them: layouts, class files, encodings of masks, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import COLORS, label_of, split_set, write, write_image, write_pairs
from PIL import Image

from segnas.data import describe, open_dataset
from segnas.data.base import IGNORE
from segnas.data.folder import Folder
from segnas.data.masks import UnknownIds
from segnas.errors import UserError


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folder_of(root: Path, masks: dict[str, np.ndarray]) -> Folder:
    """images/ and masks/ with these masks beside black images."""
    for name, mask in masks.items():
        write(root / "images" / f"{name}.png", np.zeros((*mask.shape[:2], 3), np.uint8))
        write(root / "masks" / f"{name}.png", mask)
    return Folder(root)


def labels_by_name(dataset: Folder) -> dict[str, np.ndarray]:
    return {name: dataset.read(split, index).label for split, names in dataset.splits.items() for index, name in enumerate(names)}


# Layouts


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}", "labels/{}"),
        ("Images/{}", "Masks/{}"),
        ("{}/images", "{}/masks"),
        ("{}", "{}_labels"),
        ("{}", "{}annot"),
        ("images/{}/city", "annotations/{}/city"),
    ],
)
def test_split_folders(tmp_path: Path, images: str, masks: str) -> None:
    for split, names in (("train", "b a"), ("val", "c"), ("test", "d")):
        write_pairs(tmp_path / images.format(split), tmp_path / masks.format(split), names)
    dataset = open_dataset(tmp_path)
    assert {split: [name[-1] for name in names] for split, names in dataset.splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
    }
    sample = dataset.read("train", 0)
    assert np.array_equal(sample.image, COLORS[sample.label])
    assert dataset.size("train", 0) == (24, 36)


def test_validation_by_another_name_and_drawn_when_absent(tmp_path: Path) -> None:
    write_pairs(tmp_path / "images/training", tmp_path / "labels/training", "a b c d e f g h i j k l m n")
    write_pairs(tmp_path / "images/valid", tmp_path / "labels/valid", "x")
    assert open_dataset(tmp_path).splits["val"] == ("x",)
    write_pairs(tmp_path / "other/images/train", tmp_path / "other/labels/train", "a b c d e f g h i j k l m n")
    drawn = Folder(tmp_path / "other", seed=3)
    assert {split: len(names) for split, names in drawn.splits.items()} == {"train": 12, "val": 2}
    assert "seed 3" in drawn.split_rule
    assert any("seed 3 (train 12, val 2)" in note for note in drawn.notes)


def test_a_drawn_split_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    names = [f"image{number:02d}" for number in range(20)]
    write_pairs(tmp_path / "one/images", tmp_path / "one/masks", " ".join(names))
    write_pairs(tmp_path / "two/imgs", tmp_path / "two/labels", " ".join(reversed(names)), suffix=".BMP")
    one, two = Folder(tmp_path / "one", seed=1), Folder(tmp_path / "two", seed=1)
    assert one.splits == two.splits
    assert {split: len(members) for split, members in one.splits.items()} == {"train": 14, "val": 3, "test": 3}
    assert sorted(sum(one.splits.values(), ())) == names
    assert Folder(tmp_path / "one", seed=2).splits != one.splits


def test_two_pairs_are_enough_and_one_is_not(tmp_path: Path) -> None:
    write_pairs(tmp_path / "images", tmp_path / "masks", "a b")
    assert {split: len(names) for split, names in open_dataset(tmp_path).splits.items()} == {"train": 1, "val": 1}
    (tmp_path / "images/b.png").unlink()
    (tmp_path / "masks/b.png").unlink()
    assert "at least 2 images" in refused(tmp_path)


def test_lists_are_honoured_in_their_order(tmp_path: Path) -> None:
    write_pairs(tmp_path / "images", tmp_path / "labels", "a b c d e")
    (tmp_path / "images/f.png").write_bytes((tmp_path / "images/a.png").read_bytes())  # no mask, in no list
    (tmp_path / "train.txt").write_text("c\nimages/a.png\n\n")
    (tmp_path / "val.txt").write_text("b.png\nnobody\nc\n")
    dataset = Folder(tmp_path)
    assert dataset.splits == {"train": ("c", "a"), "val": ("b",)}
    assert any("2 images are in no list" in note for note in dataset.notes)
    missing, repeated = dataset.problems
    assert "val.txt, line 2: there is no image with a mask named 'nobody'" in missing
    assert "val.txt, line 3: 'c' is in train.txt already" in repeated


def test_names_match_by_common_endings_and_stray_files_are_told(tmp_path: Path) -> None:
    for image, mask in (("a.JPG", "a_mask.png"), ("b.jpeg", "b_L.PNG"), ("c.webp", "c.png"), ("c2.png", "c2_gt.png")):
        label = label_of(1)
        write_image(tmp_path / "images" / image, label)
        write(tmp_path / "masks" / mask, label)
    write(tmp_path / "masks/c_color.png", COLORS[label_of(1)])
    write(tmp_path / "masks/stray.png", label_of(1))
    write_image(tmp_path / "images/lonely.png", label_of(1))
    for rubbish in ("images/.a.png", "images/Thumbs.db", "masks/.DS_Store", "masks/notes.txt"):
        (tmp_path / rubbish).write_bytes(b"rubbish")
    dataset = Folder(tmp_path)
    assert sorted(sum(dataset.splits.values(), ())) == ["a", "b", "c", "c2"]
    assert len(dataset.problems) == 2
    assert "lonely.png has no mask" in dataset.problems[0]
    assert "stray.png has no image" in dataset.problems[1]


def test_a_split_without_masks_is_left_out_with_a_note(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "labels/test/g.png").unlink()
    (tmp_path / "labels/test").rmdir()
    dataset = Folder(tmp_path)
    assert set(dataset.splits) == {"train", "val"}
    assert any("'test' is left out" in note for note in dataset.notes)


# What is no data set


def test_folders_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file")
    split_set(tmp_path / "set")
    assert f"did you mean {tmp_path / 'set'}?" in refused(tmp_path / "set/images")
    (tmp_path / "wrapped").mkdir()
    (tmp_path / "set").rename(tmp_path / "wrapped/set")
    assert f"did you mean {tmp_path / 'wrapped/set'}?" in refused(tmp_path / "wrapped")
    write_image(tmp_path / "half/images/a.png", label_of(0))
    half = tmp_path / "half"
    assert f"has images (images/) but no masks: put them into {half}/masks or {half}/labels" in refused(half)
    (tmp_path / "half/labels").mkdir()
    assert "holds no masks" in refused(tmp_path / "half")
    write_image(tmp_path / "half/labels/a.jpg", label_of(0))
    assert "store them as PNG" in refused(tmp_path / "half")
    write(tmp_path / "half/labels/b.png", label_of(0))
    assert "no image in" in refused(tmp_path / "half")
    write_pairs(tmp_path / "unsplit/images/val", tmp_path / "unsplit/labels/val", "a")
    assert "no training images" in refused(tmp_path / "unsplit")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path / "images", tmp_path / "masks", "a b")
    write_image(tmp_path / "images/a.bmp", label_of(0))
    assert "two images have one name" in refused(tmp_path)


# Classes


@pytest.mark.parametrize(
    "content",
    [
        {"classes": ["sky", "road", "car"]},
        ["sky", "road", "car"],
        {"names": ["sky", "road", "car"], "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "ignore_index": 255},
        {"classes": [{"name": "sky"}, {"name": "road", "id": 1}, {"name": "car", "color": [7, 8, 9]}], "ignore_index": None},
    ],
)
def test_forms_of_the_class_file(tmp_path: Path, content: object) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(content))
    classes = open_dataset(tmp_path).classes
    assert classes.names == ("sky", "road", "car")
    assert len(set(classes.colors)) == 3
    assert classes.source_ids == (0, 1, 2)
    assert classes.ignore_source_id is None


def test_ids_with_gaps_and_ignored_classes(tmp_path: Path) -> None:
    entries = [
        {"id": 7, "name": "road"},
        {"id": 300, "name": "car"},
        {"id": 2, "name": "mud", "ignore": True},
        {"id": 4, "name": "void"},
    ]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries, "ignore_index": 4}))
    mask = np.array([[7, 300, 2], [4, 7, 300]], dtype=np.uint16)
    dataset = folder_of(tmp_path, {"a": mask, "b": mask})
    assert dataset.classes.names == ("road", "car")
    assert dataset.classes.source_ids == (7, 300)
    assert labels_by_name(dataset)["a"].tolist() == [[0, 1, IGNORE], [IGNORE, 0, 1]]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON file"),
        ('{"colours": []}', "names no classes"),
        ('{"classes": ["a"]}', "has 1 class;"),
        ('{"classes": ["a", "a"]}', "two classes have the name 'a'"),
        ('{"classes": [{"name": "a", "id": 1}, {"name": "b", "id": 1}]}', "two classes have the id 1"),
        ('{"classes": [{"name": "a", "id": 1.5}, {"name": "b"}]}', "the id of 'a'"),
        ('{"names": ["a", "b"], "colors": [[0, 0, 0], [0, 0, 256]]}', "the color of 'b'"),
        ('{"names": ["a", "b"], "colors": [[0, 0, 0]]}', "lists of equal length"),
        ('{"names": ["a", "b"], "ignore_index": "x"}', "ignore_index must be"),
        (json.dumps({"classes": [f"c{number}" for number in range(257)], "ignore_index": None}), "has 257 classes; at most 255"),
    ],
)
def test_wrong_class_files(tmp_path: Path, content: str, complaint: str) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    assert complaint in refused(tmp_path)


def test_found_ids_become_classes_and_255_is_ignored(tmp_path: Path) -> None:
    mask = np.array([[3, 9], [255, 40]], dtype=np.uint8)
    dataset = folder_of(tmp_path, {"a": mask, "b": mask[:1]})
    assert dataset.classes.names == ("class_3", "class_9", "class_40")
    assert labels_by_name(dataset)["a"].tolist() == [[0, 1], [IGNORE, 2]]
    assert "3 ids found" in dataset.notes[0]


@pytest.mark.parametrize("top", [255, 1])
def test_binary_masks(tmp_path: Path, top: int) -> None:
    mask = np.array([[0, top], [top, 0]], dtype=np.uint8)
    dataset = folder_of(tmp_path, {"a": mask, "b": 0 * mask})
    assert dataset.classes.names == ("background", "foreground")
    assert labels_by_name(dataset)["a"].tolist() == [[0, 1], [1, 0]]


def test_one_bit_masks_and_grey_in_three_channels(tmp_path: Path) -> None:
    bits = np.array([[False, True], [True, False]])
    assert labels_by_name(folder_of(tmp_path / "bits", {"a": bits, "b": bits}))["a"].tolist() == [[0, 1], [1, 0]]
    grey = np.repeat(np.array([[5, 6], [7, 255]], np.uint8)[..., None], 3, axis=2)
    dataset = folder_of(tmp_path / "grey", {"a": grey, "b": grey})
    assert dataset.classes.names == ("class_5", "class_6", "class_7")
    assert labels_by_name(dataset)["a"].tolist() == [[0, 1], [2, IGNORE]]


@pytest.mark.parametrize("channels", [1, 3])
def test_two_names_beside_black_and_white_masks(tmp_path: Path, channels: int) -> None:
    tmp_path.joinpath("classes.json").write_text('{"classes": ["field", "house"]}')
    mask = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    mask = mask if channels == 1 else np.repeat(mask[..., None], 3, axis=2)
    dataset = folder_of(tmp_path, {"a": mask, "b": mask})
    assert labels_by_name(dataset)["a"].tolist() == [[0, 1], [1, 0]]
    assert dataset.classes.names == ("field", "house")


def test_palette_masks_are_read_by_index_and_give_the_colours(tmp_path: Path) -> None:
    label = label_of(4)
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png", label)
        mask = Image.fromarray(label, "P")
        mask.putpalette(COLORS.tobytes())
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{name}.png")
    dataset = Folder(tmp_path)
    assert np.array_equal(labels_by_name(dataset)["a"], label)
    assert dataset.classes.colors == tuple(tuple(color) for color in COLORS[:3].tolist())


def test_coloured_masks_with_and_without_a_table(tmp_path: Path) -> None:
    label = label_of(5)
    dataset = folder_of(tmp_path, {"a": COLORS[label], "b": COLORS[label]})
    assert sorted(dataset.classes.colors) == sorted(tuple(color) for color in COLORS[:3].tolist())
    found = np.array(dataset.classes.colors, np.uint8)[labels_by_name(dataset)["a"]]
    assert np.array_equal(found, COLORS[label])

    entries = [{"name": f"c{place}", "color": color} for place, color in enumerate(COLORS[:3].tolist())]
    entries[1]["ignore"] = True
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    read = labels_by_name(Folder(tmp_path))["a"]
    assert np.array_equal(read, np.array([0, IGNORE, 1], np.uint8)[label])

    (tmp_path / "classes.json").write_text(json.dumps({"classes": [entries[0], entries[2]]}))
    with pytest.raises(UnknownIds, match=r"masks/[ab]\.png holds the unknown colour \(220, 30, 30\); allowed: \(20, 40, 60\)"):
        labels_by_name(Folder(tmp_path))
    (tmp_path / "classes.json").write_text('["one", "two", "three"]')
    with pytest.raises(UserError, match="mask in colour, but there is no table"):
        labels_by_name(Folder(tmp_path))


def test_masks_that_cannot_be_classes_are_refused(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(UserError, match="hold 255 different ids"):
        folder_of(tmp_path / "smooth", {"a": ramp, "b": ramp})
    colors = np.stack([ramp, ramp[::-1], ramp.T], axis=2)
    with pytest.raises(UserError, match="hold 256 different colours"):
        folder_of(tmp_path / "photo", {"a": colors, "b": colors})
    with pytest.raises(UserError, match="has 1 class;"):
        folder_of(tmp_path / "single", {"a": np.full((4, 4), 7, np.uint8), "b": np.full((4, 4), 255, np.uint8)})
    with pytest.raises(UserError, match=r"some masks in .* store ids and some colours"):
        folder_of(tmp_path / "mixed", {"a": COLORS[label_of(0)], "b": label_of(0)})


def test_unknown_id_is_named_with_its_file(tmp_path: Path) -> None:
    split_set(tmp_path)
    (tmp_path / "classes.json").write_text('["sky", "road"]')
    with pytest.raises(UnknownIds) as caught:
        open_dataset(tmp_path).read("val", 0)
    assert caught.value.file == tmp_path / "labels/val/e.png"
    assert caught.value.ids == ("2",)
    assert caught.value.allowed == ("0", "1", "255")
    assert "e.png holds the unknown id 2; allowed: 0, 1, 255" in str(caught.value)


# Image files


def test_images_of_any_kind_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    deep = grey.astype(np.uint16) * 256 + 7
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    for name, pixels in (("a.png", grey), ("b.png", deep), ("c.tif", deep), ("d.png", clear), ("e.BMP", np.dstack([grey] * 3))):
        write(tmp_path / "images" / name, pixels)
        write(tmp_path / "masks" / f"{name[0]}.png", (grey > 100).astype(np.uint8))
    dataset = Folder(tmp_path)
    for split, names in dataset.splits.items():
        for index in range(len(names)):
            assert np.array_equal(dataset.read(split, index).image, np.dstack([grey] * 3))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = label_of(3, 12, 18)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it upright
    for name in "ab":
        (tmp_path / "images").mkdir(exist_ok=True)
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(COLORS[upright])))
        stored.save(tmp_path / "images" / f"{name}.jpg", exif=exif, quality=100, subsampling=0)
        write(tmp_path / "masks" / f"{name}.png", upright)
    dataset = Folder(tmp_path)
    sample = dataset.read("train", 0)
    assert dataset.size("train", 0) == (12, 18)
    assert np.abs(sample.image.astype(int) - COLORS[sample.label].astype(int)).mean() < 3
    write(tmp_path / "masks/a.png", np.ascontiguousarray(np.rot90(upright)))
    write(tmp_path / "masks/b.png", np.ascontiguousarray(np.rot90(upright)))
    with pytest.raises(UserError, match=r"12x18 but its mask .* 18x12 .* EXIF rotation"):
        Folder(tmp_path).read("train", 0)


@pytest.mark.parametrize("part", ["images/train/a.png", "labels/train/a.png"])
def test_damaged_files_are_named(tmp_path: Path, part: str) -> None:
    split_set(tmp_path)
    path = tmp_path / part
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no image", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read the (image|mask) .*a\.png"):
            open_dataset(tmp_path).read("train", 0)


def test_a_description_can_be_written_down(tmp_path: Path) -> None:
    dataset = open_dataset(split_set(tmp_path))
    text = json.loads(json.dumps(describe(dataset)))
    assert text["splits"] == {"train": ["a", "b", "c", "d"], "val": ["e", "f"], "test": ["g"]}
    assert text["classes"][2] == {"train_id": 2, "name": "class_2", "color": list(dataset.classes.colors[2]), "source_id": 2}
    assert text["split"] == "folders"
    assert text["path"] == str(tmp_path)
    assert any("3 ids found" in note for note in text["notes"])


def test_camvid(shared: Path) -> None:
    root = shared / "data/camvid"
    dataset = open_dataset(root)
    written = json.loads((root / "classes.json").read_text())
    assert dataset.classes.names == tuple(entry["name"] for entry in written["classes"][:11])
    assert dataset.classes.ignore_source_id == 11
    for split in ("train", "val", "test"):
        assert dataset.splits[split] == tuple((root / f"{split}.txt").read_text().split())
    stored = np.asarray(Image.open(root / "labels/val" / f"{dataset.splits['val'][5]}.png"))
    assert np.array_equal(dataset.read("val", 5).label, np.where(stored == 11, IGNORE, stored))
