"""Draw it: single points, and lines that hold a value until the next one (the best so far, a Pareto front), as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from segnas.report.markup import Markup, join, short, tag
from segnas.report.plots import BOTTOM, HEIGHT, WIDTH, LineChart, Scale, Series, axes, scales
from segnas.report.trials import Point

MOST_DOTS = 1000  # of a layer; of more, every second, third, ... is drawn
MOST_TOLD = 300  # of a layer; more do not tell their value on hovering
RADIUS = {"pale": 2.6, "ring": 3.0, "strong": 4.2}

Look = Literal["pale", "ring", "strong"]


@dataclass(frozen=True)
class Dot:
    """A point and what it says on hovering."""

    x: float
    y: float
    told: str


@dataclass(frozen=True)
class Layer:
    """Points and a line in one colour. steps: corners, each value holds until the next; until: the x at which the last one ends.

    hue: a class of report.css; dashes: 0 for a solid line, 1 or 2 for a dashed one.
    """

    name: str
    hue: str
    dots: tuple[Dot, ...] = ()
    look: Look = "pale"
    steps: tuple[Point, ...] = ()
    until: float | None = None
    dashes: int = 0


@dataclass(frozen=True)
class Feet:
    """Places on the x axis, for what has no value: (x, what it says)."""

    name: str
    look: Literal["cross", "notch"]
    places: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class DotChart:
    """What a chart of points shows; layers are drawn in their order. whole: only whole numbers along x."""

    title: str
    x_label: str
    y_label: str
    layers: tuple[Layer, ...]
    feet: tuple[Feet, ...] = ()
    note: str = ""
    whole: bool = False


def dot_chart(chart: DotChart) -> Markup:
    """A figure with caption, legend and drawing; empty markup when no layer has a point."""
    layers = [layer for layer in chart.layers if layer.dots or layer.steps]
    if not layers:
        return Markup("")
    feet = [one for one in chart.feet if one.places]
    frame = LineChart(chart.title, chart.x_label, (), chart.y_label, marks=tuple(place for one in feet for place in one.places))
    x, y, y_ticks = scales(frame, [Series(layer.name, _points(layer)) for layer in layers])
    drawing = tag(
        "svg",
        axes(frame, x, y, y_ticks, chart.whole),
        *(_feet(one, x) for one in feet),
        *(_dots(layer, x, y) for layer in layers),
        *(_steps(layer, x, y) for layer in layers if layer.steps),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=_description(chart, layers, feet),
    )
    keys = [tag("span", layer.name, class_=_key(layer)) for layer in layers if layer.name]
    keys += [tag("span", one.name, class_=f"key {one.look}") for one in feet]
    caption = tag("figcaption", tag("strong", chart.title), " ", *keys)
    note = " ".join(filter(None, [chart.note, *(_thinning(layer) for layer in layers)]))
    return tag("figure", caption, drawing, tag("p", note, class_="note") if note else "", class_="plot")


def _points(layer: Layer) -> tuple[Point, ...]:
    """All that must be in sight."""
    end = ((layer.until, layer.steps[-1][1]),) if layer.steps and layer.until is not None else ()
    return (*((dot.x, dot.y) for dot in layer.dots), *layer.steps, *end)


def _key(layer: Layer) -> str:
    """The classes of its entry in the legend."""
    return f"key {layer.hue} {f'dash{layer.dashes}' if layer.steps else layer.look}"


def _every(layer: Layer) -> int:
    return math.ceil(len(layer.dots) / MOST_DOTS)


def _thinning(layer: Layer) -> str:
    every = _every(layer)
    return f"Of {len(layer.dots):,} points ({layer.name}) one in {every} is drawn." if every > 1 else ""


def _dots(layer: Layer, x: Scale, y: Scale) -> Markup:
    shown = layer.dots[:: max(1, _every(layer))]
    parts = []
    for dot in shown:
        told = [tag("title", dot.told)] if len(shown) <= MOST_TOLD else []
        parts.append(tag("circle", *told, cx=x(dot.x), cy=y(dot.y), r=RADIUS[layer.look], class_=f"{layer.look} {layer.hue}"))
    return join(parts)


def _steps(layer: Layer, x: Scale, y: Scale) -> Markup:
    (first_x, first_y), *others = layer.steps
    path = f"M{short(x(first_x))} {short(y(first_y))}"
    path += "".join(f" H{short(x(at))} V{short(y(value))}" for at, value in others)
    if layer.until is not None:
        path += f" H{short(x(layer.until))}"
    return tag("path", tag("title", layer.name), d=path, class_=f"line {layer.hue} dash{layer.dashes}")


def _feet(feet: Feet, x: Scale) -> Markup:
    base = HEIGHT - BOTTOM
    parts = []
    for at, told in feet.places[:MOST_DOTS]:
        left, right = short(x(at) - 3), short(x(at) + 3)
        path = f"M{left} {base - 6:g} L{right} {base:g} M{right} {base - 6:g} L{left} {base:g}"
        if feet.look == "notch":
            path = f"M{short(x(at))} {base - 6:g} V{base:g}"
        parts.append(tag("path", tag("title", told), d=path, class_=feet.look))
    return join(parts)


def _description(chart: DotChart, layers: Sequence[Layer], feet: Sequence[Feet]) -> str:
    told = []
    for layer in layers:
        if layer.steps:
            (first_x, first), (last_x, last) = layer.steps[0], layer.steps[-1]
            told.append(f"{layer.name} goes from {first:.4g} at {first_x:.4g} to {last:.4g} at {last_x:.4g}")
        else:
            values = [dot.y for dot in layer.dots]
            told.append(f"{layer.name}: {len(values)} from {min(values):.4g} to {max(values):.4g}")
    told += [f"{one.name}: {len(one.places)}" for one in feet]
    return f"{chart.title}, {chart.y_label} over {chart.x_label}: {'; '.join(told)}"
