"""The two steps of a first-order bilevel search, as plain functions (DARTS, Liu et al., ICLR 2019, section 2.3 with xi = 0).

    weights       w <- w - lr * grad_w L_trainA(w, alpha)
    architecture  alpha <- alpha - lr * grad_alpha L_trainB(w, alpha)

The loop that calls them stands in the system's own file. Where several processes compute parts of a batch, `average` replaces the
gradients of each by their mean over all (Device.average), before they are clipped and used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

Average = Callable[[Sequence[Tensor]], None]  # in place, over the processes
Gradients = Sequence[Tensor | None]  # None for what the loss does not depend on: it is not moved


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


def gradients_of(loss: Tensor, variables: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The value of `loss`, then its gradient for each variable; it must depend on nothing else that has one."""
    loss.backward()
    gradients = [variable.grad for variable in variables]
    for variable in variables:
        variable.grad = None
    return loss.detach(), *gradients


def move(
    variables: Sequence[Tensor],
    gradients: Gradients,
    optimizer: Optimizer,
    clip_norm: float = 0.0,
    average: Average | None = None,
) -> None:
    """A step of the optimizer of `variables`, weights or architecture, with these gradients.

    They are averaged over the processes first, unless they are already; then their norm is clipped to `clip_norm` (0: not).
    """
    if average is not None:
        average([gradient for gradient in gradients if gradient is not None])
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient
    if clip_norm > 0:
        nn.utils.clip_grad_norm_(variables, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
