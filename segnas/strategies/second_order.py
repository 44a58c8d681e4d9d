"""The second-order gradient of DARTS: through one step of the weights (Liu et al., ICLR 2019, equations 6 to 8).

    w'      = w - xi * (momentum * v + grad_w L_train(w, alpha) + decay * w)            the step that SGD would take
    d alpha = grad_alpha L_val(w', alpha) - xi * H,    H = d/d alpha of grad_w L_train . grad_w' L_val
    H      ~= (grad_alpha L_train(w + eps g) - grad_alpha L_train(w - eps g)) / (2 eps),    g = grad_w' L_val, eps = 0.01 / |g|

Finite differences around w, not w', and in the published code's own epsilon: through ReLU and max pooling the quotient depends on
it, so that no other epsilon, nor the exact product, gives the same search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from segnas.strategies.bilevel import Average

Weights = Mapping[str, Tensor]


RADIUS = 0.01  # eps times the norm of g


def unrolled_gradients(
    network: nn.Module,
    train_loss: Callable[[Weights], Tensor],
    validation_loss: Callable[[Weights], Tensor],
    variables: Sequence[Tensor],
    optimizer: torch.optim.SGD,
    average: Average | None = None,
) -> tuple[list[Tensor], Tensor]:
    """The gradient of the validation loss after one unrolled step, for each architecture variable; and that loss.

    train_loss, validation_loss: weights by name -> loss, as torch.func.functional_call takes them; every name that is missing
    stays the network's own. optimizer: the one of the weights, whose rate, momentum and weight decay make the step.
    Running statistics move by the passes at w (three of them), not by the one at w'. average: over processes, of each gradient.
    """
    weights = dict(network.named_parameters())
    apart = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
    gradients = _gradients(train_loss(weights), list(weights.values()), average)
    moved = {
        name: _moved(weight, gradient, optimizer).requires_grad_(True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    loss = validation_loss({**moved, **apart})
    both = _gradients(loss, [*variables, *moved.values()], average)
    direct, direction = both[: len(variables)], both[len(variables) :]
    rate = optimizer.param_groups[0]["lr"]
    product = hessian_vector_product(train_loss, weights, direction, variables, average)
    return [first - rate * second for first, second in zip(direct, product, strict=True)], loss.detach()


def hessian_vector_product(
    train_loss: Callable[[Weights], Tensor],
    weights: Weights,
    direction: Sequence[Tensor],
    variables: Sequence[Tensor],
    average: Average | None = None,
    radius: float = RADIUS,
) -> list[Tensor]:
    """(d/d variables) (grad_weights L_train . direction) by central differences (equation 8); the weights stay as they are."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in direction]))
    epsilon = radius / norm
    sides = []
    for sign in (1, -1):
        shifted = {
            name: (weight + sign * epsilon * part).detach()
            for (name, weight), part in zip(weights.items(), direction, strict=True)
        }
        sides.append(_gradients(train_loss(shifted), variables, average))
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides, strict=True)]


def _moved(weight: Tensor, gradient: Tensor, optimizer: torch.optim.SGD) -> Tensor:
    """The weight after a step of SGD without clipping."""
    group = optimizer.param_groups[0]
    buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
    step = gradient + group["weight_decay"] * weight
    if buffer is not None:
        step = step + group["momentum"] * buffer
    return (weight - group["lr"] * step).detach()


def _gradients(loss: Tensor, of: Sequence[Tensor], average: Average | None) -> list[Tensor]:
    gradients = list(torch.autograd.grad(loss, of))
    if average is not None:
        average(gradients)
    return gradients
