"""Where and how tensors are computed: device, precision, memory format and threads, chosen once through Lightning Fabric.

On the CPU the kernels that segnas uses give the same bits for the same thread count (the tests of resuming hold this). On CUDA
they do not all: the gradient of bilinear resizing adds in no fixed order, so a resumed run agrees to rounding there.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_module
from pydantic import PositiveInt
from torch import Tensor, nn

from segnas.config import configuration
from segnas.errors import UserError
from segnas.runs.progress import console


@configuration
class DeviceConfig:
    """The device section of a run's configuration."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU when there is one, and it says which
    precision: Literal["32", "bf16"] = "32"  # bf16: mixed, weights stay in float32
    channels_last: bool = False  # NHWC memory for images and weights; faster for dense convolutions
    threads: PositiveInt | None = None  # CPU threads of torch; None leaves torch's own number


class Device(Fabric):
    """A Fabric on one device that also knows the memory format of images and weights."""

    def __init__(self, config: DeviceConfig, accelerator: str) -> None:
        super().__init__(accelerator=accelerator, devices=1, precision="bf16-mixed" if config.precision == "bf16" else "32-true")
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

    def images(self, images: Tensor) -> Tensor:
        """A batch of images (N, C, H, W) on the device, in the memory format."""
        return images.to(self.device, non_blocking=True, memory_format=self.memory_format)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels or other tensors on the device."""
        return labels.to(self.device, non_blocking=True)


def launch(config: DeviceConfig) -> Device:
    """The device that `config` asks for, ready to use; raises UserError when this machine does not have it."""
    available = torch.cuda.is_available()
    if config.accelerator == "cuda" and not available:
        raise UserError("accelerator=cuda, but torch finds no CUDA device here; use accelerator=cpu or auto")
    accelerator = ("cuda" if available else "cpu") if config.accelerator == "auto" else config.accelerator
    if config.precision == "bf16" and accelerator == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("precision=bf16, but this GPU does not compute in bfloat16; use precision=32")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    rank_zero_module.log.setLevel(logging.WARNING)  # Lightning's notes on precision say what the line below says
    device = Device(config, accelerator)
    device.launch()
    if config.accelerator == "auto":
        console.print(f"device: {device.title} (accelerator=auto), precision {config.precision}")
    return device
