"""The supernet of DARTS: a stack of mixed cells, the normal and the reduction cell each with one mixture for all of its copies.

    H_i = sum_{j<i} sum_O alpha_{j->i}(O) * O(H_j)                              (Liu et al., ICLR 2019, equation 2)
    H_i = sum_{j<i} beta_{j->i} sum_O alpha_{j->i}(O) * O(H_j)                  with partial channels (PC-DARTS, equation 4)

Stem, preprocessing and heads are those of nets/darts.py in each of the three forms; batch norms inside the cells have no affine
parameters, and each pooling has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segnas.nets.blocks import Norm, ReLUConvBN
from segnas.nets.darts import STEMS, make_head, preprocessing, stack
from segnas.nets.engines import is_fused
from segnas.nets.fused import fused_graph
from segnas.nets.operations import MixedGraph
from segnas.spaces.cells import edges
from segnas.spaces.darts import BLOCKS, OPERATIONS, Darts, DartsCell, DartsOptions, reductions

supernet_norm: Norm = partial(nn.BatchNorm2d, affine=False)


@dataclass(frozen=True)
class Mixture:
    """What a forward pass weighs its terms with.

    normal, reduction: (edges, operations) weight of each operation on each edge. normal_edges, reduction_edges: (edges,) weight
    of each edge (PC-DARTS), None: all are 1. sparse: terms of weight exactly 0 are left out instead of computed and multiplied.
    """

    normal: Tensor
    reduction: Tensor
    normal_edges: Tensor | None = None
    reduction_edges: Tensor | None = None
    sparse: bool = False


class MixedCell(nn.Module):
    """One cell of the supernet: the outputs of the two cells before -> (N, blocks * channels, h, w)."""

    def __init__(
        self,
        graph: partial[MixedGraph],
        widths: tuple[int, int],
        channels: int,
        reduces: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        self.reduces = reduces
        self.before = preprocessing(widths[0], channels, after_reduction, supernet_norm)
        self.previous = ReLUConvBN(widths[1], channels, supernet_norm)
        self.graph = graph(channels=channels, stride=2 if reduces else 1)

    def forward(self, before: Tensor, previous: Tensor, mixture: Mixture, chosen: Sequence[Sequence[float]] | None) -> Tensor:
        """chosen: the weights of this cell's operations as numbers, for a sparse mixture."""
        alpha = mixture.reduction if self.reduces else mixture.normal
        beta = mixture.reduction_edges if self.reduces else mixture.normal_edges
        states = self.before(before), self.previous(previous)
        if is_fused(self.graph, mixture.sparse):
            return fused_graph(self.graph, *states, alpha, beta)
        out: Tensor = self.graph(*states, alpha, chosen, beta)
        return out


class DartsSupernet(nn.Module):
    """images (N, 3, H, W) and a `Mixture` -> logits: (N, K), or (N, K, H, W) in the segmentation form.

    options: form, channels, layers and head of the supernet. parts: 1, or K of PC-DARTS: 1 / K of the channels is mixed.
    """

    def __init__(
        self,
        num_classes: int,
        options: DartsOptions,
        blocks: int = BLOCKS,
        operations: Sequence[str] = OPERATIONS,
        parts: int = 1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem: nn.Module = STEMS[options.form](in_channels, options.channels)
        graph = partial(MixedGraph, blocks, operations, norm=supernet_norm, parts=parts)
        self.cells, widths = stack(
            options.layers,
            options.channels,
            self.stem.widths,  # type: ignore[arg-type]
            options.form == "imagenet",
            partial(MixedCell, graph),
            lambda _: blocks,
        )
        self.low_level = min(reductions(options.layers)) - 1
        self.head = make_head(options, widths[-1], widths[2 + self.low_level], num_classes)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        normal, reduction = (weights.tolist() if mixture.sparse else None for weights in (mixture.normal, mixture.reduction))
        before, previous = self.stem(images)
        low_level = previous
        for number, cell in enumerate(self.cells):
            assert isinstance(cell, MixedCell)
            before, previous = previous, cell(before, previous, mixture, reduction if cell.reduces else normal)
            if number == self.low_level:
                low_level = previous
        logits: Tensor = self.head(previous, low_level, images.shape[2:])
        return logits


def one_hot(architecture: Darts, operations: Sequence[str], device: torch.device | str = "cpu") -> Mixture:
    """The mixture that has weight 1 on the architecture's choices and 0 elsewhere.

    An edge that a block uses twice with the same operation has weight 2. The cells must concatenate all of their blocks.
    """
    normal, reduction = (_one_hot(cell, operations).to(device) for cell in (architecture.normal, architecture.reduction))
    return Mixture(normal, reduction, sparse=True)


def _one_hot(cell: DartsCell, operations: Sequence[str]) -> Tensor:
    rows = {edge: row for row, edge in enumerate(edges(len(cell.blocks)))}
    weights = torch.zeros(len(rows), len(operations))
    for number, block in enumerate(cell.blocks):
        for state, operation in zip(block.inputs, block.operations, strict=True):
            weights[rows[number, state], list(operations).index(operation)] += 1.0
    return weights
