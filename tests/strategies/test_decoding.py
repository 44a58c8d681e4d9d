"""Decoding against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from segnas.spaces.auto_deeplab import OPERATIONS, moves
from segnas.spaces.cells import edges
from segnas.strategies.decoding import entropy, strongest_edges, viterbi


def all_paths(layers: int) -> np.ndarray:
    """(paths, layers + 1) levels of every legal path from the stem, the 0 of the stem first."""
    paths: list[tuple[int, ...]] = [(0,)]
    for _ in range(layers):
        paths = [(*path, level) for path in paths for level in moves(path[-1])]
    return np.array(paths)


def probabilities(beta: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Product of the moves of each path."""
    total = np.ones(len(paths))
    for layer in range(beta.shape[0]):
        total *= beta[layer, paths[:, layer], paths[:, layer + 1] - paths[:, layer] + 1]
    return total


def random_beta(layers: int, seed: int) -> np.ndarray:
    """Rows over the legal moves of each level, normalised; sharply peaked for some seeds."""
    logits = np.random.default_rng(seed).normal(size=(layers, 4, 3)) * (1 + 3 * (seed % 3))
    logits[:, 0, 0] = logits[:, 3, 2] = -np.inf
    raised = np.exp(logits)
    return raised / raised.sum(-1, keepdims=True)


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(6))
def test_viterbi_equals_brute_force(layers: int, seed: int) -> None:
    beta, paths = random_beta(layers, seed), all_paths(layers)
    assert viterbi(beta) == tuple(paths[probabilities(beta, paths).argmax(), 1:])


def test_viterbi_equals_brute_force_over_the_paths_of_the_paper() -> None:
    paths = all_paths(12)
    assert len(paths) == 75_025
    for seed in range(5):
        beta = random_beta(12, seed)
        assert viterbi(beta) == tuple(paths[probabilities(beta, paths).argmax(), 1:])


def test_viterbi_in_float32_of_a_sharp_beta_and_moves_of_probability_zero() -> None:
    beta = np.zeros((3, 4, 3), dtype=np.float32)
    beta[0, 0, 2] = beta[1, 1, 2] = 1.0
    beta[2, 2] = 1e-38, 0.0, 1e-40  # the smaller number is subnormal
    assert viterbi(beta) == (1, 2, 1)
    with pytest.raises(ValueError, match="no path"):
        viterbi(np.zeros((2, 4, 3)))


def test_equal_paths_give_the_lower_levels() -> None:
    assert viterbi(np.full((5, 4, 3), 0.25)) == (0, 0, 0, 0, 0)
    beta = np.full((2, 4, 3), 0.25)
    beta[1, :, :] = 0.0
    beta[1, 0, 2] = beta[1, 1, 1] = 0.25  # 0-0-1 and 0-1-1
    assert viterbi(beta) == (0, 1)


def states_of(blocks: int) -> list[list[int]]:
    return [[state for block, state in edges(blocks) if block == number] for number in range(blocks)]


def brute_force_block(alpha: np.ndarray, states: list[int], keep: int) -> set[tuple[int, str]]:
    """Of all ways to take `keep` different edges with one real operation each, the one of largest sum."""
    real = [column for column, name in enumerate(OPERATIONS) if name != "none"]

    def candidates() -> Iterator[tuple[float, set[tuple[int, str]]]]:
        for chosen in itertools.combinations(range(len(states)), keep):
            for columns in itertools.product(real, repeat=keep):
                pairs = list(zip(chosen, columns, strict=True))
                yield sum(alpha[edge, column] for edge, column in pairs), {(states[e], OPERATIONS[c]) for e, c in pairs}

    return max(candidates(), key=lambda candidate: candidate[0])[1]


@pytest.mark.parametrize("seed", range(8))
def test_the_strongest_edges_equal_brute_force(seed: int) -> None:
    """Also where `none` has nearly all the probability of an edge."""
    generator = np.random.default_rng(seed)
    alpha = generator.dirichlet(np.ones(8), size=len(edges(5)))
    crowded = generator.random(len(alpha)) < 0.5
    alpha[crowded] *= 0.01
    alpha[crowded, 0] += 0.99
    found = strongest_edges(alpha, states_of(5), OPERATIONS)
    row = 0
    for states, block in zip(states_of(5), found, strict=True):
        assert set(block) == brute_force_block(alpha[row : row + len(states)], states, 2)
        row += len(states)


def test_the_order_is_that_of_strength_and_ties_go_to_the_lower_index() -> None:
    alpha = np.zeros((5, 8))
    alpha[:, 0] = 1.0
    assert strongest_edges(alpha, states_of(2), OPERATIONS) == [[(0, OPERATIONS[1]), (1, OPERATIONS[1])]] * 2
    alpha[4, 3], alpha[3, 7], alpha[2, 6] = 0.2, 0.3, 0.1
    second = strongest_edges(alpha, states_of(2), OPERATIONS)[1]
    assert second == [(1, OPERATIONS[7]), (2, OPERATIONS[3])]
    assert strongest_edges(alpha, states_of(2), OPERATIONS, keep=1)[1] == second[:1]


def test_only_none_is_refused() -> None:
    with pytest.raises(ValueError, match="none"):
        strongest_edges(np.ones((2, 1)), [[0, 1]], ["none"])


def test_entropy_is_the_mean_over_rows_that_hold_something() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(5), size=(4, 3))
    rows[1, 2] = 0  # a node that does not exist
    rows[2, 0] = [0, 1, 0, 0, 0]
    expected = [-(row[row > 0] * np.log(row[row > 0])).sum() for row in rows.reshape(-1, 5) if row.sum() > 0]
    assert len(expected) == 11
    assert entropy(torch.from_numpy(rows)) == pytest.approx(np.mean(expected), abs=1e-12)
    assert entropy(torch.full((2, 4), 0.25)) == pytest.approx(np.log(4))
