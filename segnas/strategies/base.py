"""What a strategy is: it proposes architectures one after the other (`ask`) and is told what became of them (`tell`).

    @strategies.register("my-strategy")
    class MyStrategy(Strategy):
        def propose(self, generator):                         # the next architecture, from what was told so far
            return sample(self.space, generator)

A strategy never knows the space: it sees choices (spaces/choice.py). Whatever it draws comes from the generator that it is
given, a function of the seed and of how many it has proposed: the same events, `ask` and `tell` in the same order, always give
the same proposals. The history of a search is all that must survive (`replay`); `state_dict` only saves
the time to go through it.

Several workers: `ask` may be called again before the last proposal has its result, and results come in any order.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from segnas.config import configuration, from_dict
from segnas.errors import Registry, UserError
from segnas.randomness import numpy_generator
from segnas.runs.trials import Status
from segnas.spaces.architecture import Architecture, identity
from segnas.spaces.choice import Space
from segnas.user_files import import_file


@dataclass(frozen=True)
class Result:
    """What became of a proposal.

    number: which proposal, from 0. values: the objectives, larger is better in each (what is minimised comes negated); None when
    there are none: for "failed" and "over budget" always. A trial that was "stopped" early has what it had reached.
    """

    number: int
    architecture: Architecture
    status: Status
    values: tuple[float, ...] | None

    @property
    def score(self) -> float | None:
        """The first objective, which strategies of one objective follow."""
        return None if self.values is None else self.values[0]


@configuration
class NoOptions:
    """Of a strategy without settings."""


class Strategy(ABC):
    """One way to search. A strategy has a configuration of its own (`options`), and says so if it follows several objectives."""

    options: ClassVar[type] = NoOptions
    multi_objective: ClassVar[bool] = False

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        """options: settings by name, the others have their defaults. Raises UserError for one that is unknown or does not fit."""
        self.space, self.seed, self.objectives = space, seed, objectives
        self.config: Any = settings_of(type(self), options or {})
        self.asked = 0  # how many were proposed

    def ask(self) -> Architecture:
        """The next architecture to try."""
        architecture = self.propose(numpy_generator(self.seed, "strategy", self.asked))
        self.asked += 1
        return architecture

    @abstractmethod
    def propose(self, generator: np.random.Generator) -> Architecture:
        """The proposal number `self.asked`; all that is drawn comes from `generator`."""

    def tell(self, result: Result) -> None:  # noqa: B027  (random search does not listen)
        """Take note of a result. One without values is no score: a failure must not look like a bad architecture."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on as if all events had been replayed."""
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; the strategy is made anew, with the same space, seed and options."""
        self.asked = int(state["asked"])


strategies: Registry[type[Strategy]] = Registry("strategy")


def settings_of(kind: type[Strategy], options: Mapping[str, Any]) -> Any:
    """The configuration of a strategy; UserError for a setting that is unknown or does not fit."""
    return from_dict(kind.options, options, where="the strategy's options")


def load_strategy(name: str) -> type[Strategy]:
    """The strategy of that name, or the one in a Python file (`my_strategy.py`); UserError names the nearest."""
    import segnas.strategies as package

    for part in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segnas.strategies.{part.name}")
    if not name.endswith(".py"):
        return strategies[name]
    module = import_file(name, f"a strategy is a name ({', '.join(strategies)}) or a Python file")
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    found = [value for value in own if issubclass(value, Strategy)]
    if len(found) != 1:
        raise UserError(f"{name} must hold exactly one Strategy, found {len(found)}; docs/adding_a_strategy.md shows how")
    if found[0] not in [strategies[one] for one in strategies]:
        raise UserError(f"{name} must register its strategy, @strategies.register(NAME); docs/adding_a_strategy.md shows how")
    return found[0]


def name_of(kind: type[Strategy]) -> str:
    """The name under which a strategy is registered, which its options go by."""
    return next(name for name in strategies if strategies[name] is kind)


@dataclass(frozen=True)
class Event:
    """One line of a history: `asked` an architecture (result None), or `told` its result."""

    architecture: Architecture
    result: Result | None = None


class OtherHistory(UserError):
    """A history that the strategy, with this seed and these options, would not have made."""


def replay(strategy: Strategy, events: Iterable[Event]) -> None:
    """Bring a new strategy to where the events left another one; raises OtherHistory when it proposes something else."""
    for event in events:
        if event.result is not None:
            strategy.tell(event.result)
            continue
        proposed = strategy.ask()
        if proposed != event.architecture:
            raise OtherHistory(
                f"trial {strategy.asked - 1} of the history is {identity(event.architecture)}, and the strategy proposes "
                f"{identity(proposed)}: space, seed or options have changed; choose another --out"
            )
