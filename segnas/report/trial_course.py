"""How a search by trials went: its section of the report, at any time while it runs."""

from __future__ import annotations

from collections.abc import Iterable

from segnas.report import tables
from segnas.report.information import Information
from segnas.report.markup import Markup, join, listing, percent, plural, tag, three_digits
from segnas.report.scatter import Dot, DotChart, Layer, dot_chart
from segnas.report.sections import Section, figures, paragraph, tile
from segnas.report.trial_charts import COSTS, RANDOM, charts, shown
from segnas.report.trials import LEAST_RANKED, Failure, Objective, TrialSearch, failures, spearman, value_at
from segnas.runs.progress import duration

BEST_LISTED = 10
NUMBERS_LISTED = 12  # of the trials that failed for a reason


def search(information: Information) -> Section | None:
    """Figures, the best so far, the best trials, the front, what judging again says, and what failed."""
    found = information.trials
    if found is None:
        return None
    parts = [
        paragraph(in_words(found)),
        tag("div", *_tiles(found), class_="tiles", style="--columns:5"),
        figures([dot_chart(chart) for chart in charts(found, information.random_searches)]),
        _best(found),
        _beside_random(found, information.random_searches),
        *_again(found),
        *_failed(found),
    ]
    return Section("search", "The search", join(parts))


def in_words(found: TrialSearch) -> str:
    """Who searched what, how, and how far it has come."""
    judged = f"; each architecture is judged by {found.estimator}" if found.estimator else ""
    told = f"{found.system} searches the space {found.space} by {found.strategy}{judged}"
    told += f". It {'maximises' if found.main.direction == 'maximize' else 'minimises'} {found.main.noun}"
    for other in found.objectives[1:]:
        told += f", and {'maximises' if other.direction == 'maximize' else 'minimises'} {other.noun}"
    told += f", within {listing(map(_spaced, found.constraints))}." if found.constraints else "."
    best, running = found.best_trial, len(found.having("running"))
    if best is None:
        told += " No trial has a score yet."
    else:
        score, named = shown(found.main.name, found.score(best)), "The best" if found.complete else "The best so far"
        told += f" {named} is trial {best.number} ({best.id}): {found.main.noun} {score}."
    smaller = sum(trial.smaller for trial in found.searched)
    if smaller:
        told += f" It began with smaller architectures, which do not count beside it: {plural(smaller, 'trial')}."
    return f"{told} {plural(running, 'trial')} {'is' if running == 1 else 'are'} running." if running else told


def progress_in_words(found: TrialSearch) -> str:
    """How far it has come, in a sentence."""
    of = "" if found.planned is None else f" of {found.planned}"
    told = f"{len(found.tried)}{of} trials of the search are over"
    best = found.best_score
    return f"{told}; the best so far has {found.main.noun} {shown(found.main.name, best)}." if best is not None else f"{told}."


def _spaced(constraint: str) -> str:
    """`parameters <= 1e6` -> `parameters ≤ 1e6`."""
    return constraint.replace("_", " ").replace("<=", "≤").replace(">=", "≥")


def _tiles(found: TrialSearch) -> list[Markup]:
    best, ended = found.best_trial, len(found.tried)
    counted = [(len(found.having(status)), noun) for status, noun in (  # type: ignore[arg-type]
        ("done", "done"), ("stopped", "stopped early"), ("failed", "failed"), ("over budget", "over budget"),
        ("running", "running"))]  # fmt: skip
    below = ", ".join(f"{number} {noun}" for number, noun in counted if number) or "none has begun"
    score = found.best_score
    busy = "" if found.busy is None else f"busy {percent(100 * found.busy, 0)} of the time"
    rate = found.trials_per_hour
    trials = f"{ended} / {found.planned}" if found.planned is not None else str(ended)
    judged = "judged again" if best is not None and best.stage == "rerank" else "in the search"
    where = "no trial has ended" if best is None else f"trial {best.number}, {judged}"
    return [
        tile(f"best {found.main.noun}", shown(found.main.name, score), where, main=True),
        tile("trials ended", trials, below),
        tile("time", duration(found.seconds) if found.seconds is not None else "–", "of the search"),
        tile("trials per hour", "–" if rate is None else three_digits(rate), "of those that were trained"),
        tile("workers", str(found.workers), busy),
    ]


# Tables ---------------------------------------------------------------------------------------------------------------


def _best(found: TrialSearch) -> Markup:
    """The best trials with all objectives and costs."""
    ranked = found.ranked[:BEST_LISTED]
    if not ranked:
        return Markup("")
    again = {first.number: found.score(later) for first, later in found.judged_again()}
    names = [one.name for one in found.objectives]
    names += [name for name in COSTS if name not in names and any(trial.costs.get(name) is not None for trial in ranked)]
    rows = []
    for place, trial in enumerate(ranked, 1):
        values = [shown(name, trial.value(name)) for name in names]
        judged = [shown(found.main.name, again.get(trial.number))] if again else []
        took = duration(trial.seconds) if trial.seconds is not None else "–"
        rows.append((str(place), str(trial.number), trial.id, *values[:1], *judged, *values[1:], took))
    heads = [Objective(name).noun for name in names]
    head = ("", "trial", "architecture", *heads[:1], *(["judged again"] if again else []), *heads[1:], "time")
    caption = f"The best {len(ranked)} of {plural(len(found.ranked), 'scored trial')}" if len(ranked) > 1 else "The best trial"
    return tables.table(caption, head, rows, class_="trials", strong_first=True)


def _beside_random(found: TrialSearch, random: Iterable[TrialSearch]) -> Markup:
    """The figures of the search beside those of random searches with the same budget."""
    alike = [other for other in random if other.main == found.main]
    if not alike:
        return Markup("")
    rows = []
    for name, one in [(found.system, found), *((f"{RANDOM} {number}" if len(alike) > 1 else RANDOM, other)
                                               for number, other in enumerate(alike, 1))]:  # fmt: skip
        half = value_at(one.by_number(), len(found.ended) / 2)
        rows.append((
            name, f"{len(one.tried)} / {one.planned}" if one.planned is not None else str(len(one.tried)),
            shown(one.main.name, one.best_score), shown(one.main.name, half), str(len(one.having("failed"))),
            duration(one.seconds) if one.seconds is not None else "–",
        ))  # fmt: skip
    head = ("", "trials", f"best {found.main.noun}", "best after half of the trials", "failed", "time")
    return tables.table("Beside random search with the same budget", head, rows, class_="trials", strong_first=True)


def _again(found: TrialSearch) -> list[Markup]:
    """What judging the best again, more thoroughly, says about the scores of the search."""
    pairs = found.judged_again()
    if not pairs:
        return []
    scores = [(found.score(first) or 0.0, found.score(later) or 0.0) for first, later in pairs]
    correlation = spearman([before for before, _ in scores], [after for _, after in scores])
    told = f"{plural(len(pairs), 'architecture')} of the search {'was' if len(pairs) == 1 else 'were'} judged again. "
    if correlation is None:
        told += f"A rank correlation takes {LEAST_RANKED} or more with different scores."
    else:
        told += (
            f"The rank correlation (Spearman) between the scores of the search and those of the second time is "
            f"{correlation:.2f}: 1 means the same order, 0 none. "
            "Where only the best are judged again, it tends to be lower than over all trials."
        )
    dots = tuple(Dot(before, after, f"trial {first.number}: {before:.4g}, again {after:.4g}")
                 for (first, _), (before, after) in zip(pairs, scores, strict=True))  # fmt: skip
    chart = DotChart("The search and judging again", f"{found.main.noun} in the search", f"{found.main.noun} judged again",
                     (Layer("architectures", "c", dots, "strong"),))  # fmt: skip
    return [tag("h3", "Judging again"), paragraph(told), figures([dot_chart(chart)])]


def _failed(found: TrialSearch) -> list[Markup]:
    """Why trials failed, the most frequent reason first."""
    reasons = failures(found)
    if not reasons:
        return []
    rows = [(failure.reason, str(len(failure.trials)), _numbers(failure)) for failure in reasons]
    table = tables.table("Failed trials by reason; figures in it are those of the first", ("reason", "trials", "numbers"), rows,
                         class_="reasons")  # fmt: skip
    return [tag("h3", "What failed"), table]


def _numbers(failure: Failure) -> str:
    numbers = [str(trial.number) for trial in failure.trials]
    return ", ".join(numbers[:NUMBERS_LISTED]) + (", …" if len(numbers) > NUMBERS_LISTED else "")
