"""Tabular benchmarks: an estimate is a look into a table in which every architecture of a space was trained.

    benchmark = TabularBenchmark("nasbench201", "tables/nasbench201")
    benchmark.estimate(architecture, seed=0, hint={}).metrics      {"accuracy": 83.4}, what a search sees
    benchmark.report(architecture)                                 {"c10 val": 91.2, ...}, what papers print of the one it found

A folder holds the benchmark's table as gzipped CSV: a line an architecture, under the benchmark's own name for it in the column
`arch`. Strategies are simulated on it by segnas/benchmarking.py.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segnas.errors import Registry, UserError, did_you_mean
from segnas.estimators.base import Estimate, Estimator
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import NotInSpace, Space, enumerate_space
from segnas.spaces.tabular import NasBench201Space, NasBenchMacroSpace, TransNasMacroSpace, TransNasMicroSpace


@dataclass(frozen=True)
class Published:
    """A figure that a paper prints: the mean over its runs and, where it says so, their standard deviation."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class Table:
    """What is known of a benchmark without its data.

    file: in its folder. folder: that its file lies in, where several tables share one above. searched: the column that a search
    sees, as `metric`. reported: label -> column of what is told of the architecture that a search found. seconds: the column of
    training seconds. costs: name -> column. evaluations: how many a search has. options: by strategy, those of the published
    searches (a sample is of different members: with replacement evolution scores 0.07 lower on NAS-Bench-201 than published).
    published: by strategy, then by label.
    """

    space: Space
    folder: str
    file: str
    searched: str
    metric: str
    reported: Mapping[str, str]
    evaluations: int
    seconds: str | None = None
    costs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, Published]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Every column that is read, besides the architecture."""
        found = [self.searched, *self.reported.values(), *self.costs.values(), *([self.seconds] if self.seconds else [])]
        return list(dict.fromkeys(found))


benchmarks: Registry[Table] = Registry("benchmark")


class TabularBenchmark(Estimator):
    """The table of a benchmark as an estimator."""

    def __init__(self, name: str, folder: str | Path) -> None:
        """Reads the table; raises UserError when it is missing or malformed, or lacks an architecture of the space."""
        self.name, self.folder = name, Path(folder)
        self.table = benchmarks[name]
        inside = self.folder / self.table.folder / self.table.file
        self.rows = _read(inside if inside.is_file() else self.folder / self.table.file, self.table)

    def __str__(self) -> str:
        return f"the table of {self.name}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one that a search sees."""
        return (self.table.metric,)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """parameters and multiply_adds, where the table has them."""
        row = self._row(architecture)
        return {name: row[column] for name, column in self.table.costs.items()}

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        """The metric that a search sees, in percent, whatever the seed; the seconds of its training among the costs."""
        row = self._row(architecture)
        seconds = {} if self.table.seconds is None else {"training_seconds": row[self.table.seconds]}
        return Estimate({self.table.metric: row[self.table.searched]}, seconds)

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        """Nothing: a table stops no trial early."""
        return {}

    def report(self, architecture: Architecture) -> dict[str, float]:
        """The reported figures of an architecture, in percent, by label."""
        row = self._row(architecture)
        return {label: row[column] for label, column in self.table.reported.items()}

    def best(self) -> dict[str, float]:
        """The largest value of each reported figure in the table."""
        return {label: max(row[column] for row in self.rows.values()) for label, column in self.table.reported.items()}

    def _row(self, architecture: Architecture) -> Mapping[str, float]:
        name = getattr(architecture, "name", None)
        if name not in self.rows:
            raise NotInSpace(f"{self.name} has no such architecture: {architecture}")
        return self.rows[name]


def _read(path: Path, table: Table) -> dict[str, dict[str, float]]:
    """Architecture's name -> column -> value, for every architecture of the space."""
    if not path.is_file():
        raise UserError(
            f"there is no {table.file} in {path.parent}, nor in a folder {table.folder} there: --data is where the table lies"
        )
    rows: dict[str, dict[str, float]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for name, row in _lines(file, path, table.columns):
                if name in rows:
                    raise UserError(f"{path}: the architecture '{name}' stands there twice")
                rows[name] = row
    except (EOFError, UnicodeDecodeError, zlib.error, csv.Error, gzip.BadGzipFile):
        raise UserError(f"{path} is no gzipped CSV file, or a part of one") from None
    known = {architecture.name for architecture in enumerate_space(table.space)}
    for kind, names in (("no architecture", known - rows.keys()), ("an unknown architecture", rows.keys() - known)):
        if names:
            raise UserError(f"{path} has {kind} '{min(names)}'; it needs the {len(known):,} of its space, and no others")
    return rows


def _lines(file: Any, path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
    reader = csv.DictReader(file)
    for column in ("arch", *columns):
        if column not in (reader.fieldnames or ()):
            raise UserError(f"{path} has no column '{column}'{did_you_mean(column, reader.fieldnames or ())}")
    for line in reader:
        row = {}
        for column in columns:
            try:
                row[column] = float(line[column])
            except (TypeError, ValueError):
                row[column] = math.nan
            if not math.isfinite(row[column]):
                raise UserError(f"{path}, line {reader.line_num}: {column} is '{line[column] or ''}', which is no number")
        yield line["arch"], row


def _published(labels: Sequence[str], means: Sequence[float], stds: Sequence[float] = ()) -> dict[str, Published]:
    """A row of a paper's table."""
    if not stds:
        return {label: Published(mean) for label, mean in zip(labels, means, strict=True)}
    return {label: Published(mean, std) for label, mean, std in zip(labels, means, stds, strict=True)}


# Dong and Yang, ICLR 2020 (arXiv 2001.00326), section 5: searches by the accuracy on CIFAR-10's validation images after 12
# epochs, within 12,000 seconds of training; 500 runs. Here a search has 100 evaluations, with which random search reaches the
# published figures. Their accuracy on CIFAR-10's test images is of networks trained on all 50,000 images; the column c10_test_200
# is of networks that were trained on half of them.
_LABELS = ("c10 val", "c100 val", "c100 test", "in16 val", "in16 test")
benchmarks.register("nasbench201")(
    Table(
        space=NasBench201Space(),
        folder="nasbench201",
        file="accuracy.csv.gz",
        searched="c10_val_12",
        metric="accuracy",
        reported={
            "c10 val": "c10_val_200",
            "c10 test, half trained": "c10_test_200",
            "c100 val": "c100_val_200",
            "c100 test": "c100_test_200",
            "in16 val": "in16_val_200",
            "in16 test": "in16_test_200",
        },
        evaluations=100,
        costs={"parameters": "params_c10", "multiply_adds": "macs_c10"},
        options={"evolution": {"population": 10, "sample": 3, "replacement": False}},
        published={
            "random": _published(_LABELS, (90.93, 70.93, 71.04, 44.45, 44.57), (0.36, 1.09, 1.07, 1.10, 1.25)),
            "evolution": _published(_LABELS, (91.19, 71.81, 71.84, 45.15, 45.54), (0.31, 1.12, 0.99, 0.89, 1.03)),
            "reinforce": _published(_LABELS, (91.09, 71.61, 71.71, 45.05, 45.24), (0.37, 1.12, 1.09, 1.02, 1.18)),
        },
    )
)


# Duan et al., CVPR 2021 (arXiv 2105.11871): the best validation mIoU of semantic segmentation on Taskonomy in 50 evaluations.
def _transnas(space: Space, file: str, random: float, evolution: float, ppo: float) -> Table:
    means = {"random": random, "evolution": evolution, "ppo": ppo}
    return Table(
        space=space,
        folder="transnasbench101",
        file=file,
        searched="segmentsemantic.valid_mIoU",
        metric="mIoU",
        reported={"val mIoU": "segmentsemantic.valid_mIoU", "test mIoU": "segmentsemantic.test_mIoU"},
        evaluations=50,
        seconds="segmentsemantic.train_time_s",
        options={"evolution": {"population": 10, "sample": 10, "replacement": False}},
        published={name: _published(["val mIoU"], [mean]) for name, mean in means.items()},
    )


benchmarks.register("transnas-segmentation-micro")(_transnas(TransNasMicroSpace(), "micro.csv.gz", 25.21, 25.52, 25.24))
benchmarks.register("transnas-segmentation-macro")(_transnas(TransNasMacroSpace(), "macro.csv.gz", 28.37, 28.87, 28.31))

# Su et al., CVPR 2021 (arXiv 2103.11922): the mean accuracy on CIFAR-10's test images of three trainings. It prints no such
# searches. Its `flops` are multiply-adds: those of a network of identities, counted by hand, are 7,713,280.
benchmarks.register("nasbench-macro")(
    Table(
        space=NasBenchMacroSpace(),
        folder="nasbench_macro",
        file="cifar10.csv.gz",
        searched="mean_acc",
        metric="accuracy",
        reported={"accuracy": "mean_acc"},
        evaluations=100,
        costs={"parameters": "params", "multiply_adds": "flops"},
        options={"evolution": {"population": 10, "sample": 3, "replacement": False}},
    )
)
