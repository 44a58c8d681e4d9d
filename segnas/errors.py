"""Errors a user can mend, and the registries that name what there is.

Every message is one line: what was wrong, what is allowed, what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake in what was asked for. `str(error)` is one line for the person who asked; never shown with a traceback."""


class Disconnected(UserError):
    """Another process of the command ended, and what is computed together cannot go on; that process says why."""


class Diverged(UserError):
    """A training whose loss or weights are no numbers any more. Every process of a run raises it at the same step."""


class Interrupted(Exception):
    """Ctrl-C (or SIGTERM) was met between two steps and everything was saved. `str(error)` says how to go on."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest allowed name, or the list of allowed names when none is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(names) or 'nothing'}"


class Registry(Generic[T]):
    """Named members of one kind, filled by a decorator: `@systems.register("darts")`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that files its argument under `name`; a name is taken once."""

        def file(member: T) -> T:
            if name in self._members:
                raise ValueError(f"the {self.kind} '{name}' is registered twice")
            self._members[name] = member
            return member

        return file

    def __getitem__(self, name: str) -> T:
        """The member; raises UserError with the nearest name when there is none."""
        if name not in self._members:
            raise UserError(f"unknown {self.kind} '{name}'{did_you_mean(name, self._members)}")
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._members))

    def __len__(self) -> int:
        return len(self._members)
