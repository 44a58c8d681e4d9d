"""The golden figures of dense prediction cells, and how the networks behind them are filled: by an integer hash, in float64."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnas.spaces.dpc import Branch, Dpc, DpcOptions

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "dpc.json").read_text())
WORD = 2**32


def architecture(branches: list[tuple[int, str]], **options: Any) -> Dpc:
    """A cell of (input, operation) pairs."""
    return Dpc(tuple(Branch(*pair) for pair in branches), DpcOptions(**options))


def hashed(shape: tuple[int, ...], salt: int) -> Tensor:
    """Numbers in 0 .. 1, each a function of its position and the salt."""
    index = np.arange(prod(shape), dtype=object)  # Python's whole numbers: the products leave 64 bits
    mixed = (index * 2654435761 + salt * 40503 + 12345) % WORD
    mixed = mixed ^ (mixed // 2**16)
    mixed = (mixed * 2246822519) % WORD
    mixed = mixed ^ (mixed // 2**13)
    return torch.from_numpy((mixed / WORD).astype(np.float64)).reshape(shape)


@torch.no_grad()
def fill(network: nn.Module, rule: str) -> nn.Module:
    """Rule F1 (convolutions of equal shape alike) or F2 (salted by their position), in float64, for evaluation."""
    network.double().eval()
    position = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            salt = module.out_channels * 1000 + fan_in + (7919 * position if rule == "F2" else 0)
            position += 1
            module.weight.copy_((hashed(tuple(module.weight.shape), salt) - 0.5) * 2 * (3 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            shape = (module.num_features,)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.copy_(0.75 + 0.5 * hashed(shape, 1))
            module.bias.copy_((hashed(shape, 2) - 0.5) * 0.2)
            module.running_mean.copy_((hashed(shape, 3) - 0.5) * 0.2)
            module.running_var.copy_(0.5 + hashed(shape, 4))
    return network


def features(shape: tuple[int, ...]) -> Tensor:
    """The input of a golden output."""
    return (hashed(shape, 99) - 0.5) * 4
