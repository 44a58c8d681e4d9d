"""What every registered strategy keeps to over every registered space: repeatable, legal, resumable, no failure is a score."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from courses import PROPOSALS, SPACES, STRATEGIES, course, new, pairs, proposed, space_of

from segnas.errors import UserError
from segnas.spaces.architecture import Architecture, from_json, identity, to_json
from segnas.spaces.choice import NotInSpace, Space, encode
from segnas.strategies.base import Event, OtherHistory, Result, Strategy, replay, strategies

ALL = pytest.mark.parametrize(("strategy", "space"), pairs())


@cache
def searched(strategy: str, space: str) -> tuple[Strategy, list[Event]]:
    """A strategy after its course, and the history."""
    searching = new(strategy, space)
    return searching, list(course(searching))


def events(strategy: str, space: str) -> list[Event]:
    return searched(strategy, space)[1]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, list[str]]:
    """What another process proposes, with another order of Python's sets."""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, str(Path(__file__).with_name("courses.py"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def in_space(space: Space, architecture: Architecture) -> bool:
    """Whether the space, or one of its stages, has the architecture."""
    for candidate in [space, *(space.stage(number) for number in range(1, getattr(space, "stages", 0) + 1))]:  # type: ignore[attr-defined]
        try:
            encode(candidate, architecture)
        except NotInSpace:
            continue
        return True
    return False


def test_every_strategy_and_every_space_takes_part() -> None:
    assert {strategy for strategy, _ in pairs()} == set(STRATEGIES) >= {"random", "evolution", "local-search", "nsga2", "tpe"}
    assert {space for _, space in pairs()} == set(SPACES) >= {"auto-deeplab", "darts", "nasbench201", "transnas-macro"}
    for strategy, space in itertools.product(STRATEGIES, SPACES):
        if (strategy, space) not in pairs():
            with pytest.raises(UserError) as refusal:
                new(strategy, space)
            assert "\n" not in str(refusal.value)
            assert not hasattr(space_of(space), "stage"), "only a space that does not grow may be refused"


@ALL
def test_a_seed_gives_the_same_proposals(strategy: str, space: str, elsewhere: dict[str, list[str]]) -> None:
    expected = proposed(events(strategy, space))
    assert len(expected) == PROPOSALS
    assert elsewhere[f"{strategy} {space}"] == expected


@pytest.mark.parametrize("strategy", strategies)
def test_another_seed_gives_others(strategy: str) -> None:
    space = next(space for name, space in pairs() if name == strategy)
    assert len({tuple(proposed(list(course(new(strategy, space, seed))))) for seed in range(4)}) > 1


@ALL
def test_proposals_are_legal(strategy: str, space: str) -> None:
    for event in events(strategy, space):
        assert in_space(space_of(space), event.architecture)
        assert from_json(to_json(event.architecture)) == event.architecture


@ALL
def test_a_stored_history_leads_to_the_same_place(strategy: str, space: str) -> None:
    """By going through it again, which also checks every proposal, and by the state; results came out of order, and two are
    still awaited."""
    first, history = searched(strategy, space)
    replayed, loaded = new(strategy, space), new(strategy, space)
    replay(replayed, history)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))  # which takes tensors and plain values alone
    told = {event.result.number for event in history if event.result is not None}
    asked = [event.architecture for event in history if event.result is None]
    late = [Result(number, asked[number], "done", (0.99,) * first.objectives) for number in {*range(PROPOSALS)} - told]
    courses = []
    for going_on in (first, replayed, loaded):
        going_on.tell(late[0])
        ids = [identity(going_on.ask())]
        for result in late[1:]:
            going_on.tell(result)
        courses.append([*ids, *(identity(going_on.ask()) for _ in range(3))])
    assert courses[0] == courses[1] == courses[2]


@pytest.mark.parametrize("strategy", strategies)
def test_another_history_is_noticed(strategy: str) -> None:
    space = next(space for name, space in pairs() if name == strategy)
    seeds = [list(course(new(strategy, space, seed))) for seed in range(4)]
    other = next(history for history in seeds if proposed(history) != proposed(events(strategy, space)))
    with pytest.raises(OtherHistory, match="choose another --out"):
        replay(new(strategy, space), other)


@ALL
def test_a_failure_is_no_score(strategy: str, space: str) -> None:
    """A search in which nothing succeeds learns no number, and goes on."""
    searching = new(strategy, space)
    asked = [searching.ask() for _ in range(PROPOSALS)]
    before = Counter(numbers(searching.state_dict()))
    for number in reversed(range(PROPOSALS)):
        searching.tell(Result(number, asked[number], "failed" if number % 2 else "over budget", None))
    assert Counter(numbers(searching.state_dict())) <= before
    assert in_space(space_of(space), searching.ask())


def numbers(state: Any) -> Iterator[Any]:
    """Every number that is no whole one in a state, with what tensors hold."""
    if isinstance(state, torch.Tensor):
        yield (tuple(state.shape), tuple(state.flatten().tolist()))
    elif isinstance(state, dict):
        for value in state.values():
            yield from numbers(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from numbers(value)
    elif isinstance(state, float):
        yield state


@pytest.mark.parametrize("strategy", strategies)
def test_an_unknown_option_is_one_line(strategy: str) -> None:
    with pytest.raises(UserError, match="unknown key 'no_such_option'") as error:
        strategies[strategy](space_of("nasbench201"), 0, {"no_such_option": 1})
    assert "\n" not in str(error.value)
