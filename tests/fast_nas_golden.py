"""The golden figures of Fast NAS and of template search, and the rule by which the networks behind them are filled.

h = (2654435761 i + 40503 salt + 12345) mod 2^32;  h ^= h >> 16;  h = 2246822519 h mod 2^32;  h ^= h >> 13;  u = h / 2^32.
A tensor is filled in the order of its elements, i = 0, 1, ...:

    weight of a convolution     (u - 0.5) * 2 sqrt(3 / fan-in), salt = 1000 * out + fan-in (rule F2: + 7919 * its place among all)
    bias                        (u - 0.5) / 10, salt 7
    batch norm                  weight 0.75 + u / 2 (salt 1), bias (u - 0.5) / 5 (2), mean (u - 0.5) / 5 (3), variance 0.5 + u (4)
    images                      4 (u - 0.5), salt 99
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "fastnas.json").read_text())
FAST_NAS: dict[str, Any] = GOLDEN["fast_nas"]
TEMPLATE_NAS: dict[str, Any] = GOLDEN["template_nas"]


def uniform(shape: tuple[int, ...], salt: int) -> Tensor:
    """u of the fill rule, in float64."""
    mask = (1 << 32) - 1
    hashed = np.arange(prod(shape), dtype=object) * 2654435761 + (salt * 40503 + 12345)
    numbers = [((h & mask) ^ ((h & mask) >> 16)) * 2246822519 & mask for h in hashed]
    return torch.tensor([(h ^ (h >> 13)) / 2**32 for h in numbers], dtype=torch.float64).reshape(shape)


@torch.no_grad()
def fill(network: nn.Module, rule: str) -> nn.Module:
    """The network with the weights of rule F1 or F2, in float64 and evaluation mode."""
    network.double().eval()
    place = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            shape = tuple(module.weight.shape)
            fan_in = prod(shape[1:])
            salt = 1000 * shape[0] + fan_in + (7919 * place if rule == "F2" else 0)
            module.weight.copy_((uniform(shape, salt) - 0.5) * 2 * (3 / fan_in) ** 0.5)
            if module.bias is not None:
                module.bias.copy_((uniform(tuple(module.bias.shape), 7) - 0.5) * 0.1)
            place += 1
        elif isinstance(module, nn.BatchNorm2d):
            numbers = [uniform((module.num_features,), salt) for salt in (1, 2, 3, 4)]
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.copy_(0.75 + 0.5 * numbers[0])
            module.bias.copy_((numbers[1] - 0.5) * 0.2)
            module.running_mean.copy_((numbers[2] - 0.5) * 0.2)
            module.running_var.copy_(0.5 + numbers[3])
    return network


def images(*shape: int) -> Tensor:
    """The input of the fill rule."""
    return 4 * (uniform(shape, 99) - 0.5)


def close(found: Tensor | float, expected: Any, tolerance: float = 1e-9) -> bool:
    """Equal to a tolerance relative to the largest number."""
    got, wanted = (torch.as_tensor(one, dtype=torch.float64).detach() for one in (found, expected))
    assert got.shape == wanted.shape
    return bool((got - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max())))
