"""Local search against a plain reading: every step is to a neighbour, nothing comes twice, it restarts at optima alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from segnas.randomness import derive
from segnas.spaces.architecture import families
from segnas.spaces.choice import Choose, neighbours, size
from segnas.spaces.tabular import NasBench201, NasBench201Space
from segnas.strategies.base import Result
from segnas.strategies.local_search import LocalSearch

SPACE = NasBench201Space()


def distance(first: NasBench201, second: NasBench201) -> int:
    return sum(a != b for a, b in zip(first.edges, second.edges, strict=True))


def rugged(architecture: NasBench201) -> float:
    """A landscape with local optima: the number of convolutions and some noise."""
    return architecture.edges.count("nor_conv_3x3") + derive(architecture.name) / 2**62


def is_over(place: NasBench201, known: dict[NasBench201, float]) -> bool:
    """Whether a climb that follows what is known from here may end at an optimum, all of whose neighbours were tried."""
    around = list(neighbours(SPACE, place, np.random.default_rng(0)))
    better = [one for one in around if known.get(one, -1.0) > known[place]]
    if better:
        return any(is_over(one, known) for one in better)
    return set(around) <= set(known)


@pytest.mark.parametrize("seed", range(3))
def test_a_climb_follows_the_first_better_neighbour(seed: int) -> None:
    strategy = LocalSearch(SPACE, seed)
    known: dict[NasBench201, float] = {}
    restarts = 0
    for number in range(400):
        place = strategy.place
        architecture = strategy.ask()
        assert architecture not in known
        if strategy.place is None and place is not None:
            assert is_over(place[0], known)
            restarts += 1
        elif strategy.place is not None:
            assert distance(architecture, strategy.place[0]) == 1
        known[architecture] = rugged(architecture)
        before = strategy.place
        strategy.tell(Result(number, architecture, "done", (known[architecture],)))
        better = before is None or known[architecture] > before[1]
        assert strategy.place == ((architecture, known[architecture]) if better else before)
    assert restarts >= 2


def test_neighbours_come_in_random_order() -> None:
    orders = set()
    for seed in range(4):
        strategy = LocalSearch(SPACE, seed)
        strategy.ask()
        strategy.tell(Result(0, NasBench201(("none",) * 6), "done", (1.0,)))
        changes = [[edge != "none" for edge in strategy.ask().edges].index(True) for _ in range(12)]
        assert changes != sorted(changes), "not edge by edge"
        orders.add(tuple(changes))
    assert len(orders) == 4


def test_what_is_known_is_followed_without_a_trial() -> None:
    strategy = LocalSearch(SPACE, 1)
    told(strategy, 0, strategy.ask(), 1.0)
    around = [strategy.ask() for _ in range(24)]
    restart = strategy.ask()
    beside = next(one for one in around if distance(one, restart) > 1)
    told(strategy, 1 + around.index(beside), beside, 7.0)  # late, of the first climb
    place = list(neighbours(SPACE, beside, np.random.default_rng(0)))[5]
    told(strategy, 25, place, 2.0)
    asked = [strategy.ask() for _ in range(40)]
    assert asked[-1] not in asked[:-1]
    assert strategy.place is None or strategy.place[0] == beside
    assert sum(distance(one, beside) == 1 for one in asked) > 10


@dataclass(frozen=True)
class Pair:
    values: tuple[int, ...]


class Few:
    """6 architectures."""

    def architecture(self, choose: Choose) -> Pair:
        first = choose("values.0", (0, 1, 2))
        return Pair((first, choose("values.1", (10 + first, 20 + first))))


def test_the_whole_space_comes_before_anything_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families._members, "pair", Pair)
    for seed in range(5):
        strategy = LocalSearch(Few(), seed)
        asked = []
        for number in range(9):
            asked.append(strategy.ask())
            strategy.tell(Result(number, asked[-1], "done", (float(sum(asked[-1].values)),)))
        assert len(set(asked[: size(Few())])) == 6
        assert len(set(asked)) == 6


def told(strategy: LocalSearch, number: int, architecture: Any, score: float | None) -> None:
    strategy.tell(Result(number, architecture, "failed" if score is None else "done", None if score is None else (score,)))


def test_a_failed_start_is_no_place_to_climb_from() -> None:
    strategy = LocalSearch(SPACE, 0)
    first = strategy.ask()
    told(strategy, 0, first, None)
    second = strategy.ask()
    told(strategy, 1, second, -5.0)
    third = strategy.ask()
    assert distance(second, third) == 1
    told(strategy, 2, third, None)
    assert distance(second, strategy.ask()) == 1, "a failure does not move the climb"


def test_a_late_result_of_a_former_climb_is_not_followed() -> None:
    strategy = LocalSearch(SPACE, 1)
    start = strategy.ask()
    told(strategy, 0, start, 1.0)
    around = [strategy.ask() for _ in range(24)]
    assert {distance(start, one) for one in around} == {1}
    restart = strategy.ask()  # while all neighbours are still awaited
    assert distance(start, restart) > 1
    told(strategy, 1, around[0], 9.0)
    told(strategy, 25, restart, 0.5)
    assert distance(restart, strategy.ask()) == 1
