"""Which engine computes the mixed cells of a supernet: the plain one, module by module (operations.py), or the fused one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from segnas.nets.fused import mixed_operations, plans
from segnas.nets.operations import MixedGraph
from segnas.nets.rules import RULES, layers


def choose_engine(network: nn.Module, fused: bool, recomputed: bool = False) -> None:
    """How the mixed cells of a supernet are computed from now on; its weights and results stay what they are.

    recomputed (of the fused engine): a cell is computed once more in the backward pass instead of keeping what it made.
    Raises ValueError for cells that the fused engine would compute wrongly.
    """
    for module in network.modules():
        if isinstance(module, MixedGraph):
            plans.pop(module, None)
            if fused:
                _require_fusible(module)
                _lay_out(module)
            module.fused, module.recomputed = fused, recomputed


def _lay_out(graph: MixedGraph) -> None:
    """Weights of dense convolutions as the engine takes them: so they, and their gradients, need not be rearranged."""
    for module in graph.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _require_fusible(graph: MixedGraph) -> None:
    operations = [operation for edge in mixed_operations(graph.mixed) for operation in edge.candidates.values()]
    for layer in (layer for operation in operations for layer in layers(operation)):
        if type(layer) not in RULES:
            kind = type(layer).__name__
            raise ValueError(f"the fused engine has no rule for {kind} (RULES in nets/rules.py); take the plain one")
    for layer in graph.modules():
        if isinstance(layer, nn.Conv2d) and "weight" not in layer._parameters:
            raise ValueError("the fused engine knows convolutions whose weight is a parameter of theirs only; take the plain one")
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
