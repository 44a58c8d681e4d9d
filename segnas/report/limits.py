"""What a run was asked to stay within: budget.json (what the network may cost) and time.json (what the run may take)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from segnas.report.markup import plural, short
from segnas.runs.progress import duration

NAMES = {"max_parameters": "parameters", "max_multiply_adds": "multiply-adds", "max_latency_ms": "latency"}


@dataclass(frozen=True)
class Limit:
    """A limit and what the trained network has; `met` as the run decided it."""

    limit: float
    measured: float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Exported:
    """What the exported file has; multiply-adds are those of the network."""

    parameters: int | None = None
    latency_ms: float | None = None
    runtime: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Excess:
    """A limit that is not met: `subject` has `measured` of it."""

    name: str
    subject: str
    measured: float | None
    limit: float


@dataclass(frozen=True)
class Budget:
    """budget.json. filters: the width now and before, and the largest that it may grow to; size: (height, width) of the image."""

    limits: dict[str, Limit] = field(default_factory=dict)
    filters: int | None = None
    filters_before: int | None = None
    filters_most: int | None = None
    size: tuple[int, int] | None = None
    device: str = ""
    exported: Exported | None = None

    def of_exported(self, name: str) -> float | None:
        """What the exported file has of the cost that a limit is for; None where it was not measured."""
        if self.exported is None:
            return None
        return {"max_parameters": self.exported.parameters, "max_latency_ms": self.exported.latency_ms}.get(name)

    def exceeded(self) -> Iterator[Excess]:
        """The limits that the trained network or the exported file do not meet; what the run decided counts."""
        for name, limit in self.limits.items():
            above = limit.measured is not None and limit.measured > limit.limit
            if limit.met is False or (limit.met is None and above):
                yield Excess(name, "the trained network", limit.measured, limit.limit)
            exported = self.of_exported(name)
            if self.exported is not None and not self.exported.met and exported is not None and exported > limit.limit:
                yield Excess(name, "the exported file", exported, limit.limit)

    def met(self, name: str) -> bool | None:
        """Whether all that was measured stays within the limit; None when nothing was."""
        measured = (self.limits[name].measured, self.limits[name].met, self.of_exported(name))
        if all(value is None for value in measured):
            return None
        return all(excess.name != name for excess in self.exceeded())


@dataclass(frozen=True)
class TimeLimit:
    """time.json. search_epochs or search_trials, retrain_epochs: the preset's and what they were sized to."""

    asked_seconds: float
    used_seconds: float | None = None
    forecast_seconds: float | None = None
    search_epochs: tuple[int, int] | None = None
    retrain_epochs: tuple[int, int] | None = None
    search_trials: tuple[int, int] | None = None


def cost_in_words(name: str, value: float | None) -> str:
    """`187,654`, `18.1 ms`; a dash for None."""
    if value is None:
        return "–"
    if name != "max_latency_ms":
        return f"{value:,.0f}"
    return f"{short(value) if value >= 1 else f'{value:.3g}'} ms"


def excess_in_words(excess: Excess) -> str:
    """`the trained network has 231,004 parameters, and the limit is 200,000`."""
    noun, limit = NAMES.get(excess.name, excess.name), cost_in_words(excess.name, excess.limit)
    if excess.measured is None:
        return f"{excess.subject} exceeds the limit of {limit} on {noun}"
    if excess.name == "max_latency_ms":
        return f"{excess.subject} answers in {cost_in_words(excess.name, excess.measured)}, and the limit is {limit}"
    return f"{excess.subject} has {cost_in_words(excess.name, excess.measured)} {noun}, and the limit is {limit}"


def width_in_words(budget: Budget) -> str:
    """How the width of what was found was changed for the limits; nothing where the file does not say."""
    now, before, most = budget.filters, budget.filters_before, budget.filters_most
    if now is None or before is None:
        return ""
    if now == before:
        return f"The network keeps the width that it was searched for, {plural(now, 'filter')}."
    told = f"What was found was {'narrowed' if now < before else 'widened'} from {before} to {plural(now, 'filter')}"
    widest = ", the most that it is widened to" if now == most else ""
    return f"{told}{widest}; all other widths are in proportion."


def time_in_words(time: TimeLimit) -> str:
    """What was asked, what the epochs were sized to, the forecast and what was used."""
    sized = [
        f"the {stage} has {plural(now, unit)}{'' if now == preset else f' in place of the {preset} of the preset'}"
        for stage, unit, pair in (
            ("search", "epoch", time.search_epochs),
            ("search", "trial", time.search_trials),
            ("retraining", "epoch", time.retrain_epochs),
        )
        if pair is not None
        for preset, now in [pair]
    ]
    told = f"Sized to {duration(time.asked_seconds)}"
    if sized:
        told += f": {' and '.join(sized)}"
    spent = [
        f"{word} {duration(seconds)}"
        for word, seconds in (("forecast", time.forecast_seconds), ("used", time.used_seconds))
        if seconds is not None
    ]
    return f"{told}; {', '.join(spent)}." if spent else f"{told}."
