"""A budget, and the widest version of an architecture that stays within it.

    fitted = fit(architecture, BudgetConfig(max_parameters=1_000_000), size=(96, 128), num_classes=12)
    fitted.architecture, fitted.filters

What was found is kept: only its width changes (spaces/width.py), up or down. Parameters and multiply-adds are exact and grow
with the width, so that the answer is the largest width within them. Latency is measured, a few widths of those only, and the
width that is returned was itself measured within the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from segnas.config import configuration
from segnas.costs.counts import Counts, count
from segnas.errors import UserError
from segnas.spaces.architecture import Architecture
from segnas.spaces.width import filters_of, smallest_filters, with_filters

MeasureLatency = Callable[[Architecture], float]  # milliseconds, which a limit is held against

MOST = 16  # times the original width: beyond it a budget is no reason to grow further
HOPELESS = 3  # times the limit: a latency above it is no accident of the measurement
ADVICE_DIGITS = 2  # of a latency that would do: a second measurement of the same network may be a little longer


@configuration
class BudgetConfig:
    """The most that a network may cost for one image; None: no limit.

    max_multiply_adds, max_latency_ms: at the size at which the network sees the images that it is evaluated on. A width is
    chosen so that the upper quartile of its latencies lies within the limit, and the median with some room (training/timing.py).
    device: on which the latency is measured, such as cpu or cuda:0; empty: the run's own.
    """

    max_parameters: PositiveInt | None = None
    max_multiply_adds: PositiveInt | None = None
    max_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    device: str = ""

    def __post_init__(self) -> None:
        if self.device and self.max_latency_ms is None:
            raise ValueError("device says where max_latency_ms counts, which is not set (device.accelerator is where to train)")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name; empty: nothing is limited."""
        limits = {
            "max_parameters": self.max_parameters,
            "max_multiply_adds": self.max_multiply_adds,
            "max_latency_ms": self.max_latency_ms,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Costs:
    """What is held against the limits. latency_ms: None when it was not measured."""

    parameters: int
    multiply_adds: int
    latency_ms: float | None

    def of(self, limit: str) -> float:
        """The cost that the limit of this name is for."""
        cost = getattr(self, limit.removeprefix("max_"))
        assert cost is not None
        return float(cost) if limit == "max_latency_ms" else int(cost)


@dataclass(frozen=True)
class Fitted:
    """An architecture scaled to a budget. size: (height, width) that multiply-adds and latency are for."""

    architecture: Architecture
    filters: int
    filters_before: int
    counts: Counts
    latency_ms: float | None  # by which the width was chosen; None: no limit asked for it
    limits: dict[str, float]
    size: tuple[int, int]

    @property
    def filters_most(self) -> int:
        """The width at which growing ends."""
        return MOST * self.filters_before

    @property
    def costs(self) -> Costs:
        return Costs(self.counts.parameters, self.counts.multiply_adds, self.latency_ms)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; each limit stands beside what was measured."""
        return {
            "filters": self.filters,
            "filters_before": self.filters_before,
            "filters_most": self.filters_most,
            "size": list(self.size),
            "parameters": self.counts.parameters,
            "multiply_adds": self.counts.multiply_adds,
            "latency_ms": self.latency_ms,
            "limits": {name: {"limit": limit, "measured": self.costs.of(name)} for name, limit in self.limits.items()},
        }


def fit(
    architecture: Architecture,
    budget: BudgetConfig,
    size: tuple[int, int],
    num_classes: int,
    measure_latency_ms: MeasureLatency | None = None,
) -> Fitted:
    """`architecture` at the largest width within every limit, at most 16 times its own; as it is when nothing is limited.

    measure_latency_ms: needed for a limit on the latency only; called for widths within the other limits, and never for one more
    than twice as wide as a width that it found fast enough (or wider than the original, if there is none yet). A latency above
    the limit, but not hopelessly so, is measured a second time and the shorter one counts: a busy machine only ever adds.

    Raises UserError when even the smallest width exceeds a limit (with the smallest limit that would do), and for a family whose
    width cannot be changed.
    """
    meter = _Meter(size, num_classes, measure_latency_ms, budget.max_latency_ms)
    before, smallest = filters_of(architecture), smallest_filters(architecture)
    limits = budget.limits
    counted = {name: limit for name, limit in limits.items() if name != "max_latency_ms"}

    def within(filters: int, limits: Mapping[str, float]) -> bool:
        return not _exceeded(meter.costs(with_filters(architecture, filters), "max_latency_ms" in limits), limits)

    filters: int | None = before
    if limits:
        filters = largest_that(lambda filters: within(filters, counted), smallest, before, MOST * before)
    if filters is not None and "max_latency_ms" in limits:
        filters = largest_that(lambda filters: within(filters, limits), smallest, min(before, filters), filters)
    if filters is None:
        least = meter.costs(with_filters(architecture, smallest), "max_latency_ms" in limits)
        raise UserError(_refusal("the smallest width of this network", least, limits, size))
    chosen = with_filters(architecture, filters)
    latency_ms = meter.latency_ms(chosen) if "max_latency_ms" in limits else None
    return Fitted(chosen, filters, before, meter.counts(chosen), latency_ms, limits, size)


def smallest_costs(
    architectures: Sequence[Architecture],
    size: tuple[int, int],
    num_classes: int,
    measure_latency_ms: MeasureLatency | None = None,
) -> Costs:
    """What all of the architectures stay within at their smallest widths: for each cost that of the one that needs most.

    The latency is measured where there is a function for it. At least one architecture.
    """
    return _smallest_costs(architectures, _Meter(size, num_classes, measure_latency_ms), measure_latency_ms is not None)


def _smallest_costs(architectures: Sequence[Architecture], meter: _Meter, timed: bool) -> Costs:
    found = [meter.costs(with_filters(one, smallest_filters(one)), timed) for one in architectures]
    latencies = [costs.latency_ms for costs in found if costs.latency_ms is not None]
    return Costs(
        parameters=max(costs.parameters for costs in found),
        multiply_adds=max(costs.multiply_adds for costs in found),
        latency_ms=max(latencies) if latencies else None,
    )


def require_possible(
    budget: BudgetConfig,
    architectures: Sequence[Architecture],
    size: tuple[int, int],
    num_classes: int,
    measure_latency_ms: MeasureLatency | None = None,
) -> None:
    """Refuse a budget that one of these architectures cannot meet at any width: several are samples of a space to be searched,
    a single one is what will be trained.

    Raises UserError with the smallest limits that would do for all of them. The latency is measured when it is limited.
    """
    limits = budget.limits
    if not limits:
        return
    meter = _Meter(size, num_classes, measure_latency_ms, budget.max_latency_ms)
    costs = _smallest_costs(architectures, meter, "max_latency_ms" in limits)
    if _exceeded(costs, limits):
        subject = "this network" if len(architectures) == 1 else "a network that the search may find"
        raise UserError(_refusal(f"the smallest width of {subject}", costs, limits, size))


def nearest_multiply_adds(
    architecture: Architecture, target: int, size: tuple[int, int], num_classes: int, limits: Mapping[str, float] | None = None
) -> Architecture:
    """`architecture` at the width whose multiply-adds are nearest to `target`, the narrower of two that are equally near.

    limits: of a budget; those on parameters and multiply-adds are kept, unless the smallest width exceeds them.
    """
    counted = {name: limit for name, limit in (limits or {}).items() if name != "max_latency_ms"}
    meter = _Meter(size, num_classes)

    def multiply_adds(filters: int) -> int:
        return meter.counts(with_filters(architecture, filters)).multiply_adds

    smallest = smallest_filters(architecture)
    below = largest_that(lambda filters: multiply_adds(filters) <= target, smallest, filters_of(architecture))
    candidates = (smallest,) if below is None else (below, below + 1)
    if any(_exceeded(meter.costs(with_filters(architecture, filters), False), counted) for filters in candidates):

        def within(filters: int) -> bool:
            return not _exceeded(meter.costs(with_filters(architecture, filters), False), counted)

        candidates = (largest_that(within, smallest, candidates[0], candidates[-1]) or smallest,)
    return with_filters(architecture, min(candidates, key=lambda filters: abs(multiply_adds(filters) - target)))


def largest_that(passes: Callable[[int], bool], smallest: int, start: int, largest: float = math.inf) -> int | None:
    """The largest number from `smallest` to `largest` that passes; None when not even the smallest does.

    Doubles or halves from `start`, then bisects: exact where every number below one that passes does too. Where `passes` is
    noisy, the number returned passed, and the next one (unless it is above `largest`) did not.
    """
    low, high = 0, start  # passed; did not pass
    while passes(high):
        if high == largest:
            return high
        low, high = high, int(min(2 * high, largest))
    while low < smallest:  # nothing passed yet
        if high == smallest:
            return None
        middle = max(high // 2, smallest)
        low, high = (middle, high) if passes(middle) else (low, middle)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


class _Meter:
    """Costs for images of one size, each counted once an architecture; how it measures latencies is told in `fit`."""

    def __init__(
        self,
        size: tuple[int, int],
        num_classes: int,
        measure_latency_ms: MeasureLatency | None = None,
        max_latency_ms: float | None = None,
    ) -> None:
        self.size, self.num_classes, self.measure = size, num_classes, measure_latency_ms
        self.max_latency_ms = math.inf if max_latency_ms is None else max_latency_ms
        self._counts: dict[Architecture, Counts] = {}
        self._latencies: dict[Architecture, float] = {}

    def counts(self, architecture: Architecture) -> Counts:
        if architecture not in self._counts:
            self._counts[architecture] = count(architecture, self.size, self.num_classes)
        return self._counts[architecture]

    def latency_ms(self, architecture: Architecture) -> float:
        if self.measure is None:
            raise ValueError("a limit on the latency needs a function that measures it")
        if architecture not in self._latencies:
            latency_ms = float(self.measure(architecture))
            if self.max_latency_ms < latency_ms <= HOPELESS * self.max_latency_ms:
                latency_ms = min(latency_ms, float(self.measure(architecture)))
            self._latencies[architecture] = latency_ms
        return self._latencies[architecture]

    def costs(self, architecture: Architecture, timed: bool) -> Costs:
        counts = self.counts(architecture)
        return Costs(counts.parameters, counts.multiply_adds, self.latency_ms(architecture) if timed else None)


def _exceeded(costs: Costs, limits: Mapping[str, float]) -> list[str]:
    return [name for name, limit in limits.items() if not costs.of(name) <= limit]


def _refusal(subject: str, costs: Costs, limits: Mapping[str, float], size: tuple[int, int]) -> str:
    """One line: each limit that is exceeded, by what, and the smallest value that would do."""
    needs = {
        "max_parameters": f"has {costs.parameters:,} parameters",
        "max_multiply_adds": f"has {costs.multiply_adds:,} multiply-adds at {size[0]}x{size[1]}",
        "max_latency_ms": f"took {costs.latency_ms or 0:.3g} ms at {size[0]}x{size[1]} when measured here just now",
    }
    return "; also ".join(
        f"{name}={limits[name]:,} cannot be met: {subject} {needs[name]}; "
        f"use --{name.replace('_', '-')} {_that_would_do(costs.of(name))} or more"
        for name in _exceeded(costs, limits)
    )


def _that_would_do(cost: float) -> str:
    """The cost as a limit: exact for a count, a time rounded up."""
    if isinstance(cost, int):
        return str(cost)
    return f"{Context(prec=ADVICE_DIGITS, rounding=ROUND_CEILING).create_decimal(Decimal(repr(cost))).normalize():f}"
