"""Where and how tensors are computed: device, precision, memory format and threads, chosen once through Lightning Fabric.

Where torchrun started several processes, each has a device of its own and computes its part of every batch. No module is wrapped:
a loop averages its gradients itself, by one call that does nothing in a single process. Every process must make the same calls
of `average`, `total`, `any`, `same`, `gather` and `barrier`, in the same order; if one of them ends, they raise Disconnected.

On the CPU the kernels that segnas uses give the same bits for the same thread count (the tests of resuming hold this). On CUDA
they do not all: the gradient of bilinear resizing adds in no fixed order, so a resumed run agrees to rounding there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_module
from pydantic import PositiveInt
from torch import Tensor, nn
from torch import distributed as connected

from segnas.config import configuration
from segnas.data.loading import Batch
from segnas.errors import Disconnected, UserError
from segnas.processes import on_this_machine, world
from segnas.runs.progress import console
from segnas.training.ahead import ahead
from segnas.training.replay import CudaRecorder, Replay

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # that processes wait for one which checks a large set or measures; torchrun sees those that end


@configuration
class DeviceConfig:
    """The device section of a run's configuration."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU when there is one, and it says which
    precision: Literal["32", "bf16"] = "32"  # bf16: mixed, weights stay in float32
    channels_last: bool = False  # NHWC memory for images and weights; faster for dense convolutions
    threads: PositiveInt | None = None  # CPU threads of torch; None leaves torch's own number
    graphs: bool = True  # on a GPU the steps of a search are replayed as CUDA graphs; no effect on the CPU


class Device(Fabric):
    """A Fabric on one device of this process that also knows the memory format of images and weights.

    global_rank, world_size and is_global_zero are Fabric's: the number of this process, how many there are, whether it writes.
    """

    def __init__(self, config: DeviceConfig, accelerator: str, gpu: int = 0) -> None:
        precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if config.precision == "bf16" else "32-true"
        if world() == 1:
            super().__init__(accelerator=accelerator, devices=[gpu] if accelerator == "cuda" else 1, precision=precision)
        else:
            logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # nor a line a process that it joined
            # Tensors in the CPU's memory always go through gloo: to ask the others waits for no work of a GPU.
            backend = "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo"
            super().__init__(
                accelerator=accelerator,
                devices=on_this_machine(),
                num_nodes=world() // on_this_machine(),
                strategy=DDPStrategy(process_group_backend=backend, timeout=PATIENCE),
                precision=precision,
            )
        self.config = config

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    @property
    def title(self) -> str:
        """`cpu, 2 threads` or the name of the GPU."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"

    def place(self, network: nn.Module) -> nn.Module:
        """`network` itself, moved to the device and the memory format."""
        return network.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def require_right_gradients(self, nhwc: bool = False) -> None:
        """Raise UserError for the one combination whose gradients torch gets wrong: bfloat16 in NHWC on a CPU.

        nhwc: what is to be trained works in NHWC whatever the memory format says, as the fused engine of searches does.

        There the weight gradients of dilated convolutions come from memory that nothing was written to (seen with torch 2.13,
        dense ones whose channels are no multiple of 16, and depthwise ones). Passes without gradients are right.
        """
        if (self.device.type, self.config.precision) == ("cpu", "bf16") and (nhwc or self.config.channels_last):
            source, instead = ("search.engine", "plain") if nhwc else ("device.channels_last", "false")
            fact = "on the CPU torch's bfloat16 gradients of dilated convolutions are wrong in NHWC (channels_last)"
            raise UserError(f"{fact}; train with device.precision=32, or with {source}={instead}")

    def images(self, images: Tensor) -> Tensor:
        """A batch of images (N, C, H, W) on the device, in the memory format."""
        return images.to(self.device, non_blocking=True, memory_format=self.memory_format)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels or other tensors on the device."""
        return labels.to(self.device, non_blocking=True)

    def ahead(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; on a GPU the next one is copied there while one is in use."""
        if self.device.type != "cuda":
            return iter(batches)
        return ahead(batches, self.device, lambda batch: Batch(self.images(batch.images), self.labels(batch.labels), batch.names))

    def replay(self) -> Replay:
        """What calls functions of tensors; on a GPU it records and replays them, in a single process and if `graphs` says so.

        Several processes reduce in the midst of a loss, which is no part of a recording.
        """
        recorded = self.config.graphs and self.device.type == "cuda" and self.world_size == 1
        return Replay(CudaRecorder(self.device) if recorded else None)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their mean over the processes, which all give the same shapes and types."""
        if self.world_size > 1:
            for group in _by_type(tensors):
                flat = _flat(group)
                with _connection():
                    connected.all_reduce(flat)
                _spread(flat / self.world_size, group)

    @torch.no_grad()
    def same(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by those of rank 0."""
        if self.world_size > 1:
            for group in _by_type(tensors):
                flat = _flat(group)
                with _connection():
                    connected.broadcast(flat, src=0)
                _spread(flat, group)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.world_size == 1:
            return tensor
        summed = tensor.detach().clone()
        with _connection():
            connected.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether any process says so; the same answer for all."""
        return flag if self.world_size == 1 else bool(self.total(torch.tensor(int(flag))))

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank; anything that can be pickled."""
        values = [value] * self.world_size
        if self.world_size > 1:
            with _connection():
                connected.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process, for all; the others wait. A UserError that it meets is raised by all."""
        if self.world_size == 1:
            return work()
        found: tuple[T | None, str | None] = (None, None)
        if self.is_global_zero:
            try:
                found = (work(), None)
            except UserError as error:
                found = (None, str(error))
        value, complaint = self.gather(found)[0]
        if complaint is not None:
            raise UserError(complaint)
        return cast(T, value)

    def barrier(self, name: str | None = None) -> None:
        """Wait here for all processes: what rank 0 wrote before is then there for the others."""
        self.any(False)

    def share(self, count: int) -> range:
        """Which of `count` things this process does: every world_size-th, from its rank on."""
        return range(self.global_rank, count, self.world_size)


def launch(config: DeviceConfig, gpu: int = 0) -> Device:
    """The device that `config` asks for, ready to use; raises UserError when this machine does not have it.

    gpu: which of its GPUs, of a process alone; where torchrun started several, each has the one of its rank.
    """
    available = torch.cuda.is_available()
    if config.accelerator == "cuda" and not available:
        raise UserError("accelerator=cuda, but torch finds no CUDA device here; use accelerator=cpu or auto")
    accelerator = ("cuda" if available else "cpu") if config.accelerator == "auto" else config.accelerator
    if config.precision == "bf16" and accelerator == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("precision=bf16, but this GPU does not compute in bfloat16; use precision=32")
    if accelerator == "cuda" and on_this_machine() > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise UserError(f"{on_this_machine()} processes and {gpus} GPUs here; use --nproc-per-node {gpus}, or accelerator=cpu")
    if world() % on_this_machine():
        raise UserError("torchrun started different numbers of processes on its machines; give each the same --nproc-per-node")
    rank_zero_module.log.setLevel(logging.WARNING)  # Lightning's notes on precision say what the line below says
    device = Device(config, accelerator, gpu)
    device.launch()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    several = f"{world()} processes, " if world() > 1 else ""
    if config.accelerator == "auto":
        console.print(f"device: {several}{device.title} (accelerator=auto), precision {config.precision}")
    elif several:
        console.print(f"device: {several}{device.title}, precision {config.precision}")
    return device


def disconnect() -> None:
    """Give up the connection between the processes, if there is one: this process has nothing more to do with the others."""
    if connected.is_initialized():
        connected.destroy_process_group()


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """Around what processes do together: gloo and NCCL raise RuntimeError when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Disconnected(f"another process of this command ended ({reason}); go on with --resume") from error


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in groups of one type, so that each group is one message."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the parts of `_flat(tensors)` back to where they came from."""
    for part, tensor in zip(flat.split([tensor.numel() for tensor in tensors]), tensors, strict=True):
        tensor.copy_(part.view_as(tensor))
