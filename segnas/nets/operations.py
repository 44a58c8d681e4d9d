"""The candidate operations on an edge of a cell, name -> (channels, stride, norm) -> module, and their mixture.

Every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)) and begins with its ReLU; `norm` makes its batch
norms. `dil_conv` is the depthwise-separable dilated convolution of DARTS, `atrous_conv` the dense one of Auto-DeepLab: only so do
the parameter counts of both papers come out.

A supernet has them all on every edge j -> i of a cell, weighted by a mixture that its caller gives:

    H_i = sum_{j<i} b_{j->i} sum_O a_{j->i}(O) * O(H_j)                              (b: PC-DARTS alone)

This is the readable definition: one module an operation, one call a term. fused.py computes the same in fewer, larger calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import FactorizedReduction, Norm, halved, resize
from segnas.spaces.cells import edges

OPERATIONS: dict[str, Callable[[int, int, Norm], nn.Module]] = {
    "none": lambda channels, stride, norm: Zero(stride),
    "max_pool_3x3": lambda channels, stride, norm: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, norm: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda channels, stride, norm: skip_connect(channels, stride, norm),
    "sep_conv_3x3": lambda channels, stride, norm: SeparableConv(channels, 3, stride, norm),
    "sep_conv_5x5": lambda channels, stride, norm: SeparableConv(channels, 5, stride, norm),
    "sep_conv_7x7": lambda channels, stride, norm: SeparableConv(channels, 7, stride, norm),
    "dil_conv_3x3": lambda channels, stride, norm: DilatedConv(channels, 3, stride, norm),
    "dil_conv_5x5": lambda channels, stride, norm: DilatedConv(channels, 5, stride, norm),
    "conv_7x1_1x7": lambda channels, stride, norm: FactorizedConv(channels, stride, norm),
    "atrous_conv_3x3": lambda channels, stride, norm: AtrousConv(channels, 3, stride, norm),
    "atrous_conv_5x5": lambda channels, stride, norm: AtrousConv(channels, 5, stride, norm),
}


def search_operation(name: str, channels: int, stride: int, norm: Norm) -> nn.Module:
    """The operation as a supernet mixes it: with a batch norm after each pooling too. norm: without affine parameters."""
    operation = OPERATIONS[name](channels, stride, norm)
    return nn.Sequential(operation, norm(channels)) if name in ("max_pool_3x3", "avg_pool_3x3") else operation


def skip_connect(channels: int, stride: int, norm: Norm) -> nn.Module:
    """The identity; at stride 2 a factorized reduction."""
    return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels, stride, norm)


class Zero(nn.Module):
    """No connection: zeros of the size that the stride asks for."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class SeparableConv(nn.Sequential):
    """(ReLU, depthwise kxk, pointwise 1x1, batch norm) twice; the first depthwise convolution takes the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__(*_separable(channels, kernel, stride, norm), *_separable(channels, kernel, 1, norm))


def _separable(channels: int, kernel: int, stride: int, norm: Norm) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    ]


class DilatedConv(nn.Sequential):
    """ReLU, depthwise kxk convolution of dilation 2, pointwise 1x1, batch norm (DARTS, section 3.1)."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: Norm) -> None:
        reach = 2 * (kernel // 2)
        depthwise = nn.Conv2d(channels, channels, kernel, stride, reach, dilation=2, groups=channels, bias=False)
        super().__init__(nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm(channels))


class FactorizedConv(nn.Sequential):
    """ReLU, dense 1x7 and 7x1 convolutions, batch norm: an operation of NASNet that published DARTS code keeps."""

    def __init__(self, channels: int, stride: int, norm: Norm) -> None:
        rows = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        columns = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        super().__init__(nn.ReLU(), rows, columns, norm(channels))


class AtrousConv(nn.Module):
    """ReLU, dense kxk convolution of rate 2, batch norm. At stride 2: bilinear to half the size, then rate 1."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        rate = 2 if stride == 1 else 1
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(self.conv(x if self.stride == 1 else resize(x, halved(x))))


class MixedOperation(nn.Module):
    """All candidate operations on one edge, weighted and summed. (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride))."""

    def __init__(self, operations: Sequence[str], channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        candidates = {name: search_operation(name, channels, stride, norm) for name in operations if name != "none"}
        self.candidates = nn.ModuleDict(candidates)
        self.columns = {name: column for column, name in enumerate(operations)}

    def forward(self, x: Tensor, weights: Tensor, chosen: Sequence[float] | None) -> Tensor | None:
        """weights: (operations,); `chosen` are the same weights as numbers when the mixture is sparse. None: nothing is left."""
        total: Tensor | None = None
        for name, operation in self.candidates.items():  # `none` adds nothing: only its share of the softmax matters
            column = self.columns[name]
            if chosen is not None and chosen[column] == 0.0:
                continue
            term = weights[column] * operation(x)
            total = term if total is None else total + term
        return total


class PartialMixedOperation(nn.Module):
    """The mixture on the first C / parts channels, the others passed on (PC-DARTS, Xu et al., ICLR 2020, section 3.2).

    At stride 2 the others are pooled (2x2 maximum). The channels are shuffled afterwards, so that the next edge sees others.
    """

    def __init__(self, operations: Sequence[str], channels: int, stride: int, norm: Norm, parts: int) -> None:
        super().__init__()
        if channels % parts:
            raise ValueError(f"{channels} channels cannot be split into {parts} equal parts")
        self.stride, self.parts = stride, parts
        self.mixed = MixedOperation(operations, channels // parts, stride, norm)

    def forward(self, x: Tensor, weights: Tensor, chosen: Sequence[float] | None) -> Tensor | None:
        """As `MixedOperation`; without any operation left, the first channels are zero."""
        width = x.shape[1] // self.parts
        rest = x[:, width:]
        if self.stride == 2:
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        first = self.mixed(x[:, :width], weights, chosen)
        if first is None:
            first = rest.new_zeros((x.shape[0], width, *rest.shape[2:]))
        return F.channel_shuffle(torch.cat([first, rest], dim=1), self.parts)


class MixedGraph(nn.Module):
    """The mixed cell: blocks 0 .. B-1, each the sum over all earlier states. Two (N, C, H, W) -> (N, B*C, h, w).

    stride: of the edges from states 0 and 1. parts: 1, or in how many parts the channels are split (partial channels).
    """

    def __init__(
        self, blocks: int, operations: Sequence[str], channels: int, norm: Norm, stride: int = 1, parts: int = 1
    ) -> None:
        super().__init__()
        self.blocks, self.stride = blocks, stride
        self.fused = self.recomputed = False  # how a supernet computes it, see engines.choose_engine
        make = MixedOperation if parts == 1 else partial(PartialMixedOperation, parts=parts)
        self.mixed = nn.ModuleList(make(operations, channels, stride if state < 2 else 1, norm) for _, state in edges(blocks))

    def forward(
        self,
        before: Tensor,
        previous: Tensor,
        alpha: Tensor,
        chosen: Sequence[Sequence[float]] | None = None,
        beta: Tensor | None = None,
    ) -> Tensor:
        """before, previous: the preprocessed states 0 and 1, of one size.

        alpha: (edges, operations) weights; chosen: the same as numbers, for a sparse mixture; beta: (edges,) weights of edges.
        """
        states = [before, previous]
        edge = 0
        for _ in range(self.blocks):
            total: Tensor | None = None
            for state in states:
                term = self.mixed[edge](state, alpha[edge], None if chosen is None else chosen[edge])
                if term is not None:
                    term = term if beta is None else beta[edge] * term
                    total = term if total is None else total + term
                edge += 1
            states.append(self._nothing(previous) if total is None else total)
        return torch.cat(states[2:], dim=1)

    def _nothing(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
