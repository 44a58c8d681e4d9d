"""Masks with palettes: indices that are ids, and indices that a tool numbered anew in every file."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import COLORS, label_of, write, write_image, write_indexed
from PIL import Image

from segnas.data.base import IGNORE, palette
from segnas.data.check import check
from segnas.data.folder import Folder
from segnas.data.masks import UnknownIds
from segnas.errors import UserError

VOC = np.array(palette(256), np.uint8)
GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
# Each label with the order of the colours in its file; index = position in the order.
LABELS = {"a": label_of(1), "b": label_of(2), "c": np.minimum(label_of(3), 1), "d": np.full((24, 36), 2, np.uint8)}
ORDERS = {"a": (0, 1, 2), "b": (2, 0, 1), "c": (1, 0), "d": (2,)}


def renumbered(root: Path, colors: np.ndarray = COLORS) -> Path:
    """Palette masks of LABELS whose indices follow ORDERS."""
    for name, label in LABELS.items():
        write_image(root / "images" / f"{name}.png", label)
        indices = np.argsort(np.array([*ORDERS[name], *({0, 1, 2} - {*ORDERS[name]})], np.uint8))[label].astype(np.uint8)
        write_indexed(root / "masks" / f"{name}.png", indices, colors[list(ORDERS[name])])
    return root


def with_classes(root: Path, colors: np.ndarray | None = COLORS[:3]) -> Path:
    entries = [{"id": place, "name": f"c{place}"} for place in range(3)]
    if colors is not None:
        entries = [{**entry, "color": color} for entry, color in zip(entries, colors.tolist(), strict=True)]
    (root / "classes.json").write_text(json.dumps({"classes": entries}))
    return root


def with_ids(root: Path, stored: np.ndarray) -> Path:
    """Palette masks whose indices are ids."""
    for name, label in LABELS.items():
        write_image(root / "images" / f"{name}.png", label)
        write_indexed(root / "masks" / f"{name}.png", label, stored)
    return root


def labels(root: Path) -> dict[str, np.ndarray]:
    dataset = Folder(root)
    places = [(split, index) for split, names in dataset.splits.items() for index in range(len(names))]
    return {dataset.splits[split][index]: dataset.read(split, index).label for split, index in places}


def assert_read_right(root: Path) -> None:
    read = labels(root)
    assert {*read} == {*LABELS}
    for name, label in LABELS.items():
        assert np.array_equal(read[name], label), name


def test_palettes_numbered_anew_in_every_file_are_read_by_colour(tmp_path: Path) -> None:
    assert_read_right(with_classes(renumbered(tmp_path)))
    assert check(tmp_path).ok
    assert not check(tmp_path).warnings


def test_masks_quantised_by_pillow(tmp_path: Path) -> None:
    for name, label in LABELS.items():
        write_image(tmp_path / "images" / f"{name}.png", label)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(COLORS[label]).quantize(8).save(tmp_path / "masks" / f"{name}.png")
    assert_read_right(with_classes(tmp_path))
    colors = np.array(Folder(tmp_path).classes.colors, np.uint8)
    (tmp_path / "classes.json").unlink()
    dataset = Folder(tmp_path)
    assert {*dataset.classes.colors} == {tuple(color) for color in colors.tolist()}
    assert "so the colours count, not the indices" in dataset.notes[0]
    found = np.array(dataset.classes.colors, np.uint8)
    for name, label in labels(tmp_path).items():
        assert np.array_equal(found[label], COLORS[LABELS[name]])


@pytest.mark.parametrize("stored", [COLORS, VOC, GREYS, VOC[:32], COLORS[:3] + 1], ids=["same", "voc", "greys", "short", "other"])
def test_indices_that_are_ids_stay_ids(tmp_path: Path, stored: np.ndarray) -> None:
    assert_read_right(with_classes(with_ids(tmp_path, stored)))
    assert check(tmp_path).ok
    with_classes(tmp_path, None)
    assert_read_right(tmp_path)
    assert not check(tmp_path).warnings


@pytest.mark.parametrize("stored", [VOC, GREYS], ids=["voc", "greys"])
def test_palettes_made_for_any_ids_may_show_colours_of_other_classes(tmp_path: Path, stored: np.ndarray) -> None:
    """As CamVid has it: black is the last class, and index 0 of the palette."""
    assert_read_right(with_classes(with_ids(tmp_path, stored), np.array([(128, 128, 128), (0, 128, 0), (0, 0, 0)])))


def test_indices_of_a_made_palette_that_are_no_ids_are_read_by_colour(tmp_path: Path) -> None:
    places = np.array([0, 7, 15], np.uint8)
    for name, label in LABELS.items():
        write_image(tmp_path / "images" / f"{name}.png", label)
        write_indexed(tmp_path / "masks" / f"{name}.png", places[label], VOC)
    assert_read_right(with_classes(tmp_path, VOC[places]))


def test_ignored_ids_need_no_colour_when_indices_are_ids(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    for name in "ab":
        write_image(tmp_path / f"images/{name}.png", mask % 4)
        write_indexed(tmp_path / f"masks/{name}.png", mask, np.concatenate([COLORS, VOC[4:]]))
    assert labels(with_classes(tmp_path))["a"].tolist() == [[0, 1], [2, IGNORE]]


def test_a_palette_that_is_neither_is_refused_in_one_line(tmp_path: Path) -> None:
    other = COLORS.copy()
    other[2] = (9, 9, 9)
    with_classes(renumbered(tmp_path, other))
    report = check(tmp_path)
    assert [Path(one.file).name for one in report.unknown] == ["b.png"]  # nothing in d.png, of one unknown colour, tells
    with pytest.raises(
        UnknownIds, match=r"b\.png holds the unknown palette colour \(9, 9, 9\); allowed: .*its index 1 has the"
    ) as met:
        labels(tmp_path)
    assert met.value.ids == ("(9, 9, 9)",)
    assert "\n" not in str(met.value)


def test_without_colours_in_the_class_file_the_check_warns(tmp_path: Path) -> None:
    report = check(with_classes(renumbered(tmp_path), None))
    assert report.ok
    assert any(line.startswith("the palettes of the masks differ (index 0 is (20, 40, 60) here and") for line in report.warnings)


def test_without_a_class_file_palettes_join_masks_in_colour_but_not_plain_ids(tmp_path: Path) -> None:
    renumbered(tmp_path)
    write(tmp_path / "masks/c.png", COLORS[LABELS["c"]])
    found = np.array(Folder(tmp_path).classes.colors, np.uint8)
    for name, label in labels(tmp_path).items():
        assert np.array_equal(found[label], COLORS[LABELS[name]])
    write(tmp_path / "masks/c.png", LABELS["c"])
    with pytest.raises(
        UserError, match=r"^the palettes of the masks in .* differ \(index 0 is .*\), and other masks store plain ids; "
    ):
        Folder(tmp_path)
