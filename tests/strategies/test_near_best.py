"""Search near the best: what share is random, and that the rest are mutations of the best that have scores."""

from __future__ import annotations

import pytest

from segnas.spaces.choice import all_spaces, encode
from segnas.strategies.base import Result
from segnas.strategies.near_best import NearBest


def distance(first: dict[str, int], second: dict[str, int]) -> int:
    return sum(first[name] != second[name] for name in first)


def test_proposals_are_near_one_of_the_best_or_random() -> None:
    space = all_spaces()["dpc"]()
    strategy = NearBest(space, 0, {"best": 2, "changes": 2})
    for number in range(20):
        architecture = strategy.ask()
        strategy.tell(Result(number, architecture, "done", (float(number % 7 + number / 100),)))
    best = [encode(space, architecture) for _, _, architecture in strategy.best]
    assert [number for _, number, _ in strategy.best] == [13, 6]
    near = 0
    for _ in range(400):
        proposed = encode(space, strategy.ask())
        near += min(distance(proposed, one) for one in best) <= 2
    assert near / 400 == pytest.approx(0.5, abs=0.08)  # a random cell of 4.2e11 is never so near


def test_nothing_but_random_before_a_score_and_failures_are_none() -> None:
    strategy = NearBest(all_spaces()["nasbench201"](), 0, {"random": 0.0})
    first = strategy.ask()
    strategy.tell(Result(0, first, "failed", None))
    assert strategy.best == []
    assert len({strategy.ask() for _ in range(20)}) > 10
    strategy.tell(Result(1, first, "done", (1.0,)))
    assert all(distance(encode(strategy.space, strategy.ask()), encode(strategy.space, first)) in (0, 1, 2) for _ in range(20))
