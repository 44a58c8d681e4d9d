"""Draw it: line charts and a histogram as inline SVG, coloured by the page's style sheet so that they follow light and dark.

Written by hand rather than with a plotting library: no fonts, ids or styles of their own, a few kilobytes each, and every
point tells its value on hovering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segnas.report.information import Point
from segnas.report.markup import Markup, join, short, tag

WIDTH, HEIGHT = 440.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 36.0, 38.0
HUES = ("a", "b", "c", "d", "e", "f", "g", "h")  # classes of report.css
MOST_POINTS = 240  # a chart is some 400 pixels wide: more points are averaged
MOST_HOVERS = 80


@dataclass(frozen=True)
class Series:
    """A named line; points in the order of x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class LineChart:
    """What a line chart shows. marks: vertical lines (x, what happened there)."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    y_label: str = ""
    y_range: tuple[float, float] | None = None
    marks: tuple[tuple[float, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """From a value to a coordinate, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round values (1, 2 or 5 times a power of ten apart) from at or above `low` to at or below `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """Neighbouring points averaged until at most `most` are left; the last x stays the last."""
    if len(points) <= most:
        return tuple(points)
    group = math.ceil(len(points) / most)
    chunks = [points[start : start + group] for start in range(0, len(points), group)]
    return tuple((chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks)


def line_chart(chart: LineChart) -> Markup:
    """A figure with caption, legend and drawing; empty markup when no series has a point."""
    series = [Series(line.name, thinned(line.points)) for line in chart.series if line.points]
    if not series:
        return Markup("")
    x, y, y_ticks = scales(chart, series)
    drawing = tag(
        "svg",
        axes(chart, x, y, y_ticks),
        marks(chart, x),
        *(_line(line, hue, x, y) for line, hue in zip(series, HUES, strict=False)),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=_description(chart, series),
    )
    keys = [tag("span", line.name, class_=f"key {hue}") for line, hue in zip(series, HUES, strict=False)]
    named = keys if len(series) > 1 or series[0].name.lower() != chart.title.lower() else []
    caption = tag("figcaption", tag("strong", chart.title), " ", *named)
    note = tag("p", chart.note, class_="note") if chart.note else Markup("")
    return tag("figure", caption, drawing, note, class_="plot")


def histogram(title: str, values: Sequence[float], bins: int = 20) -> Markup:
    """How many of `values` (percent) fall into each of `bins` equal parts of 0 .. 100."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value / 100 * bins))] += 1
    x = Scale(0, 100, LEFT, WIDTH - RIGHT)
    top = max(counts)
    ticks = [tick for tick in nice_ticks(0, top, 4) if tick.is_integer()]
    y = Scale(0, top * 1.05, HEIGHT - BOTTOM, TOP)
    bars = [
        tag(
            "rect",
            tag("title", f"{100 * index / bins:g} to {100 * (index + 1) / bins:g} %: {number}"),
            x=x(100 * index / bins) + 1,
            y=y(number),
            width=(x.end - x.start) / bins - 2,
            height=y.start - y(number),
            class_="bar",
        )
        for index, number in enumerate(counts)
        if number
    ]
    chart = LineChart(title, "mIoU of the image, %", (), y_label="images")
    middle = sorted(values)[len(values) // 2]
    label = f"{title}: {len(values)} images from {min(values):.1f} to {max(values):.1f} %, half of them above {middle:.1f} %"
    mark = LineChart("", "", (), marks=((middle, f"median {middle:.0f} %"),))
    drawing = tag(
        "svg",
        axes(chart, x, y, ticks),
        *bars,
        marks(mark, x),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        aria_label=label,
    )
    return tag("figure", tag("figcaption", tag("strong", title)), drawing, class_="plot")


@dataclass(frozen=True)
class DotRow:
    """A row of a dot plot: its name, (value, what it is) of each dot, and what stands at its right end."""

    name: str
    values: tuple[tuple[float, str], ...]
    figure: str = ""


ROW_HEIGHT, FIRST_ROW = 48.0, 34.0
LEAST_SPAN = 4.0  # of the axis of a dot plot, so that a small difference looks small


def dot_plot(title: str, x_label: str, rows: Sequence[DotRow], note: str = "") -> Markup:
    """A row of dots for each of `rows`, its mean marked where it has several; empty markup when there is no row."""
    if not rows:
        return Markup("")
    x = _spread([value for row in rows for value, _ in row.values])
    bottom = FIRST_ROW + ROW_HEIGHT * (len(rows) - 1) + 22
    parts = []
    for tick in nice_ticks(x.low, x.high, 6):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=4.0, y2=bottom, class_="grid"))
        parts.append(tag("text", _tick(tick), x=x(tick), y=bottom + 16, class_="tick middle"))
    parts.append(tag("text", x_label, x=(x.start + x.end) / 2, y=bottom + 33, class_="axis middle"))
    for number, (row, hue) in enumerate(zip(rows, HUES, strict=False)):
        parts.append(_dots(row, hue, FIRST_ROW + ROW_HEIGHT * number, x))
    told = "; ".join(f"{row.name} {row.figure or ', '.join(f'{value:.4g}' for value, _ in row.values)}" for row in rows)
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH:g} {bottom + 38:g}", role="img", aria_label=f"{title}: {told}")
    below = tag("p", note, class_="note") if note else Markup("")
    return tag("figure", tag("figcaption", tag("strong", title)), drawing, below, class_="plot")


def _spread(values: Sequence[float]) -> Scale:
    """An axis that holds all values, at least `LEAST_SPAN` wide."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    return Scale(low - margin, high + margin, 12.0, WIDTH - 12)


def _dots(row: DotRow, hue: str, y: float, x: Scale) -> Markup:
    parts = [
        tag("text", row.name, x=0.0, y=y - 16, class_="label"),
        tag("text", row.figure, x=WIDTH, y=y - 16, class_="label end"),
        tag("line", x1=0.0, x2=WIDTH, y1=y, y2=y, class_="rail"),
    ]
    for value, name in row.values:
        told = tag("title", f"{row.name}, {name}: {value:.4g}")
        parts.append(tag("circle", told, cx=x(value), cy=y, r=5.5, class_=f"seed {hue}"))
    if len(row.values) > 1:
        mean = x(sum(value for value, _ in row.values) / len(row.values))
        parts.append(tag("line", x1=mean, x2=mean, y1=y - 11, y2=y + 11, class_="mean"))
    return join(parts)


def scales(chart: LineChart, series: Sequence[Series]) -> tuple[Scale, Scale, list[float]]:
    """The scales of x and y that hold all points and marks with some room, and the ticks of y."""
    xs = [x for line in series for x, _ in line.points] + [x for x, _ in chart.marks]
    ys = [y for line in series for _, y in line.points]
    low, high = chart.y_range or (min(ys), max(ys))
    low, high = min(low, *ys), max(high, *ys)
    if high - low <= 1e-9 * max(abs(high), 1e-300):
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    if chart.y_range is None:
        margin = 0.06 * (high - low)
        low, high = (0.0 if low >= 0 and low < 0.35 * high else low - margin), high + margin
    left, right = min(xs), max(xs)
    if left == right:
        left, right = left - 1, right + 1
    x = Scale(left, right, LEFT + 6, WIDTH - RIGHT - 6)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    return x, y, nice_ticks(low, high)


def axes(chart: LineChart, x: Scale, y: Scale, y_ticks: Sequence[float], whole: bool = True) -> Markup:
    """The grid, the ticks and the names of both axes; whole: only whole numbers along x."""
    parts = []
    for tick in y_ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(tag("text", _tick(tick), x=LEFT - 7, y=y(tick) + 4, class_="tick end"))
    for tick in nice_ticks(x.low, x.high, 6):
        if tick.is_integer() or not whole:
            parts.append(tag("text", _tick(tick), x=x(tick), y=HEIGHT - BOTTOM + 17, class_="tick middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", chart.x_label, x=middle, y=HEIGHT - 4, class_="axis middle"))
    if chart.y_label:
        parts.append(tag("text", chart.y_label, x=0.0, y=12.0, class_="axis"))
    return join(parts)


def marks(chart: LineChart, x: Scale) -> Markup:
    """The vertical lines of a chart and what they say."""
    parts = []
    for position, text in chart.marks:
        right_half = position > (x.low + x.high) / 2
        at = x(position) + (-5 if right_half else 5)
        parts.append(tag("line", x1=x(position), x2=x(position), y1=TOP - 14, y2=HEIGHT - BOTTOM, class_="mark"))
        parts.append(tag("text", text, x=at, y=TOP - 7, class_=f"tick {'end' if right_half else ''}".strip()))
    return join(parts)


def _line(line: Series, hue: str, x: Scale, y: Scale) -> Markup:
    places = [(x(point[0]), y(point[1])) for point in line.points]
    path = "M" + " L".join(f"{short(across)} {short(down)}" for across, down in places)
    dots = []
    if len(places) <= MOST_HOVERS:
        for (across, down), (at, value) in zip(places, line.points, strict=True):
            told = tag("title", f"{line.name}, {at:g}: {value:.4g}")
            dots.append(tag("circle", told, cx=across, cy=down, r=2.4 if len(places) <= 40 else 1.6, class_=f"dot {hue}"))
    return join([tag("path", d=path, class_=f"line {hue}"), *dots])


def _tick(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.10g}" if abs(value) >= 1e4 else f"{value:g}"


def _description(chart: LineChart, series: Sequence[Series]) -> str:
    def told(line: Series, number: Callable[[float], str] = lambda value: f"{value:.4g}") -> str:
        first, last = line.points[0], line.points[-1]
        best = max(line.points, key=lambda point: point[1])
        return (
            f"{line.name} goes from {number(first[1])} at {chart.x_label} {first[0]:g} to {number(last[1])} at {last[0]:g}, "
            f"at most {number(best[1])} at {best[0]:g}"
        )

    return f"{chart.title}: {'; '.join(told(line) for line in series)}"
