"""Batches on a GPU before they are asked for: copied from pinned memory on a stream of their own, while the last step computes.

The order and the content of batches do not change. A batch that was sent ahead and never used is read again by whoever goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from segnas.data.loading import Batch

AHEAD = 1  # batches on their way while one is in use
IN_FLIGHT = 2  # steps at most that are launched and not yet done: more would only pile up batches, and delay a stop


def ahead(batches: Iterable[Batch], device: torch.device, place: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """The same batches on a CUDA device. place: copies a batch there, without waiting. What reading one raises is passed on."""
    stream = torch.cuda.Stream(device)
    sent: deque[tuple[Batch, torch.cuda.Event]] = deque()
    launched: deque[torch.cuda.Event] = deque()
    for batch in batches:
        sent.append(_send(batch, stream, place))
        if len(sent) > AHEAD:
            yield _received(*sent.popleft(), device)
            _wait_for_all_but(IN_FLIGHT, launched, device)
    while sent:
        yield _received(*sent.popleft(), device)
        _wait_for_all_but(IN_FLIGHT, launched, device)


def _send(batch: Batch, stream: torch.cuda.Stream, place: Callable[[Batch], Batch]) -> tuple[Batch, torch.cuda.Event]:
    pinned = replace(batch, images=batch.images.pin_memory(), labels=batch.labels.pin_memory())
    with torch.cuda.stream(stream):
        copy = place(pinned)
    return copy, stream.record_event()


def _received(batch: Batch, arrived: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch, for the current stream: which waits for it, and whose use of it the allocator waits for."""
    current = torch.cuda.current_stream(device)
    current.wait_event(arrived)
    for tensor in (batch.images, batch.labels):
        tensor.record_stream(current)
    return batch


def _wait_for_all_but(steps: int, launched: deque[torch.cuda.Event], device: torch.device) -> None:
    """Called when a step has been launched: wait until no more than `steps` of them are not done."""
    launched.append(torch.cuda.current_stream(device).record_event())
    while len(launched) > steps:
        launched.popleft().synchronize()
