"""Tiny sets in the layouts of published ones, drawn by the tests."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from drawn_folders import label_of, write, write_image, write_indexed

from segnas.data import open_dataset
from segnas.errors import UserError

# the VOC colour map, generated as the development kit does: bit i of the id goes to bit 7 - i // 3 of channel i % 3
VOC_COLORS = np.array(
    [
        [sum(((number >> i) & 1) << (7 - i // 3) for i in range(8) if i % 3 == channel) for channel in range(3)]
        for number in range(256)
    ],
    dtype=np.uint8,
)


def refused(data: Path | str) -> str:
    """The one line with which a set is refused when it is opened."""
    with pytest.raises(UserError) as caught:
        open_dataset(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unreadable(data: Path | str, split: str, index: int = 0) -> str:
    """The one line with which a sample is refused when it is read."""
    dataset = open_dataset(data)
    with pytest.raises(UserError) as caught:
        dataset.read(split, index)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def voc_set(root: Path, year: str = "VOC2012") -> Path:
    """root/VOCdevkit/VOC2012 with 3 training images, 2 for validation and one in no list; every mask has a border of 255."""
    inner = root / "VOCdevkit" / year
    lists = inner / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", "2007_000001 2007_000002 2007_000003"), ("val", "2008_000001 2008_000002")):
        (lists / f"{split}.txt").write_text("\n".join(names.split()) + "\n")
        for number, name in enumerate(names.split()):
            label = label_of(number + len(split))
            write_image(inner / f"JPEGImages/{name}.jpg", label)
            label[0] = 255
            write_indexed(inner / f"SegmentationClass/{name}.png", label, VOC_COLORS)
    write_image(inner / "JPEGImages/2009_000001.jpg", label_of(1))
    return inner


def city_set(root: Path, ending: str = "labelIds") -> Path:
    """leftImg8bit and gtFine: 2 training images in two cities, 1 for validation, 1 for test with a dummy label."""
    for split, city, number in (("train", "aachen", 0), ("train", "bochum", 1), ("val", "munster", 2), ("test", "berlin", 3)):
        name = f"{city}_000000_00001{number}"
        write_image(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", label_of(number))
        ids = np.array([7, 11, 26], np.uint8) if ending == "labelIds" else np.array([0, 2, 13], np.uint8)
        label = ids[label_of(number)]
        dummy = 3 if ending == "labelIds" else 255
        label = np.full_like(label, dummy) if split == "test" else label
        write(root / f"gtFine/{split}/{city}/{name}_gtFine_{ending}.png", label)
        write(root / f"gtFine/{split}/{city}/{name}_gtFine_instanceIds.png", label.astype(np.uint16) * 1000)
        write_image(root / f"gtFine/{split}/{city}/{name}_gtFine_color.png", label_of(number))
        (root / f"gtFine/{split}/{city}/{name}_gtFine_polygons.json").write_text("{}")
    return root


def ade_set(root: Path) -> Path:
    """root/ADEChallengeData2016 with 2 training images and 1 for validation; ids 0, 1 and 150, no objectInfo150.txt."""
    inner = root / "ADEChallengeData2016"
    ids = np.array([0, 1, 150], np.uint8)
    for split, name in (
        ("training", "ADE_train_00000001"),
        ("training", "ADE_train_00000002"),
        ("validation", "ADE_val_00000001"),
    ):
        label = label_of(int(name[-1]) + len(split))
        write_image(inner / f"images/{split}/{name}.jpg", label)
        write(inner / f"annotations/{split}/{name}.png", ids[label])
    return inner


def pixels_of(count: int, seed: int) -> np.ndarray:
    """(count, 32, 32, 3) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def cifar_batches(root: Path, count: int = 20, protocol: int = 2) -> Path:
    """root/cifar-10-batches-py: 5 training batches and a test batch of `count` images each, as Python 3 pickles them."""
    inner = root / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for number, name in enumerate((*(f"data_batch_{place}" for place in range(1, 6)), "test_batch")):
        planes = pixels_of(count, number).transpose(0, 3, 1, 2).reshape(count, 3072)
        labels = [(number + place) % 10 for place in range(count)]
        batch = {b"batch_label": b"a batch", b"labels": labels, b"data": planes, b"filenames": [b"a.png"] * count}
        (inner / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    names = b"airplane automobile bird cat deer dog frog horse ship truck".split()
    meta = {b"num_cases_per_batch": count, b"label_names": names, b"num_vis": 3072}
    (inner / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
    return inner
