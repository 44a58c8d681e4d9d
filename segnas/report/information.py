"""Get the information: everything a report shows, read from the files of one run directory and nothing else.

Each file has a frozen dataclass here with the keys that the report uses; further keys are ignored. A file that is not there
leaves its part `None` or empty, a file that does not fit raises UserError with the file's name and the first bad key.
"""

# ruff: noqa: N815 (fields bear the names of the keys in the files)

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from segnas.config import from_dict
from segnas.report.comparison import Comparison
from segnas.report.limits import Budget, TimeLimit
from segnas.report.trials import Point, TrialSearch
from segnas.runs.run import Run
from segnas.tasks import Task, tasks

T = TypeVar("T")
Color = tuple[int, int, int]


@dataclass(frozen=True)
class DataClass:
    """A class of the data set as data.json lists it."""

    name: str
    color: Color


@dataclass(frozen=True)
class Data:
    """data.json: what was trained on."""

    name: str
    classes: tuple[DataClass, ...]
    splits: dict[str, int]
    task: str = "segmentation"
    path: str | None = None
    layout: str | None = None
    split: str | None = None  # how a set without splits of its own was split
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchEpoch:
    """One epoch of a search. Entropies in nats (mean per edge, per node), scores in percent, of the task's deciding figure."""

    epoch: int
    loss_weights: float | None = None
    loss_architecture: float | None = None
    entropy_alpha: float | None = None
    entropy_beta: float | None = None
    skip_share: float | None = None
    eigenvalue: float | None = None  # the dominant one of the Hessian of the loss in alpha
    score_supernet: float | None = None
    score_one_hot: float | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    architecture: dict[str, Any] | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Search:
    """search.json of a search by gradients. alpha: (edges, operations) probabilities; beta: (layers, levels, 3) probabilities of
    the moves to half the stride, the same stride and twice the stride out of the column before the layer, 0 where there is none.

    With two kinds of cell alpha is that of the normal cell; edge_weights: (edges,) shares of the edges into a block.
    """

    system: str
    epochs: tuple[SearchEpoch, ...] = ()
    alpha: tuple[tuple[float, ...], ...] = ()
    operations: tuple[str, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    beta: tuple[tuple[tuple[float, float, float], ...], ...] = ()
    alpha_reduction: tuple[tuple[float, ...], ...] = ()
    edge_weights: tuple[float, ...] = ()
    edge_weights_reduction: tuple[float, ...] = ()
    best_epoch: int | None = None
    last_epoch: int | None = None
    seconds: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def largest_entropy_alpha(self) -> float | None:
        """The entropy of an edge on which all operations are equally likely, in nats."""
        return math.log(len(self.operations)) if len(self.operations) > 1 else None

    @property
    def largest_entropy_beta(self) -> float | None:
        """The mean entropy of the nodes if all their possible moves were equally likely, in nats."""
        options = [sum(move > 0 for move in node) for layer in self.beta for node in layer]
        entropies = [math.log(number) for number in options if number > 0]
        return (sum(entropies) / len(entropies) or None) if entropies else None

    @property
    def unchanged_since(self) -> int | None:
        """The epoch from which on the decoded architecture stayed what it is in the end."""
        since = None
        for epoch in reversed(self.epochs):
            if epoch.architecture is None or epoch.architecture != self.epochs[-1].architecture:
                break
            since = epoch.epoch
        return since


@dataclass(frozen=True)
class Block:
    """A block of a cell. Inputs: 0 = H^{l-2}, 1 = H^{l-1}, 2 + i = block i."""

    inputs: tuple[int, int]
    operations: tuple[str, str]


@dataclass(frozen=True)
class HierarchicalArchitecture:
    """What of an Auto-DeepLab architecture is drawn. path: one level a layer, 0 .. 3 = stride 4 .. 32."""

    path: tuple[int, ...]
    cell: tuple[Block, ...]
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A cell of DARTS; concat: the states that make its output."""

    blocks: tuple[Block, ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class DartsArchitecture:
    """What of a DARTS architecture is drawn."""

    normal: Cell
    reduction: Cell
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundArchitecture:
    """architecture.json: any family's JSON, its identity and where it came from."""

    architecture: dict[str, Any]
    id: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def hierarchical(self) -> HierarchicalArchitecture | None:
        """Path and cell of an Auto-DeepLab architecture, or None for another family."""
        if self.family != "auto-deeplab":
            return None
        return from_dict(HierarchicalArchitecture, self.architecture, "architecture.json")

    def darts(self) -> DartsArchitecture | None:
        """The two cells of a DARTS architecture, or None for another family."""
        return from_dict(DartsArchitecture, self.architecture, "architecture.json") if self.family == "darts" else None

    @property
    def family(self) -> str:
        """The name of its family; "unknown" where the JSON has none."""
        return str(self.architecture.get("family", "unknown"))

    @property
    def form(self) -> str | None:
        """Which of its family's networks it is, for families that have several."""
        darts = self.darts()
        return str(darts.network["form"]) if darts is not None and "form" in darts.network else None


@dataclass(frozen=True)
class Retrain:
    """retrain.json. `recipe`: in a sentence."""

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    seconds: float | None = None
    final_loss: float | None = None
    recipe: str = ""


@dataclass(frozen=True)
class Part:
    """The cost of one part of the network."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """cost.json; multiply-adds of convolutions and linear layers for one image of `size` (height, width)."""

    parameters: int
    multiply_adds: int
    size: tuple[int, int]
    by_part: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassScore:
    """Figures of one class in percent; IoU is None for a class in neither label nor prediction, and where an image has one
    class; accuracy is None for a class that is no label. pixels, images: how many have its label."""

    name: str
    color: Color
    IoU: float | None = None
    accuracy: float | None = None
    pixels: float | None = None
    images: float | None = None

    @property
    def labels(self) -> float | None:
        """How many pixels, or images, have its label."""
        return self.pixels if self.images is None else self.images


@dataclass(frozen=True)
class ImageScore:
    """One image and the mIoU of its own confusion matrix, in percent; None for an image with one class."""

    name: str
    mIoU: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """evaluation*.json, figures in percent. confusion: pixels or images, rows are labels and columns predictions."""

    split: str
    classes: tuple[ClassScore, ...]
    task: str = "segmentation"
    metric: str = "mIoU"
    mIoU: float | None = None
    accuracy: float | None = None
    mAcc: float | None = None
    aAcc: float | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    confusion: tuple[tuple[float, ...], ...] = ()
    images: tuple[ImageScore, ...] = ()
    seconds: float | None = None

    @property
    def score(self) -> float | None:
        """The figure that decides."""
        found: float | None = getattr(self, self.metric)
        return found

    @property
    def counted(self) -> str:
        """What a label is of: "pixel" or "image"."""
        return tasks[self.task].counted

    def of_class(self, score: ClassScore) -> float | None:
        """The figure by which classes are compared: IoU, or accuracy where an image has one class."""
        return score.IoU if tasks[self.task].dense else score.accuracy

    @property
    def image_count(self) -> int | None:
        """How many images were evaluated, where the file says so."""
        stated = self.protocol.get("images")
        return stated if isinstance(stated, int) else len(self.images) or None

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a figure, left out of the mean: in neither label nor prediction, or where an image has one class no
        label."""
        return tuple(score.name for score in self.classes if self.of_class(score) is None)


@dataclass(frozen=True)
class Panel:
    """One image of panels/panels.json with the names of its pictures inside the run.

    label, prediction: pictures; where an image has one class, labelled and predicted are the classes' names, and probability
    (0..1) that of the prediction.
    """

    kind: str
    name: str
    image: str
    label: str | None = None
    prediction: str | None = None
    mIoU: float | None = None
    labelled: str = ""
    predicted: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Latency:
    """latency.json, in milliseconds."""

    device: str
    input: tuple[int, ...]  # batch, channels, height, width
    median_ms: float
    q1_ms: float
    q3_ms: float
    unsteady: bool = False
    runtime: str | None = None
    threads: int | None = None
    precision: str | None = None
    channels_last: bool = False
    warmup: int | None = None
    runs: int | None = None
    includes: str | None = None


@dataclass(frozen=True)
class Parity:
    """parity.json: the exported file beside the trained network. `agreement` is a share from 0 to 1; figures are None when
    the file could not be run."""

    passed: bool
    images: int
    largest_logit_difference: float | None = None
    agreement: float | None = None
    problem: str | None = None
    tolerance: float | None = None
    mIoU_torch: float | None = None
    mIoU_onnx: float | None = None
    accuracy_torch: float | None = None
    accuracy_onnx: float | None = None
    size: tuple[int, int] | None = None  # height, width of the images that the file takes
    onnx: str = "model.onnx"


@dataclass(frozen=True)
class Information:
    """All that is known about a run."""

    name: str
    finished: str | None  # date and time (UTC) of the last measurement
    config: dict[str, Any]
    environment: dict[str, Any]
    data: Data | None
    search: Search | None
    architecture: FoundArchitecture | None
    retrain: Retrain | None
    curves: dict[str, tuple[Point, ...]]  # of the retraining: name -> (optimizer step, value)
    cost: Cost | None
    evaluations: tuple[Evaluation, ...]  # those of test first, among each evaluation.json first
    panels: tuple[Panel, ...]
    latency: Latency | None
    parity: Parity | None
    timing: dict[str, float]
    files: dict[str, int]  # model files and their sizes in bytes
    comparison: Comparison | None = None
    budget: Budget | None = None
    time_limit: TimeLimit | None = None
    trials: TrialSearch | None = None  # search.json of a search by trials, in place of `search`
    random_searches: tuple[TrialSearch, ...] = ()  # those with the same budget that it is compared with
    best_so_far: FoundArchitecture | None = None  # architecture_best.json of a search by trials that has not ended

    @property
    def task(self) -> Task:
        """What the network says of an image."""
        stated = self.evaluations[0].task if self.evaluations else self.data.task if self.data else "segmentation"
        return tasks[stated]

    @property
    def classes(self) -> tuple[DataClass, ...]:
        """The classes, from data.json or else from the first evaluation."""
        if self.data is not None:
            return self.data.classes
        return tuple(DataClass(score.name, score.color) for score in self.evaluations[0].classes) if self.evaluations else ()

    @property
    def kept_epoch(self) -> int | None:
        """The epoch of the search whose architecture the run goes on with: stated in its provenance, or the one (the best
        before the last) that decoded the same."""
        if self.architecture is None or self.search is None:
            return None
        stated = self.architecture.provenance.get("epoch")
        if isinstance(stated, int):
            return stated
        same = [item.epoch for item in self.search.epochs if item.architecture == self.architecture.architecture]
        likely = [epoch for epoch in (self.search.best_epoch, self.search.last_epoch) if epoch in same]
        return likely[0] if likely else None

    @property
    def continued(self) -> tuple[dict[str, Any], ...]:
        """The other environments in which the run went on, in their order; another command alone makes no other one."""
        return tuple(later for later in self.environment.get("later") or () if self.changed(later))

    def changed(self, later: dict[str, Any]) -> list[str]:
        """The keys, the command apart, in which an environment differs from that in which the run began."""
        names = {**self.environment, **later}.keys() - {"command", "later"}
        return sorted(name for name in names if self.environment.get(name) != later.get(name))

    @property
    def system(self) -> str | None:
        """The system that found the architecture, where a run knows it."""
        searched = self.search or self.trials
        if searched is not None:
            return searched.system
        return self.architecture.provenance.get("system") if self.architecture else None


def read_comparison(run: Run) -> Comparison | None:
    """comparison.json; None where nothing was compared."""
    return _read(run, Comparison, "comparison.json")


def gather(run: Run) -> Information:
    """Read a run directory. Raises UserError for a file that is broken or does not fit."""
    panels = run.read_json("panels/panels.json") if run.has("panels/panels.json") else []
    trials, compared = read_trials(run), read_comparison(run)
    underway = trials is not None and not run.has("architecture.json")
    return Information(
        name=run.path.resolve().name,
        finished=_finished(run),
        config=run.config(),
        environment=_plain(run, "environment.json"),
        data=_read(run, Data, "data.json"),
        search=_read(run, Search, "search.json") if trials is None else None,
        architecture=_read(run, FoundArchitecture, "architecture.json"),
        retrain=_read(run, Retrain, "retrain.json"),
        curves=_curves(run, "retrain"),
        cost=_read(run, Cost, "cost.json"),
        evaluations=_evaluations(run),
        panels=tuple(from_dict(Panel, panel, "panels/panels.json") for panel in panels),
        latency=_read(run, Latency, "latency.json"),
        parity=_read(run, Parity, "parity.json"),
        timing=_plain(run, "timing.json"),
        files={name: (run.path / name).stat().st_size for name in ("model.onnx", "model.safetensors") if run.has(name)},
        comparison=compared,
        budget=_read(run, Budget, "budget.json"),
        time_limit=_read(run, TimeLimit, "time.json"),
        trials=trials,
        random_searches=_random_searches(run, compared),
        best_so_far=_read(run, FoundArchitecture, "architecture_best.json") if underway else None,
    )


def read_trials(run: Run) -> TrialSearch | None:
    """search.json of a search by trials; None where the run did not search, or by gradients."""
    content = run.read_json("search.json") if run.has("search.json") else {}
    return from_dict(TrialSearch, content, "search.json") if content.get("kind") == "trials" else None


def _random_searches(run: Run, comparison: Comparison | None) -> tuple[TrialSearch, ...]:
    """The random searches with the same budget that the comparison lists, each in its own run directory."""
    entries = [entry for entry in comparison.entries if entry.kind == "random search"] if comparison else []
    found = [read_trials(Run(run.path / training.folder)) for entry in entries for training in entry.runs]
    return tuple(filter(None, found))


def _evaluations(run: Run) -> tuple[Evaluation, ...]:
    """Test first, for nothing was chosen by it; then evaluation.json, the run's own protocol, then the others by name."""
    names = sorted((path.name for path in run.path.glob("evaluation*.json")), key=lambda name: (name != "evaluation.json", name))
    found = [from_dict(Evaluation, run.read_json(name), name) for name in names]
    return tuple(sorted(found, key=lambda item: item.split != "test"))


def _read(run: Run, cls: type[T], name: str) -> T | None:
    return from_dict(cls, run.read_json(name), name) if run.has(name) else None


def _plain(run: Run, name: str) -> dict[str, Any]:
    return dict(run.read_json(name)) if run.has(name) else {}


def _curves(run: Run, stage: str) -> dict[str, tuple[Point, ...]]:
    curves: dict[str, list[Point]] = {}
    for row in run.metrics(stage):
        if row["value"] is not None:
            curves.setdefault(row["name"], []).append((float(row["step"]), float(row["value"])))
    return {name: tuple(points) for name, points in curves.items()}


def _finished(run: Run) -> str | None:
    rows = run.metrics()
    if not rows:
        return None
    moment = datetime.datetime.fromtimestamp(rows[-1]["seconds"], datetime.UTC)
    return moment.strftime("%d %B %Y, %H:%M UTC").lstrip("0")
