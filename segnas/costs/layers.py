"""What runs when a network sees one image: every convolution and linear layer with the shape of its output."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer. Shapes are those of the input and output tensors, batch included."""

    name: str
    layer: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def multiply_adds(self) -> int:
        """Multiplications of the call (each with one addition); biases are not counted."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return prod(self.output_shape) * layer.in_features
        if isinstance(layer, TRANSPOSED):
            return prod(self.input_shape) * layer.out_channels // layer.groups * prod(layer.kernel_size)
        assert isinstance(layer, CONVOLUTIONS)
        return prod(self.output_shape) * layer.in_channels // layer.groups * prod(layer.kernel_size)


def layer_calls(module: nn.Module, input_shape: tuple[int, ...]) -> list[LayerCall]:
    """The calls of one forward pass in evaluation mode, in order; on the meta device, so that nothing is computed.

    input_shape: of the module's only argument, batch included. `module` itself stays as it is.
    """
    return consumed_calls(copy.deepcopy(module).to("meta"), input_shape)


def consumed_calls(shadow: nn.Module, input_shape: tuple[int, ...]) -> list[LayerCall]:
    """`layer_calls` of a module on the meta device, which computes nothing sensible afterwards; its parameters stay."""
    shadow.eval()
    calls: list[LayerCall] = []
    for name, layer in shadow.named_modules():
        if isinstance(layer, COUNTED):
            layer.register_forward_hook(partial(_record, calls, name))
        elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.ReLU)):  # keep every shape, and are slow on the meta device
            layer.forward = _unchanged  # type: ignore[assignment, method-assign]
    with torch.no_grad():
        shadow(torch.empty(input_shape, device="meta"))
    return calls


def _record(calls: list[LayerCall], name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    calls.append(LayerCall(name, layer, tuple(inputs[0].shape), tuple(output.shape)))


def _unchanged(x: Tensor) -> Tensor:
    return x
