"""Progressive search: through the stages of a small growing space, and on spaces that do not grow."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segnas.errors import UserError
from segnas.spaces.architecture import Architecture, families, identity
from segnas.spaces.choice import Choose
from segnas.spaces.tabular import NASBENCH201_OPERATIONS, NasBench201, NasBench201Space
from segnas.strategies.base import Event, OtherHistory, Result, replay
from segnas.strategies.progressive import ProgressiveSearch, growing_slots

SMALL = {"steps": 20, "pool": 60}


@dataclass(frozen=True)
class ToyBlock:
    inputs: tuple[int, int]
    operations: tuple[str, str]


@dataclass(frozen=True)
class ToyCell:
    blocks: tuple[ToyBlock, ...]


@dataclass(frozen=True)
class ToySpace:
    """Cells as in PNAS; both orders of a block's sides are in the space."""

    stages: int = 3
    operations: str = "abcd"

    def architecture(self, choose: Choose) -> ToyCell:
        return ToyCell(tuple(self._block(choose, number) for number in range(self.stages)))

    def stage(self, number: int) -> ToySpace:
        return replace(self, stages=number)

    def grow(self, architecture: ToyCell) -> Iterator[ToyCell]:
        states = range(len(architecture.blocks) + 2)
        for *inputs, first, second in itertools.product(states, states, self.operations, self.operations):
            yield ToyCell((*architecture.blocks, ToyBlock((inputs[0], inputs[1]), (first, second))))

    def _block(self, choose: Choose, number: int) -> ToyBlock:
        inputs, operations = (
            tuple(choose(f"blocks.{number}.{kind}.{side}", options) for side in (0, 1))  # type: ignore[misc]
            for kind, options in (("inputs", range(number + 2)), ("operations", self.operations))
        )
        return ToyBlock(inputs, operations)  # type: ignore[arg-type]


class CanonicalSpace(ToySpace):
    """One that knows that the sides of a block may be exchanged."""

    def canonical(self, architecture: ToyCell) -> Any:
        return tuple(tuple(sorted(zip(block.inputs, block.operations, strict=True))) for block in architecture.blocks)


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families._members, "toy-cell", ToyCell)


def toy_score(architecture: ToyCell) -> float:
    """Late states and the letter d are good, and both sides of a block should do the same; the best: 0.0."""
    loss = 0.0
    for number, block in enumerate(architecture.blocks):
        first, second = (abs(ord("d") - ord(operation)) for operation in block.operations)
        loss += first + second + abs(first - second) + sum(number + 1 - state for state in block.inputs)
    return -loss / len(architecture.blocks)


def course(
    strategy: ProgressiveSearch, proposals: int, score: Callable[[Any], float | None], workers: int = 1
) -> Iterator[Event]:
    """Asks and tells; with several workers, which is finished next is drawn. A score of None is a failure."""
    draw = np.random.default_rng(0)
    running: list[tuple[int, Architecture]] = []
    for number in range(strategy.asked, strategy.asked + proposals):
        architecture = strategy.ask()
        running.append((number, architecture))
        yield Event(architecture)
        if len(running) == workers:
            done, finished = running.pop(int(draw.integers(workers)))
            value = score(finished)
            result = Result(done, finished, "failed" if value is None else "done", None if value is None else (value,))
            strategy.tell(result)
            yield Event(finished, result)


def asked(events: Iterator[Event]) -> list[Any]:
    return [event.architecture for event in events if event.result is None]


def table_score(architecture: NasBench201) -> float:
    """A made-up benchmark of one optimum, where neighbouring edges should differ."""
    worth = [NASBENCH201_OPERATIONS.index(operation) for operation in architecture.edges]
    return sum(worth) + 1.5 * sum(first != second for first, second in itertools.pairwise(worth))


@pytest.mark.parametrize(
    ("space", "first"), [(CanonicalSpace(operations="abcdefgh"), 136), (ToySpace(operations="abcdefgh"), 256)]
)
def test_the_first_stage_is_every_cell_of_one_block(space: ToySpace, first: int) -> None:
    """136 where the order of a block's sides does not count, as in the paper (section 3.1)."""
    strategy = ProgressiveSearch(space, 0, SMALL | {"beam": 3})
    found = asked(course(strategy, first, toy_score))
    assert {len(cell.blocks) for cell in found} == {1}
    assert len(set(found)) == first
    if isinstance(space, CanonicalSpace):
        assert len({space.canonical(cell) for cell in found}) == first
    assert len(strategy.ask().blocks) == 2


def test_a_search_goes_through_its_stages_to_the_optimum() -> None:
    """65 proposals in a space of 64 * 144 * 256."""
    space = CanonicalSpace()
    strategy = ProgressiveSearch(space, 1, {"first": 30, "beam": 15})
    found = asked(course(strategy, 65, toy_score))
    assert [len(cell.blocks) for cell in found] == [1] * 30 + [2] * 15 + [3] * 20, "the last 5 are of the ranking"
    assert len({space.canonical(cell) for cell in found}) == 65
    assert max(toy_score(cell) for cell in found[45:]) == 0.0
    best = sorted(found[:30], key=lambda cell: -toy_score(cell))[:15]
    assert {replace(cell, blocks=cell.blocks[:1]) for cell in found[30:45]} <= set(best)


@pytest.mark.parametrize("predictor", ["mlp", "lstm"])
def test_stages_beat_random_cells(predictor: str) -> None:
    found = asked(course(ProgressiveSearch(ToySpace(), 2, {"first": 30, "beam": 10, "predictor": predictor}), 50, toy_score))
    draw = np.random.default_rng(0)
    sides = [ToyCell(tuple(ToyBlock(*_block(draw, number)) for number in range(3))) for _ in range(1000)]
    assert np.mean([toy_score(cell) for cell in found[40:]]) > np.quantile([toy_score(cell) for cell in sides], 0.99)


def _block(draw: np.random.Generator, number: int) -> tuple[tuple[int, int], tuple[str, str]]:
    states, letters = draw.integers(number + 2, size=2), draw.integers(4, size=2)
    return (int(states[0]), int(states[1])), ("abcd"[letters[0]], "abcd"[letters[1]])


def test_what_failed_is_not_grown_and_what_has_no_result_may_be() -> None:
    strategy = ProgressiveSearch(ToySpace(), 3, SMALL | {"first": 40, "beam": 12})
    cells = [strategy.ask() for _ in range(40)]
    good = sorted(range(40), key=lambda number: -toy_score(cells[number]))
    for number in good[1:]:  # of the best there is no result yet
        if number in good[1:6]:
            strategy.tell(Result(number, cells[number], "failed", None))
        else:
            strategy.tell(Result(number, cells[number], "done", (toy_score(cells[number]),)))
    parents = {strategy.ask().blocks[0] for _ in range(12)}
    assert not parents & {cells[number].blocks[0] for number in good[1:6]}
    assert cells[good[0]].blocks[0] in parents


def test_nothing_told_or_all_failed_goes_on_at_random() -> None:
    for telling in (False, True):
        strategy = ProgressiveSearch(ToySpace(), 4, SMALL | {"first": 5})
        cells = [strategy.ask() for _ in range(5)]
        for number in range(5 if telling else 0):
            strategy.tell(Result(number, cells[number], "over budget", None))
        assert {len(strategy.ask().blocks) for _ in range(20)} == {3}
        assert not strategy.scores


def test_a_space_that_does_not_grow_is_searched_by_the_predictor() -> None:
    """80 proposals of 15,625."""
    strategy = ProgressiveSearch(NasBench201Space(), 0)
    found = asked(course(strategy, 80, table_score))
    assert len(set(found)) == 80
    best = max(
        sum(worth) + 1.5 * sum(a != b for a, b in itertools.pairwise(worth)) for worth in itertools.product(range(5), repeat=6)
    )
    assert max(map(table_score, found)) == best
    assert np.mean([table_score(cell) for cell in found[40:]]) > max(table_score(cell) for cell in found[:10])


def test_of_failures_nothing_is_learned() -> None:
    def score(architecture: NasBench201) -> float | None:
        return None if architecture.edges[0] == "none" else table_score(architecture)

    strategy = ProgressiveSearch(NasBench201Space(), 5, SMALL)
    events = list(course(strategy, 30, score))
    failed = {event.result.number for event in events if event.result and event.result.values is None}
    assert failed
    assert strategy.failed == failed
    assert set(strategy.scores) == set(range(30)) - failed


@pytest.mark.parametrize(
    ("space", "options", "proposals", "score"),
    [
        (NasBench201Space(), SMALL, 27, table_score),
        (ToySpace(), SMALL | {"first": 12, "beam": 6}, 15, toy_score),
        (CanonicalSpace(), SMALL | {"first": 12, "beam": 6}, 33, toy_score),
    ],
)
@pytest.mark.parametrize("workers", [1, 4])
def test_a_history_and_a_state_lead_to_the_same_place(
    space: Any, options: dict[str, Any], proposals: int, score: Callable[[Any], float], workers: int
) -> None:
    first, replayed, loaded = (ProgressiveSearch(space, 7, options) for _ in range(3))
    events = list(course(first, proposals, score, workers))
    assert len({event.architecture for event in events}) == proposals
    replay(replayed, events)
    loaded.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first.state_dict() == replayed.state_dict() == loaded.state_dict()
    following = [asked(course(strategy, 9, score)) for strategy in (first, replayed, loaded)]
    assert following[0] == following[1] == following[2]
    with pytest.raises(OtherHistory):
        replay(ProgressiveSearch(space, 8, options), events)


PROGRAM = """
from segnas.spaces.architecture import identity
from segnas.spaces.tabular import NasBench201Space
from segnas.strategies.base import Result
from segnas.strategies.progressive import ProgressiveSearch
strategy = ProgressiveSearch(NasBench201Space(), 11, {"steps": 20, "pool": 60})
for number in range(24):
    architecture = strategy.ask()
    print(identity(architecture))
    strategy.tell(Result(number, architecture, "done", (float(len(set(architecture.edges))),)))
"""


def test_another_process_proposes_the_same() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    strategy = ProgressiveSearch(NasBench201Space(), 11, SMALL)
    here = asked(course(strategy, 24, lambda architecture: float(len(set(architecture.edges)))))
    assert done.stdout.split() == [identity(architecture) for architecture in here]


@pytest.mark.parametrize("exploration", ["none", "bound", "members"])
def test_which_of_the_pool_is_proposed(exploration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = ProgressiveSearch(NasBench201Space(), 0, {"exploration": exploration, "refit": 2, "members": 2})
    pool = [NasBench201((operation,) * 6) for operation in NASBENCH201_OPERATIONS]
    predicted = np.array([[5.0, 9.0, 0.0, 6.0, 1.0], [5.0, 2.0, 7.0, 5.5, 1.0]])  # means 5, 5.5, 3.5, 5.75, 1
    monkeypatch.setattr(strategy, "_pool", lambda generator: (pool, predicted))
    found = Counter()  # type: ignore[var-annotated]
    for seed in range(200):
        ranked = strategy._ranked(np.random.default_rng(seed))
        found[tuple(pool.index(candidate.architecture) for candidate in ranked)] += 1
    if exploration == "members":
        assert set(found) == {(1, 3), (1, 2), (2, 1), (2, 3)}
        assert min(found.values()) > 25
    else:
        assert set(found) == {(3, 1) if exploration == "none" else (1, 2)}


def test_a_space_that_is_used_up_is_proposed_again() -> None:
    space = ToySpace(stages=1, operations="ab")

    class Fixed:
        architecture = space.architecture

    strategy = ProgressiveSearch(Fixed(), 0, SMALL)
    found = asked(course(strategy, 20, toy_score))
    assert len(set(found[:16])) == len(set(found)) == 16


def test_slots_are_averaged_over_the_numbers_that_grow() -> None:
    slot_of = growing_slots(ToySpace())
    assert slot_of("blocks.2.operations.1") == "blocks.*.operations.1"
    assert growing_slots(ToySpace(stages=1))("blocks.0.operations.1") == "blocks.0.operations.1"


def test_a_bad_option_is_one_line() -> None:
    with pytest.raises(UserError, match="beam") as error:
        ProgressiveSearch(ToySpace(), 0, {"beam": 0})
    assert "\n" not in str(error.value)
