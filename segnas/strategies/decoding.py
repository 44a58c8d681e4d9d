"""From the probabilities of a supernet to an architecture: the strongest edges of a cell, the best path of a trellis; and how
decided they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def strongest_edges(
    alpha: np.ndarray, states: Sequence[Sequence[int]], operations: Sequence[str], keep: int = 2
) -> list[list[tuple[int, str]]]:
    """Per block the `keep` strongest predecessors, each with its best operation; `none` is never among them.

    alpha: (edges, operations) probabilities, the edges of one block after those of the former. states: per block the
    predecessors of its edges. The strength of an edge is the largest probability of an operation that is not `none`
    (DARTS, section 2.4). Returns (state, operation) per block in order of strength; ties go to the lower index.
    """
    columns = [column for column, name in enumerate(operations) if name != "none"]
    if not columns:
        raise ValueError("there is no operation but 'none'")
    cell, row = [], 0
    for predecessors in states:
        block = alpha[row : row + len(predecessors)][:, columns]
        row += len(predecessors)
        order = np.argsort(-block.max(axis=1), kind="stable")[:keep]
        cell.append([(predecessors[edge], operations[columns[int(block[edge].argmax())]]) for edge in order])
    return cell


def viterbi(beta: np.ndarray, moves: Sequence[int] = (-1, 0, 1), start: int = 0) -> tuple[int, ...]:
    """The path of largest product of move probabilities (Auto-DeepLab, section 4.2), as the level after each layer.

    beta: (layers, levels, moves) probability of the move from each level before the layer. The path starts at level
    `start` and may end at any. Moves of probability 0 are not taken; among equal paths the one of lower levels is.
    """
    layers, levels, _ = beta.shape
    with np.errstate(divide="ignore"):
        log_beta = np.log(beta.astype(np.float64))
    best = np.full(levels, -np.inf)  # log probability of the best path that ends at each level so far
    best[start] = 0.0
    came_from = np.zeros((layers, levels), dtype=int)
    for layer in range(layers):
        following = np.full(levels, -np.inf)
        for level in range(levels):
            for column, move in enumerate(moves):
                to = level + move
                if 0 <= to < levels and best[level] + log_beta[layer, level, column] > following[to]:
                    following[to] = best[level] + log_beta[layer, level, column]
                    came_from[layer, to] = level
        best = following
    if not np.isfinite(best).any():
        raise ValueError("no path has a positive probability")
    path = [int(best.argmax())]
    for layer in range(layers - 1, 0, -1):
        path.append(int(came_from[layer, path[-1]]))
    return tuple(reversed(path))


def entropy(probabilities: Tensor) -> float:
    """Mean entropy of the rows in nats; rows that sum to 0 are left out. (..., options) -> number."""
    rows = probabilities.detach().double().reshape(-1, probabilities.shape[-1])
    rows = rows[rows.sum(dim=1) > 0]
    return float(torch.special.entr(rows).sum(dim=1).mean())
