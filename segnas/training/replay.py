"""Functions of tensors that a GPU computes over and over: recorded once as a CUDA graph, then replayed in a single launch.

A step of a supernet is up to hundreds of thousands of kernels that take longer to launch than to run. A graph holds kernels and
addresses:

    read in place     parameters, running statistics: whatever the function reads beside its arguments. Their values may change,
                      through an optimizer or a checkpoint, but not where they lie
    copied            its arguments, into tensors of the graph's own
    given out         tensors of the graph's own, good until the next call of any function of the same `Replay`

What is decided in Python (a learning rate, a probability, whether a batch norm trains) stays as it was at the recording: so an
optimizer stands outside. Results are those of the plain call: the first calls *are* plain, recording computes nothing, and the
first replay does the step that was recorded. torch hands its generators to a graph, so that even what is drawn is the same.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from segnas.errors import UserError
from segnas.runs.progress import console

Results = tuple[Tensor | None, ...]
WARM_UP = 3  # plain calls before a recording: libraries choose their algorithms and take their workspaces in them
GRAPHS = 4  # at most, of one function: each shape has its own


class Recorder(Protocol):
    """What computes for a `Replay`."""

    def plainly(self, work: Callable[[], Results]) -> Results:
        """The results of `work`, computed as a recording would."""

    def record(self, work: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        """Where the results of `work` will lie, without computing them, and what computes them. Raises UserError."""

    def forget(self) -> None:
        """All that was recorded will not be used again."""


@dataclass(frozen=True)
class Recording:
    """A function at given shapes: where its arguments and results lie, and what computes the ones from the others."""

    arguments: tuple[Tensor, ...]
    results: Results
    run: Callable[[], None]


class Replay:
    """`replay(function, *tensors)` is `function(*tensors)`; with a recorder it is recorded after `WARM_UP` calls and replayed.

    Functions are told apart by their names. Other shapes, as those of an uneven last batch, are warmed up and recorded apart.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        """recorder: None for a device on which there is nothing to record: every call is plain."""
        self.recorder = recorder
        self._recordings: dict[tuple[object, ...], Recording] = {}
        self._calls: Counter[tuple[object, ...]] = Counter()  # plain ones, by function and shapes
        self._warmth: dict[str, int] = {}  # by function, the most of its shapes

    @property
    def warm_up(self) -> int:
        """The calls after which every further one takes the same time: plain ones, and one that records."""
        return 1 if self.recorder is None else WARM_UP + 1

    def __call__(self, function: Callable[..., Results], *tensors: Tensor) -> Results:
        if self.recorder is None:
            return function(*tensors)
        name = function.__name__
        if name not in self._warmth:
            self._warmth[name] = 0
            self.forget()  # the plain calls of a new function take the memory that the graphs of others hold
        key = (name, *((tensor.shape, tensor.dtype) for tensor in tensors))
        if key not in self._recordings and not self._is_due(key):
            self._calls[key] += 1
            self._warmth[name] = max(self._warmth[name], self._calls[key])
            return self.recorder.plainly(lambda: function(*tensors))
        if key not in self._recordings:
            arguments = tuple(tensor.clone() for tensor in tensors)
            self._recordings[key] = Recording(arguments, *self.recorder.record(lambda: function(*arguments)))
        recording = self._recordings[key]
        for place, tensor in zip(recording.arguments, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        recording.run()
        return recording.results

    def _is_due(self, key: tuple[object, ...]) -> bool:
        """Whether to record: these shapes are warmed up and so are all functions, and there are not too many graphs yet."""
        if self._calls[key] < WARM_UP or min(self._warmth.values()) < WARM_UP:
            return False
        if sum(other[0] == key[0] for other in self._recordings) < GRAPHS:
            return True
        if self._calls[key] == WARM_UP:
            console.print(f"note: a step of yet another size runs without a CUDA graph ({GRAPHS} are kept)")
        return False

    def forget(self) -> None:
        """Give the memory of all graphs back. What was warm stays so: the next calls record anew."""
        self._recordings.clear()
        if self.recorder is not None:
            self.recorder.forget()


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they run one after the other, never at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # torch records on no default stream, nor what was warmed up there
        self.pool = torch.cuda.graph_pool_handle()

    def plainly(self, work: Callable[[], Results]) -> Results:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), _every_cast():
            results = work()
        current.wait_stream(self.stream)
        return results

    def record(self, work: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: what other threads do, such as those of a loader, does not count as part of it.
            with _every_cast(), torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                results = work()
        except RuntimeError as error:
            # What ended a recording comes first, then that it could not be ended properly.
            cause = error.__context__ if isinstance(error.__context__, Exception) else error
            if isinstance(cause, UserError) or isinstance(error, torch.OutOfMemoryError):
                raise cause from None
            # No falling back in this process: torch's allocator still takes itself to be recording.
            reason = str(cause).strip().splitlines()[0]
            raise UserError(f"a step cannot be recorded as a CUDA graph ({reason}); set device.graphs=false") from error
        return results, graph.replay

    def forget(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()  # torch opens no pool again whose graphs are gone


@contextlib.contextmanager
def _every_cast() -> Iterator[None]:
    """Inside the block autocast keeps no casts of weights.

    One that was kept from before a recording would lie at an address that is freed and never written again. Plain calls do
    without as well: the gradients of a weight that is used several times are then added up in the same precision.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
