"""What a search by trials is after: metrics and costs to maximise or minimise, and limits that an architecture must keep.

    Objectives.read(maximize=["mIoU"], minimize=["latency_ms"], constraints=["parameters <= 1e6"])

Names are those of an estimate's metrics and costs. A limit on a cost that is known before training is checked before it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from segnas.errors import UserError, did_you_mean

Direction = Literal["maximize", "minimize"]

COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}
COSTS = ("parameters", "multiply_adds", "latency_ms")  # what an architecture can be held against without training it


@dataclass(frozen=True)
class Constraint:
    """`name comparison limit`, such as parameters <= 1e6."""

    name: str
    comparison: str
    limit: float

    def kept(self, costs: Mapping[str, float]) -> bool:
        """Whether the costs keep it; a cost that is not known yet does not break it."""
        return self.name not in costs or COMPARISONS[self.comparison](costs[self.name], self.limit)

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.limit:,.10g}"


@dataclass(frozen=True)
class Objective:
    """A metric or cost and which way it is better."""

    name: str
    direction: Direction


@dataclass(frozen=True)
class Objectives:
    """What is sought. objectives: the first is the one that strategies of one objective follow."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def read(
        cls, maximize: Sequence[str], minimize: Sequence[str], constraints: Sequence[str], metrics: Sequence[str]
    ) -> Objectives:
        """From a configuration. metrics: what the estimator gives, the deciding one first, which is maximised when nothing is.

        Raises UserError for a name that is neither metric nor cost, one that is named twice, and for no constraint.
        """
        wanted = [Objective(name, "maximize") for name in maximize or metrics[:1]]
        wanted += [Objective(name, "minimize") for name in minimize]
        known = (*metrics, *COSTS)
        limits = tuple(_constraint(text) for text in constraints)
        for name in [one.name for one in wanted]:
            if name not in known:
                raise UserError(f"there is nothing called '{name}' to search for{did_you_mean(name, known)}")
        for limit in limits:
            if limit.name not in COSTS:
                raise UserError(f"constraints are on costs, and '{limit.name}' is none{did_you_mean(limit.name, COSTS)}")
        names = [one.name for one in wanted]
        if len(set(names)) < len(names):
            raise UserError(f"an objective is named twice: {', '.join(names)}")
        return cls(tuple(wanted), limits)

    @property
    def needs_latency(self) -> bool:
        """Whether a latency has to be measured."""
        return "latency_ms" in {*(one.name for one in self.objectives), *(limit.name for limit in self.constraints)}

    def values(self, measured: Mapping[str, float]) -> tuple[float, ...]:
        """The objectives of an estimate, in order, as they are; measured: its metrics and costs together."""
        return tuple(float(measured[one.name]) for one in self.objectives)

    def upwards(self, values: Sequence[float]) -> tuple[float, ...]:
        """The same with what is minimised negated, so that larger is better in each, as a strategy is told."""
        pairs = zip(self.objectives, values, strict=True)
        return tuple(value if one.direction == "maximize" else -value for one, value in pairs)

    def broken(self, costs: Mapping[str, float]) -> list[Constraint]:
        """The constraints that the costs break."""
        return [limit for limit in self.constraints if not limit.kept(costs)]


def _constraint(text: str) -> Constraint:
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*", text)
    try:
        if found is not None:
            return Constraint(found[1], found[2], float(found[3]))
    except ValueError:
        pass
    raise UserError(f"'{text}' is no constraint; write for example 'parameters <= 1e6'")


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the points that no other one dominates (larger is better), ascending; of equal points the first."""
    front: list[int] = []
    for index, point in enumerate(points):
        if any(_no_worse(points[other], point) for other in front):
            continue
        front = [other for other in front if not _no_worse(point, points[other])] + [index]
    return front


def _no_worse(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(ours >= theirs for ours, theirs in zip(one, other, strict=True))
