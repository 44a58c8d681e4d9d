"""Batches sent ahead are those that were read, in their order; streams and events of CUDA are stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from segnas.data.loading import Batch
from segnas.errors import UserError
from segnas.training import ahead as module
from segnas.training.ahead import AHEAD, IN_FLIGHT, ahead
from segnas.training.device import DeviceConfig, launch


class Stream:
    """Notes what waits for what."""

    told: list[str]

    def __init__(self, *_: Any) -> None:
        pass

    def record_event(self) -> Stream:
        return self

    def wait_event(self, event: Stream) -> None:
        self.told.append("arrived")

    def synchronize(self) -> None:
        self.told.append("waited")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What CUDA would have been asked for."""
    Stream.told = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    return Stream.told


def batch(number: int) -> Batch:
    return Batch(torch.full((1, 3, 2, 2), float(number)), torch.full((1, 2, 2), number), (str(number),))


def sent_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    return ahead(batches, torch.device("cuda"), lambda one: Batch(one.images.clone(), one.labels.clone(), one.names))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_they_are_the_same_in_the_same_order(count: int, told: list[str]) -> None:
    found = list(sent_ahead(map(batch, range(count))))
    assert [one.names for one in found] == [(str(number),) for number in range(count)]
    for number, one in enumerate(found):
        assert torch.equal(one.images, batch(number).images)
        assert torch.equal(one.labels, batch(number).labels)
    assert told.count("arrived") == count
    assert told.count("waited") == max(0, count - IN_FLIGHT), "the host runs no further ahead of the steps"


def test_no_more_are_read_than_are_on_their_way(told: list[str]) -> None:
    read: list[int] = []

    def reading() -> Iterator[Batch]:
        for number in range(9):
            read.append(number)
            yield batch(number)

    coming = sent_ahead(reading())
    assert read == []
    for number in range(3):
        next(coming)
        assert read == list(range(number + 1 + AHEAD))


def test_what_reading_raises_is_passed_on(told: list[str]) -> None:
    def broken() -> Iterator[Batch]:
        yield batch(0)
        yield batch(1)
        raise UserError("image 2 cannot be read")

    coming = sent_ahead(broken())
    assert next(coming).names == ("0",)
    with pytest.raises(UserError, match="image 2"):
        list(coming)


def test_on_the_cpu_batches_are_handed_on() -> None:
    made = [batch(number) for number in range(3)]
    assert all(one is other for one, other in zip(launch(DeviceConfig(accelerator="cpu")).ahead(iter(made)), made, strict=True))
    assert module.AHEAD >= 1
