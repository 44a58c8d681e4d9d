"""Regularized evolution against what its algorithm says: who is a parent how often, who leaves, who never comes in."""

from __future__ import annotations

from collections import Counter
from math import comb
from typing import Any

import numpy as np
import pytest

from segnas.spaces.tabular import NASBENCH201_OPERATIONS, NasBench201, NasBench201Space
from segnas.strategies.base import Result
from segnas.strategies.evolution import Evolution
from segnas.strategies.random_search import RandomSearch

SPACE = NasBench201Space()
UNIFORM = [NasBench201((operation,) * 6) for operation in NASBENCH201_OPERATIONS]  # children of different ones never meet


def evolved(members: list[NasBench201], scores: list[float], **options: Any) -> Evolution:
    """A strategy that was told these results, in this order, and whose random beginning is over."""
    strategy = Evolution(SPACE, 0, {"population": 4, **options})
    for _ in members:
        strategy.ask()
    for number, (member, score) in enumerate(zip(members, scores, strict=True)):
        strategy.tell(Result(number, member, "done", (score,)))
    return strategy


def parents(strategy: Evolution, draws: int) -> Counter[str]:
    """The operation of the parent of so many proposals; each is a child with one other operation."""
    found: Counter[str] = Counter()
    for _ in range(draws):
        [(operation, count), (_, one)] = Counter(strategy.ask().edges).most_common()
        assert (count, one) == (5, 1)
        found[operation] += 1
    return found


@pytest.mark.parametrize("replacement", [True, False])
def test_a_parent_is_the_best_of_a_sample(replacement: bool) -> None:
    """Of P members and a sample of S, rank k (1 the worst) is the best with (k^S - (k-1)^S) / P^S, or C(k-1, S-1) / C(P, S)."""
    scores = [0.3, 0.1, 0.4, 0.2]
    found = parents(evolved(UNIFORM[:4], scores, sample=2, replacement=replacement), 3000)
    for operation, score in zip(NASBENCH201_OPERATIONS, scores, strict=False):
        rank = round(10 * score)
        expected = (rank**2 - (rank - 1) ** 2) / 4**2 if replacement else comb(rank - 1, 1) / comb(4, 2)
        assert found[operation] / 3000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("aging", "gone"), [(True, 0), (False, 2)])
def test_the_oldest_or_the_worst_leaves(aging: bool, gone: int) -> None:
    found = parents(evolved(UNIFORM, [0.9, 0.5, 0.1, 0.5, 0.5], sample=1, aging=aging), 400)
    assert set(found) == set(NASBENCH201_OPERATIONS) - {NASBENCH201_OPERATIONS[gone]}


def test_of_equals_the_oldest_leaves_without_aging() -> None:
    found = parents(evolved(UNIFORM, [0.9, 0.5, 0.5, 0.5, 0.5], sample=1, aging=False), 400)
    assert set(found) == set(NASBENCH201_OPERATIONS) - {NASBENCH201_OPERATIONS[1]}


def test_the_first_proposals_are_random_and_the_next_ones_while_nothing_is_known() -> None:
    strategy, random = Evolution(SPACE, 5, {"population": 3}), RandomSearch(SPACE, 5)
    for number in range(8):
        architecture = strategy.ask()
        assert architecture == random.ask()
        if number < 2:  # known, but too early
            strategy.tell(Result(number, architecture, "over budget" if number else "failed", None))
    strategy.tell(Result(7, UNIFORM[3], "done", (0.5,)))
    assert set(parents(strategy, 20)) == {NASBENCH201_OPERATIONS[3]}


def test_only_scores_come_in() -> None:
    strategy = evolved(UNIFORM[:1], [0.1], sample=8)
    strategy.tell(Result(1, UNIFORM[1], "failed", None))
    strategy.tell(Result(2, UNIFORM[2], "over budget", None))
    for _ in range(4):
        strategy.ask()
    assert set(parents(strategy, 50)) == {NASBENCH201_OPERATIONS[0]}
    strategy.tell(Result(3, UNIFORM[3], "stopped", (0.2,)))
    assert NASBENCH201_OPERATIONS[3] in parents(strategy, 50)


def test_crossover_takes_from_two_parents_before_the_mutation() -> None:
    strategy = evolved(UNIFORM[:4], [0.5] * 4, sample=1, crossover=1.0)
    mixed = Counter(len(set(strategy.ask().edges)) for _ in range(300))
    assert set(mixed) <= {1, 2, 3}, "two parents and a mutation"
    assert mixed[3] > 50
    without = evolved(UNIFORM[:4], [0.5] * 4, sample=1)
    assert {len(set(without.ask().edges)) for _ in range(300)} == {2}


def test_it_climbs() -> None:
    """On a made-up landscape (the number of convolutions) the last proposals of a search are far above random ones."""
    strategy, generator = Evolution(SPACE, 0, {"population": 10, "sample": 5}), np.random.default_rng(0)
    running: list[tuple[int, NasBench201]] = []
    scores = []
    for number in range(150):
        running.append((number, strategy.ask()))
        if len(running) == 4:  # workers
            finished, architecture = running.pop(int(generator.integers(4)))
            scores.append(float(architecture.edges.count("nor_conv_3x3")))
            strategy.tell(Result(finished, architecture, "done", (scores[-1],)))
    assert np.mean(scores[:10]) < 2.5  # 6 / 5 is expected
    assert np.mean(scores[-30:]) > 3
