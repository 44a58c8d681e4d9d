"""docs/simulated_cluster.svg: three charts by the number of workers, on a ground of their own, light or dark as the reader's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster_studies import TRIALS_A_WORKER, Quality, Utilisation
from cluster_tables import label
from segnas.report.markup import Markup, join, short, tag
from segnas.report.plots import HUES, Scale, Series, nice_ticks

WIDTH, HEIGHT = 312.0, 318.0  # of a chart
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 98.0, 42.0
DASHES = (None, "7 4", "2 4", "9 3 2 3")  # so that lines differ without colour too
SHOWN = 1024  # evaluations after which the third chart shows the best
STYLE = """
svg { --paper: #fcfbf8; --ink: #1c2326; --soft: #5b666b; --faint: #e4e1d8; --a: #0f7173; --b: #c9562c; --c: #5a4fa3; --d: #8a6d1f;
  font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #14181a; --ink: #e5e8e6; --soft: #9caaae; --faint: #2b3438;
  --a: #58c4bd; --b: #f0895c; --c: #a99ff0; --d: #d9b95b; } }
.ground { fill: var(--paper); }
text { fill: var(--soft); font-size: 12px; } .title { fill: var(--ink); font-size: 14px; font-weight: 600; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--faint); stroke-width: 1; } .line { fill: none; stroke: var(--hue); stroke-width: 2; }
.dot { fill: var(--hue); } .a { --hue: var(--a); } .b { --hue: var(--b); } .c { --hue: var(--c); } .d { --hue: var(--d); }
"""


@dataclass(frozen=True)
class Chart:
    """Lines over the number of workers, whose axis is logarithmic; logarithmic: that of y too."""

    title: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    low: float | None = None
    high: float | None = None


def figure(utilisation: Sequence[Utilisation], quality: Sequence[Quality]) -> str:
    """The drawing, as a file."""
    ideal = [row for row in utilisation if not row.condition]
    target, best_of = next(iter(quality[0].hours)), SHOWN
    charts = (
        Chart(
            "Utilisation of the workers, %",
            tuple(
                Series(
                    f"{each} trial{'s' * (each > 1)} a worker", tuple((float(row.workers), 100 * row.busy[each]) for row in ideal)
                )
                for each in TRIALS_A_WORKER
            ),
            low=0.0,
            high=100.0,
        ),
        Chart(f"Hours until {target:g} % mIoU", _lines(quality, lambda row: row.hours[target]), logarithmic=True),
        Chart(f"Best mIoU of {best_of:,} evaluations, %", _lines(quality, lambda row: row.best[best_of])),
    )
    width = WIDTH * len(charts)
    drawn = [tag("g", _chart(chart), transform=f"translate({short(place * WIDTH)} 0)") for place, chart in enumerate(charts)]
    told = ". ".join(f"{chart.title}: {'; '.join(map(_told, chart.series))}" for chart in charts)
    return (
        tag(
            "svg",
            tag("title", "Searches on a simulated cluster"),
            tag("desc", told),
            tag("style", Markup(STYLE)),
            tag("rect", width=width, height=HEIGHT, rx=8.0, class_="ground"),
            *drawn,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {short(width)} {short(HEIGHT)}",
            role="img",
        )
        + "\n"
    )


def _lines(quality: Sequence[Quality], value: Callable[[Quality], float | None]) -> tuple[Series, ...]:
    """A line for each strategy; sizes at which there is no value are left out."""
    lines = []
    for strategy in dict.fromkeys(row.strategy for row in quality):
        rows = [row for row in quality if row.strategy == strategy]
        points = tuple((float(row.workers), found) for row in rows if (found := value(row)) is not None)
        lines.append(Series(label(strategy, rows[0].population), points))
    return tuple(lines)


def _chart(chart: Chart) -> Markup:
    """Title, key, axes and lines."""
    values = [y for line in chart.series for _, y in line.points]
    workers = sorted({x for line in chart.series for x, _ in line.points})
    low, high = min(values), max(values)
    if chart.logarithmic:
        ticks = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        along = Scale(math.log10(ticks[0]), math.log10(ticks[-1]), HEIGHT - BOTTOM, TOP)
    else:
        margin = 0.08 * (high - low) or 1.0
        low = low - margin if chart.low is None else chart.low
        high = high + margin if chart.high is None else chart.high
        ticks = nice_ticks(low, high)
        along = Scale(low, high, HEIGHT - BOTTOM, TOP)
    across = Scale(math.log(workers[0]), math.log(workers[-1]) or 1.0, LEFT + 8, WIDTH - RIGHT - 8)

    def x(value: float) -> float:
        return across(math.log(value))

    def y(value: float) -> float:
        return along(math.log10(value) if chart.logarithmic else value)

    parts = [tag("text", chart.title, x=12.0, y=24.0, class_="title")]
    for tick in ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(tag("text", f"{tick:,g}", x=LEFT - 7, y=y(tick) + 4, class_="end"))
    for count in workers:
        parts.append(tag("text", f"{count:g}", x=x(count), y=HEIGHT - BOTTOM + 18, class_="middle"))
    parts.append(tag("text", "workers", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, class_="middle"))
    for place, (line, hue, dash) in enumerate(zip(chart.series, HUES, DASHES, strict=False)):
        key = 42.0 + 17 * place
        parts.append(tag("line", x1=12.0, x2=38.0, y1=key - 4, y2=key - 4, class_=f"line {hue}", stroke_dasharray=dash))
        parts.append(tag("text", line.name, x=45.0, y=key))
        path = "M" + " L".join(f"{short(x(count))} {short(y(value))}" for count, value in line.points)
        parts.append(tag("path", d=path, class_=f"line {hue}", stroke_dasharray=dash) if line.points else Markup(""))
        for count, value in line.points:
            told = tag("title", f"{line.name}, {count:g} workers: {value:.4g}")
            parts.append(tag("circle", told, cx=x(count), cy=y(value), r=3.2, class_=f"dot {hue}"))
    return join(parts)


def _told(line: Series) -> str:
    return f"{line.name} " + ", ".join(f"{value:.4g} at {count:g}" for count, value in line.points)
