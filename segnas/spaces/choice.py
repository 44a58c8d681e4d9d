"""A search space is a program that asks for choices; sampling, encoding, mutation, counting are written here, once.

    class Space:
        def architecture(self, choose: Choose) -> Architecture:
            return Network(depth=choose("depth", (1, 2, 3)), ...)

The name of a choice is the path at which the chosen option stands in the architecture's JSON (`cell.0.inputs.1`), and every
name is asked for once. Later option lists may depend on earlier choices. Whoever answers decides what happens: a random
generator samples, a table of indices rebuilds, a parent with one change mutates, a controller draws from its LSTM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np

from segnas.errors import Registry, UserError
from segnas.spaces.architecture import Architecture, to_json

T = TypeVar("T")

BASES = 8  # random architectures at which `size` looks for choices that depend on each other


class NotInSpace(UserError):
    """An architecture, or a table of indices, that no series of choices of the space gives."""


class Choose(Protocol):
    """Answers a space's questions."""

    def __call__(self, name: str, options: Sequence[T], node: bool = False, member: str = "") -> T:
        """One of `options`. Hints for controllers that attend to what is there already:

        node: the options are earlier nodes of a graph. member: the options say no and yes to one member of a set, the part of the
        architecture whose choices have names that begin so; the choices of a set are asked one after the other.
        """
        ...


class Space(Protocol):
    """A set of architectures.

    A space may have methods of its own that take the place of what is written here for all: `sample(generator)`, where uniform
    choices do not give uniform architectures, `mutate(architecture, generator)`, where its paper mutates otherwise, and
    `neighbours(architecture)`, where a small change is not that of one choice.
    """

    def architecture(self, choose: Choose) -> Architecture:
        """The architecture that the answers of `choose` give; the same answers always give the same architecture."""
        ...


class StagedSpace(Space, Protocol):
    """A space that a search may enter by stages: the last one is the space itself, those before are smaller."""

    @property
    def stages(self) -> int:
        """The number of stages."""
        ...

    def stage(self, number: int) -> Space:
        """The space of stage 1 .. stages."""
        ...


class GrowingSpace(StagedSpace, Protocol):
    """One whose architectures a progressive search grows into those of the next stage."""

    def grow(self, architecture: Architecture) -> Iterator[Architecture]:
        """Every architecture of the next stage that has this one inside, in a fixed order."""
        ...


search_spaces: Registry[Callable[[], Space]] = Registry("search space")  # each at the size of its paper


def all_spaces() -> Registry[Callable[[], Space]]:
    """The registered spaces, those of every file of this package among them."""
    import segnas.spaces as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"segnas.spaces.{module.name}")
    return search_spaces


@dataclass(frozen=True, slots=True)
class Choice:
    """One question and its answer: `options[index]`."""

    name: str
    options: tuple[Any, ...]
    index: int
    node: bool = False
    member: str = ""

    @property
    def option(self) -> Any:
        return self.options[self.index]


Answer = Callable[[str, tuple[Any, ...]], int]  # (name, options) -> index of the chosen option


def replay(space: Space, answer: Answer) -> tuple[Architecture, tuple[Choice, ...]]:
    """The architecture that `answer` gives and all the choices made, in order."""
    choices: dict[str, Choice] = {}

    def choose(name: str, options: Sequence[T], node: bool = False, member: str = "") -> T:
        if name in choices:
            raise ValueError(f"the choice '{name}' is asked for twice")
        if not options:
            raise ValueError(f"the choice '{name}' has no options")
        listed = tuple(options)
        choices[name] = Choice(name, listed, answer(name, listed), node, member)
        option: T = listed[choices[name].index]
        return option

    return space.architecture(choose), tuple(choices.values())


def sample(space: Space, generator: np.random.Generator) -> Architecture:
    """A random architecture: every choice is uniform over its options, given the choices before it, or as the space says."""
    own = getattr(space, "sample", None)
    if own is not None:
        return own(generator)
    return replay(space, lambda name, options: int(generator.integers(len(options))))[0]


def choices_of(space: Space, architecture: Architecture) -> tuple[Choice, ...]:
    """The choices that give `architecture`, in order; raises NotInSpace when none do."""
    values = to_json(architecture)

    def look_up(name: str, options: tuple[Any, ...]) -> int:
        value = _value_at(values, name)
        for index, option in enumerate(options):
            if _equal_as_json(option, value):
                return index
        allowed = ", ".join(_as_json(option) for option in options)
        raise NotInSpace(f"the architecture is not in this space: {name} is {json.dumps(value)}; allowed: {allowed}")

    rebuilt, choices = replay(space, look_up)
    if rebuilt != architecture:
        place = _first_difference(values, to_json(rebuilt))
        raise NotInSpace(f"the architecture is not in this space: it differs at {place}, which the space fixes")
    return choices


def stages_of(space: Any) -> list[Space]:
    """The stages of a space that has some, the smallest first; any other space is its only one."""
    return [space.stage(number) for number in range(1, space.stages + 1)] if callable(getattr(space, "stage", None)) else [space]


def stage_choices(space: Space, architecture: Architecture) -> tuple[Choice, ...]:
    """As `choices_of`; of a space with stages, in the last of them that holds the architecture."""
    return choices_of(stages_of(space)[stage_of(space, architecture) - 1], architecture)


def stage_of(space: Space, architecture: Architecture) -> int:
    """The last stage, from 1, of a space with stages that holds the architecture; 1 for any other space. Raises NotInSpace."""
    stages = stages_of(space)
    for number in range(len(stages), 1, -1):
        with contextlib.suppress(NotInSpace):
            choices_of(stages[number - 1], architecture)
            return number
    return 1


def encode(space: Space, architecture: Architecture) -> dict[str, int]:
    """Name of each choice -> index of its option, in the order of asking; raises NotInSpace for an architecture outside."""
    return {choice.name: choice.index for choice in choices_of(space, architecture)}


def from_indices(space: Space, indices: Mapping[str, int]) -> Architecture:
    """The inverse of `encode`; raises NotInSpace for a missing or surplus name and an index out of range."""

    def look_up(name: str, options: tuple[Any, ...]) -> int:
        if name not in indices:
            raise NotInSpace(f"the choice '{name}' has no index")
        if not 0 <= indices[name] < len(options):
            raise NotInSpace(f"the choice '{name}' has index {indices[name]}; allowed: 0 to {len(options) - 1}")
        return indices[name]

    architecture, choices = replay(space, look_up)
    surplus = set(indices) - {choice.name for choice in choices}
    if surplus:
        raise NotInSpace(f"the space has no choice '{min(surplus)}' here")
    return architecture


def mutate(space: Space, architecture: Architecture, generator: np.random.Generator) -> Architecture:
    """`architecture` with one choice changed to another of its options, both drawn uniformly, or mutated as the space says.

    The other choices keep their options; where a later list no longer holds the old one, it is drawn anew. Raises NotInSpace
    for an architecture outside, ValueError when the space has nothing to change.
    """
    own = getattr(space, "mutate", None)
    if own is not None:
        return own(architecture, generator)
    choices = choices_of(space, architecture)
    free = [choice for choice in choices if len(choice.options) > 1]
    if not free:
        raise ValueError("the space has one architecture: there is nothing to mutate")
    target = free[int(generator.integers(len(free)))]
    others = [index for index in range(len(target.options)) if index != target.index]
    changed = others[int(generator.integers(len(others)))]
    return _replay_changed(space, choices, target.name, changed, generator)[0]


def neighbours(space: Space, architecture: Architecture, generator: np.random.Generator) -> Iterator[Architecture]:
    """Every architecture that one changed choice gives, in the order of choices and options, or what the space says.

    The other choices keep their options; where a later list no longer holds the old one, it is drawn anew. Raises NotInSpace
    for an architecture outside. Options that repeat give repetitions.
    """
    own = getattr(space, "neighbours", None)
    if own is not None:
        yield from own(architecture)
        return
    choices = choices_of(space, architecture)
    for choice in choices:
        for index in range(len(choice.options)):
            if index != choice.index:
                yield _replay_changed(space, choices, choice.name, index, generator)[0]


def crossover(space: Space, first: Architecture, second: Architecture, generator: np.random.Generator) -> Architecture:
    """A child that takes each choice from either parent with equal chance.

    Where the list no longer holds that parent's option it takes the other parent's, and where it holds neither a random one.
    """
    parents = [{choice.name: choice.option for choice in choices_of(space, parent)} for parent in (first, second)]

    def inherit(name: str, options: tuple[Any, ...]) -> int:
        turn = int(generator.integers(2))
        for parent in (parents[turn], parents[1 - turn]):
            if name in parent and parent[name] in options:
                return options.index(parent[name])
        return int(generator.integers(len(options)))

    return replay(space, inherit)[0]


def enumerate_space(space: Space) -> Iterator[Architecture]:
    """Every architecture of the space, lazily; the last choice varies fastest. Options that repeat give repetitions."""
    leading: list[int] | None = []
    while leading is not None:
        architecture, choices = replay(space, _following(leading))
        yield architecture
        leading = _advance([(choice.index, len(choice.options)) for choice in choices])


def size(space: Space) -> int:
    """The exact number of series of choices that the space admits.

    Where the number of options never depends on other choices it is the product of these numbers; choices that do depend on
    each other (Auto-DeepLab's path) are enumerated, group by group. Dependences are found by trial: from several random
    architectures every choice is set to each of its options in turn. One that shows in none of these trials is missed.
    """
    generator = np.random.default_rng(0)
    bases = [replay(space, lambda name, options: int(generator.integers(len(options))))[1] for _ in range(BASES)]
    dependences = _Dependences()
    for base in bases:
        for choice in base:
            dependences.add(choice.name)
            for index in range(len(choice.options)):
                if index != choice.index:
                    dependences.compare(choice.name, base, _replay_changed(space, base, choice.name, index, generator)[1])
    counts = {choice.name: len(choice.options) for base in bases for choice in base}
    total = 1
    for group in dependences.groups():
        if group & dependences.varying:
            total *= _count_group(space, bases[0], group)
        else:
            total *= prod(counts[name] for name in group)
    return total


def discover(space: Space) -> dict[str, tuple[Choice, ...]]:
    """Every choice that can be found, by name, each with one Choice for every list of options that it was seen with.

    Found by trial: from random architectures on, every option that is offered anywhere is chosen once, all else kept as it was.
    What shows only when several answers come together may be missed.
    """
    generator = np.random.default_rng(0)
    found: dict[tuple[str, tuple[Any, ...]], Choice] = {}
    chosen: set[tuple[str, Any]] = set()
    waiting: list[tuple[tuple[Choice, ...], Choice]] = []

    def note(choices: tuple[Choice, ...]) -> None:
        for choice in choices:
            chosen.add((choice.name, choice.option))
            if (choice.name, choice.options) not in found:
                found[choice.name, choice.options] = choice
                waiting.append((choices, choice))

    for _ in range(BASES):
        note(replay(space, lambda name, options: int(generator.integers(len(options))))[1])
    while waiting:
        choices, choice = waiting.pop()
        for index, option in enumerate(choice.options):
            if (choice.name, option) not in chosen:
                note(_replay_changed(space, choices, choice.name, index, generator)[1])
    names = dict.fromkeys(name for name, _ in found)
    return {name: tuple(choice for choice in found.values() if choice.name == name) for name in names}


class _Dependences:
    """Which choices hang together: two do when changing one changes the options (or the existence) of the other."""

    def __init__(self) -> None:
        self.group_of: dict[str, set[str]] = {}
        self.varying: set[str] = set()  # choices whose number of options was seen to change

    def add(self, name: str) -> None:
        self.group_of.setdefault(name, {name})

    def compare(self, changed: str, before: Sequence[Choice], after: Sequence[Choice]) -> None:
        """Note what the change of the choice `changed` did to all others."""
        options = [{choice.name: choice.options for choice in choices} for choices in (before, after)]
        for name in options[0].keys() | options[1].keys():
            first, second = (listed.get(name, ()) for listed in options)
            if name != changed and first != second:
                self.add(name)
                self._join(changed, name)
                if len(first) != len(second):
                    self.varying.add(name)

    def groups(self) -> list[set[str]]:
        return list({id(group): group for group in self.group_of.values()}.values())

    def _join(self, first: str, second: str) -> None:
        joint = self.group_of[first] | self.group_of[second]
        for name in joint:
            self.group_of[name] = joint


class _AllAsked(Exception):
    """Every choice of a group was asked for: what the space does next cannot change their number."""


def _count_group(space: Space, base: Sequence[Choice], group: set[str]) -> int:
    """The number of series of choices within `group`; all other choices stay as in `base`."""
    kept = {choice.name: choice.option for choice in base}
    total = 0
    leading: list[int] | None = []
    while leading is not None:
        position = iter(leading)
        asked: list[tuple[int, int]] = []

        def choose(
            name: str,
            options: Sequence[T],
            node: bool = False,
            member: str = "",
            position: Any = position,
            asked: Any = asked,
        ) -> T:
            if name not in group:
                return kept[name] if name in kept and kept[name] in options else options[0]
            asked.append((next(position, 0), len(options)))
            if len(asked) == len(group):
                raise _AllAsked
            return options[asked[-1][0]]

        try:
            space.architecture(choose)
            total += 1
        except _AllAsked:
            total += asked.pop()[1]  # the last choice need not be enumerated: each of its options ends a series
        leading = _advance(asked)
    return total


def _replay_changed(
    space: Space, choices: Sequence[Choice], name: str, index: int, generator: np.random.Generator
) -> tuple[Architecture, tuple[Choice, ...]]:
    """`choices` again with option `index` for `name`; an old option that is no longer on offer is drawn anew."""
    kept = {choice.name: choice.option for choice in choices}

    def keep(asked: str, options: tuple[Any, ...]) -> int:
        if asked == name:
            return index
        if asked in kept and kept[asked] in options:
            return options.index(kept[asked])
        return int(generator.integers(len(options)))

    return replay(space, keep)


def _following(leading: Sequence[int]) -> Answer:
    """Answers with these indices, one after the other, then with 0."""
    position = iter(leading)
    return lambda name, options: next(position, 0)


def _advance(places: Sequence[tuple[int, int]]) -> list[int] | None:
    """The next indices in order, given (index, number of options) of each place; None after the last. May be shorter."""
    for place in reversed(range(len(places))):
        index, count = places[place]
        if index + 1 < count:
            return [earlier for earlier, _ in places[:place]] + [index + 1]
    return None


def _equal_as_json(option: Any, value: Any) -> bool:
    """Whether an option is written as this JSON value: 1 is neither 1.0 nor true, a tuple is a list."""
    kind = type(option)
    if kind is str or kind is int:
        return type(value) is kind and bool(value == option)
    return _as_json(option) == json.dumps(value)


def _as_json(option: Any) -> str:
    return json.dumps(option, default=dataclasses.asdict)


def _value_at(values: Any, name: str) -> Any:
    """The value at a dotted path in nested dicts and lists; raises NotInSpace when there is none."""
    for part in name.split("."):
        try:
            values = values[int(part)] if isinstance(values, list) else values[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise NotInSpace(f"the architecture is not in this space: it has no {name}") from None
    return values


def _first_difference(first: Any, second: Any) -> str:
    """The dotted path of the first leaf in which two JSON values differ."""
    leaves = [dict(_leaves(values)) for values in (first, second)]
    return next(path for path in [*leaves[0], *leaves[1]] if leaves[0].get(path) != leaves[1].get(path))


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        yield path, values
        return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
