"""CIFAR-10: both forms of its files, the drawn val split, files that hold code, and files that are damaged."""

import io
import json
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_sets import cifar_batches, pixels_of, refused, unreadable

from segnas.data import describe, open_dataset
from segnas.data.check import check, require
from segnas.data.cifar10 import Cifar10, held_out
from segnas.errors import UserError
from segnas.randomness import numpy_generator


def jpeg_set(root: Path, train: int = 60, test: int = 20, side: int = 32) -> Path:
    """train.npz and test.npz, sorted by class, with images of one grey level each: 3 x their number, at most 255."""
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("test", test)):
        stored = []
        for number in range(count):
            file = io.BytesIO()
            Image.new("RGB", (side, side), (min(3 * number, 255),) * 3).save(file, format="JPEG")
            stored.append(file.getvalue())
        offsets = np.cumsum([0, *map(len, stored)])
        labels = np.sort(np.arange(count) % 10).astype(np.uint8)
        np.savez(root / f"{part}.npz", jpeg=np.frombuffer(b"".join(stored), np.uint8), offsets=offsets, labels=labels)
    return root


def changed(file: Path, **values: object) -> None:
    """The same npz file with other arrays; None: without it."""
    with np.load(file) as archive:
        arrays = {**archive, **values}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]


# The published form


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("up", [0, 1])
def test_batches(tmp_path: Path, protocol: int, up: int) -> None:
    inner = cifar_batches(tmp_path, protocol=protocol)
    dataset = open_dataset((inner, tmp_path)[up])
    assert isinstance(dataset, Cifar10)
    assert (dataset.task, dataset.path, dataset.layout) == ("classification", inner, "batches")
    assert {split: len(names) for split, names in dataset.splits.items()} == {"train": 90, "val": 10, "test": 20}
    for split, names in dataset.splits.items():
        assert list(names) == sorted(names)
        for index, name in enumerate(names):
            part, place = name.split("_")
            batch, row = (5, int(place)) if part == "test" else divmod(int(place), 20)
            sample = dataset.read(split, index)
            assert sample.name == name
            assert np.array_equal(sample.image, pixels_of(20, batch)[row])
            assert (sample.label.shape, sample.label.dtype, int(sample.label)) == ((), np.uint8, (batch + row) % 10)
            assert dataset.size(split, index) == (32, 32)


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    dataset = open_dataset(cifar_batches(tmp_path))
    sample = dataset.read("val", 0)
    sample.image[:] = 0
    sample.label[...] = 99
    again = dataset.read("val", 0)
    assert again.image.any()
    assert again.label < 10


def test_batches_as_python_2_wrote_them(tmp_path: Path) -> None:
    """The published files: strings without encoding, NumPy under its old names. Written here opcode by opcode."""
    inner = cifar_batches(tmp_path)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING

    pixels = pixels_of(3, 77).transpose(0, 3, 1, 2).reshape(3, 3072)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        b"(K\x01(K\x03M\x00\x0ctcnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + (3 * 3072).to_bytes(4, "little") + pixels.tobytes() + b"tb"
    )
    labels = b"](K\x04K\x09K\x00e"
    stored = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."
    (inner / "test_batch").write_bytes(stored)
    reference = pickle.loads(stored, encoding="bytes")  # NumPy's own reading of these bytes
    assert np.array_equal(reference[b"data"], pixels)
    dataset = open_dataset(inner)
    assert [int(dataset.read("test", index).label) for index in range(3)] == [4, 9, 0]
    assert np.array_equal(dataset.read("test", 2).image, pixels_of(3, 77)[2])


class Harmful:
    """Unpickled in the ordinary way, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_batch_is_not_run(tmp_path: Path) -> None:
    inner = cifar_batches(tmp_path)
    traces = tmp_path / "ordinary", tmp_path / "segnas"
    pickle.loads(pickle.dumps(Harmful(traces[0])))
    assert traces[0].exists(), "the example does harm"
    for name in ("data_batch_3", "batches.meta"):
        whole = (inner / name).read_bytes()
        (inner / name).write_bytes(pickle.dumps({b"data": Harmful(traces[1]), b"label_names": Harmful(traces[1])}))
        assert f"{inner / name} asks for posix.mkdir, which no batch of CIFAR-10 does; it was not run" in refused(inner)
        (inner / name).write_bytes(whole)
    assert not traces[1].exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "numpy.load", "numpy.core.multiarray.fromfile", "_codecs.decode"])
def test_no_other_name_is_looked_up(tmp_path: Path, name: str) -> None:
    inner = cifar_batches(tmp_path)
    module, function = name.rsplit(".", 1)
    stored = b"c" + module.encode() + b"\n" + function.encode() + b"\n(X\x01\x00\x00\x00xtR."
    pickletools.dis(stored, out=io.StringIO())
    (inner / "test_batch").write_bytes(stored)
    assert f"asks for {name}" in refused(inner)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        pytest.param([1, 2], "holds no dictionary", id="a list"),
        pytest.param({b"labels": [0]}, "holds no 'data'", id="no data"),
        pytest.param({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [0]}, "holds no 'labels'", id="CIFAR-100"),
        pytest.param({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "N x 3072 bytes", id="another width"),
        pytest.param({b"data": np.zeros((1, 3072), np.int16), b"labels": [0]}, "N x 3072 bytes", id="another type"),
        pytest.param({b"data": np.zeros((3072, 2), np.uint8).T, b"labels": [0, 0]}, "N x 3072 bytes", id="by column"),
        pytest.param({b"data": [0] * 3072, b"labels": [0]}, "its data is no array", id="no array"),
        pytest.param(
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "holds 2 images but 1 labels", id="a label too few"
        ),
        pytest.param({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "holds no images", id="empty"),
        pytest.param({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "label 10; allowed: 0 to 9", id="label 10"),
        pytest.param({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 11]}, "labels -1, 11; allowed", id="label -1"),
        pytest.param({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}, "no list of numbers", id="label cat"),
        pytest.param({b"data": np.zeros((1, 3072), np.uint8), b"labels": np.zeros(1)}, "no list of numbers", id="label array"),
    ],
)
def test_wrong_batches(tmp_path: Path, batch: object, complaint: str) -> None:
    inner = cifar_batches(tmp_path)
    (inner / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=4))
    text = refused(inner)
    assert str(inner / "data_batch_2") in text
    assert complaint in text


def test_damaged_and_missing_batches(tmp_path: Path) -> None:
    inner = cifar_batches(tmp_path)
    whole = (inner / "data_batch_5").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"no pickle", whole[:50] + b"\xff" * 9 + whole[59:]):
        (inner / "data_batch_5").write_bytes(content)
        text = refused(inner)
        assert f"{inner}/data_batch_5" in text
        assert "take the file of the download again" in text
    (inner / "data_batch_5").unlink()
    assert (
        refused(inner)
        == f"the batch {inner}/data_batch_5 is missing; a CIFAR-10 set is data_batch_1 to data_batch_5 and test_batch"
    )
    (inner / "data_batch_5").write_bytes(whole)
    (inner / "test_batch").unlink()
    assert f"the batch {inner}/test_batch is missing" in refused(tmp_path)


def test_another_set_in_the_same_form(tmp_path: Path) -> None:
    inner = cifar_batches(tmp_path)
    (inner / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"apple", b"pear"]}))
    assert "names other classes than those of CIFAR-10" in refused(inner)
    (inner / "batches.meta").unlink()
    assert open_dataset(inner).classes.names[3] == "cat"


# JPEG copies


@pytest.mark.parametrize("up", [0, 1])
def test_jpeg_copies(tmp_path: Path, up: int) -> None:
    inner = jpeg_set(tmp_path / "full_jpeg")
    dataset = open_dataset((inner, tmp_path)[up])
    assert isinstance(dataset, Cifar10)
    assert {split: len(names) for split, names in dataset.splits.items()} == {"train": 50, "val": 10, "test": 20}
    for split, names in dataset.splits.items():
        for index, name in enumerate(names):
            place = int(name.split("_")[1])
            sample = dataset.read(split, index)
            assert np.abs(sample.image.astype(int) - min(3 * place, 255)).max() <= 1
            assert int(sample.label) == place // (2 if split == "test" else 6)
    assert "JPEG copies" in describe(dataset)["notes"][0]


def test_damaged_and_missing_archives(tmp_path: Path) -> None:
    root = jpeg_set(tmp_path)
    whole = (root / "train.npz").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-30], b"", b"no archive", whole[:200] + b"\0" * 99 + whole[299:]):
        (root / "train.npz").write_bytes(content)
        assert f"cannot read {root}/train.npz: it is no npz file, or damaged" in refused(f"cifar10:{root}")
    (root / "train.npz").write_bytes(whole)
    (root / "test.npz").unlink()
    assert refused(root) == f"the file {root}/test.npz is missing; this form of CIFAR-10 is train.npz and test.npz"


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"labels": None}, "should hold the arrays jpeg, offsets and labels"),
        ({"labels": np.zeros(59, np.uint8)}, "holds 60 images but 59 labels"),
        ({"labels": np.full(60, 10, np.uint8)}, "the unknown label 10; allowed: 0 to 9"),
        ({"labels": np.zeros(60)}, "the unknown label 0.0"),
        ({"labels": np.array([{}] * 60)}, "it is no npz file, or damaged"),
        ({"jpeg": np.zeros(100, np.uint8)}, "its offsets do not divide its 100 bytes"),
        ({"jpeg": np.zeros((10, 10), np.uint8)}, "its offsets do not divide its 100 bytes"),
        ({"offsets": np.array([], np.int64)}, "its offsets do not divide"),
        ({"jpeg": np.zeros(0, np.uint8), "offsets": np.array([0]), "labels": np.zeros(0, np.uint8)}, "holds no images"),
    ],
)
def test_wrong_archives(tmp_path: Path, arrays: dict[str, object], complaint: str) -> None:
    root = jpeg_set(tmp_path)
    changed(root / "train.npz", **arrays)
    text = refused(root)
    assert str(root / "train.npz") in text
    assert complaint in text


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    root = jpeg_set(tmp_path)
    with np.load(root / "test.npz") as archive:
        jpeg, offsets = archive["jpeg"].copy(), archive["offsets"]
    jpeg[offsets[7] : offsets[7] + 300] = 0
    changed(root / "test.npz", jpeg=jpeg)
    assert f"cannot read image 7 of {root}/test.npz: it is no image, or damaged" in unreadable(root, "test", 7)
    report = check(root)
    assert len(report.problems) == 1
    assert report.splits["test"].readable == 19
    jpeg_set(root, side=16)
    assert f"of {root}/test.npz is 16x16, but the images of CIFAR-10 are 32x32" in unreadable(root, "test")


# The split that is drawn


def test_val_is_a_tenth_of_each_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    val = held_out(labels, seed=3)
    assert list(val) == sorted(set(val.tolist()))
    assert np.bincount(labels[val]).tolist() == [50] * 10
    assert np.array_equal(held_out(labels, seed=3), val)
    assert not np.array_equal(held_out(labels, seed=4), val)
    generator = numpy_generator(3, "split")  # classes in their order, each drawn from its images in the order of the files
    expected = [generator.permutation(np.flatnonzero(labels == number))[:50] for number in range(10)]
    assert val.tolist() == sorted(np.concatenate(expected).tolist())


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ((100,) * 10, (10,) * 10),
        ((10,) * 10, (1,) * 10),
        ((2,) * 10, (1,) * 10),
        ((125, 120, 130, 125, 125, 125, 125, 125, 125, 125), (13, 13, 13, 13, 13, 12, 12, 12, 12, 12)),
        ((300, 300, 3, 2, 1, 0, 0, 0, 0, 0), (29, 28, 2, 1, 0, 0, 0, 0, 0, 0)),
        ((5, 1, 1, 1, 1, 1, 1, 1, 1, 1), (1, 0, 0, 0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_val_of_uneven_and_tiny_sets(counts: tuple[int, ...], held: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(10), counts)
    assert tuple(np.bincount(labels[held_out(labels, 0)], minlength=10).tolist()) == held


def test_nothing_to_draw_from() -> None:
    with pytest.raises(UserError, match="10 training images are too few for a split: no class has 2"):
        held_out(np.arange(10), 0)


# The check


def test_the_check_counts_images(tmp_path: Path) -> None:
    dataset = open_dataset(cifar_batches(tmp_path), seed=1)
    report = require(dataset)
    assert report.lines()[0] == "CIFAR-10: 120 images (train 90, val 10, test 20), all 32x32 (height x width)"
    header, *rows = report.rows()
    assert header == ("class", "train images", "val images", "test images")
    assert rows[3] == ("cat", "9", "1", "2")
    assert len(rows) == 10, "nothing is ignored"
    assert report.frequencies("train") == pytest.approx([10.0] * 10)
    assert (report.crop, report.suggestions, report.warnings) == (None, (), ())
    assert json.loads(json.dumps(report.to_json()))["task"] == "classification"


def test_one_class_and_absent_classes(tmp_path: Path) -> None:
    root = jpeg_set(tmp_path)
    changed(root / "train.npz", labels=np.full(60, 3, np.uint8))
    report = check(root)
    assert report.problems == ("the training images are of one class only ('cat'); at least 2 must occur",)
    changed(root / "test.npz", labels=np.full(20, 3, np.uint8))
    assert "the class 'dog' occurs in no image" in check(root).warnings


def test_a_description(tmp_path: Path) -> None:
    about = json.loads(json.dumps(describe(open_dataset(cifar_batches(tmp_path), seed=5))))
    assert about["name"] == "CIFAR-10"
    assert about["split"] == "test as published; val, 10 of 100 training images, drawn with seed 5"
    assert [entry["name"] for entry in about["classes"]][:2] == ["airplane", "automobile"]


def test_all_of_it(shared: Path) -> None:
    root = shared / "data/cifar10"
    dataset = open_dataset(root)
    assert isinstance(dataset, Cifar10)
    assert {split: len(names) for split, names in dataset.splits.items()} == {"train": 45000, "val": 5000, "test": 10000}
    assert not {*dataset.splits["train"]} & {*dataset.splits["val"]}
    stored = np.load(root / "full_jpeg/train.npz")
    jpeg, offsets, labels = stored["jpeg"], stored["offsets"], stored["labels"]
    places = [int(name.removeprefix("train_")) for name in dataset.splits["val"]]
    assert np.bincount(labels[places]).tolist() == [500] * 10
    for index in (0, 2345, 4999):
        place = places[index]
        image = np.asarray(Image.open(io.BytesIO(jpeg[offsets[place] : offsets[place + 1]].tobytes())))
        sample = dataset.read("val", index)
        assert np.array_equal(sample.image, image)
        assert sample.label == labels[place]
