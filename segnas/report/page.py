"""The page: all sections of a run in one self-contained HTML file without scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from segnas.report import baselines, comparison, conditions, courses, networks, pictures, sections, trial_course
from segnas.report.cautions import cautions
from segnas.report.information import Information, gather
from segnas.report.markup import Markup, count, join, listing, tag, three_digits
from segnas.report.published import Published, published_networks
from segnas.report.sections import Section
from segnas.runs.run import Run

UNIT = re.compile(r"(\d) ([%kMGT]|ms)(?=\W)")  # a number and its unit stay on one line


def write_report(run: Run) -> Path:
    """Write report.html from the files of a run, whichever of them there are; returns its path.

    Raises UserError when a file of the run is broken, a picture is missing or the disk is full.
    """
    information = gather(run)
    published: tuple[Published, ...] = ()
    if information.cost is not None and information.classes:
        form = information.architecture.form if information.architecture else None
        published = published_networks(information.cost.size, len(information.classes), information.task.name, form)
    page = render(information, pictures.embed(run, information.panels), published)
    return run.write_text("report.html", page)


def render(information: Information, embedded: Sequence[pictures.PanelPictures], published: Sequence[Published]) -> str:
    """The whole page as HTML text."""
    written = [
        sections.summary(information, cautions(information)),
        baselines.baselines(information),
        sections.accuracy(information),
        sections.panels(information, embedded),
        networks.network(information),
        sections.cost(information, published),
        courses.search(information),
        trial_course.search(information),
        courses.retraining(information),
        sections.protocol(information),
    ]
    shown = [section for section in written if section is not None]
    return document(f"{information.name}: segnas report", _header(information), shown, _footer(information))


def document(title: str, header: Markup, shown: Sequence[Section], footer: Markup) -> str:
    """HTML text of a page in the report's style, with a table of contents before its sections."""
    style = resources.files("segnas.report").joinpath("report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        Markup(f"<style>{style}</style>"),
    )
    body = tag("body", header, tag("div", _contents(shown), _main(shown), class_="columns"), footer)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def in_words(information: Information) -> str:
    """The result in a sentence or two, as one would tell a colleague."""
    told = []
    if information.evaluations:
        first, *others = information.evaluations
        beside = comparison.beside(information.comparison, first.split, first.metric, first.score)
        told.append(f"reaches {conditions.reached(first, tuple(others))}{beside}")
    if information.cost is not None:
        cost = information.cost
        told.append(f"has {count(cost.parameters)} parameters")
        told.append(f"needs {count(cost.multiply_adds)} multiply-adds for an image of {cost.size[0]} × {cost.size[1]}")
    if information.latency is not None:
        latency = information.latency
        under = conditions.answers(latency, information.cost)
        told.append(f"answers in {three_digits(latency.median_ms)} ms{under} on {latency.device}")
    if not told and information.trials is not None:
        return UNIT.sub("\\1\u00a0\\2", trial_course.progress_in_words(information.trials))
    if not told:
        return "Nothing has been measured yet."
    parity = information.parity
    size = conditions.other_size(parity, information.cost)
    file = f"The exported file, for images of {size}," if size else "The exported file"
    exported = f" {file} gives the same answers as the trained network." if parity and parity.passed else ""
    return UNIT.sub("\\1\u00a0\\2", f"The network {listing(told)}.{exported}")


def _header(information: Information) -> Markup:
    system = information.system
    data = information.data.name if information.data else None
    heading = " on ".join(name for name in (system, data) if name) or information.name
    about = [f"run {information.name}"]
    if information.architecture is not None and information.architecture.id:
        about.append(f"architecture {information.architecture.id}")
    if information.finished:
        about.append(information.finished)
    return tag(
        "header",
        tag("p", " · ".join(about), class_="about"),
        tag("h1", heading),
        tag("p", in_words(information), class_="lead"),
    )


def _contents(shown: Sequence[Section]) -> Markup:
    entries = [tag("li", tag("a", section.title, href=f"#{section.id}")) for section in shown]
    return tag("nav", tag("ol", *entries), aria_label="Contents")


def _main(shown: Sequence[Section]) -> Markup:
    return tag("main", join(tag("section", tag("h2", item.title), item.body, id=item.id) for item in shown))


def _footer(information: Information) -> Markup:
    packages = information.environment.get("packages") or {}
    version = packages.get("segnas", "")
    revision = information.environment.get("git_revision")
    made = f"Written by segnas {version}".strip()
    return tag("footer", f"{made}, git revision {revision}." if revision else f"{made}.")
