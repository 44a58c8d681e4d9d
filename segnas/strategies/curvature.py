"""The curvature of the validation loss in the architecture, and the early stop by it (Zela et al., ICLR 2020, section 4).

Searches that collapse run into sharp minima: the dominant eigenvalue of the Hessian in alpha grows before the decoded networks
get worse. The search stops when its smoothed value has grown by too much, and returns to the architecture from before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segnas.strategies.bilevel import Average

WINDOW = 5  # eigenvalues in a mean
DELTA = 4  # means between the two that are compared
FACTOR = 1.3
FROM_EPOCH = 10  # the architecture returned to is of this epoch (counted from 0) or a later one


def hessian(loss: Tensor, variables: Sequence[Tensor]) -> Tensor:
    """The exact second derivatives of a scalar `loss`, (n, n) for n numbers in all the variables; row by row."""
    gradients = torch.autograd.grad(loss, variables, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = []
    for place in range(flat.numel()):
        row = torch.autograd.grad(flat[place], variables, retain_graph=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    return torch.stack(rows)


def eigenvalues(loss: Tensor, variables: Sequence[Tensor], average: Average | None = None) -> Tensor:
    """The eigenvalues of the Hessian of `loss` in the variables, ascending, float64 on the CPU; the last one is the dominant.

    average: of the Hessian, over processes that hold parts of a batch.
    """
    matrix = hessian(loss, variables)
    if average is not None:
        average([matrix])
    matrix = matrix.double().cpu()
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


def epochs_needed(every: int) -> int:
    """The shortest search, in epochs, that can be stopped with an eigenvalue every so many epochs."""
    values = max(WINDOW + DELTA, DELTA + 1 + WINDOW // 2 - (-FROM_EPOCH // every))
    return (values - 1) * every + 1


def epoch_to_return_to(epochs: Sequence[int], eigenvalues: Sequence[float]) -> int | None:
    """The epoch whose architecture the search should return to, or None to go on.

    epochs: at which the eigenvalues were taken, evenly spaced, from 0. A mean is taken over the last WINDOW of them and stands
    for the epoch in their middle; the search stops when it is more than FACTOR times the mean DELTA places before, and returns
    to the epoch which that one stands for, if that is FROM_EPOCH or later.
    """
    if len(eigenvalues) < WINDOW + DELTA:
        return None
    latest = sum(eigenvalues[-WINDOW:]) / WINDOW
    earlier = sum(eigenvalues[-WINDOW - DELTA : -DELTA]) / WINDOW
    middle = epochs[-DELTA - 1 - WINDOW // 2]
    return middle if middle >= FROM_EPOCH and latest > FACTOR * earlier else None
