"""The latency of a network as it is used: from RGB pixels to logits, through `TrainedModel.logits`, under a run's conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segnas.costs.latency import Latency, Shape, measure_latency
from segnas.data.base import Dataset
from segnas.data.transforms import Normalization
from segnas.nets.build import build
from segnas.spaces.architecture import Architecture
from segnas.training.device import DeviceConfig
from segnas.training.model import TrainedModel


def measure_trained(model: TrainedModel, shape: Shape, **conditions: Any) -> Latency:
    """The time from pixels to logits, as evaluation and prediction go; conditions: those of `measure_latency`."""

    def logits(network: nn.Module, pixels: Tensor) -> Tensor:
        return dataclasses.replace(model, network=network).logits(pixels)

    return measure_latency(model.network, shape, from_pixels=logits, **conditions)


def latency_meter(
    dataset: Dataset, normalization: Normalization, size: tuple[int, int], device: str | torch.device, config: DeviceConfig
) -> Callable[[Architecture], float]:
    """A function that says how many milliseconds a network of an architecture takes, untrained, for one image of `size`.

    It is the upper quartile of a few dozen runs: what keeps a limit so keeps it by the median with some room.
    """

    def milliseconds(architecture: Architecture) -> float:
        network = build(architecture, len(dataset.classes)).eval()
        model = TrainedModel(architecture, network, dataset.classes, normalization)
        conditions = {"precision": config.precision, "channels_last": config.channels_last, "threads": config.threads}
        measured = measure_trained(model, (1, 3, *size), device=device, **conditions, warmup=3, runs=30, time_limit_s=4.0)
        return measured.q3_ms

    return milliseconds
