"""The golden figures of DARTS, and how the networks behind them are filled (`_meta` in tests/golden/darts.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnas.nets.darts_supernet import Mixture
from segnas.spaces.cells import Block
from segnas.spaces.darts import Darts, DartsCell, DartsOptions

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "darts.json").read_text())


def architecture(name: str, **options: Any) -> Darts:
    """A genotype of the golden file as a value."""
    return from_genotype(GOLDEN["genotypes"][name], **options)


def from_genotype(genotype: dict[str, Any], **options: Any) -> Darts:
    """{"normal": [[operation, input], ...], "normal_concat": ...} as a value; two edges a block."""
    cells = []
    for name in ("normal", "reduce"):
        listed = genotype[name]
        blocks = tuple(Block((a[1], b[1]), (a[0], b[0])) for a, b in zip(listed[::2], listed[1::2], strict=True))
        cells.append(DartsCell(blocks, tuple(genotype[f"{name}_concat"])))
    return Darts(cells[0], cells[1], DartsOptions(**options))


def uniform(shape: tuple[int, ...], salt: int) -> Tensor:
    """The hash of the fill rule, in -1 .. 1."""
    index = np.arange(int(np.prod(shape)), dtype=np.int64) + 1 + 977 * salt
    hashed = (index * index * 104729 + index * 7919) % 1000003
    return torch.from_numpy(2 * hashed / 1000003 - 1).reshape(shape)


@torch.no_grad()
def fill(network: nn.Module, rule: str) -> nn.Module:
    """Rule A (the same for equal shapes) or B (salted by the position of the weight), in float64."""
    network.double()
    salt = 0
    for name, parameter in network.named_parameters():
        if parameter.dim() >= 2:
            fan_in = parameter.numel() // parameter.shape[0]
            parameter.copy_(uniform(tuple(parameter.shape), salt if rule == "B" else 0) * (3 / fan_in) ** 0.5)
            salt += 1
        elif ".linear." in f".{name}":
            parameter.copy_(0.1 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float64)))
    return network


def images(count: int, size: int, validation: bool = False) -> Tensor:
    """x_train or x_valid of the fill rule."""
    b, c, h, w = (
        torch.arange(n, dtype=torch.float64).reshape([-1 if i == axis else 1 for i in range(4)])
        for axis, n in enumerate((count, 3, size, size))
    )
    return torch.cos(b + 2 * c + h / 6 + w / 8) if validation else torch.sin(b + c + h / 7 + w / 5)


def labels(count: int, validation: bool = False) -> Tensor:
    """y_train or y_valid of the fill rule."""
    b = torch.arange(count)
    return (3 * b + 1) % 10 if validation else b % 10


def alphas() -> list[nn.Parameter]:
    """(normal, reduction) logits of the fill rule, (14, 8) each."""
    place = 8 * torch.arange(14, dtype=torch.float64)[:, None] + torch.arange(8, dtype=torch.float64)
    return [nn.Parameter(0.1 * torch.sin(place)), nn.Parameter(0.1 * torch.cos(place))]


def mixture(variables: list[nn.Parameter]) -> Mixture:
    """Softmax over the operations of an edge."""
    return Mixture(variables[0].softmax(-1), variables[1].softmax(-1))


def close(found: Tensor | float, expected: Any, tolerance: float) -> bool:
    """Equal to a relative tolerance of the largest number (the golden numbers have 12 digits)."""
    wanted = torch.as_tensor(expected, dtype=torch.float64).flatten()
    got = torch.as_tensor(found, dtype=torch.float64).detach().flatten()
    return bool((got - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max())))
