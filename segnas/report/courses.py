"""How the search and the retraining went: the two sections of the report that are made of curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segnas.report import tables
from segnas.report.information import Block, Information, Point, Search, SearchEpoch
from segnas.report.markup import Markup, join, plural, tag
from segnas.report.plots import MOST_POINTS, LineChart, Series, line_chart
from segnas.report.sections import Section, figures, paragraph
from segnas.runs.progress import duration


def search(information: Information) -> Section | None:
    """How the search went, and what it believes in the end."""
    found = information.search
    if found is None:
        return None
    parts = [paragraph(_search_in_words(found)), figures([line_chart(chart) for chart in _search_charts(information, found)])]
    parts += _alphas(information, found)
    if found.beta:
        drawn = information.architecture.hierarchical() if information.architecture else None
        path = drawn.path if drawn else ()
        parts.append(tag("details", tag("summary", "beta: the path, node by node"), tables.beta_table(found, path), open=True))
    return Section("search", "The search", join(parts))


def _alphas(information: Information, found: Search) -> list[Markup]:
    """The table of alpha, or one of the normal and one of the reduction cell."""
    kept = information.architecture
    hierarchical, darts = (kept.hierarchical(), kept.darts()) if kept else (None, None)
    if not found.alpha_reduction:
        shown = tables.alpha_table(found, found.alpha, hierarchical.cell if hierarchical else ()) if found.alpha else None
        return [tag("details", tag("summary", "alpha: the operations, edge by edge"), shown, open=True)] if shown else []
    parts = []
    for kind, alpha, weights in (
        ("normal", found.alpha, found.edge_weights),
        ("reduction", found.alpha_reduction, found.edge_weights_reduction),
    ):
        blocks: Sequence[Block] = getattr(darts, kind).blocks if darts else ()
        caption = f"Probability of each operation on each edge of the {kind} cell, percent"
        caption += "; right: of each edge among those into its block" if weights else ""
        table = tables.alpha_table(found, alpha, blocks, weights, caption)
        parts.append(tag("details", tag("summary", f"alpha of the {kind} cell, edge by edge"), table, open=True))
    return parts


def _search_in_words(found: Search) -> str:
    words = f"{found.system} searched"
    if found.epochs:
        words += f" for {plural(found.last_epoch or len(found.epochs), 'epoch')}"
    if found.seconds is not None:
        words += f", {duration(found.seconds)} in all"
    if found.best_epoch is not None:
        words += f"; the best decoded architecture came up in epoch {found.best_epoch}"
    since = found.unchanged_since
    if since is not None and len(found.epochs) > 1:
        changing = since == found.epochs[-1].epoch
        words += (
            "; what is decoded still changed in the last epoch" if changing else f"; it decodes the same from epoch {since} on"
        )
    return f"{words}."


def _search_charts(information: Information, found: Search) -> list[LineChart]:
    def line(name: str, value: Callable[[SearchEpoch], float | None], scale: float = 1.0) -> Series:
        points = [(float(epoch.epoch), value(epoch)) for epoch in found.epochs]
        return Series(name, tuple((at, measured * scale) for at, measured in points if measured is not None))

    starts = next((epoch.epoch for epoch in found.epochs if epoch.loss_architecture is not None), None)
    begun = ((float(starts), "architecture too"),) if starts is not None and starts > found.epochs[0].epoch else ()
    kept = information.kept_epoch
    best = ((float(kept), "kept"),) if kept is not None else ()
    entropies = []
    for name, value, most in (
        ("alpha", lambda epoch: epoch.entropy_alpha, found.largest_entropy_alpha),
        ("beta", lambda epoch: epoch.entropy_beta, found.largest_entropy_beta),
    ):
        if most:
            entropies.append(line(name, value, 100 / most))
    return [
        LineChart("Loss", "epoch", (line("weights", lambda epoch: epoch.loss_weights),
                  line("architecture", lambda epoch: epoch.loss_architecture)), marks=begun),
        LineChart("Supernet and decoded network", "epoch", (line("supernet", lambda epoch: epoch.score_supernet),
                  line("decoded, same weights", lambda epoch: epoch.score_one_hot)), f"{information.task.metric}, %", marks=best,
                  note="The smaller the gap, the more the shared weights say about the decoded network."),
        LineChart("Indecision", "epoch", tuple(entropies), "entropy, % of its maximum", (0.0, 100.0), marks=begun,
                  note="100 %: every choice equally likely. 0 %: decided."),
        LineChart("Skip connections", "epoch", (line("skip connections", lambda epoch: epoch.skip_share, 100.0),),
                  "% of the decoded operations", (0.0, 100.0), marks=begun,
                  note="A search that collapses drifts towards skip connections only."),
        LineChart("Curvature", "epoch", (line("dominant eigenvalue", lambda epoch: epoch.eigenvalue),),
                  "dominant eigenvalue of the Hessian in alpha", marks=begun,
                  note="Where it grows steeply, the decoded network tends to be worse than the mixture; then the search stops."),
        LineChart("Parameters decoded", "epoch", (line("parameters decoded", lambda epoch: epoch.parameters, 1e-6),),
                  "millions", marks=best),
        LineChart("Multiply-adds decoded", "epoch",
                  (line("multiply-adds decoded", lambda epoch: epoch.multiply_adds, 1e-9),), "billions", marks=best),
    ]  # fmt: skip


def retraining(information: Information) -> Section | None:
    """Curves and recipe of the training from scratch."""
    curves, found = information.curves, information.retrain
    if not curves and found is None:
        return None
    metric = information.task.metric
    validation = f"{metric[0] if metric == 'mIoU' else metric[0].upper()}{metric[1:]} on validation"
    names = (("loss", "Loss", ""), ("learning_rate", "Learning rate", ""), (metric, validation, "%"))
    charts = [_curve(title, unit, curves[name]) for name, title, unit in names if curves.get(name)]
    parts = [paragraph(_retraining_in_words(information)), figures([line_chart(chart) for chart in charts])]
    if found is not None and found.recipe:
        parts.append(paragraph(f"Recipe: {found.recipe}.", "note"))
    return Section("retraining", "The retraining", join(parts))


def _curve(title: str, unit: str, points: tuple[Point, ...]) -> LineChart:
    averaged = -(-len(points) // MOST_POINTS)
    note = f"A point is the mean of {averaged} measurements." if averaged > 1 else ""
    return LineChart(title, "optimizer step", (Series(title, points),), unit, note=note)


def _retraining_in_words(information: Information) -> str:
    found = information.retrain
    if found is None:
        return "The retraining has not ended yet."
    words = [f"Trained from scratch for {plural(found.epochs, 'epoch')}" if found.epochs else "Trained from scratch"]
    if found.steps:
        words.append(plural(found.steps, "step"))
    if found.batch_size:
        words.append(f"{plural(found.batch_size, 'image')} a step")
    if found.seconds is not None:
        words.append(duration(found.seconds))
    if found.final_loss is not None:
        words.append(f"final loss {found.final_loss:.3g}")
    return f"{', '.join(words)}."
