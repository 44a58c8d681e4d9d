"""A short search by every strategy over every space, with results in any order; as a program it prints what was proposed."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from functools import cache

import numpy as np

import segnas.spaces
import segnas.strategies
from segnas.errors import UserError
from segnas.randomness import derive
from segnas.spaces.architecture import Architecture, identity
from segnas.spaces.choice import Space, search_spaces
from segnas.strategies.base import Event, Result, Status, Strategy, settings_of, strategies

for package in (segnas.spaces, segnas.strategies):  # whatever is there registers itself
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")

# Those of the package: other tests register some of their own.
STRATEGIES = sorted(name for name in strategies if strategies[name].__module__.startswith("segnas."))
SPACES = sorted(name for name in search_spaces if search_spaces[name].__module__.startswith("segnas."))
SMALL = {  # options with which ten proposals reach past the random ones; the others are as they come
    "evolution": {"population": 4, "sample": 2, "crossover": 0.5},
    "near-best": {"best": 2},
    "nsga2": {"population": 3},
    "ppo": {"batch": 2, "buffer": 3, "minibatch": 2, "epochs": 2, "controller": {"hidden": 8}},
    "progressive": {"first": 4, "beam": 3, "initial": 3, "refit": 2, "pool": 12, "members": 2, "steps": 5},
    "reinforce": {"batch": 2, "controller": {"hidden": 8}},
    "tpe": {"startup": 3},
}
PROPOSALS = 10
WORKERS = 3
STATUSES: tuple[Status, ...] = ("done", "done", "done", "stopped", "failed", "over budget")


@cache
def space_of(name: str) -> Space:
    """The registered space."""
    return search_spaces[name]()


def new(strategy: str, space: str, seed: int = 3) -> Strategy:
    """The strategy at its beginning, with two objectives if it follows several."""
    kind = strategies[strategy]
    return kind(space_of(space), seed, SMALL.get(strategy, {}), objectives=2 if kind.multi_objective else 1)


def takes(strategy: str, space: str) -> bool:
    """Whether the strategy searches this space; one that needs a growing space refuses the others."""
    settings_of(strategies[strategy], SMALL.get(strategy, {}))  # options that do not fit are no refusal
    try:
        new(strategy, space)
    except UserError:
        return False
    return True


@cache
def pairs() -> tuple[tuple[str, str], ...]:
    """Every strategy with every space that it takes."""
    return tuple((strategy, space) for strategy in STRATEGIES for space in SPACES if takes(strategy, space))


def values_of(architecture: Architecture, objectives: int) -> tuple[float, ...]:
    """Made-up objectives, a function of the architecture."""
    return tuple(derive(identity(architecture), objective) / 2**63 for objective in range(objectives))


def result_of(number: int, architecture: Architecture, strategy: Strategy) -> Result:
    """Some proposals fail, others are stopped."""
    status = STATUSES[derive(number, "status") % len(STATUSES)]
    scored = status in ("done", "stopped")
    return Result(number, architecture, status, values_of(architecture, strategy.objectives) if scored else None)


def course(strategy: Strategy, proposals: int = PROPOSALS) -> Iterator[Event]:
    """Asks and tells, three proposals at work at a time; which is finished next is drawn."""
    generator = np.random.default_rng(0)
    running: list[tuple[int, Architecture]] = []
    for number in range(proposals):
        architecture = strategy.ask()
        running.append((number, architecture))
        yield Event(architecture)
        if len(running) == WORKERS:
            finished = running.pop(int(generator.integers(WORKERS)))
            result = result_of(*finished, strategy)
            strategy.tell(result)
            yield Event(result.architecture, result)


def proposed(events: list[Event]) -> list[str]:
    """The identities of the architectures that were asked for, in order."""
    return [identity(event.architecture) for event in events if event.result is None]


if __name__ == "__main__":
    print(json.dumps({f"{strategy} {space}": proposed(list(course(new(strategy, space)))) for strategy, space in pairs()}))
