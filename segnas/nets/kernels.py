"""The parts that a fused mixed cell is made of, on images as rows of channels: (images, H, W, C) in memory.

    separable   norm and ReLU if there are any, depthwise and 1x1 convolution, for several edges at once
    mix         batch norm of the last results and their weighted sum into the blocks
    normalize   batch norm without affine parameters, statistics a path

Each is defined here by plain torch operations, which any device and type runs and which can be differentiated twice. On a CPU in
float32 and float64 the first two go through compiled.py. The moments of batch norms are returned too; where they are `known`, as
when a cell is computed a second time for its gradients, the compiled kernels do not look for them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets import compiled
from segnas.nets.statistics import Moments


@dataclass(frozen=True)
class Window:
    """The window of a depthwise convolution: kernel (odd), stride, dilation; padded to keep the size at stride 1."""

    kernel: int
    stride: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel // 2)

    def describes(self, layer: nn.Conv2d) -> bool:
        """Whether it is the window of this convolution, in both directions."""
        sides = (layer.kernel_size, layer.stride, layer.dilation, layer.padding)
        return sides == tuple((side, side) for side in (self.kernel, self.stride, self.dilation, self.padding))


@dataclass(frozen=True)
class Before:
    """What is done to the input of a convolution first: a batch norm unless epsilon is None, then a ReLU if `rectify`."""

    epsilon: float | None = None
    rectify: bool = False


def separable(
    x: Tensor,
    before: Before,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    window: Window,
    paths: int,
    known: Moments | None = None,
) -> tuple[Tensor, Moments | None]:
    """What `before` says, a depthwise and a 1x1 convolution on each edge; and the moments of the norm.

    x: (images, H, W, edges * in), or (images, H, W, in) where it is the same for all. depthwise: (in, 1, kernel, kernel) and
    pointwise: (out, in, 1, 1) of each edge. Result: (images, h, w, edges * out).
    """
    if compiled.takes(x, *depthwise, *pointwise) and window.kernel % 2 and window.kernel <= compiled.WIDEST:
        sides = (window.kernel, window.stride, window.dilation)
        return compiled.separable(x, before.epsilon, before.rectify, depthwise, pointwise, sides, paths, known)
    x, found = prepared(x, before, paths)
    x = depthwise_of(x, depthwise, window)
    return matrices(x, pointwise), found


def prepared(x: Tensor, before: Before, paths: int) -> tuple[Tensor, Moments | None]:
    """x after its norm and its ReLU."""
    found = None
    if before.epsilon is not None:
        x, found = normalize(x, paths, before.epsilon)
    return x.relu() if before.rectify else x, found


def depthwise_of(x: Tensor, weights: Sequence[Tensor], window: Window) -> Tensor:
    """Depthwise convolutions of (images, H, W, C): C is edges * in, or in when all edges take the same."""
    filters = torch.cat(list(weights))
    x = x.repeat(1, 1, 1, filters.shape[0] // x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(x, filters, None, window.stride, window.padding, window.dilation, groups=x.shape[1])
    return out.permute(0, 2, 3, 1)


def matrices(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """1x1 convolutions, weights (out, in, 1, 1) an edge: x (..., edges * in), or (..., in) for all, -> (..., edges * out)."""
    stacked = torch.stack(list(weights)).flatten(2)  # (edges, out, in)
    if x.shape[-1] == stacked.shape[2]:
        return x @ stacked.flatten(0, 1).t()
    return torch.einsum("...ei,eoi->...eo", x.unflatten(-1, (len(weights), -1)), stacked).flatten(-2)


def normalize(x: Tensor, paths: int, epsilon: float) -> tuple[Tensor, Moments]:
    """Batch norm of x (paths * images, H, W, C), and what it found; in float32 where x has fewer digits."""
    rows = x.reshape(paths, -1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(rows, dim=1, correction=0)
    scale = (variance + epsilon).rsqrt()
    out = (rows - mean[:, None]) * scale[:, None]
    unbiased = variance.detach() * (rows.shape[1] / max(1, rows.shape[1] - 1))
    return out.view_as(x).to(x.dtype), (mean.detach(), scale.detach(), unbiased)


def mix(
    carry: Tensor | None,
    weights: Tensor,
    terms: Sequence[Tensor],
    epsilons: Sequence[float | None],
    paths: int,
    channels: int,
    known: Sequence[Moments | None] | None = None,
) -> tuple[Tensor, list[Moments | None]]:
    """What leaves one state, summed over the operations of each edge: (paths * images, H, W, edges * channels).

    out_e = carry_e + sum over the terms t of weights[t, e] * norm_t(term_t)_e.    weights: (terms, edges).

    A term has edges * channels, or `channels` where it is the same on every edge. epsilons: of its batch norm, None where it has
    none. carry: what came so far, of all paths or of images alone (then the same for every path). Also returns the moments of
    each term with a batch norm. With `known` only gradients are wanted: the result itself may be anything.
    """
    if compiled.takes(weights, *terms, *([] if carry is None else [carry])):
        return compiled.mix(carry, weights, terms, epsilons, paths, channels, known)
    found: list[Moments | None] = []
    total: Tensor | float = 0.0
    if carry is not None:
        total = carry.repeat(terms[0].shape[0] // carry.shape[0], 1, 1, 1).unflatten(-1, (-1, channels))
    for weight, term, epsilon in zip(weights, terms, epsilons, strict=True):
        found.append(None)
        if epsilon is not None:
            term, found[-1] = normalize(term, paths, epsilon)
        total = total + weight[:, None] * term.unflatten(-1, (-1, channels))
    assert isinstance(total, Tensor)
    return total.flatten(-2), found
