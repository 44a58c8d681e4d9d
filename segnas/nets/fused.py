"""A mixed cell in few large calls instead of one module an operation: the same mathematics as `MixedGraph`, and its weights.

All edges that leave one state are computed together, the channels of edge 0 first, then those of edge 1, and so on:

    what has no weights of its own (ReLU, pooling, its batch norm)    once for all of them
    convolutions                                                      depthwise: edges * C channels wide; 1x1: a matrix an edge
    the last batch norm and the weights of the mixture                one pass into the sums of the blocks (kernels.mix)

`none` is never computed. Several inputs of the same cell (the directions of Auto-DeepLab) go through at once as further images,
each with batch statistics of its own. How a layer is computed for several edges stands in `RULES`, by its type: an operation
of layers that are in there needs nothing more.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segnas.nets import kernels
from segnas.nets.blocks import FactorizedReduction, halved, resize
from segnas.nets.operations import AtrousConv, MixedGraph, PartialMixedOperation
from segnas.spaces.cells import edge_offset


def choose_engine(network: nn.Module, fused: bool, recomputed: bool = False) -> None:
    """How the mixed cells of a supernet are computed from now on; its weights and results stay what they are.

    recomputed (of the fused engine): a cell is computed once more in the backward pass instead of keeping what it made.
    Raises ValueError for cells that the fused engine would compute wrongly.
    """
    for module in network.modules():
        if isinstance(module, MixedGraph):
            if fused:
                _require_fusible(module)
            module.fused, module.recomputed = fused, recomputed


def _require_fusible(graph: MixedGraph) -> None:
    for layer in graph.modules():
        if isinstance(layer, nn.BatchNorm2d) and (layer.affine or layer.momentum is None):
            raise ValueError("the fused engine knows batch norms without affine parameters and with a momentum only")
        if isinstance(layer, nn.Conv2d) and (layer.bias is not None or layer.padding_mode != "zeros"):
            raise ValueError("the fused engine knows convolutions without a bias and padded with zeros only")


@contextlib.contextmanager
def plain_engine(network: nn.Module) -> Iterator[None]:
    """Inside the block the mixed cells are computed module by module: the engine that can be differentiated twice."""
    before = [(module, module.fused) for module in network.modules() if isinstance(module, MixedGraph)]
    for module, _ in before:
        module.fused = False
    try:
        yield
    finally:
        for module, fused in before:
            module.fused = fused


def is_fused(graph: MixedGraph, sparse: bool) -> bool:
    """Whether `fused_graph` computes it: not for a sparse mixture, which leaves most out, nor with running statistics."""
    norm = next((module for module in graph.modules() if isinstance(module, nn.BatchNorm2d)), None)
    return graph.fused and not sparse and (norm is None or norm.training or not norm.track_running_stats)


@dataclass
class Maps:
    """Results of one layer on several edges.

    x: (images, H, W, edges * C), or (images, H, W, C) where it is the same on every edge. rectify: a ReLU is still to be applied.
    """

    x: Tensor
    shared: bool = True
    rectify: bool = False
    paths: int = 1

    @cached_property
    def after_relu(self) -> Maps:
        """These with a ReLU: one object for all operations that begin with it."""
        return replace(self, rectify=True)

    @cached_property
    def rectified(self) -> Tensor:
        """x after its ReLU if there is one."""
        return self.x.relu() if self.rectify else self.x


@dataclass
class Statistics:
    """Batch statistics met on the way, for the running ones of the batch norms."""

    seen: list[tuple[Sequence[nn.BatchNorm2d], Tensor, Tensor, int]] = field(default_factory=list)

    def add(self, norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, images: Tensor) -> None:
        """mean, variance (biased): (paths, edges * C), or (paths, C) for all edges. images: what they are of."""
        count = images.numel() // (images.shape[-1] * mean.shape[0])
        self.seen.append((norms, mean, variance * (count / max(1, count - 1)), mean.shape[0]))

    @torch.no_grad()
    def update(self, times: int) -> None:
        """Move the running statistics as one pass of each path after the other would; a single path counts `times` times."""
        moves: dict[float, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for norms, mean, variance, paths in self.seen:
            if not norms[0].track_running_stats:
                continue
            momentum = norms[0].momentum or 0.0  # never None, see _require_fusible
            steps = times if paths == 1 else paths
            shares = mean.new_tensor([momentum * (1 - momentum) ** (steps - 1 - path) for path in range(steps)])
            moved = 1 - (1 - momentum) ** steps
            for name, values in (("running_mean", mean), ("running_var", variance)):
                parts = (shares / moved @ values.expand(steps, -1)).view(-1, norms[0].num_features).expand(len(norms), -1)
                of_norms: list[Tensor] = [getattr(norm, name) for norm in norms]
                moves[moved][0].extend(of_norms)
                moves[moved][1].extend(parts.to(of_norms[0].dtype).unbind())
            counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
            torch._foreach_add_(counters, steps)
        for share, (running, towards) in moves.items():
            torch._foreach_lerp_(running, towards, share)


def fused_graph(
    graph: MixedGraph,
    before: Tensor,
    previous: Tensor,
    alpha: Tensor,
    beta: Tensor | None = None,
    paths: int = 1,
) -> Tensor:
    """The result of `graph(before, previous, alpha, None, beta)` for each of `paths` inputs `previous`.

    before: (N, C, H, W), the same for all; previous: (paths * N, C, H, W); result (paths * N, blocks * C, h, w). Where
    `graph.recomputed`, its inputs alone are kept, and the cell is computed a second time in the backward pass.
    """
    statistics = Statistics()
    arguments = (graph, before, previous, alpha, beta, paths, statistics)
    if graph.recomputed and torch.is_grad_enabled():
        out: Tensor = checkpoint(_states, *arguments, use_reentrant=False, preserve_rng_state=False)
    else:
        out = _states(*arguments)
    statistics.update(paths)  # those of the first computation
    return out


def _states(
    graph: MixedGraph, before: Tensor, previous: Tensor, alpha: Tensor, beta: Tensor | None, paths: int, statistics: Statistics
) -> Tensor:
    statistics = replace(statistics) if statistics.seen else statistics  # computed again: nothing is recorded twice
    parts = getattr(graph.mixed[0], "parts", 1)
    states = [state.permute(0, 2, 3, 1).contiguous() for state in (before, previous)]
    width = states[0].shape[-1] // parts
    mixed: Tensor | None = None  # what came so far into the blocks that are not finished: (images, h, w, blocks * width)
    passed: Tensor | None = None  # with partial channels the others, in the same way
    for number in range(graph.blocks + 1):
        x = states[number]
        blocks = range(max(0, number - 1), graph.blocks)
        rows = [edge_offset(block) + number for block in blocks]
        leaving = [graph.mixed[row] for row in rows]
        images = paths if number else 1
        weights = alpha[rows] if beta is None else alpha[rows] * beta[rows, None]
        mixed = _leaving(leaving, x[..., :width].contiguous(), weights, mixed, images, statistics)
        if parts > 1:
            strides = 2 if number < 2 and graph.stride == 2 else 1
            ones = alpha.new_ones(1, len(rows)) if beta is None else beta[rows][None]
            passed = kernels.mix(passed, ones, [_rest(x[..., width:], strides)], [None], images, x.shape[-1] - width)[0]
        if number:
            left = len(rows) - 1
            state, mixed = mixed.split([width, left * width], dim=-1)
            if passed is not None:
                rest, passed = passed.split([width * (parts - 1), left * width * (parts - 1)], dim=-1)
                state = torch.cat([state, rest], dim=-1).unflatten(-1, (parts, width)).transpose(-1, -2).flatten(-2)
            states.append(state.contiguous())
    return torch.cat(states[2:], dim=-1).permute(0, 3, 1, 2)


def _rest(x: Tensor, stride: int) -> Tensor:
    return x if stride == 1 else F.max_pool2d(x.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)


def _leaving(
    edges: Sequence[nn.Module], x: Tensor, weights: Tensor, carry: Tensor | None, paths: int, statistics: Statistics
) -> Tensor:
    """All operations on the edges that leave one state, weighted by (edges, operations) and added to `carry`."""
    operations: list[Any] = [edge.mixed if isinstance(edge, PartialMixedOperation) else edge for edge in edges]
    terms: list[Tensor] = []
    norms: list[Sequence[nn.BatchNorm2d] | None] = []
    start = Maps(x, paths=paths)
    for name in operations[0].candidates:
        *inner, last = zip(*(layers(operation.candidates[name]) for operation in operations), strict=True)
        maps = start
        for layer in inner if isinstance(last[0], nn.BatchNorm2d) else (*inner, last):
            maps = RULES[type(layer[0])](layer, maps, statistics)
        terms.append(maps.rectified)
        norms.append(last if isinstance(last[0], nn.BatchNorm2d) else None)
    columns = [operations[0].columns[name] for name in operations[0].candidates]
    epsilons = [None if norm is None else norm[0].eps for norm in norms]
    out, found = kernels.mix(carry, weights[:, columns].t(), terms, epsilons, paths, x.shape[-1])
    for norm, term, pair in zip(norms, terms, found, strict=True):
        if norm is not None and pair is not None:
            statistics.add(norm, *pair, term)
    return out


def layers(operation: nn.Module) -> list[nn.Module]:
    """The layers of an operation in their order; a part that is no Sequential stands between its ReLU and its batch norm."""
    if isinstance(operation, nn.Sequential):
        return [layer for part in operation for layer in layers(part)]
    if isinstance(operation, (AtrousConv, FactorizedReduction)):
        return [operation.relu, operation, operation.norm]
    return [operation]


def _rectify(_: Sequence[nn.Module], maps: Maps, __: Statistics) -> Maps:
    return maps.after_relu


def _same_on_all(modules: Sequence[nn.Module], maps: Maps, _: Statistics) -> Maps:
    """A layer without weights."""
    x = modules[0](maps.rectified.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return replace(maps, x=x, rectify=False)


def _normalize(modules: Sequence[Any], maps: Maps, statistics: Statistics) -> Maps:
    x = maps.rectified
    out, mean, variance = kernels.normalize(x, maps.paths, modules[0].eps)
    statistics.add(modules, mean, variance, x)
    return replace(maps, x=out, rectify=False)


def _convolution(modules: Sequence[Any], maps: Maps, _: Statistics) -> Maps:
    """Depthwise, 1x1 or dense, each edge with its own weights."""
    first, edges = modules[0], len(modules)
    kernel, channels = first.kernel_size, first.in_channels
    weights = [module.weight for module in modules]
    window = kernels.Window(kernel[0], first.stride[0], first.dilation[0])
    if first.groups == channels > 1 and window.describes(first):
        weight = torch.stack(weights).flatten(0, 2).flatten(1).t()  # (kernel * kernel, edges * C)
        out = kernels.depthwise(maps.x, weight, edges if maps.shared else 1, window, maps.rectify)
    elif kernel == (1, 1) and first.stride == (1, 1) and first.groups == 1:
        out = _matrices(maps.rectified, torch.stack(weights).flatten(2), maps.shared)
    else:
        x = maps.rectified.permute(0, 3, 1, 2)
        if maps.shared and first.groups > 1:  # groups of each edge, in the order of the edges
            x = x.repeat(1, edges, 1, 1)
        groups = first.groups * (x.shape[1] // channels)
        settings = (first.stride, first.padding, first.dilation, groups)
        out = F.conv2d(x, torch.cat(weights).contiguous(memory_format=torch.channels_last), None, *settings).permute(0, 2, 3, 1)
    return replace(maps, x=out, shared=False, rectify=False)


def _matrices(x: Tensor, weight: Tensor, shared: bool) -> Tensor:
    """1x1 convolutions; weight: (edges, out, in)."""
    if shared:
        return kernels.pointwise(x, weight.flatten(0, 1).t()[None])
    return kernels.pointwise(x, weight.transpose(1, 2))


def _atrous(modules: Sequence[Any], maps: Maps, statistics: Statistics) -> Maps:
    """The dense convolution of `AtrousConv`, on half the size if it has a stride."""
    x = maps.rectified.permute(0, 3, 1, 2)
    x = x if modules[0].stride == 1 else resize(x, halved(x))
    half = replace(maps, x=x.permute(0, 2, 3, 1), rectify=False)
    return _convolution([module.conv for module in modules], half, statistics)


def _factorized(modules: Sequence[Any], maps: Maps, _: Statistics) -> Maps:
    """The two 1x1 convolutions of `FactorizedReduction`, the second on the map shifted by half a stride."""
    x, shift, stride = maps.rectified, modules[0].shift, modules[0].first.stride[0]
    shifted = F.pad(x, (0, 0, 0, shift, 0, shift))[:, shift:, shift:]
    halves = []
    for part, name in ((x, "first"), (shifted, "second")):
        weight = torch.stack([getattr(module, name).weight for module in modules]).flatten(2)
        halves.append(_matrices(part[:, ::stride, ::stride], weight, maps.shared).unflatten(-1, (len(modules), -1)))
    return replace(maps, x=torch.cat(halves, dim=-1).flatten(-2), shared=False, rectify=False)


RULES: dict[type[nn.Module], Callable[[Sequence[Any], Maps, Statistics], Maps]] = {
    nn.Identity: lambda modules, maps, _: maps,
    nn.ReLU: _rectify,
    nn.MaxPool2d: _same_on_all,
    nn.AvgPool2d: _same_on_all,
    nn.BatchNorm2d: _normalize,
    nn.Conv2d: _convolution,
    AtrousConv: _atrous,
    FactorizedReduction: _factorized,
}
