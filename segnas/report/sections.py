"""The sections of the report, each from the information of a run; a section whose part is missing is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from segnas.config import save_yaml
from segnas.report import conditions, limits, tables
from segnas.report.cautions import Caution
from segnas.report.information import Evaluation, Information
from segnas.report.markup import Markup, count, file_size, join, percent, plural, tag, three_digits
from segnas.report.pictures import PanelPictures
from segnas.report.plots import histogram
from segnas.report.published import Published

KINDS = {
    "best": "Best", "typical": "Typical", "worst": "Worst", "mistake": "The surest mistakes", "right": "The surest right answers",
}  # fmt: skip
ONE_ROW = 5  # cards of the summary


@dataclass(frozen=True)
class Section:
    """A heading of the table of contents and what stands under it."""

    id: str
    title: str
    body: Markup


def figures(parts: Sequence[Markup]) -> Markup:
    """Small figures side by side, as many as fit."""
    return tag("div", *parts, class_="figures") if any(parts) else Markup("")


def paragraph(text: str, class_: str | None = None) -> Markup:
    """One paragraph, or nothing for an empty text."""
    return tag("p", text, class_=class_) if text else Markup("")


# Summary --------------------------------------------------------------------------------------------------------------


def summary(information: Information, warnings: Sequence[Caution]) -> Section:
    """The figures a decision needs, in tiles, and everything that speaks against relying on them."""
    listed = [tag("li", tag("b", item.level), " ", item.text, class_=item.level) for item in warnings]
    known = join([tag("h3", "What to know first"), tag("ul", *listed, class_="cautions")]) if listed else Markup("")
    tiles = _tiles(information)
    columns = len(tiles) if len(tiles) <= ONE_ROW else math.ceil(len(tiles) / 2)  # two even rows, no card alone in one
    shown = tag("div", *tiles, class_="tiles", style=f"--columns:{columns}") if tiles else Markup("")
    return Section("summary", "Summary", join([shown, known]))


def _tiles(information: Information) -> list[Markup]:
    tiles = []
    for evaluation in information.evaluations:
        images = evaluation.image_count
        below = [evaluation.split, *([plural(images, "image")] if images else []), *conditions.evaluation_notes(evaluation)]
        tiles.append(tile(evaluation.metric, percent(evaluation.score), ", ".join(below), main=True))
    if information.cost is not None:
        cost = information.cost
        tiles.append(tile("parameters", count(cost.parameters), f"{cost.parameters:,} deployed"))
        tiles.append(tile("multiply-adds", count(cost.multiply_adds), f"at {conditions.by(cost.size)}"))
    if information.latency is not None:
        latency = information.latency
        on = [latency.device, conditions.by(latency.input[-2:]), *conditions.latency_notes(latency, information.cost)]
        tiles.append(tile("latency", f"{three_digits(latency.median_ms)} ms", ", ".join(on)))
    for name, size in list(information.files.items())[:1]:
        parity = information.parity
        checked = "not compared with the trained network"
        if name.endswith(".safetensors"):
            checked = "weights, not exported yet"
        elif parity is not None:
            size_of_images = conditions.other_size(parity, information.cost)
            checked = f"for images of {size_of_images}, " if size_of_images else ""
            checked += "same answers as trained" if parity.passed else "differs from the trained network"
        tiles.append(tile("model file", file_size(size), f"{name}, {checked}"))
    return tiles


def tile(name: str, value: str, below: str, main: bool = False) -> Markup:
    """A card: a figure with its unit, its name above, what it is of below."""
    number, _, unit = value.partition(" ")
    shown = tag("span", number, tag("small", f" {unit}") if unit else "", class_="value")
    return tag("div", tag("span", name, class_="name"), shown, tag("span", below, class_="below"),
               class_="tile main" if main else "tile")  # fmt: skip


# Accuracy and panels --------------------------------------------------------------------------------------------------


def accuracy(information: Information) -> Section | None:
    """Figures per class, spread over the images, confusions; one part for each evaluated split."""
    if not information.evaluations:
        return None
    several = len(information.evaluations) > 1
    return Section("accuracy", "Accuracy", join(_evaluation(item, several) for item in information.evaluations))


def _evaluation(evaluation: Evaluation, several: bool) -> Markup:
    means = ", ".join(
        f"{name} {percent(value)}"
        for name in ("mIoU", "accuracy", "mAcc", "aAcc")
        if (value := getattr(evaluation, name)) is not None
    )
    heading = ", ".join([f"On {evaluation.split}", *conditions.evaluation_notes(evaluation)])
    parts = [tag("h3", heading)] if several else []
    parts += [paragraph(f"{means}, from one confusion matrix over all {evaluation.counted}s of {evaluation.split}."),
              tables.class_bars(evaluation)]  # fmt: skip
    scores = [image.mIoU for image in evaluation.images if image.mIoU is not None]
    matrix = tables.confusion(evaluation)
    beside = []
    if len(scores) > 1:
        beside.append(histogram("From image to image", scores))
    if matrix is not None:
        mistakes = tables.largest_confusions(matrix)
        if mistakes:
            listed = tag("ol", *(tag("li", text) for text in mistakes))
            beside.append(tag("div", tag("h4", "What is taken for what"), listed, class_="plot"))
    parts.append(figures(beside))
    if matrix is not None:
        parts.append(tables.confusion_table(matrix))
    return join(parts)


def panels(information: Information, pictures: Sequence[PanelPictures]) -> Section | None:
    """Image, label and prediction side by side, best, typical and worst; of images with one class the surest answers."""
    if not pictures:
        return None
    dense = information.task.dense
    parts = [_legend(information)] if dense else []
    for kind, members in groupby(pictures, key=lambda item: item.panel.kind):
        parts.append(tag("h3", KINDS.get(kind, kind)))
        shown = [_panel(item) if dense else _answer(item) for item in members]
        parts += shown if dense else [tag("div", *shown, class_="answers")]
    return Section("pictures", "Pictures", join(parts))


def _legend(information: Information) -> Markup:
    return tag("ul", *(tag("li", tables.swatch(item.color), item.name) for item in information.classes), class_="legend")


def _panel(item: PanelPictures) -> Markup:
    panel = item.panel
    shown = [
        tag("figure", tag("img", src=source, alt=f"{what} of {panel.name}"), tag("figcaption", what))
        for what, source in (("image", item.image), ("label", item.label), ("prediction", item.prediction))
    ]
    score = f", mIoU {percent(panel.mIoU)}" if panel.mIoU is not None else ""
    return tag("div", tag("p", tag("b", panel.name), score), tag("div", *shown, class_="three"), class_="panel")


def _answer(item: PanelPictures) -> Markup:
    panel = item.panel
    said = panel.predicted if panel.labelled == panel.predicted else f"{panel.labelled} taken for {panel.predicted}"
    sure = f", {percent(100 * panel.probability)}" if panel.probability is not None else ""
    picture = tag("img", src=item.image, alt=f"{panel.name}: {said}", title=panel.name)
    return tag("figure", picture, tag("figcaption", f"{said}{sure}"))


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(information: Information, published: Sequence[Published]) -> Section | None:
    """Parameters and multiply-adds by part and beside the published networks, latency and the exported file."""
    parts: list[Markup] = []
    if information.cost is not None:
        if information.cost.by_part:
            parts.append(tables.parts_table(information.cost))
        if published:
            parts.append(tables.comparison_table(information.cost, published))
            parts.append(paragraph(
                "All are counted alike, for this run's image size and classes: multiply-adds of convolutions and linear layers. "
                "The printed figures are the papers', for their images and in their own way of counting.", "note"))  # fmt: skip
    parts += [*_budget(information), *_latency(information), *_parity(information)]
    return Section("cost", "Cost and deployment", join(parts)) if parts else None


def _budget(information: Information) -> list[Markup]:
    budget = information.budget
    if budget is None or not budget.limits:
        return []
    words = limits.width_in_words(budget)
    runtime = budget.exported.runtime if budget.exported else None
    measured = [f"Latency on {budget.device}"] if budget.device else []
    measured += [f"that of the exported file with {runtime}"] if runtime else []
    note = f"{'; '.join(measured)}." if "max_latency_ms" in budget.limits and measured else ""
    return [tag("h3", "The budget"), paragraph(words), tables.budget_table(budget), paragraph(note, "note")]


def _latency(information: Information) -> list[Markup]:
    latency = information.latency
    if latency is None:
        return []
    unsteady = " (unsteady)" if latency.unsteady else ""
    middle = f"{three_digits(latency.q1_ms)} to {three_digits(latency.q3_ms)} ms{unsteady}"
    rate = f"{three_digits(1000 * latency.input[0] / latency.median_ms)} images a second" if latency.median_ms else "–"
    pairs = [
        ("median", f"{three_digits(latency.median_ms)} ms, {rate}"),
        ("middle half of the runs", middle),
        ("device", latency.device),
        ("input", " × ".join(map(str, latency.input))),
    ]
    optional = {
        "runtime": latency.runtime, "threads": latency.threads, "precision": latency.precision,
        "memory format": "channels last" if latency.channels_last else None, "warm-up runs": latency.warmup,
        "measured runs": latency.runs, "includes": latency.includes,
    }  # fmt: skip
    pairs += [(name, str(value)) for name, value in optional.items() if value is not None]
    return [tag("h3", "Latency"), tables.facts(pairs)]


def _parity(information: Information) -> list[Markup]:
    parity = information.parity
    if parity is None:
        return []
    size = information.files.get(parity.onnx)
    pairs = [
        ("file", f"{parity.onnx}, {file_size(size)}" if size else parity.onnx),
        *([("image size", conditions.by(parity.size))] if parity.size else []),
        ("check", f"{'passed' if parity.passed else 'FAILED'} on {plural(parity.images, 'real image')}"),
    ]
    if parity.largest_logit_difference is not None:
        pairs.append(("largest difference of logits", f"{parity.largest_logit_difference:.3g}"))
    if parity.tolerance is not None:
        pairs.append(("allowed difference", f"{parity.tolerance:.3g}"))
    if parity.agreement is not None:
        pairs.append((f"{information.task.counted}s with the same class", percent(100 * parity.agreement, 3)))
    for metric in ("mIoU", "accuracy"):
        scores = [getattr(parity, f"{metric}_{where}") for where in ("torch", "onnx")]
        if None not in scores:
            pairs.append((f"{metric} trained / exported", " / ".join(percent(score, 2) for score in scores)))
    return [tag("h3", "The exported file beside the trained network"), tables.facts(pairs)]


# Protocol and repetition ----------------------------------------------------------------------------------------------


def protocol(information: Information) -> Section:
    """How the figures were measured, on what data, and how to get them again."""
    parts = []
    for evaluation in information.evaluations:
        text = str(evaluation.protocol.get("text", ""))
        settings = [(key.replace("_", " "), value) for key, value in tables.flat(evaluation.protocol) if key != "text"]
        parts += [tag("h3", f"How {evaluation.split} was measured"), paragraph(text), tables.facts(settings)]
    if information.data is not None:
        data = information.data
        splits = ", ".join(f"{name} {number:,}" for name, number in data.splits.items())
        known = {"name": data.name, "folder": data.path, "layout": data.layout, "split": data.split, "images": splits}
        pairs = [(name, value) for name, value in known.items() if value]
        pairs.append(("classes", ", ".join(item.name for item in data.classes)))
        pairs += [("note", text) for text in data.notes]
        parts += [tag("h3", "Data"), tables.facts(pairs)]
    if information.timing or information.time_limit:
        parts.append(tag("h3", "Time"))
        parts += [paragraph(limits.time_in_words(information.time_limit))] if information.time_limit else []
        parts += [tables.timing_table(information.timing)] if information.timing else []
    parts.append(tag("h3", "Again"))
    environment = {key: value for key, value in information.environment.items() if key != "later"}
    command = environment.pop("command", None)
    if command:
        parts += [
            paragraph("The command, at the git revision and with the packages listed below:"),
            tag("pre", str(command), class_="wrap"),
        ]
    parts.append(tag("details", tag("summary", "The configuration, resolved"), tag("pre", save_yaml(information.config))))
    if environment:
        parts.append(tag("details", tag("summary", "The environment"), *_environment(environment, information)))
    return Section("repeat", "Protocol and repetition", join(parts))


def _environment(first: Mapping[str, Any], information: Information) -> list[Markup]:
    """The environment in which the run began, and of each one in which it went on what differs from it."""
    if not information.continued:
        return [tables.facts(tables.flat(first))]
    parts = [paragraph("The run began in this environment:"), tables.facts(tables.flat(first))]
    began = {key: value for key, value in information.environment.items() if key != "later"}
    for other in information.continued:
        parts += [
            paragraph("It was continued in another one, with these differences:"),
            tables.facts(tables.differences(began, other)),
        ]
    return parts
