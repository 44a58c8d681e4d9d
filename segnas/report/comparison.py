"""comparison.json: the searched network beside baselines trained alike, and how far it lies above or below them.

Two figures of one seed say little: the same network, trained again with another seed, moves by a point or so. So a difference is
held against the spread over seeds, where there are several: the standard deviation of the difference between two trainings, one
of each, sqrt(s_a^2 + s_b^2) of the two sample standard deviations.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Literal

from segnas.report.markup import count, listing, percent, plural

NAMES = {"unet": "U-Net", "deeplab-v3-plus": "DeepLabv3+", "resnet": "ResNet"}  # as their authors write them
EQUAL_COST = 0.1  # multiply-adds that differ by no more than this share are the same cost
LEVEL = 0.05  # points; less is 0.0 as printed


@dataclass(frozen=True)
class Training:
    """One training of a network of the comparison. latency_ms: torch's; scores: split -> percent."""

    seed: int
    folder: str = "."
    id: str | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    latency_ms: float | None = None
    seconds: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A network, several random ones, or what a random search found, and the trainings that are finished: one a seed."""

    kind: Literal["searched", "hand-made", "random", "random search"]
    name: str
    runs: tuple[Training, ...] = ()
    note: str = ""

    @property
    def shown(self) -> str:
        """The name as its authors write it."""
        return NAMES.get(self.name, self.name)

    @property
    def drawn(self) -> bool:
        """Whether chance proposed its architectures: one for each training, or a whole search to choose from."""
        return self.kind in ("random", "random search")

    def scores(self, split: str) -> tuple[float, ...]:
        """The figures of the trainings that were evaluated on the split, in percent."""
        found = [run.scores.get(split) for run in self.runs]
        return tuple(score for score in found if score is not None)

    def mean(self, split: str) -> float | None:
        """The mean over seeds; None when nothing was evaluated."""
        scores = self.scores(split)
        return statistics.fmean(scores) if scores else None

    def deviation(self, split: str) -> float | None:
        """The sample standard deviation over seeds, in points; None for fewer than two."""
        scores = self.scores(split)
        return statistics.stdev(scores) if len(scores) > 1 else None

    @property
    def multiply_adds(self) -> float | None:
        """The mean over the trainings, which hold different architectures where they are random."""
        found = [run.multiply_adds for run in self.runs if run.multiply_adds is not None]
        return statistics.fmean(found) if found else None


@dataclass(frozen=True)
class Difference:
    """The searched network's mean minus the baseline's, in points; spread: over seeds, None where one has a single seed."""

    baseline: Entry
    points: float
    spread: float | None

    @property
    def decided(self) -> bool:
        """Whether it is larger than the spread over seeds."""
        return self.spread is not None and abs(self.points) > self.spread

    @property
    def words(self) -> str:
        """`3.1 points above`, `0.4 points below`, `level with`."""
        if abs(self.points) < LEVEL:
            return "level with"
        return f"{abs(self.points):.1f} points {'above' if self.points > 0 else 'below'}"


@dataclass(frozen=True)
class Comparison:
    """comparison.json. seeds: how many each entry is to be trained with."""

    metric: str
    entries: tuple[Entry, ...]
    seeds: int = 1
    protocol: str = ""

    @property
    def split(self) -> str:
        """The split that decides: test, for nothing was chosen by it, unless what was trained is not evaluated on it."""
        trained = [entry for entry in self.entries if entry.runs]
        return "test" if all(entry.scores("test") for entry in trained) else "val"

    @property
    def searched(self) -> Entry | None:
        """The entry of the searched network."""
        return next((entry for entry in self.entries if entry.kind == "searched"), None)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The searched network beside each baseline that has a figure, in the order of the entries."""
        return tuple(filter(None, (self._difference(entry) for entry in self.entries if entry.kind != "searched")))

    @property
    def one_seed(self) -> bool:
        """Whether some comparison rests on a single training."""
        return any(difference.spread is None for difference in self.differences)

    @property
    def unfinished(self) -> tuple[Entry, ...]:
        """The entries that have fewer figures than seeds."""
        return tuple(entry for entry in self.entries if len(entry.scores(self.split)) < self.seeds)

    def seeds_of(self, entry: Entry) -> str:
        """`3 seeds`, or `2 of 3 seeds` where some are missing."""
        done = len(entry.scores(self.split))
        return plural(self.seeds, "seed") if done >= self.seeds else f"{done} of {plural(self.seeds, 'seed')}"

    def _difference(self, baseline: Entry) -> Difference | None:
        searched, split = self.searched, self.split
        if searched is None:
            return None
        ours, theirs = searched.mean(split), baseline.mean(split)
        if ours is None or theirs is None:
            return None
        deviations = (searched.deviation(split), baseline.deviation(split))
        known = [deviation for deviation in deviations if deviation is not None]
        return Difference(baseline, ours - theirs, math.hypot(*known) if len(known) == len(deviations) else None)


def score_in_words(entry: Entry, split: str) -> str:
    """`44.6 %`, or `44.6 ± 0.5 %` over several seeds."""
    mean, deviation = entry.mean(split), entry.deviation(split)
    return percent(mean) if mean is None or deviation is None else f"{mean:.1f} ± {deviation:.1f} %"


def in_words(comparison: Comparison) -> str:
    """Whether the searched network is better than each baseline, and by more than the spread over seeds."""
    searched, split, differences = comparison.searched, comparison.split, comparison.differences
    if searched is None or not searched.scores(split):
        return "The searched network has no figure to compare yet."
    seeds = comparison.seeds_of(searched) if comparison.seeds > 1 else "one seed"
    told = f"On {split} the searched network reaches {score_in_words(searched, split)} {comparison.metric} ({seeds})."
    if differences:
        told += f" That is {listing(_held_against(difference, split) for difference in differences)}."
    if comparison.one_seed:
        told += " One seed cannot tell whether that is more than chance: trained again, a network moves by a point or two."
    waiting = [entry.shown for entry in comparison.entries if not entry.scores(split)]
    return f"{told} Not trained yet: {listing(waiting)}." if waiting else told


def _held_against(difference: Difference, split: str) -> str:
    baseline = difference.baseline
    told = f"{difference.words} {baseline.shown} ({score_in_words(baseline, split)}"
    if difference.spread is None:
        return f"{told})"
    how = "more than" if difference.decided else "within"
    return f"{told}; {how} the spread over seeds, {difference.spread:.1f} points)"


def beside(comparison: Comparison | None, split: str, metric: str, score: float | None) -> str:
    """`, 3.1 points above a U-Net of equal cost`, to stand behind a figure of the run; nothing unless it is that figure.

    split, metric, score: what the figure is; the run's own training of the comparison must have the same one.
    """
    if comparison is None or comparison.searched is None or score is None:
        return ""
    own = next((run.scores.get(split) for run in comparison.searched.runs if run.folder == "."), None)
    same = own is not None and abs(own - score) < LEVEL
    if not same or (split, metric) != (comparison.split, comparison.metric) or not comparison.differences:
        return ""
    first = comparison.differences[0]
    seeds = min(len(entry.scores(split)) for entry in (comparison.searched, first.baseline))
    mean = f" (means of {seeds} seeds)" if seeds > 1 else ""
    if len(comparison.searched.scores(split)) != len(first.baseline.scores(split)):
        mean = " (means over unequal numbers of seeds)"
    return f", {first.words} {_with_cost(first.baseline, comparison.searched)}{mean}"


def _with_cost(baseline: Entry, searched: Entry) -> str:
    """The baseline with an article and what it costs beside the searched network."""
    name = baseline.shown if baseline.drawn else f"a {baseline.shown}"
    ours, theirs = searched.multiply_adds, baseline.multiply_adds
    if ours is None or theirs is None:
        return name
    return f"{name} of equal cost" if abs(theirs - ours) <= EQUAL_COST * ours else f"{name} of {count(theirs)} multiply-adds"
