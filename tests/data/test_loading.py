"""What is loaded is a function of (seed, epoch, step): not of workers, order, cache, or where a resumed run begins."""

import gc
import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_folders import split_set, write, write_pairs

from segnas.config import replace
from segnas.data import memory as memory_module
from segnas.data import open_dataset
from segnas.data.base import Dataset, Sample
from segnas.data.folder import Folder
from segnas.data.free_memory import free_memory
from segnas.data.loading import Batch, TrainingBatches, halves
from segnas.data.memory import InMemory, decoded_bytes, in_memory
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import UserError

NORMALIZATION = Normalization((0.4, 0.5, 0.3), (0.2, 0.3, 0.1))
CONFIG = DataConfig(crop=(17, 21), brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("set")
    write_pairs(root / "images/train", root / "labels/train", " ".join("abcdefghijk"))
    write_pairs(root / "images/val", root / "labels/val", "y z")
    return open_dataset(root)


def batches(dataset: Dataset, config: DataConfig = CONFIG, seed: int = 0, stream: str = "test", size: int = 3) -> TrainingBatches:
    return TrainingBatches(dataset, "train", range(11), config, NORMALIZATION, size, seed, stream)


def same(one: Iterator[Batch] | list[Batch], two: Iterator[Batch] | list[Batch]) -> bool:
    pairs = list(zip(list(one), list(two), strict=True))
    assert pairs
    return all(
        torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels) and left.names == right.names
        for left, right in pairs
    )


def by_name(batches_: TrainingBatches, epoch: int) -> dict[str, torch.Tensor]:
    return {name: image for batch in batches_.epoch(epoch) for name, image in zip(batch.names, batch.images, strict=True)}


def test_shapes_and_lengths(dataset: Dataset) -> None:
    loader = batches(dataset)
    loaded = list(loader.epoch(0))
    assert len(loaded) == len(loader) == 3
    for batch in loaded:
        assert (batch.images.shape, batch.images.dtype) == ((3, 3, 17, 21), torch.float32)
        assert (batch.labels.shape, batch.labels.dtype) == ((3, 17, 21), torch.int64)
    names = [name for batch in loaded for name in batch.names]
    assert len(set(names)) == 9


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_pixel(dataset: Dataset, workers: int) -> None:
    alone, helped = batches(dataset), batches(dataset, replace(CONFIG, workers=workers))
    state = torch.get_rng_state()
    for epoch in (0, 1):
        assert same(alone.epoch(epoch), helped.epoch(epoch))
    assert same(alone.epoch(1, start=1), helped.epoch(1, start=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_left_early_does_not_disturb_the_next(dataset: Dataset) -> None:
    helped = batches(dataset, replace(CONFIG, workers=2))
    next(helped.epoch(0))
    assert same(helped.epoch(1), batches(dataset).epoch(1))


def test_a_late_start_skips_without_reading(dataset: Dataset) -> None:
    reads: list[int] = []

    class Counting:
        name, task, classes, splits, size = dataset.name, dataset.task, dataset.classes, dataset.splits, dataset.size

        def read(self, split: str, index: int) -> Sample:
            reads.append(index)
            return dataset.read(split, index)

    whole = list(batches(dataset).epoch(4))
    resumed = list(batches(Counting(), replace(CONFIG, cache="none")).epoch(4, start=2))
    assert same(whole[2:], resumed)
    assert len(reads) == 3


def test_a_view_depends_on_seed_epoch_and_index_alone(dataset: Dataset) -> None:
    one, other_order = by_name(batches(dataset), 0), by_name(batches(dataset, stream="other", size=2), 0)
    assert list(one) != list(other_order)
    shared_names = set(one) & set(other_order)
    assert len(shared_names) >= 8
    assert all(torch.equal(one[name], other_order[name]) for name in shared_names)
    for changed in (by_name(batches(dataset), 1), by_name(batches(dataset, seed=1), 0)):
        assert not any(torch.equal(one[name], changed[name]) for name in set(one) & set(changed))


def test_orders_differ_by_epoch_seed_and_stream(dataset: Dataset) -> None:
    def order(loader: TrainingBatches, epoch: int) -> tuple[str, ...]:
        return sum((batch.names for batch in loader.epoch(epoch)), ())

    orders = [
        order(batches(dataset), 0),
        order(batches(dataset), 1),
        order(batches(dataset, seed=1), 0),
        order(batches(dataset, stream="b"), 0),
    ]
    assert len(set(orders)) == 4
    assert order(batches(dataset), 0) == orders[0]


def test_only_the_given_indices_are_seen(dataset: Dataset) -> None:
    loader = TrainingBatches(dataset, "train", (1, 4, 7, 8), CONFIG, NORMALIZATION, 2, 0, "half")
    seen = {name for epoch in range(3) for batch in loader.epoch(epoch) for name in batch.names}
    assert seen == {"b", "e", "h", "i"}


def test_fewer_images_than_the_batch(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"^11 images of the split 'train' are too few for batches of 12; .* at most 11"):
        batches(dataset, size=12)
    assert len(batches(dataset, size=11)) == 1


def complaint(loader: TrainingBatches) -> str:
    """The UserError that ends an epoch; neither it nor its frames outlive this function, so the workers can go at once."""
    try:
        list(loader.epoch(0))
    except UserError as error:
        return str(error)
    raise AssertionError("the epoch went through")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_damaged_meanwhile_is_one_line(tmp_path: Path, workers: int) -> None:
    (split_set(tmp_path) / "classes.json").write_text('["sky", "road", "car"]')
    damaged = open_dataset(tmp_path)
    config = replace(CONFIG, workers=workers, cache="none")
    loader = TrainingBatches(damaged, "train", range(4), config, NORMALIZATION, 2, 0, "test")
    image = tmp_path / "images/train/c.png"
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    assert complaint(loader) == f"cannot read the image {image}: it is no image, or damaged"
    image.write_bytes(whole)
    write(tmp_path / "labels/train/c.png", np.full((24, 36), 9, np.uint8))
    assert "c.png holds the unknown id 9; allowed: 0, 1, 2, 255" in complaint(loader)


def test_halves_are_disjoint_seeded_and_whole() -> None:
    first, second = halves(11, seed=0)
    assert (len(first), len(second)) == (6, 5)
    assert sorted(first + second) == list(range(11))
    assert halves(11, seed=0) == (first, second)
    assert halves(11, seed=1) != (first, second)
    assert list(first) == sorted(first)


def test_memory_keeps_samples_and_changes_none(dataset: Dataset) -> None:
    assert decoded_bytes(dataset, "train", range(11)) == 11 * 24 * 36 * 4
    assert in_memory(dataset, "train", "none") is dataset
    kept = in_memory(dataset, "train", "auto")
    assert isinstance(kept, InMemory)
    assert kept.read("train", 3) is kept.read("train", 3)
    assert np.array_equal(kept.read("train", 3).image, dataset.read("train", 3).image)
    assert kept.size("train", 3) == (24, 36)
    assert same(
        batches(dataset, replace(CONFIG, cache="memory")).epoch(0), batches(dataset, replace(CONFIG, cache="none")).epoch(0)
    )


def test_whether_a_split_fits_is_asked_for_the_whole_split_and_settled_once(
    dataset: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = open_dataset(dataset.path)
    needed = decoded_bytes(large, "train", range(11))
    monkeypatch.setattr(memory_module, "free_memory", lambda: 4 * needed - 4)
    assert in_memory(large, "train", "auto") is large
    half = TrainingBatches(large, "train", (0, 1, 2), CONFIG, NORMALIZATION, 3, 0, "half")
    assert half._views.dataset is large
    monkeypatch.setattr(memory_module, "free_memory", lambda: 4 * needed)
    assert isinstance(in_memory(large, "train", "auto"), InMemory)
    monkeypatch.setattr(memory_module, "free_memory", lambda: 0)
    assert isinstance(in_memory(large, "train", "auto"), InMemory)
    assert in_memory(large, "train", "none") is large
    assert in_memory(large, "val", "auto") is large
    assert isinstance(in_memory(large, "val", "memory"), InMemory)


def test_loaders_of_one_split_hold_a_sample_once_and_no_longer_than_the_set(dataset: Dataset) -> None:
    reads: list[int] = []

    class Counting:
        name, task, classes, splits, size = dataset.name, dataset.task, dataset.classes, dataset.splits, dataset.size

        def read(self, split: str, index: int) -> Sample:
            reads.append(index)
            return dataset.read(split, index)

    counting = Counting()
    for indices, stream in (((0, 1, 2, 3), "trainB"), ((1, 3), "scored")):
        list(TrainingBatches(counting, "train", indices, CONFIG, NORMALIZATION, 2, 0, stream).epoch(0))
    assert sorted(reads) == [0, 1, 2, 3]
    assert in_memory(counting, "train", "auto").read("train", 2) is in_memory(counting, "train", "auto").read("train", 2)
    sample = weakref.ref(in_memory(counting, "train", "auto").read("train", 2))
    del counting
    gc.collect()
    assert sample() is None


def test_workers_leave_signals_to_the_parent(dataset: Dataset) -> None:
    """A handler of the parent, as `stop_between_steps` sets it, is not run in its workers."""

    class Watching:
        name, task, classes, splits, size = dataset.name, dataset.task, dataset.classes, dataset.splits, dataset.size

        def read(self, split: str, index: int) -> Sample:
            os.kill(os.getpid(), signal.SIGINT)
            sample = dataset.read(split, index)
            return Sample(str(os.getpid()), sample.image, sample.label)

    met: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: os._exit(3))
    try:
        config = replace(CONFIG, workers=1, cache="none")
        loader = TrainingBatches(Watching(), "train", (0, 1), config, NORMALIZATION, 2, 0, "test")
        met += [int(name) for batch in loader.epoch(0) for name in batch.names]
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(met) == 2
    assert os.getpid() not in met


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
    assert 0 < free_memory() <= total
