"""A mixed cell in few large calls instead of one module an operation: the same mathematics as `MixedGraph`, and its weights.

All edges that leave one state are computed together, the channels of edge 0 first, then those of edge 1, and so on:

    what has no weights of its own (ReLU, pooling, its batch norm)    once for all of them
    batch norm, ReLU, depthwise and 1x1 convolution                   one call for all edges (kernels.separable)
    other convolutions                                                edges * C channels wide
    the last batch norm and the weights of the mixture                one pass into the sums of the blocks (kernels.mix)

`none` is never computed. Several inputs of the same cell (the directions of Auto-DeepLab) go through at once as further images,
each with batch statistics of its own. How a layer is computed for several edges stands in rules.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets import compiled, kernels
from segnas.nets.operations import MixedGraph, PartialMixedOperation
from segnas.nets.rules import RULES, Maps, layers, settled
from segnas.nets.statistics import Layer, Statistics, update
from segnas.spaces.cells import edge_offset


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
            with torch.inference_mode(False):
                self.copies[alpha.device] = self.rows.to(alpha.device), self.columns.to(alpha.device)
        rows, columns = self.copies[alpha.device]
        of_edges = alpha if beta is None else alpha * beta[:, None]
        chosen = of_edges.t().index_select(0, columns).index_select(1, rows)
        edges = [state.edges for state in self.states]
        return chosen.split(edges, dim=1), None if beta is None else beta.index_select(0, rows).split(edges)


plans: WeakKeyDictionary[MixedGraph, Plan] = WeakKeyDictionary()


def planned(graph: MixedGraph) -> Plan:
    """The plan of a graph, made once: its modules must stay what they are until `engines.choose_engine` is called again."""
    if graph not in plans:
        states: list[State] = []
        rows: list[int] = []
        columns: dict[str, int] = {}
        for number in range(graph.blocks + 1):
            leaving = [edge_offset(block) + number for block in range(max(0, number - 1), graph.blocks)]
            operations = mixed_operations(graph.mixed[row] for row in leaving)
            holders = [module for edge in operations for module in edge.modules() if isinstance(module, nn.Conv2d)]
            state = State(len(leaving), [], [], holders)
            for name in operations[0].candidates:
                *inner, last = zip(*(layers(operation.candidates[name]) for operation in operations), strict=True)
                normed = isinstance(last[0], nn.BatchNorm2d)
                state.inner.append([*inner] if normed else [*inner, last])
                state.norms.append(last if normed else None)
                columns[name] = operations[0].columns[name]
            states.append(state)
            rows += leaving
        with torch.inference_mode(False):  # kept for calls of any mode
            by_row, by_column = (torch.tensor(values, device="cpu") for values in (rows, list(columns.values())))
        plans[graph] = Plan(states, by_row, by_column)
    return plans[graph]


def mixed_operations(edges: Iterable[nn.Module]) -> list[Any]:
    """The mixed operations of edges, with partial channels those inside."""
    return [edge.mixed if isinstance(edge, PartialMixedOperation) else edge for edge in edges]


def fused_graph(
    graph: MixedGraph, before: Tensor, previous: Tensor, alpha: Tensor, beta: Tensor | None = None, paths: int = 1
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
        large = x.shape[1] * x.shape[2] > FEW and x.numel() * state.edges > LITTLE
        again = graph.recomputed and torch.is_grad_enabled() and large
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


# What holds little takes as many calls to be computed again as what holds much: maps of so few pixels, or of so few values.
FEW, LITTLE = 64, 2**15


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
        ctx.autocast = _autocast(given[0].device.type)
        ctx.save_for_backward(*given)
        return compute(*given[:2], carry)

    @staticmethod
    @compiled.once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        wanted = ctx.needs_input_grad[3:]
        saved = zip(ctx.saved_tensors, wanted, strict=True)
        given = [one if one.is_leaf and one.requires_grad == want else one.detach().requires_grad_(want) for one, want in saved]
        own = [module._parameters["weight"] for module in ctx.holders]
        try:
            for module, weight in zip(ctx.holders, given[2:], strict=True):
                module._parameters["weight"] = weight
            with torch.enable_grad(), ctx.autocast():
                out = ctx.compute(*given[:2], None)
        finally:
            for module, parameter in zip(ctx.holders, own, strict=True):
                module._parameters["weight"] = parameter
        asked = [one for one in given if one.requires_grad]
        found = iter(torch.autograd.grad(out, asked, gradient) if asked else ())
        of_carry = compiled.of_carry(gradient, ctx.carried) if ctx.needs_input_grad[2] else None
        return None, None, of_carry, *[next(found) if want else None for want in wanted]


def _autocast(kind: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What brings the autocast of this moment back."""
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext
    return functools.partial(torch.autocast, kind, torch.get_autocast_dtype(kind))
