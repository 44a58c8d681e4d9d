"""Schedules as plain functions of the step, optimizers with their parameter groups, and the moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def polynomial(step: int, steps: int, start: float, end: float = 0.0, power: float = 0.9) -> float:
    """`(start - end) (1 - step / steps)^power + end` (the "poly" schedule of DeepLab); `end` from `steps` on."""
    remaining = 1 - min(step, steps) / max(1, steps)
    return (start - end) * remaining**power + end


def cosine(step: int, steps: int, start: float, end: float = 0.0) -> float:
    """Half a cosine from `start` at step 0 to `end` at `steps` (SGDR without restarts, Loshchilov and Hutter, 2017)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step, steps) / max(1, steps))) / 2


def warm_up(step: int, warmup_steps: int) -> float:
    """The factor of a linear warm-up: `(step + 1) / warmup_steps`, then 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Use `value` in every parameter group from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = value


def parameter_groups(network: nn.Module, weight_decay: float, decay_all: bool = True) -> list[dict[str, Any]]:
    """All trainable parameters of `network`, decayed; with `decay_all=False` biases and normalisation layers are not."""
    if decay_all:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "weight_decay": weight_decay}]
    spared = {
        id(parameter)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, NORMALIZATIONS)
    }
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def sgd(groups: Iterable[dict[str, Any]], learning_rate: float, momentum: float = 0.9, nesterov: bool = False) -> SGD:
    """Stochastic gradient descent with momentum; one fused call a step."""
    return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, fused=True)


def adamw(groups: Iterable[dict[str, Any]], learning_rate: float, momentum: float = 0.9) -> AdamW:
    """Adam with decoupled weight decay; `momentum` is its first beta. One fused call a step."""
    return AdamW(groups, lr=learning_rate, betas=(momentum, 0.999), fused=True)


def optimizer_of(
    name: str, groups: Iterable[dict[str, Any]], learning_rate: float, momentum: float, nesterov: bool = False
) -> Optimizer:
    """The optimizer that a recipe names, "sgd" or "adamw"."""
    return sgd(groups, learning_rate, momentum, nesterov) if name == "sgd" else adamw(groups, learning_rate, momentum)


def set_batch_norm_momentum(network: nn.Module, momentum: float) -> None:
    """The weight of a batch in the running statistics of every batch norm (PyTorch's sense: 1 minus TensorFlow's decay)."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


class ExponentialMovingAverage:
    """A copy of a network whose parameters follow it as `average <- d average + (1 - d) network`.

    d = min(decay, (1 + updates) / (10 + updates)), TensorFlow's rule: a short training is no average of its beginning.
    Buffers (running statistics) are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow `network` after one of its steps."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return {"weights": weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.network.load_state_dict(state["weights"])
        self.updates = int(state["updates"])
