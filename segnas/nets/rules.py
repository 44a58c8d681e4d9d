"""How each layer of a candidate operation is computed for several edges at once, by its type.

An operation of layers that are in `RULES` needs nothing more to be fused. A rule takes the layer (that module of each edge), what
it is applied to and the statistics, and gives what comes out; it may leave work for the next rule, which does it in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets import kernels
from segnas.nets.blocks import FactorizedReduction, halved, resize
from segnas.nets.operations import AtrousConv
from segnas.nets.statistics import Layer, Statistics


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
        x, found = kernels.prepared(x, maps.before, maps.paths)
        statistics.add(maps.norms, found)
    if maps.depthwise is not None:
        x = kernels.depthwise_of(x, [module.weight for module in maps.depthwise], _window(maps.depthwise[0]))
    return x


def _computed(maps: Maps, x: Tensor, shared: bool) -> Maps:
    """x in the place of maps, with nothing left to be applied."""
    return Maps(x, maps.paths, shared)


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
