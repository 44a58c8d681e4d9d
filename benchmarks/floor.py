"""The least that a search step could take: its arithmetic at this machine's peak, its operands at this machine's bandwidth.

Every call of a convolution, linear layer, batch norm and pooling of the plain supernet is listed with its shapes (on the meta
device: nothing is computed). With x, y input and output, w weights, MACs = elements of y * in_channels / groups * kernel area:

    convolution     floating-point operations   bytes, each operand once
    y                      2 MACs               x + w + y
    gradient of x          2 MACs               y + w + x        where x needs one
    gradient of w          2 MACs               x + y + w        in the passes for the weights

A batch norm reads x and writes y, and backward reads two and writes one; a pooling reads x and writes y, and backward the other
way. ReLU and weighted sums are left out: they can be a part of what stands before or after them. A cell of Auto-DeepLab counts
once for each direction from which it is entered; what it computes of its other input, the same for all directions, counts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from segnas.nets.operations import MixedGraph
from segnas.strategies.bilevel import frozen
from settings import Setting
from step import made

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)
BYTES = 4  # of float32


@dataclass(frozen=True)
class Work:
    """Floating-point operations of convolutions and linear layers, and bytes of operands."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, number: int) -> Work:
        """That often."""
        return Work(number * self.flops, number * self.bytes)


def convolution_work(layer: Any, x: tuple[int, ...], y: tuple[int, ...], of_x: bool, of_w: bool) -> Work:
    """A call of a convolution or linear layer, with its gradients of input and weights where they are needed.

    x, y: shapes of input and output, batch included.
    """
    products = prod(layer.weight.shape[1:])  # in_channels / groups * kernel area for each element of y
    computed = 1 + of_x + of_w
    operands = prod(x) + prod(y) + layer.weight.numel()
    return Work(2 * prod(y) * products * computed, BYTES * operands * computed)


def layer_work(layer: nn.Module, x: Tensor, y: Tensor) -> Work:
    """A call of a layer on tensors that know whether they need gradients."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return convolution_work(layer, tuple(x.shape), tuple(y.shape), x.requires_grad, layer.weight.requires_grad)
    if isinstance(layer, nn.BatchNorm2d):
        return Work(0, BYTES * x.numel() * (5 if x.requires_grad else 2))
    return Work(0, BYTES * (x.numel() + y.numel()) * (2 if x.requires_grad else 1))


def work_of_pass(network: nn.Module, *inputs: Any) -> Work:
    """One forward and backward pass of a supernet that lies on the meta device."""
    found: list[Work] = []
    seen: dict[tuple[int, int], Tensor] = {}  # inputs of edges; kept, so that no other tensor takes their place
    repeated = False

    def enter(edge: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal repeated
        repeated = (id(edge), id(given[0])) in seen
        seen[id(edge), id(given[0])] = given[0]

    def leave(*_: Any) -> None:
        nonlocal repeated
        repeated = False

    def record(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        if not repeated:
            found.append(layer_work(layer, given[0], y))

    hooks = []
    for module in network.modules():
        if isinstance(module, MixedGraph):
            hooks += [hook for edge in module.mixed for hook in (edge.register_forward_pre_hook(enter),
                                                                  edge.register_forward_hook(leave))]  # fmt: skip
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, *POOLINGS)):
            hooks.append(module.register_forward_hook(record))
        if isinstance(module, nn.BatchNorm2d):  # keeps every shape, and is slow on the meta device
            module.forward = _unchanged  # type: ignore
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(found, Work())


def _unchanged(x: Tensor) -> Tensor:
    return x


def work_of_step(setting: Setting) -> Work:
    """A whole search step, with the gradients that it uses and no others."""
    with torch.device("meta"):
        _, network, relaxation = made(setting)
        images = torch.empty(setting.batch, 3, setting.crop, setting.crop)
    network, relaxation = network.train().to("meta"), relaxation.to("meta")
    weights = work_of_pass(network, images, relaxation.mixture(detached=True))
    with frozen(list(network.parameters())):
        architecture = work_of_pass(network, images, relaxation.mixture())
    return weights.times(setting.passes["weights"]) + architecture.times(setting.passes["architecture"])


def peak_flops(size: int = 2048) -> float:
    """Floating-point operations a second of a float32 matrix product, the best of some."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / _best(lambda: a @ b)


def bandwidth(mib: int = 256) -> float:
    """Bytes a second, read and written, of a copy that no cache holds; the best of some."""
    source = torch.ones(mib * 2**18)
    target = torch.empty_like(source)
    return 2 * BYTES * source.numel() / _best(lambda: target.copy_(source))


def _best(work: Callable[[], object], times: int = 7) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
