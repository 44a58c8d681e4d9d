"""What a run is told before it starts: measured steps, and what would fit where something does not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from segnas.data.loading import Batch
from segnas.errors import UserError
from segnas.training import preflight
from segnas.training.preflight import Size, measure, require_disk, require_memory, require_packages

CPU = torch.device("cpu")
GIB = 2**30
SIZE = Size((321, 321), 8, 20, "search.crop", "search.batch_size", "search.filters")


def batch(height: int, width: int) -> Batch:
    return Batch(torch.zeros(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.int64), ("a", "b"))


@pytest.mark.parametrize(
    ("size", "part"), [((129, 97), (65, 49)), ((65, 161), (33, 81)), ((33, 40), (33, 33)), ((17, 16), (17, 16))]
)
def test_a_small_step_one_on_a_part_then_two_on_the_whole(
    size: tuple[int, int], part: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is a quarter of the area, but no side below 33. The seconds are those of the very last step."""
    clock = iter([5.0, 7.5])
    monkeypatch.setattr(preflight.time, "perf_counter", lambda: next(clock))
    seen: list[tuple[int, ...]] = []

    def step(given: Batch) -> None:
        assert given.images.shape[2:] == given.labels.shape[1:]
        seen.append(tuple(given.images.shape[2:]))

    network = nn.Linear(10, 5)
    measured = measure("search", step, batch(*size), 40, CPU, SIZE, network)
    assert seen == [(min(size[0], 33), min(size[1], 33)), part, size, size]
    assert (measured.stage, measured.steps) == ("search", 40)
    assert measured.seconds_per_step == 2.5
    assert measured.seconds == 100.0
    assert measured.state_bytes == 4 * 4 * 55
    assert measured.memory_bytes > 0


def test_a_step_that_does_not_fit_is_never_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 GiB before, 1.5 GiB during a step on a part of a quarter: 3 GiB are expected of the whole, and 2 are there."""
    peaks = iter([1 * GIB, int(1.5 * GIB)])
    sizes = []

    def peak(work, device) -> int:  # type: ignore[no-untyped-def]
        work()
        return next(peaks)

    monkeypatch.setattr(preflight, "peak_memory", peak)
    monkeypatch.setattr(preflight, "available_memory", lambda device: 2 * GIB)
    with pytest.raises(UserError, match=r"needs about 3\.0 GiB and 2\.0 GiB are free"):
        measure("search", lambda some: sizes.append(some.images.shape[2]), batch(128, 128), 1, CPU, SIZE, nn.Linear(1, 1))
    assert sizes == [33, 64]


FORETOLD = """
import torch
from torch import nn
from segnas.data.loading import Batch
from segnas.training import preflight

def step(some):
    held = [torch.ones(32 * 1024) for _ in range(some.images[0, 0].numel() // 256)]  # pieces of 128 KiB
    assert held

preflight.require_memory = lambda fixed, growing, *rest: print(growing)
whole = Batch(torch.zeros(1, 3, 512, 512), torch.zeros(1, 512, 512, dtype=torch.long), ("a",))
size = preflight.Size((512, 512), 1, 8, "search.crop", "search.batch_size", "search.filters")
preflight.measure("search", step, whole, 1, torch.device("cpu"), size, nn.Linear(1, 1))
"""


def test_what_a_step_will_take_is_foretold() -> None:
    """Steps that hold 512 bytes a pixel: expected of the whole from a part, though the process keeps what it has freed.

    In a process of its own: what others have freed before would be taken again.
    """
    told = subprocess.run([sys.executable, "-c", FORETOLD], capture_output=True, text=True, check=True)
    assert float(told.stdout.split()[0]) == pytest.approx(512 * 512 * 512, rel=0.25)


def test_an_allocation_that_fails_on_the_device_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(some: Batch) -> None:
        if some.images.shape[2] == 128:
            raise torch.OutOfMemoryError

    with pytest.raises(UserError, match=r"what would fit: search\.crop"):
        measure("search", step, batch(128, 128), 1, CPU, SIZE, nn.Linear(1, 1))


@pytest.mark.parametrize("available", [2.2, 3.0, 5.0, 8.9])
def test_each_suggestion_fits(available: float) -> None:
    """1 GiB stays whatever the settings; 8 GiB grow with the area, the batch and the filters."""
    with pytest.raises(UserError) as error:
        require_memory(1 * GIB, 8 * GIB, available * GIB, SIZE, "search")
    message = str(error.value)
    assert "\n" not in message
    assert f"needs about 9.0 GiB and {available:.1f} GiB are free" in message
    height, width = map(int, re.search(r"search\.crop=\[(\d+),(\d+)\]", message).groups())  # type: ignore[union-attr]
    batch_size = int(re.search(r"search\.batch_size=(\d+)", message)[1])  # type: ignore[index]
    filters = int(re.search(r"search\.filters=(\d+)", message)[1])  # type: ignore[index]
    assert height % 32 == width % 32 == 1
    for share in (height * width / 321**2, batch_size / 8, filters / 20):
        assert 0 < share < 1
        assert 1 + 8 * share <= available
    assert 1 + 8 * (batch_size + 1) / 8 > available, "the largest that fits"


def test_nothing_is_promised_where_nothing_fits() -> None:
    with pytest.raises(UserError) as error:
        require_memory(3 * GIB, 8 * GIB, 2 * GIB, SIZE, "search")
    assert "would fit" not in str(error.value)
    assert "lower search.crop, search.batch_size and the filters" in str(error.value)


def test_what_fits_is_not_complained_about() -> None:
    require_memory(1.0, 1.0, 2.0, SIZE, "search")


def test_missing_packages() -> None:
    require_packages([])
    with pytest.raises(UserError, match=r"onnx, onnxruntime, not installed; pip install 'segnas\[onnx\]'"):
        require_packages(["onnx", "onnxruntime"])


def test_the_disk_under_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple("Usage", "total used free")
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10 * GIB, 9 * GIB, GIB)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    require_disk(tmp_path / "a" / "b", GIB)
    with pytest.raises(UserError, match="1024 MiB free and the run needs about 2048 MiB"):
        require_disk(tmp_path / "a" / "b", 2 * GIB)
    assert asked == [tmp_path, tmp_path]
