"""What somebody who decides about a network should know first: the warnings of a report, worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from segnas.report.comparison import EQUAL_COST, Comparison, Entry, score_in_words
from segnas.report.information import Evaluation, Information, Search, SearchEpoch
from segnas.report.limits import Excess, excess_in_words
from segnas.report.markup import count, listing, percent, plural, three_digits
from segnas.report.trials import Objective, TrialSearch, failures, pooled_deviation, value_at
from segnas.runs.progress import duration

Level = Literal["problem", "caution", "note"]
ORDER: tuple[Level, ...] = ("problem", "caution", "note")

WEAK_IOU = 20.0  # percent; below it a class is hardly recognised
WEAK_ACCURACY = 50.0  # percent; below it most images of a class are taken for another
FEW_IMAGES = 50
SKIP_HEAVY = 0.5  # share of skip connections among a cell's operations; collapsed searches end near 1
LARGE_GAP = 10.0  # points between the supernet's mixture and the decoded one-hot mixture
ORIGIN = (
    "classes from ",
    "masks of 0 and ",
    "there was no ",
)  # notes on where classes and splits come from, which stand with the data
FEW_TRIALS = 20  # scored; random search finds one of the best 10 % with 88 % certainty in as many
MANY_FAILURES = 0.2  # share of the trials that were trained
EDGE = 0.95  # share of a limit above which the best is at its edge
LATE = 0.9  # share of the trials after which a last best says that the search has not converged
LEADING = 5  # trials among which the spread of the scores is held against what a seed changes
UNDECIDED = 0.95  # share of the largest entropy at the end of a search


@dataclass(frozen=True)
class Caution:
    """A sentence and how much it weighs."""

    level: Level
    text: str


def cautions(information: Information) -> tuple[Caution, ...]:
    """All warnings that the run's files give cause for, problems first."""
    found = [
        *(item for evaluation in information.evaluations for item in _evaluation(evaluation)),
        *_export(information),
        *_budget(information),
        *_comparison(information),
        *_search(information),
        *_trials(information),
        *_circumstances(information),
    ]
    return tuple(sorted(found, key=lambda item: ORDER.index(item.level)))


def _evaluation(evaluation: Evaluation) -> Iterator[Caution]:
    where, dense = f"the {evaluation.split} split", evaluation.counted == "pixel"
    if evaluation.score is None:
        yield Caution("problem", f"No {evaluation.metric} could be measured on {where}.")
    if evaluation.absent:
        text = f"{listing(evaluation.absent)} never occurred in {where}"
        text += ", neither labelled nor predicted" if dense else ""
        noun = "this class" if len(evaluation.absent) == 1 else "these classes"
        yield Caution("caution", f"{text}: nothing is known about {noun}, and the mean leaves {noun} out.")
    limit = WEAK_IOU if dense else WEAK_ACCURACY
    figures = [(score, evaluation.of_class(score)) for score in evaluation.classes]
    weak = [f"{score.name} ({percent(figure)})" for score, figure in figures if (figure or limit) < limit]
    never = [score.name for score, figure in figures if figure == 0 and score.labels != 0]
    unlabelled = [score.name for score in evaluation.classes if score.IoU == 0 and score.pixels == 0]
    if never:
        yield Caution("caution", f"Never found on {where}: {listing(never)}.")
    if unlabelled:
        text = f"{listing(unlabelled)}: predicted, though not labelled in this split ({evaluation.split})"
        yield Caution("caution", f"{text}; {'its' if len(unlabelled) == 1 else 'their'} IoU of 0 counts in the mean.")
    if weak and dense:
        yield Caution("caution", f"Hardly recognised on {where} (IoU below {WEAK_IOU:.0f} %): {listing(weak)}.")
    elif weak:
        yield Caution("caution", f"More often wrong than right on {where}: {listing(weak)}.")
    images = evaluation.image_count
    if images is not None and images < FEW_IMAGES:
        yield Caution("note", f"The figures on {where} rest on {plural(images, 'image')}; expect them to move on others.")


def _export(information: Information) -> Iterator[Caution]:
    parity, latency = information.parity, information.latency
    if parity is not None and not parity.passed:
        why = f" ({parity.problem})" if parity.problem else ""
        yield Caution(
            "problem", f"{parity.onnx} does not compute what the trained network computes{why}. Do not deploy this file."
        )
    if parity is None and information.evaluations:
        yield Caution("note", "The network has not been exported and compared yet; segnas export does it.")
    if latency is not None and latency.unsteady:
        spread = latency.q3_ms - latency.q1_ms
        yield Caution(
            "caution",
            f"The latency was unsteady (median {three_digits(latency.median_ms)} ms, interquartile range {three_digits(spread)} "
            "ms): something else ran on the device, or its clock moved. Measure again before relying on it.",
        )


def _budget(information: Information) -> Iterator[Caution]:
    budget, time = information.budget, information.time_limit
    if time is not None and time.used_seconds is not None and time.used_seconds > time.asked_seconds:
        used, asked = duration(time.used_seconds), duration(time.asked_seconds)
        yield Caution("note", f"The run took {used}; it was to take {asked}.")
    if budget is None:
        return
    exceeded = list(budget.exceeded())
    yield from (Caution("problem", f"The budget is not met: {excess_in_words(excess)}.") for excess in exceeded)
    known = any(excess.subject == "the exported file" for excess in exceeded)
    if budget.exported is not None and budget.exported.met is False and not known:
        yield Caution("problem", "The budget is not met: the exported file exceeds it.")


def _comparison(information: Information) -> Iterator[Caution]:
    comparison = information.comparison
    if comparison is None or not comparison.differences:
        if (information.search or information.trials) is not None and information.evaluations:
            text = "There is no comparison with baselines: a hand-made network of the same cost may do as well."
            yield Caution("note", text)
        return
    searched, split = comparison.searched, comparison.split
    assert searched is not None
    for difference in comparison.differences:
        if difference.points <= 0:
            baseline = difference.baseline
            figures = f"{score_in_words(searched, split)} {comparison.metric} against {score_in_words(baseline, split)}"
            lesson = "the search found nothing better than chance" if baseline.drawn else "the simpler network will do"
            yield Caution("caution", f"The searched network does not beat {baseline.shown} on {split}: {figures}; {lesson}.")
    yield from _unlike(information, comparison, searched)
    if comparison.one_seed:
        text = "Searched network and baselines are compared by one seed: differences of a point or two are within chance."
        yield Caution("note", text)
    if comparison.seeds > 1 and comparison.unfinished:
        missing = listing(f"{entry.shown} has {comparison.seeds_of(entry)}" for entry in comparison.unfinished)
        yield Caution("note", f"The comparison with baselines is not finished: {missing}.")


def _unlike(information: Information, comparison: Comparison, searched: Entry) -> Iterator[Caution]:
    """Baselines that cost something else than the searched network, or more than the budget that it keeps."""
    ours = searched.multiply_adds
    for entry in (entry for entry in comparison.entries if entry.kind != "searched"):
        theirs = entry.multiply_adds
        if ours and theirs and abs(theirs - ours) > EQUAL_COST * ours:
            more = f"{abs(theirs / ours - 1):.0%} {'more' if theirs > ours else 'fewer'}"
            text = f"{entry.shown}: {count(theirs)} multiply-adds, {more} than the searched network; no width comes nearer"
            yield Caution("caution", f"{text}, so part of the difference may be due to that.")
        for name, limit in (information.budget.limits if information.budget else {}).items():
            costs = [getattr(run, name.removeprefix("max_")) for run in entry.runs]
            most = max((cost for cost in costs if cost is not None), default=0)
            if most > limit.limit:
                excess = excess_in_words(Excess(name, entry.shown, most, limit.limit))
                yield Caution("caution", f"A baseline does not keep the budget: {excess}.")


def _search(information: Information) -> Iterator[Caution]:
    search = information.search
    yield from _cell(information)
    if search is None:
        return
    yield from (Caution("caution", text) for text in search.warnings)
    if not search.epochs:
        return
    kept = _kept_epoch(information, search)
    if kept.score_supernet is not None and kept.score_one_hot is not None:
        gap, points = kept.score_supernet - kept.score_one_hot, f"points of {information.task.metric}"
        if gap > LARGE_GAP:
            yield Caution(
                "caution",
                f"Decoding cost {gap:.1f} {points} (supernet {percent(kept.score_supernet)}, its decoded path alone "
                f"{percent(kept.score_one_hot)}): the shared weights say little about the network that was kept.",
            )
    entropy, largest = search.epochs[-1].entropy_alpha, search.largest_entropy_alpha
    if entropy is not None and largest is not None and entropy > UNDECIDED * largest:
        yield Caution(
            "caution",
            f"The search ended undecided: the entropy of alpha is {percent(100 * entropy / largest, 0)} of its maximum. "
            "Longer search or a higher architecture learning rate may decide it.",
        )
    if search.last_epoch is not None and kept.epoch != search.last_epoch:
        yield Caution("note", f"The kept architecture is the one of epoch {kept.epoch}; the search ran to {search.last_epoch}.")


def _trials(information: Information) -> Iterator[Caution]:
    """Of a search by trials: how far its best trial can be relied on."""
    search = information.trials
    if search is None:
        return
    ended, scored = len(search.tried), len(search.ranked)
    if information.architecture is None:
        planned = "" if search.planned is None else f" of {search.planned}"
        yield Caution("note", f"The search has not ended: {ended}{planned} trials are over; the best may still change.")
    yield from _failures(search)
    if information.architecture is not None and scored < FEW_TRIALS:
        yield Caution("caution", f"Only {plural(scored, 'trial')} {'has' if scored == 1 else 'have'} a score: chance chose more "
                                 "than the search did.")  # fmt: skip
    yield from _edge(search)
    improved = search.by_number()
    if information.architecture is not None and scored >= FEW_TRIALS and improved[-1][0] >= LATE * (search.ended[-1].number + 1):
        yield Caution(
            "caution",
            f"The best was found in the last tenth (trial {improved[-1][0]:.0f} of {ended}): the search has not converged, and "
            "more trials may well find better.",
        )
    yield from _leading(information, search)
    yield from _random_search(information, search)


def _failures(search: TrialSearch) -> Iterator[Caution]:
    failed, trained = len(search.having("failed")), len(search.having("done", "stopped", "failed"))
    if not failed:
        return
    first = failures(search)[0]
    most = f"the most frequent reason ({plural(len(first.trials), 'trial')}): {first.reason}"
    if failed == trained:
        yield Caution("problem", f"All {plural(failed, 'trial')} failed; {most}.")
    elif failed > MANY_FAILURES * trained:
        yield Caution(
            "caution", f"{failed} of {plural(trained, 'trial')} failed; {most}. What fails is never the best, however good."
        )


def _edge(search: TrialSearch) -> Iterator[Caution]:
    best = search.best_trial
    for name, limit in search.limits() if best is not None else ():
        value = best.value(name) if best is not None else None
        if value is not None and EDGE * limit <= value <= limit:
            noun = Objective(name).noun
            text = f"The best trial is at the edge of the budget ({noun}: {count(value)} of {count(limit)})"
            yield Caution("note", f"{text}: with a larger one the search would likely find better.")


def _leading(information: Information, search: TrialSearch) -> Iterator[Caution]:
    """Whether the order of the leading trials is more than a seed changes, where that is known."""
    leading = list({trial.id: search.score(trial) or 0.0 for trial in search.ranked}.values())[:LEADING]
    spread, source = search.seed_spread(), "architectures that were tried with several seeds"
    comparison = information.comparison
    if spread is None and comparison is not None and comparison.metric == search.main.name:
        spread = pooled_deviation([entry.scores(comparison.split) for entry in comparison.entries if entry.kind != "random"])
        source = "the comparison with baselines"
    if spread is not None and len(leading) == LEADING and (apart := abs(leading[0] - leading[-1])) < spread:
        yield Caution(
            "caution",
            f"The best {LEADING} trials lie within {three_digits(apart)} of {search.main.noun}, and a seed changes it by "
            f"{three_digits(spread)} (standard deviation, from {source}): their order is chance.",
        )


def _random_search(information: Information, search: TrialSearch) -> Iterator[Caution]:
    """Whether random search, with as many trials, found an architecture that scores as well."""
    for other in information.random_searches:
        until = min(len(search.ended), len(other.ended))
        ours, theirs = value_at(search.by_number(), until), value_at(other.by_number(), until)
        if other.main == search.main and ours is not None and theirs is not None and not search.main.better(ours, theirs):
            yield Caution(
                "caution",
                f"Random search found as good an architecture in as many trials ({search.main.noun} {three_digits(theirs)} "
                f"against {three_digits(ours)}): the strategy brought nothing here.",
            )


def _cell(information: Information) -> Iterator[Caution]:
    found = information.architecture
    hierarchical, darts = (found.hierarchical(), found.darts()) if found else (None, None)
    blocks = hierarchical.cell if hierarchical else darts.normal.blocks if darts else ()  # a reduction cell may well skip
    name = "normal cell" if darts else "cell"
    operations = [operation for block in blocks for operation in block.operations]
    skips = operations.count("skip_connect")
    if operations and skips >= SKIP_HEAVY * len(operations):
        yield Caution(
            "caution",
            f"The {name} is skip-heavy: {skips} of its {len(operations)} operations are skip connections, the usual sign of "
            "a collapsed search. Raise the weight decay of the architecture, or search for fewer epochs.",
        )


def _kept_epoch(information: Information, search: Search) -> SearchEpoch:
    by_number = {item.epoch: item for item in search.epochs}
    return by_number.get(information.kept_epoch or 0, search.epochs[-1])


def _circumstances(information: Information) -> Iterator[Caution]:
    if information.retrain is not None and information.retrain.steps and information.retrain.final_loss is None:
        yield Caution("problem", "The retraining ended without a finite loss.")
    splits = {evaluation.split for evaluation in information.evaluations}
    if splits and "test" not in splits:
        yield Caution("note", "There is no figure on a test split; the split shown may have guided choices made before.")
    if str(information.environment.get("device", "")).startswith("cpu"):
        yield Caution("note", "The run used the CPU: its times and its latency are those of a CPU.")
    if information.continued:
        names = sorted({name for later in information.continued for name in information.changed(later)})
        what = listing(name.replace("_", " ") for name in names)
        yield Caution(
            "note", f"The run was continued in another environment ({what}); the differences stand with the environment, below."
        )
    if information.data is not None:
        yield from (Caution("note", text) for text in information.data.notes if not text.startswith(ORIGIN))
