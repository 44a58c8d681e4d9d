"""Parameters and multiply-adds of a network, in all and by part.

Multiply-adds are those of convolutions and linear layers, one for a multiplication and its addition; batch norms, additions,
pooling and resizing are not counted. Papers count differently: `paper_multiply_adds` follows the Auto-DeepLab paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from segnas.costs.auto_deeplab_paper import paper_multiply_adds
from segnas.costs.layers import LayerCall, consumed_calls
from segnas.nets.build import build
from segnas.spaces.architecture import Architecture
from segnas.spaces.auto_deeplab import AutoDeepLab


@dataclass(frozen=True)
class Counts:
    """What a network costs for one image.

    by_part: name of the part -> {"parameters", "multiply_adds"}, in the order in which the network holds its parts.
    paper_multiply_adds: in the convention of the Auto-DeepLab paper; None for other families, and for images smaller than
        the 769x769 crop that the convention refers to.
    """

    parameters: int
    multiply_adds: int
    by_part: dict[str, dict[str, int]]
    paper_multiply_adds: int | None = None


def count(architecture: Architecture, size: tuple[int, int], num_classes: int, in_channels: int = 3) -> Counts:
    """The exact counts of the architecture's network for an image of `size` (height, width). No weights are made."""
    with torch.device("meta"):
        network = build(architecture, num_classes, in_channels)
    calls = consumed_calls(network, (1, in_channels, *size))
    paper = paper_multiply_adds(architecture, calls) if isinstance(architecture, AutoDeepLab) else None
    return Counts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=sum(call.multiply_adds for call in calls),
        by_part={name: _count_part(name, part, calls) for name, part in _parts(network)},
        paper_multiply_adds=None if paper is None else sum(paper.values()),
    )


def costs_of(architecture: Architecture, size: tuple[int, int], num_classes: int) -> dict[str, float]:
    """Parameters and multiply-adds by name, as searches hold them against limits."""
    counts = count(architecture, size, num_classes)
    return {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}


def _count_part(name: str, part: nn.Module, calls: list[LayerCall]) -> dict[str, int]:
    calls_inside = [call for call in calls if call.name == name or call.name.startswith(f"{name}.")]
    return {
        "parameters": sum(parameter.numel() for parameter in part.parameters()),
        "multiply_adds": sum(call.multiply_adds for call in calls_inside),
    }


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The direct children; lists are opened (`cells.0`, `cells.1`, ...), and parts without weights are left out."""
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield f"{prefix}{name}", child
