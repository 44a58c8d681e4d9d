"""The two steps of a first-order bilevel search, as plain functions (DARTS, Liu et al., ICLR 2019, section 2.3 with xi = 0).

    weights       w <- w - lr * grad_w L_trainA(w, alpha)
    architecture  alpha <- alpha - lr * grad_alpha L_trainB(w, alpha)

The loop that calls them stands in the system's own file. Where several processes compute parts of a batch, `average` replaces the
gradients of each by their mean over all (Device.average), before they are clipped and used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

Average = Callable[[Sequence[Tensor]], None]  # in place, over the processes


@contextlib.contextmanager
def frozen(weights: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block a loss is computed as of fixed weights: nothing is kept, or computed, for gradients of theirs."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def architecture_step(
    loss: Tensor, variables: Sequence[Tensor], optimizer: torch.optim.Optimizer, average: Average | None = None
) -> None:
    """Move the architecture variables against the gradient of `loss`, computed while the weights are `frozen`."""
    gradients = torch.autograd.grad(loss, variables)
    if average is not None:
        average(gradients)
    move(variables, gradients, optimizer)


def move(variables: Sequence[Tensor], gradients: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimizer of `variables` with these gradients."""
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def weight_step(
    loss: Tensor,
    weights: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    average: Average | None = None,
) -> None:
    """Move the weights against the gradient of `loss`, its norm clipped to `clip_norm` (0: not clipped).

    The mixture must have been built from detached variables: then no gradient of the architecture is computed.
    """
    loss.backward()
    if average is not None:
        average([weight.grad for weight in weights if weight.grad is not None])
    if clip_norm > 0:
        nn.utils.clip_grad_norm_(weights, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def entropy(probabilities: Tensor) -> float:
    """Mean entropy of the rows in nats; rows that sum to 0 are left out. (..., options) -> number."""
    rows = probabilities.detach().double().reshape(-1, probabilities.shape[-1])
    rows = rows[rows.sum(dim=1) > 0]
    return float(torch.special.entr(rows).sum(dim=1).mean())
