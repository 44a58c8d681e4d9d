"""The charts of a search by trials: the best so far over trials and over time, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from segnas.report.markup import count, percent, three_digits
from segnas.report.scatter import Dot, DotChart, Feet, Layer
from segnas.report.trials import UNITS, Objective, Point, Trial, TrialSearch

RANDOM = "random search"
COSTS = ("parameters", "multiply_adds", "latency_ms")
SCALES = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))


def shown(name: str, value: float | None) -> str:
    """A metric or a cost with its unit."""
    if value is None:
        return "–"
    unit = UNITS.get(name)
    if unit == "%":
        return percent(value)
    if name in ("parameters", "multiply_adds"):
        return count(value)
    return f"{three_digits(value)} {unit}" if unit else f"{value:.4g}"


def charts(found: TrialSearch, random: Iterable[TrialSearch] = ()) -> list[DotChart]:
    """The best so far over trials and over time; the score against what it costs, or the objectives against each other."""
    alike = [other for other in random if other.main == found.main]
    pairs = [(found.main, other) for other in found.objectives[1:]] or [(found.main, Objective("parameters", "minimize"))]
    return [over_trials(found, alike), over_time(found, alike), *(front_chart(found, *pair) for pair in pairs)]


def over_trials(found: TrialSearch, random: Iterable[TrialSearch] = ()) -> DotChart:
    """A point for each trial by its number, the best so far as a line, and that of random searches."""
    last = max((trial.number for trial in found.ended), default=0)
    layers, feet = _course(found, lambda trial: float(trial.number), 1.0)
    layers += [_random_layer(other.by_number(), max((trial.number for trial in other.ended), default=0)) for other in random]
    layers.append(Layer("best so far", "a", steps=found.by_number(), until=float(last)))
    return DotChart("Best so far, by trial", "trial", found.main.label, tuple(_once(layers)), feet, whole=True)


def over_time(found: TrialSearch, random: Iterable[TrialSearch] = ()) -> DotChart:
    """The same over the time at which a trial ended."""
    random = list(random)
    last = max((_last_end(one) for one in (found, *random)), default=0.0)
    unit, noun = time_unit(last)
    layers, feet = _course(found, lambda trial: trial.finished, unit)
    layers += [_random_layer(scaled(other.by_time(), unit), _last_end(other) / unit) for other in random]
    layers.append(Layer("best so far", "a", steps=scaled(found.by_time(), unit), until=_last_end(found) / unit))
    return DotChart("Best so far, by time", f"{noun} since the search began", found.main.label, tuple(_once(layers)), feet)


def _course(found: TrialSearch, at: Callable[[Trial], float | None], unit: float) -> tuple[list[Layer], tuple[Feet, ...]]:
    """Trials that have a score as points, the others at the foot, where `at` says in multiples of `unit`."""

    def dots(*trials: Trial) -> tuple[Dot, ...]:
        placed = [(trial, at(trial), found.score(trial)) for trial in trials]
        return tuple(Dot(x / unit, y, _told(found, trial)) for trial, x, y in placed if x is not None and y is not None)

    def places(*trials: Trial) -> tuple[tuple[float, str], ...]:
        placed = [(at(trial), trial) for trial in trials]
        return tuple((x / unit, f"trial {trial.number}: {trial.error or trial.status}") for x, trial in placed if x is not None)

    layers = [
        Layer("trials", "a", dots(*found.having("done"))),
        Layer("stopped early", "b", dots(*found.having("stopped")), look="ring"),
    ]
    refused = found.having("over budget")
    return layers, (Feet("failed", "cross", places(*found.having("failed"))), Feet("over budget", "notch", places(*refused)))


def _random_layer(steps: tuple[Point, ...], until: float) -> Layer:
    return Layer(RANDOM, "d", steps=steps, until=float(until), dashes=1)


def _once(layers: Iterable[Layer]) -> list[Layer]:
    """Layers of the same name with one entry in the legend."""
    seen: set[str] = set()
    kept = []
    for layer in layers:
        kept.append(replace(layer, name="") if layer.name in seen else layer)
        seen |= {layer.name} if layer.dots or layer.steps else set()
    return kept


def front_chart(found: TrialSearch, vertical: Objective, horizontal: Objective) -> DotChart:
    """Each trial's two figures, and the Pareto front: what no other trial beats in one without losing in the other."""
    points = [
        (trial, trial.value(horizontal.name), trial.value(vertical.name)) for trial in found.searched if found.scored(trial)
    ]
    known = {trial.number: (x, y) for trial, x, y in points if x is not None and y is not None}
    unit, noun = cost_unit(horizontal, [x for x, _ in known.values()])
    several = len(found.objectives) > 2
    front = found.front(*found.objectives) if several else found.front(vertical, horizontal)
    if len(found.objectives) == 2 and found.pareto:
        front = tuple(trial for trial in found.searched if trial.number in found.pareto)

    def dots(numbers: Iterable[int]) -> tuple[Dot, ...]:
        named = {trial.number: trial for trial, _, _ in points}
        return tuple(Dot(known[n][0] / unit, known[n][1], _told(found, named[n])) for n in numbers if n in known)

    members = dots(trial.number for trial in front)
    ordered = sorted(((dot.x, dot.y) for dot in members), reverse=horizontal.direction == "maximize")
    chosen = found.best_trial
    best = dots([chosen.number]) if chosen is not None else ()
    note = "On the front: better in one only by being worse in another."
    title = f"{vertical.title} and {horizontal.noun}"
    layers = (
        Layer("trials", "a", dots(known)),
        Layer("Pareto front", "c", members, "strong", () if several else tuple(ordered)),
        Layer("best", "b", best, "strong"),
    )
    return DotChart(title, noun, vertical.label, layers, note=note if members else "")


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit, in seconds and in words, in which so long a time reads well."""
    return (3600.0, "hours") if seconds >= 3 * 3600 else (60.0, "minutes") if seconds >= 180 else (1.0, "seconds")


def cost_unit(objective: Objective, values: Iterable[float]) -> tuple[float, str]:
    """The power of ten in which counts of this size read well, and the name of an axis in it."""
    largest = max(map(abs, values), default=0.0)
    for unit, noun in SCALES if objective.name not in UNITS else ():
        if largest >= unit:
            return unit, f"{objective.noun}, {noun}"
    return 1.0, objective.label


def scaled(points: Iterable[Point], unit: float) -> tuple[Point, ...]:
    """Points whose x is in multiples of `unit`."""
    return tuple((x / unit, y) for x, y in points)


def _last_end(found: TrialSearch) -> float:
    return max((trial.finished for trial in found.ended if trial.finished is not None), default=0.0)


def _told(found: TrialSearch, trial: Trial) -> str:
    figures_of = [f"{one.noun} {shown(one.name, trial.value(one.name))}" for one in found.objectives]
    figures_of += [f"{Objective(name).noun} {shown(name, trial.costs[name])}" for name in trial.costs if name in COSTS[:2]]
    status = "" if trial.status == "done" else f", {trial.status}"
    return f"trial {trial.number}{status}: {', '.join(dict.fromkeys(figures_of))}"
