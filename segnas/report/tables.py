"""Draw it: everything of the report that is a table, heat maps included, as HTML that reads well aloud and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segnas.report.graphs import operation_name, state_name
from segnas.report.information import Block, ClassScore, Color, Cost, Evaluation, Search
from segnas.report.limits import NAMES, Budget, cost_in_words
from segnas.report.markup import Markup, count, join, percent, tag
from segnas.report.published import Published
from segnas.runs.progress import duration

MOST_CLASSES = 24  # of a confusion matrix; the others are summed up
SHOWN_SHARE = 0.005  # smaller entries of a confusion matrix are left blank


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], class_: str, strong_first: bool = False) -> Markup:
    """A plain table; the first column heads its rows, the others are figures. Cells may be `Markup`."""
    body = []
    for index, (first, *others) in enumerate(rows):
        cells = [tag("th", first, scope="row"), *(tag("td", cell) for cell in others)]
        body.append(tag("tr", *cells, class_="strong" if strong_first and index == 0 else None))
    heading = tag("tr", *(tag("th", name, scope="col") for name in head))
    return captioned(caption, heading, body, class_)


def captioned(caption: str, head: Markup, rows: Iterable[Markup], class_: str) -> Markup:
    """A table under its caption; the caption stays in place where a wide table scrolls."""
    content = tag("table", tag("thead", head), tag("tbody", *rows), class_=class_)
    return tag("figure", tag("figcaption", caption), scrolling(content, caption), class_="table")


def scrolling(content: Markup, label: str) -> Markup:
    """Wide content that scrolls inside itself on a narrow screen, by keyboard too."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """Names and values, as a description list."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in pairs), class_="facts")


def swatch(color: Color) -> Markup:
    """A small square in a class's colour."""
    red, green, blue = color
    return tag("span", class_="swatch", style=f"background:rgb({red},{green},{blue})", aria_hidden="true")


# Accuracy -------------------------------------------------------------------------------------------------------------


def class_bars(evaluation: Evaluation) -> Markup:
    """IoU (or accuracy) of each class as a bar in the class's colour, best first, absent classes last."""
    order = sorted(evaluation.classes, key=lambda score: (evaluation.of_class(score) is None, -(evaluation.of_class(score) or 0)))
    labels = sum(score.labels or 0 for score in order)
    figures = ("IoU, %", "", "accuracy, %") if evaluation.counted == "pixel" else ("accuracy, %", "")
    rows = []
    for score in order:
        absent = "absent" if evaluation.of_class(score) is None else None
        rows.append(tag("tr", *_class_row(evaluation, score, labels), class_=absent))
    heading = tag("tr", *(tag("th", name, scope="col") for name in ("class", *figures, f"share of {evaluation.counted}s")))
    return captioned(
        f"{figures[0].removesuffix(', %').replace('a', 'A', 1)} of each class on {evaluation.split}", heading, rows, "bars"
    )


def _class_row(evaluation: Evaluation, score: ClassScore, labels: float) -> list[Markup]:
    red, green, blue = score.color
    figure, dense = evaluation.of_class(score), evaluation.counted == "pixel"
    name = tag("th", swatch(score.color), score.name, scope="row")
    share = tag("td", percent(100 * score.labels / labels) if score.labels is not None and labels else "–")
    if figure is None:
        absent = "absent: in neither label nor prediction" if dense else "absent: no image has this label"
        return [name, tag("td", absent, colspan=2, class_="words"), *([tag("td", "–")] if dense else []), share]
    bar = tag("span", class_="fill", style=f"width:{figure:.1f}%;background:rgb({red},{green},{blue})")
    return [
        name,
        tag("td", tag("span", bar, class_="bar"), class_="wide", aria_hidden="true"),
        tag("td", f"{figure:.1f}", class_="strong"),
        *([tag("td", "–" if score.accuracy is None else f"{score.accuracy:.1f}")] if dense else []),
        share,
    ]


@dataclass(frozen=True)
class Confusion:
    """A row-normalised confusion matrix. shares: (K, K); labelled: (K,) pixels or images (`counted`) of each label."""

    names: tuple[str, ...]
    shares: np.ndarray
    labelled: np.ndarray
    counted: str = "pixel"


def confusion(evaluation: Evaluation, most: int = MOST_CLASSES) -> Confusion | None:
    """The matrix with rows of sum 1 (0 for a label that never occurs); past `most` classes the rarest are summed up."""
    if not evaluation.confusion:
        return None
    counts = np.asarray(evaluation.confusion, dtype=np.float64)
    names = [score.name for score in evaluation.classes]
    if len(names) > most:
        kept = np.sort(np.argsort(-counts.sum(1), kind="stable")[: most - 1])
        merge = np.zeros((len(names), most))
        merge[:, most - 1] = 1
        merge[kept] = 0
        merge[kept, np.arange(most - 1)] = 1
        counts = merge.T @ counts @ merge
        names = [*(names[index] for index in kept), f"{len(names) - most + 1} others"]
    labelled = counts.sum(1)
    return Confusion(tuple(names), counts / np.maximum(labelled, 1)[:, None], labelled, evaluation.counted)


def confusion_table(matrix: Confusion) -> Markup:
    """Rows are labels, columns predictions, entries percent of the label's pixels or images."""
    corner = tag("th", "label ↓ predicted →", scope="col", class_="corner")
    head = tag("tr", corner, *(tag("th", tag("span", name), scope="col", class_="upright") for name in matrix.names))
    rows = []
    for index, name in enumerate(matrix.names):
        if matrix.labelled[index] == 0:
            empty = tag("td", "never labelled", colspan=len(matrix.names), class_="words")
            rows.append(tag("tr", tag("th", name, scope="row"), empty, class_="absent"))
            continue
        cells = [
            _heat(share, "" if share < SHOWN_SHARE else f"{100 * share:.0f}", "right" if index == column else "wrong",
                  f"{name} taken for {matrix.names[column]}: {100 * share:.2f} %" if share >= SHOWN_SHARE else None)
            for column, share in enumerate(matrix.shares[index].tolist())
        ]  # fmt: skip
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = f"Confusion matrix: of the {matrix.counted}s of each label, the percentage predicted as each class"
    return captioned(caption, head, rows, "heat")


def largest_confusions(matrix: Confusion, most: int = 5) -> list[str]:
    """`pole is taken for building in 34 % of its pixels`, the most frequent mistakes first."""
    mistakes = [
        (share, name, matrix.names[column])
        for index, name in enumerate(matrix.names)
        for column, share in enumerate(matrix.shares[index].tolist())
        if index != column and share >= 0.05
    ]
    mistakes.sort(reverse=True)
    return [
        f"{name} is taken for {other} in {100 * share:.0f} % of its {matrix.counted}s" for share, name, other in mistakes[:most]
    ]


def _heat(strength: float, text: str, hue: str, title: str | None = None, chosen: bool = False) -> Markup:
    classes = " ".join(filter(None, (hue, "deep" if strength > 0.55 else "", "chosen" if chosen else "")))
    return tag("td", text, class_=classes, style=f"--v:{100 * strength:.0f}%", title=title)


# Search ---------------------------------------------------------------------------------------------------------------


def alpha_table(
    search: Search,
    alpha: Sequence[Sequence[float]],
    blocks: Sequence[Block] = (),
    edge_weights: Sequence[float] = (),
    caption: str = "Probability of each operation on each edge of the cell, percent",
) -> Markup:
    """Probabilities of the operations on each edge, in percent; what the decoded cell, `blocks`, uses is framed.

    edge_weights: the share of each edge among those into its block, in a column of its own.
    """
    used = {
        (index, state, operation)
        for index, block in enumerate(blocks)
        for state, operation in zip(block.inputs, block.operations, strict=True)
    }
    full = max(0.5, *(max(row) for row in alpha))  # an undecided edge looks pale
    head = tag("tr", tag("th", "edge", scope="col", class_="corner"), *(
        tag("th", tag("span", name), scope="col", class_="upright")
        for name in (*map(operation_name, search.operations), *(["share of the edge"] if edge_weights else []))))  # fmt: skip
    rows = []
    for number, ((block, state), probabilities) in enumerate(zip(search.edges, alpha, strict=False)):
        edge = f"{state_name(state)} → block {block + 1}"
        cells = [
            _heat(value / full, f"{100 * value:.0f}", "right", f"{edge}, {operation_name(name)}: {100 * value:.1f} %",
                  (block, state, name) in used)
            for name, value in zip(search.operations, probabilities, strict=False)
        ]  # fmt: skip
        cells += [tag("td", f"{100 * weight:.0f}", class_="share") for weight in edge_weights[number : number + 1]]
        first = state == 0
        rows.append(tag("tr", tag("th", edge, scope="row"), *cells, class_="group" if first and block else None))
    framed = "; framed: decoded" if used else ""
    return captioned(f"{caption}{framed}", head, rows, "heat")


def beta_table(search: Search, path: Sequence[int] = ()) -> Markup:
    """Probabilities of the moves out of each node, in percent; the moves of `path` are framed."""
    levels = max(len(layer) for layer in search.beta)
    moves = [(level, move) for level in range(levels) for move in (-1, 0, 1) if 0 <= level + move < levels]
    groups = [
        tag("th", f"from stride {4 << level}", scope="colgroup", colspan=sum(start == level for start, _ in moves))
        for level in range(levels)
    ]
    ends = [tag("th", str(4 << (level + move)), scope="col") for level, move in moves]
    taken = {(layer, before, level - before) for layer, (before, level) in enumerate(zip((0, *path), path, strict=False))}
    rows = []
    for layer, nodes in enumerate(search.beta):
        cells = []
        for level, move in moves:
            value = nodes[level][move + 1] if level < len(nodes) else 0.0
            text = f"{100 * value:.0f}" if value > 0 else ""
            cells.append(_heat(value, text, "right", None, (layer, level, move) in taken))
        rows.append(tag("tr", tag("th", f"into layer {layer + 1}", scope="row"), *cells))
    corner = tag("th", "to stride", scope="col", class_="corner")
    head = join([tag("tr", tag("td", class_="words"), *groups), tag("tr", corner, *ends)])
    framed = "; framed: the path" if taken else ""
    return captioned(f"Probability of each move between strides, percent{framed}", head, rows, "heat")


# Cost -----------------------------------------------------------------------------------------------------------------


def parts_table(cost: Cost) -> Markup:
    """Where the parameters and multiply-adds are spent."""
    rows = []
    for name, part in cost.by_part.items():
        spent, held = part.multiply_adds / max(1, cost.multiply_adds), part.parameters / max(1, cost.parameters)
        rows.append((name, f"{part.parameters:,}", _share(held), count(part.multiply_adds), _share(spent)))
    head = ("part", "parameters", "", "multiply-adds", "")
    return table("Parameters and multiply-adds by part", head, rows, class_="shares")


def comparison_table(cost: Cost, published: Sequence[Published]) -> Markup:
    """This network beside published ones, counted alike, and what their papers print."""
    rows = [("this network", count(cost.parameters), count(cost.multiply_adds), "", "")]
    for item in published:
        height, width = item.printed_size
        printed = "–" if item.printed_multiply_adds is None else f"{count(item.printed_multiply_adds)} at {height} × {width}"
        rows.append((item.name, count(item.parameters), count(item.multiply_adds), count(item.printed_parameters), printed))
    size = f"{cost.size[0]} × {cost.size[1]}"
    head = ("network", "parameters", f"multiply-adds at {size}", "parameters, as printed", "multiply-adds, as printed")
    return table("Beside the published networks", head, rows, class_="comparison", strong_first=True)


def budget_table(budget: Budget) -> Markup:
    """Each limit beside what the trained network and the exported file have."""
    at = f" at {budget.size[0]} × {budget.size[1]}" if budget.size else ""
    rows = []
    for name, limit in budget.limits.items():
        noun = f"{NAMES.get(name, name)}{'' if name == 'max_parameters' else at}"
        figures = [cost_in_words(name, value) for value in (limit.limit, limit.measured, budget.of_exported(name))]
        met = budget.met(name)
        rows.append((noun, *figures, "–" if met is None else "yes" if met else tag("b", "NO")))
    head = ("", "limit", "trained network", "exported file", "met")
    return table("What was asked for, and what was measured", head, rows, class_="budget")


def timing_table(timing: Mapping[str, float]) -> Markup:
    """How long each stage took and its share of the whole."""
    total = sum(timing.values())
    rows = [(stage, duration(seconds), _share(seconds / total if total else 0.0)) for stage, seconds in timing.items()]
    return table("Time of each stage", ("stage", "time", ""), [*rows, ("all", duration(total), "")], class_="shares")


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as dotted names and text."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", _plain(value)))
    return pairs


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of `other` is not as in `first`, as dotted names and text; a dash for what it lacks."""
    before, after = dict(flat(first)), dict(flat(other))
    return [(name, after.get(name, "–")) for name in {**before, **after} if before.get(name) != after.get(name)]


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)


def _share(share: float) -> Markup:
    bar = tag("span", tag("span", class_="fill", style=f"width:{100 * share:.1f}%"), class_="bar", aria_hidden="true")
    return join([bar, tag("span", percent(100 * share, 0), class_="number")])
