"""`segnas data check DIR`: every image and mask is decoded once, and everything wrong is listed, not just the first.

Training calls `require` before any work is done.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segnas.data import open_dataset
from segnas.data.base import IGNORE, Dataset, FromFiles
from segnas.data.classes import CLASS_FILE, like_grey_levels
from segnas.data.folder import Folder
from segnas.data.masks import UnknownIds
from segnas.data.statistics import ClassPixels, add_class_pixels, class_pixels
from segnas.errors import UserError

LINES_SHOWN = 20
SMALLEST_CROP = 33
LARGEST_CROP = 513  # the crop of the papers for images of about this size; larger ones rarely pay on one machine
VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored", "undefined", "unknown")


@dataclass(frozen=True)
class Unknown:
    """Ids (or colours) in a mask that are no class, as written in the file."""

    file: str
    ids: tuple[str, ...]
    allowed: tuple[str, ...]


@dataclass(frozen=True)
class SplitFigures:
    """pairs: images with a label; readable: of these, the ones without fault, from which the rest is counted.

    sizes: ((height, width), images of this size), the most frequent first. classes: counted in pixels, or in images where each
    has one class.
    """

    pairs: int
    readable: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    classes: ClassPixels


@dataclass(frozen=True)
class Report:
    """What a check found. problems: training would refuse the set; warnings: worth knowing; suggestions: settings that fit."""

    name: str
    where: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitFigures]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    suggestions: tuple[str, ...]
    unknown: tuple[Unknown, ...]
    crop: tuple[int, int] | None
    task: str = "segmentation"

    @property
    def ok(self) -> bool:
        """Whether training accepts the set."""
        return not self.problems

    def frequencies(self, split: str) -> tuple[float, ...]:
        """Percent of all pixels of the split, ignored ones included, for each class; of its images where each has one class."""
        counts = self.splits[split].classes
        total = sum(counts.pixels) + counts.ignored
        return tuple(100 * pixels / max(1, total) for pixels in counts.pixels)

    def rows(self) -> list[tuple[str, ...]]:
        """A table to print: a header, then for each class its percentage of the pixels of each split; ignored pixels last.

        Where each image has one class: the number of its images. A split of which nothing could be read has "-" everywhere.
        """
        if self.task == "classification":
            counts = [figures.classes.pixels if figures.readable else None for figures in self.splits.values()]
            numbers = [[f"{count:,}" for count in one] if one else ["-"] * len(self.class_names) for one in counts]
            return [("class", *(f"{split} images" for split in self.splits)), *zip(self.class_names, *numbers, strict=True)]
        columns = [self._column(split) for split in self.splits]
        header = ("class", *(f"{split} %" for split in self.splits))
        return [header, *zip((*self.class_names, "(ignored)"), *columns, strict=True)]

    def lines(self, limit: int = LINES_SHOWN) -> list[str]:
        """What to print beside the table; of problems, and of warnings, at most `limit` and how many more there are."""
        counts = ", ".join(f"{split} {figures.pairs}" for split, figures in self.splits.items())
        pairs = sum(figures.pairs for figures in self.splits.values())
        what = ("image" if self.task == "classification" else "pair") + ("" if pairs == 1 else "s")
        lines = [f"{self.name}: {pairs} {what} ({counts}), {self._sizes()}"]
        lines += [f"note: {note}" for note in self.notes]
        for word, found in (("problem", self.problems), ("warning", self.warnings)):
            lines += [f"{word}: {line}" for line in found[:limit]]
            if len(found) > limit:
                lines.append(f"... and {len(found) - limit} more {word}s (--json lists all)")
        lines += [f"suggestion: {line}" for line in self.suggestions]
        return lines

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        values = asdict(self)
        for split, figures in values["splits"].items():
            figures["frequencies_percent"] = list(self.frequencies(split))
            figures["sizes"] = [{"height": size[0], "width": size[1], "images": count} for size, count in figures["sizes"]]
        return {"ok": self.ok, **values}

    def _column(self, split: str) -> tuple[str, ...]:
        if not self.splits[split].readable:
            return ("-",) * (len(self.class_names) + 1)
        percent = self.frequencies(split)
        return tuple(f"{value:.3f}" for value in (*percent, max(0.0, 100 - sum(percent))))

    def _sizes(self) -> str:
        sizes = sorted({size for figures in self.splits.values() for size, _ in figures.sizes})
        if not sizes:
            return "none of them readable"
        if len(sizes) == 1:
            return f"all {sizes[0][0]}x{sizes[0][1]} (height x width)"
        heights, widths = zip(*sizes, strict=True)
        return f"{len(sizes)} sizes, heights {min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}"


@dataclass(frozen=True)
class _Seen:
    """What remains of a sample after it was read: a few numbers, or why it could not be read."""

    split: str
    name: str
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    pixels: ClassPixels | None = None
    error: UserError | None = None


def check(data: Dataset | str | Path, seed: int = 0) -> Report:
    """Read the whole set and report on it. Raises UserError only where there is no set to check (`open_dataset`)."""
    dataset = open_dataset(data, seed) if isinstance(data, (str, Path)) else data
    positions = [(split, index) for split in dataset.splits for index in range(len(dataset.splits[split]))]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(lambda position: _look(dataset, *position), positions))
    splits = {split: _figures([one for one in seen if one.split == split], len(dataset.classes)) for split in dataset.splits}
    faults = [one.error for one in seen if one.error is not None]
    unknown = tuple(Unknown(str(error.file), error.ids, error.allowed) for error in faults if isinstance(error, UnknownIds))
    structure = (*_no_training_images(dataset), *(dataset.problems if isinstance(dataset, FromFiles) else ()))
    crop = _crop([one.size for one in seen if one.error is None]) if dataset.task == "segmentation" else None
    refused, doubtful = _grey_levels(dataset, splits)
    return Report(
        name=dataset.name,
        where=str(dataset.path) if isinstance(dataset, FromFiles) else dataset.name,
        class_names=dataset.classes.names,
        splits=splits,
        notes=dataset.notes if isinstance(dataset, FromFiles) else (),
        problems=(*structure, *(str(error) for error in faults), *refused, *_too_few_classes(dataset, splits)),
        warnings=(*doubtful, *_absent(dataset, splits), *_all_ignored(seen), *_leaks(seen), *_palettes(dataset)),
        suggestions=_suggestions(dataset, unknown, crop),
        unknown=unknown,
        crop=crop,
        task=dataset.task,
    )


def require(dataset: Dataset) -> Report:
    """The report of a set that passes; UserError with the first problem, and how many more there are, for one that does not."""
    report = check(dataset)
    if not report.ok:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        raise UserError(f"{report.problems[0]}{more}; see segnas data check {report.where}")
    return report


def _look(dataset: Dataset, split: str, index: int) -> _Seen:
    name = dataset.splits[split][index]
    try:
        sample = dataset.read(split, index)
    except UserError as error:
        return _Seen(split, name, error=error)
    height, width = sample.image.shape[:2]
    digest = hashlib.blake2b(sample.image.tobytes(), digest_size=16).digest()
    return _Seen(split, name, (height, width), digest, class_pixels([sample.label], len(dataset.classes)))


def _figures(seen: Sequence[_Seen], num_classes: int) -> SplitFigures:
    sizes = Counter(one.size for one in seen if one.error is None)
    ordered = tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
    counts = [one.pixels for one in seen if one.pixels is not None]
    return SplitFigures(len(seen), len(counts), ordered, add_class_pixels(counts, num_classes))


def _no_training_images(dataset: Dataset) -> list[str]:
    if dataset.splits.get("train"):
        return []
    splits = " and ".join(dataset.splits) or "nothing"
    return [f"there are no training images (there is {splits}): the set can be evaluated on, but not trained on"]


def _too_few_classes(dataset: Dataset, splits: Mapping[str, SplitFigures]) -> list[str]:
    """One class alone teaches nothing, and a split without a single class cannot be scored."""
    problems = []
    for split, figures in splits.items():
        present = [name for name, pixels in zip(dataset.classes.names, figures.classes.pixels, strict=True) if pixels]
        if figures.readable and not present:
            problems.append(f"the masks of the split '{split}' hold nothing but ignored pixels")
        elif figures.readable and split == "train" and len(present) == 1:
            what = "masks hold" if dataset.task == "segmentation" else "images are of"
            problems.append(f"the training {what} one class only ('{present[0]}'); at least 2 must occur")
    return problems


def _grey_levels(dataset: Dataset, splits: Mapping[str, SplitFigures]) -> tuple[list[str], list[str]]:
    """(problems, warnings) about masks of 0 and 255 with blurred edges, which would lose their foreground: 255 is ignored.

    Only where no class file says what 255 is. Levels that look like edges are refused: two or more beside 0, which together
    cover fewer pixels than 255. Other ids with large gaps may be a few classes of a long list, with few ignored pixels.
    """
    if not isinstance(dataset, Folder) or (dataset.path / CLASS_FILE).is_file():
        return [], []
    ids = dataset.classes.source_ids
    counts = add_class_pixels([figures.classes for figures in splits.values()], len(ids))
    if not counts.ignored or not like_grey_levels(ids):
        return [], []
    shown = ", ".join(str(value) for value in ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    line = (
        f"{IGNORE} covers {100 * counts.ignored / (sum(counts.pixels) + counts.ignored):.1f} % of the pixels and is ignored, but "
        f"the other ids ({shown}) look like grey levels; if these are masks of 0 and {IGNORE} with blurred edges, "
        f"threshold them, or write {CLASS_FILE}"
    )
    between = sum(pixels for value, pixels in zip(ids, counts.pixels, strict=True) if value)
    edges = 0 in ids and len(ids) > 2 and between < counts.ignored
    return ([line], []) if edges else ([], [line])


def _absent(dataset: Dataset, splits: Mapping[str, SplitFigures]) -> list[str]:
    counts = {split: figures.classes.pixels for split, figures in splits.items() if figures.readable}
    warnings = []
    for train_id, name in enumerate(dataset.classes.names):
        where = [split for split, pixels in counts.items() if pixels[train_id]]
        if not where:
            warnings.append(f"the class '{name}' occurs in no {'mask' if dataset.task == 'segmentation' else 'image'}")
        elif "train" in counts and "train" not in where:
            warnings.append(f"the class '{name}' occurs in {' and '.join(where)} but never in train: it cannot be learned")
    return warnings


def _all_ignored(seen: Sequence[_Seen]) -> list[str]:
    blank = [one for one in seen if one.pixels is not None and not any(one.pixels.pixels)]
    if not blank:
        return []
    return [f"{len(blank)} masks hold nothing but ignored pixels (the first: {blank[0].name} in {blank[0].split})"]


def _leaks(seen: Sequence[_Seen]) -> list[str]:
    """Images that stand, pixel for pixel, in two splits: the score on the second one would flatter."""
    first: dict[bytes, _Seen] = {}
    examples: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in (one for one in seen if one.error is None):
        other = first.setdefault(one.digest, one)
        if other.split != one.split:
            examples.setdefault((one.split, other.split), []).append((one.name, other.name))
    return [
        f"{len(names)} images of {split} are in {other} too (the first: {names[0][0]} is {names[0][1]})"
        for (split, other), names in examples.items()
    ]


def _palettes(dataset: Dataset) -> list[str]:
    """Indices that are no ids: tools that count colours number them anew in every file, and nothing in one file tells."""
    contradiction = dataset.contradicting_palettes() if isinstance(dataset, Folder) else ""
    if not contradiction:
        return []
    return [
        f"the palettes of the masks differ ({contradiction}), but they are read by index; "
        "if it is the colours that tell the classes, give each class its color in classes.json"
    ]


def _crop(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """(height, width): for each side the 32k + 1 nearest to the median of the images, from SMALLEST_CROP to LARGEST_CROP.

    A crop may reach over an image by up to 16 pixels: rather a little padding than a network that never sees the whole.
    """
    if not sizes:
        return None
    height, width = (statistics.median_low(sides) for sides in zip(*sizes, strict=True))
    return _crop_side(height), _crop_side(width)


def _crop_side(side: int) -> int:
    nearest = (side + 14) // 32 * 32 + 1  # the smaller of two that are equally near
    return max(SMALLEST_CROP, min(LARGEST_CROP, nearest))


def _suggestions(dataset: Dataset, unknown: Sequence[Unknown], crop: tuple[int, int] | None) -> tuple[str, ...]:
    lines = []
    if crop is not None:
        lines.append(f"data.crop=[{crop[0]}, {crop[1]}]")
    if not isinstance(dataset, Folder):  # no classes.json is read
        return tuple(lines)
    ids = {value for one in unknown for value in one.ids}
    if len(ids) == 1 and (only := min(ids)).isdigit():
        lines.append(f'if {only} marks pixels without a class, write "ignore_index": {only} into classes.json')
    for source_id, name in zip(dataset.classes.source_ids or range(len(dataset.classes)), dataset.classes.names, strict=True):
        if name.lower() in VOID_NAMES:
            lines.append(f"the class '{name}' counts like any other; \"ignore_index\": {source_id} in classes.json leaves it out")
    return tuple(lines)
