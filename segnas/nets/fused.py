"""A mixed cell in few large calls instead of one module an operation: the same mathematics as `MixedGraph`, and its weights.

All edges that leave one state are computed together, the channels of edge 0 first, then those of edge 1, and so on:

    what has no weights of its own (ReLU, pooling, its batch norm)    once for all of them
    batch norm, ReLU, depthwise and 1x1 convolution                   one call for all edges (kernels.separable)
    other convolutions                                                edges * C channels wide
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
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets import compiled, kernels
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


FEW = 64  # pixels: maps of so few hold little, and to compute them again costs as many calls as large ones


# A layer of an operation on the edges that leave one state: that module of each edge.
Layer = Sequence[Any]


@dataclass
class Maps:
    """Results on several edges: x, and what is still to be applied to it, in the order of the fields.

    x: (images, H, W, edges * C), or (images, H, W, C) where it is the same on every edge.
    """

    x: Tensor
    paths: int = 1
    shared: bool = True
    norms: Layer | None = None
    rectify: bool = False
    depthwise: Layer | None = None  # convolutions

    @cached_property
    def after_relu(self) -> Maps:
        """These with a ReLU: one object for all operations that begin with it."""
        return replace(self, rectify=True)

    @cached_property
    def rectified(self) -> Tensor:
        """x after its ReLU if there is one; of a state, on which nothing else is to be done."""
        return self.x.relu() if self.rectify else self.x

    @property
    def before(self) -> kernels.Before:
        return kernels.Before(None if self.norms is None else self.norms[0].eps, self.rectify)


@dataclass
class Statistics:
    """What batch norms found, for their running statistics; and again when a cell is computed a second time for its gradients.

    before: what they found the first time.
    """

    seen: list[tuple[Layer, kernels.Moments]] = field(default_factory=list)
    before: Iterator[kernels.Moments] | None = None

    def again(self) -> Statistics:
        """These for the next computation of the same: themselves for the first one."""
        return Statistics(before=iter([found for _, found in self.seen])) if self.seen else self

    def known(self, norms: Layer | None) -> kernels.Moments | None:
        return None if norms is None or self.before is None else next(self.before)

    def add(self, norms: Layer | None, found: kernels.Moments | None) -> None:
        """found: (paths, edges * C), or (paths, C) for all edges."""
        if norms is not None and found is not None and self.before is None:
            self.seen.append((norms, found))


@torch.no_grad()
def update(statistics: Sequence[Statistics], times: int) -> None:
    """Move the running statistics as one pass of each path after the other would; a single path counts `times` times."""
    groups: dict[tuple[float, int], list[tuple[Layer, kernels.Moments]]] = defaultdict(list)
    for norms, found in (pair for one in statistics for pair in one.seen):
        if norms[0].track_running_stats:
            groups[norms[0].momentum, found[0].shape[0]].append((norms, found))
    for (momentum, paths), group in groups.items():
        steps = times if paths == 1 else paths
        moved = 1 - (1 - momentum) ** steps
        buffers = [norm._buffers for norms, _ in group for norm in norms]
        for name, part in (("running_mean", 0), ("running_var", 2)):
            running = [buffer[name] for buffer in buffers]
            values = torch.cat([_for_edges(found[part], norms) for norms, found in group], dim=1)
            if paths > 1:
                values = _shares(momentum, steps, values.device, values.dtype) @ values
            towards = values.view(-1).to(running[0].dtype).split([tensor.numel() for tensor in running])
            torch._foreach_lerp_(running, towards, moved)
        counters = [buffer["num_batches_tracked"] for buffer in buffers]
        torch._foreach_add_([counter for counter in counters if counter is not None], steps)


def _for_edges(values: Tensor, norms: Layer) -> Tensor:
    """(paths, edges * C) of (paths, C) for all edges, or of what is that already."""
    copies = len(norms) * norms[0].num_features // values.shape[1]
    return values if copies == 1 else values.repeat(1, copies)


@lru_cache
def _shares(momentum: float, steps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What each of `steps` values counts in a running mean that moves by one after the other; they sum to 1."""
    shares = (1 - momentum) ** torch.arange(steps - 1, -1, -1, device=device, dtype=dtype)
    return shares / shares.sum()


@dataclass
class State:
    """The edges that leave one state: of each candidate its inner layers, and its last batch norms if it ends with one.

    holders: the modules of these edges that hold a weight.
    """

    edges: int
    inner: list[list[Layer]]
    norms: list[Layer | None]
    holders: list[Any]


@dataclass
class Plan:
    """A cell read once: its states that edges leave; the rows of alpha by state, and its columns by candidate."""

    states: list[State]
    rows: Tensor
    columns: Tensor
    copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)  # of these two, by device

    def weights(self, alpha: Tensor, beta: Tensor | None) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """(edges, operations) of alpha and (edges,) of beta -> (candidates, edges) and (edges,) of each state."""
        if alpha.device not in self.copies:
            self.copies[alpha.device] = self.rows.to(alpha.device), self.columns.to(alpha.device)
        rows, columns = self.copies[alpha.device]
        of_edges = alpha if beta is None else alpha * beta[:, None]
        chosen = of_edges.t().index_select(0, columns).index_select(1, rows)
        edges = [state.edges for state in self.states]
        return chosen.split(edges, dim=1), None if beta is None else beta.index_select(0, rows).split(edges)


_plans: WeakKeyDictionary[MixedGraph, Plan] = WeakKeyDictionary()


def planned(graph: MixedGraph) -> Plan:
    """The plan of a graph, made once."""
    if graph not in _plans:
        states, rows = [], []
        columns: dict[str, int] = {}
        for number in range(graph.blocks + 1):
            leaving = [edge_offset(block) + number for block in range(max(0, number - 1), graph.blocks)]
            edges = [graph.mixed[row] for row in leaving]
            operations: list[Any] = [edge.mixed if isinstance(edge, PartialMixedOperation) else edge for edge in edges]
            holders = [module for edge in edges for module in edge.modules() if isinstance(module, nn.Conv2d)]
            state = State(len(leaving), [], [], holders)
            for name in operations[0].candidates:
                *inner, last = zip(*(layers(operation.candidates[name]) for operation in operations), strict=True)
                normed = isinstance(last[0], nn.BatchNorm2d)
                state.inner.append([*inner] if normed else [*inner, last])
                state.norms.append(last if normed else None)
                columns[name] = operations[0].columns[name]
            states.append(state)
            rows += leaving
        _plans[graph] = Plan(states, torch.tensor(rows), torch.tensor(list(columns.values())))
    return _plans[graph]


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
    `graph.recomputed`, its states alone are kept, and what leaves each is computed a second time in the backward pass.
    """
    parts = getattr(graph.mixed[0], "parts", 1)
    states = [state.permute(0, 2, 3, 1).contiguous() for state in (before, previous)]
    width = states[0].shape[-1] // parts
    mixed: Tensor | None = None  # what came so far into the blocks that are not finished: (images, h, w, blocks * width)
    passed: Tensor | None = None  # with partial channels the others, in the same way
    statistics: list[Statistics] = []
    plan = planned(graph)
    alphas, betas = plan.weights(alpha, beta)
    for number, (state, weights) in enumerate(zip(plan.states, alphas, strict=True)):
        x = states[number]
        images = paths if number else 1
        statistics.append(Statistics())
        again = graph.recomputed and torch.is_grad_enabled() and x.shape[1] * x.shape[2] > FEW
        leaving = _recomputed if again else _mixed
        mixed = leaving(state, x[..., :width].contiguous(), weights, mixed, images, statistics[-1])
        if parts > 1:
            strides = 2 if number < 2 and graph.stride == 2 else 1
            ones = x.new_ones(1, state.edges) if betas is None else betas[number][None]
            passed = kernels.mix(passed, ones, [_rest(x[..., width:], strides)], [None], images, x.shape[-1] - width)[0]
        if number:
            left = state.edges - 1
            one, mixed = mixed.split([width, left * width], dim=-1)
            if passed is not None:
                rest, passed = passed.split([width * (parts - 1), left * width * (parts - 1)], dim=-1)
                one = torch.cat([one, rest], dim=-1).unflatten(-1, (parts, width)).transpose(-1, -2).flatten(-2)
            states.append(one.contiguous())
    update(statistics, paths)
    return torch.cat(states[2:], dim=-1).permute(0, 3, 1, 2)


def _rest(x: Tensor, stride: int) -> Tensor:
    return x if stride == 1 else F.max_pool2d(x.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)


def _mixed(state: State, x: Tensor, weights: Tensor, carry: Tensor | None, paths: int, statistics: Statistics) -> Tensor:
    """All operations on the edges that leave x, weighted by (candidates, edges) and added to `carry`."""
    start = Maps(x, paths)
    terms: list[Tensor] = []
    for inner in state.inner:
        maps = start
        for layer in inner:
            maps = RULES[type(layer[0])](layer, maps, statistics)
        terms.append(settled(maps, statistics))
    epsilons = [None if norms is None else norms[0].eps for norms in state.norms]
    known = None if statistics.before is None else [statistics.known(norms) for norms in state.norms]
    out, found = kernels.mix(carry, weights, terms, epsilons, paths, x.shape[-1], known)
    for norms, moments in zip(state.norms, found, strict=True):
        statistics.add(norms, moments)
    return out


def _recomputed(state: State, x: Tensor, weights: Tensor, carry: Tensor | None, paths: int, statistics: Statistics) -> Tensor:
    """The same to the bit, but of all that it needs for gradients x alone is kept, and the rest computed a second time."""

    def leaving(x: Tensor, weights: Tensor, carry: Tensor | None) -> Tensor:
        return _mixed(state, x, weights, carry, paths, statistics.again())

    out: Tensor = Recomputed.apply(leaving, state.holders, carry, x, weights, *[module.weight for module in state.holders])
    return out


class Recomputed(torch.autograd.Function):
    """compute(x, weights, carry), whose modules `holders` hold the parameters; for the gradients it is computed a second time,
    with the same parameters, wherever they came from (torch.func.functional_call). carry is added to the result, and not kept."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Tensor], holders: Layer, carry: Tensor | None, *given: Tensor) -> Tensor:
        ctx.compute, ctx.holders, ctx.carried = compute, holders, None if carry is None else carry.shape[0]
        ctx.save_for_backward(*given)
        return compute(*given[:2], carry)

    @staticmethod
    @compiled.once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        wanted = ctx.needs_input_grad[3:]
        given = [one.detach().requires_grad_(want) for one, want in zip(ctx.saved_tensors, wanted, strict=True)]
        own = [module._parameters["weight"] for module in ctx.holders]
        try:
            for module, weight in zip(ctx.holders, given[2:], strict=True):
                module._parameters["weight"] = weight
            with torch.enable_grad():
                out = ctx.compute(*given[:2], None)
        finally:
            for module, parameter in zip(ctx.holders, own, strict=True):
                module._parameters["weight"] = parameter
        found = iter(torch.autograd.grad(out, [one for one in given if one.requires_grad], gradient))
        of_carry = compiled.of_carry(gradient, ctx.carried) if ctx.needs_input_grad[2] else None
        return None, None, of_carry, *[next(found) if want else None for want in wanted]


def layers(operation: nn.Module) -> list[nn.Module]:
    """The layers of an operation in their order; a part that is no Sequential stands between its ReLU and its batch norm."""
    if isinstance(operation, nn.Sequential):
        return [layer for part in operation for layer in layers(part)]
    if isinstance(operation, (AtrousConv, FactorizedReduction)):
        return [operation.relu, operation, operation.norm]
    return [operation]


def settled(maps: Maps, statistics: Statistics) -> Tensor:
    """Maps with all applied that was still to be applied: (images, H, W, channels)."""
    x = maps.rectified if maps.norms is None else maps.x
    if maps.norms is not None:
        x, found = kernels.prepared(x, maps.before, maps.paths, statistics.known(maps.norms))
        statistics.add(maps.norms, found)
    if maps.depthwise is not None:
        x = kernels.depthwise_of(x, [module.weight for module in maps.depthwise], _window(maps.depthwise[0]))
    return x


def _computed(maps: Maps, x: Tensor, shared: bool) -> Maps:
    """x in the place of maps, with nothing left to be applied."""
    return Maps(x, maps.paths, shared)


# Rules: a layer (that module of each edge), what it is applied to, statistics -> what comes out. -----------------------------


def _rectify(_: Layer, maps: Maps, statistics: Statistics) -> Maps:
    return maps.after_relu if maps.depthwise is None else _computed(maps, settled(maps, statistics), False).after_relu


def _same_on_all(layer: Layer, maps: Maps, statistics: Statistics) -> Maps:
    """A layer without weights."""
    x = layer[0](settled(maps, statistics).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return _computed(maps, x, maps.shared and maps.depthwise is None)


def _normalize(layer: Layer, maps: Maps, statistics: Statistics) -> Maps:
    if maps.norms is not None or maps.rectify or maps.depthwise is not None:
        maps = _computed(maps, settled(maps, statistics), maps.shared and maps.depthwise is None)
    return replace(maps, norms=layer)


def _convolution(layer: Layer, maps: Maps, statistics: Statistics) -> Maps:
    """Depthwise, 1x1 or any other, each edge with its own weights."""
    first, edges, weights = layer[0], len(layer), [module.weight for module in layer]
    if first.groups == first.in_channels == first.out_channels > 1 and _window(first).describes(first):
        if maps.depthwise is not None:
            maps = _computed(maps, settled(maps, statistics), False)
        return replace(maps, depthwise=layer)
    single = first.kernel_size == (1, 1) and first.stride == (1, 1) and first.groups == 1
    if single and maps.depthwise is not None:
        depthwise = [module.weight for module in maps.depthwise]
        known, window = statistics.known(maps.norms), _window(maps.depthwise[0])
        x, found = kernels.separable(maps.x, maps.before, depthwise, weights, window, maps.paths, known)
        statistics.add(maps.norms, found)
        return _computed(maps, x, False)
    x, shared = settled(maps, statistics), maps.shared and maps.depthwise is None
    if single:
        return _computed(maps, kernels.matrices(x, weights), False)
    x = x.permute(0, 3, 1, 2)
    if shared and first.groups > 1:  # groups of each edge, in the order of the edges
        x = x.repeat(1, edges, 1, 1)
    settings = (first.stride, first.padding, first.dilation, first.groups * (x.shape[1] // first.in_channels))
    x = F.conv2d(x, torch.cat(weights).contiguous(memory_format=torch.channels_last), None, *settings)
    return _computed(maps, x.permute(0, 2, 3, 1), False)


def _window(convolution: nn.Conv2d) -> kernels.Window:
    return kernels.Window(convolution.kernel_size[0], convolution.stride[0], convolution.dilation[0])


def _atrous(layer: Layer, maps: Maps, statistics: Statistics) -> Maps:
    """The dense convolution of `AtrousConv`, on half the size if it has a stride."""
    x = settled(maps, statistics).permute(0, 3, 1, 2)
    x = x if layer[0].stride == 1 else resize(x, halved(x))
    return _convolution([module.conv for module in layer], _computed(maps, x.permute(0, 2, 3, 1), maps.shared), statistics)


def _factorized(layer: Layer, maps: Maps, statistics: Statistics) -> Maps:
    """The two 1x1 convolutions of `FactorizedReduction`, the second on the map shifted by half a stride."""
    x, shift, stride = settled(maps, statistics), layer[0].shift, layer[0].first.stride[0]
    shifted = F.pad(x, (0, 0, 0, shift, 0, shift))[:, shift:, shift:]
    halves = [
        kernels.matrices(part[:, ::stride, ::stride], [getattr(module, name).weight for module in layer]).unflatten(
            -1, (len(layer), -1)
        )
        for part, name in ((x, "first"), (shifted, "second"))
    ]
    return _computed(maps, torch.cat(halves, dim=-1).flatten(-2), False)


RULES: dict[type[nn.Module], Callable[[Layer, Maps, Statistics], Maps]] = {
    nn.Identity: lambda layer, maps, _: maps,
    nn.ReLU: _rectify,
    nn.MaxPool2d: _same_on_all,
    nn.AvgPool2d: _same_on_all,
    nn.BatchNorm2d: _normalize,
    nn.Conv2d: _convolution,
    AtrousConv: _atrous,
    FactorizedReduction: _factorized,
}
