"""What searches through a supernet by gradients share: settings, data, checkpoints, scores, records, and the loop of epochs.

A system's own file holds its supernet, its relaxation (architecture variables -> mixture), its `search_step` and its decoding.
The training set is split in two halves: trainA for the weights, trainB for the architecture. Several processes compute parts of
each batch and average the gradients of weights and variables alike, so that all hold the same; scores are taken by each, on whole
batches.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration, replace
from segnas.costs.counts import count
from segnas.data.loading import Batch, TrainingBatches, halves
from segnas.data.statistics import evenly_spaced
from segnas.data.transforms import DataConfig, seen_size
from segnas.errors import Interrupted, UserError, did_you_mean
from segnas.nets import compiled
from segnas.nets.engines import choose_engine
from segnas.nets.statistics import batch_statistics
from segnas.randomness import forked
from segnas.runs.progress import StageProgress, console, stop_between_steps
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, from_json, identity, to_json
from segnas.systems.base import Job
from segnas.tasks import tasks
from segnas.tasks.base import confusion_matrix, scores
from segnas.training.preflight import DoesNotFit, Measurement, Size, measure, seconds_of, seconds_to_save


@configuration
class SupernetConfig:
    """The training of a supernet; a system's own configuration adds its supernet and its paper's values.

    crop: (height, width); resize: factor applied to images and labels first. architecture_from_epoch: the first epoch (from 0)
    that trains the architecture. steps_per_epoch: None for all of a half. clip_norm: of the weights' gradient, 0 for none.
    scored_images: how many images of trainB the supernet and its decoded architecture are scored on after each epoch.
    select: which decoded architecture the search returns, the last or the one that scored best. engine: how mixed cells are
    computed, in few large calls or module by module; the results differ in rounding. recompute_cells: the fused engine computes
    cells a second time in the backward pass, for less memory and the same results; "auto": where they do not fit otherwise.
    """

    epochs: PositiveInt = 50
    architecture_from_epoch: int = 0
    steps_per_epoch: PositiveInt | None = None
    batch_size: PositiveInt = 2
    crop: tuple[PositiveInt, PositiveInt] = (321, 321)
    resize: Annotated[float, Field(gt=0, le=4)] = 1.0
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 3e-4
    clip_norm: NonNegativeFloat = 0.0
    architecture_learning_rate: PositiveFloat = 3e-3
    architecture_weight_decay: NonNegativeFloat = 1e-3
    scored_images: PositiveInt = 64
    engine: Literal["plain", "fused"] = "fused"
    recompute_cells: Literal["auto"] | bool = "auto"
    select: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if not 0 <= self.architecture_from_epoch < self.epochs:
            last = self.epochs - 1
            fact = f"architecture_from_epoch must lie in 0..{last} with epochs={self.epochs}"
            what = f"set search.architecture_from_epoch={last} too, or more search.epochs"
            raise ValueError(f"{fact}, or the architecture is never trained; {what}")
        if self.recompute_cells is True and self.engine != "fused":
            raise ValueError("recompute_cells is of the fused engine; set search.engine=fused too")


def require_operations(operations: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError unless the candidate operations are known, different, and not `none` alone."""
    unknown = [name for name in operations if name not in known]
    if unknown:
        raise ValueError(f"operations: unknown '{unknown[0]}'{did_you_mean(unknown[0], known)}")
    if not set(operations) - {"none"}:
        raise ValueError("operations: none is left but 'none'")
    if len(set(operations)) < len(operations):
        raise ValueError("operations: one is named twice")


class SupernetSearch(ABC):
    """Everything that changes during a search, so that it can be saved and continued: see `state` and `load`.

    A system's search derives from it and adds `search_step`, `decode`, `one_hot`, and what else it wants in the records.
    """

    system: str
    width_key = "search.filters"  # the setting that memory grows with
    weights_share = 0.5  # of a step that trains both, the time that weights alone take

    def __init__(self, job: Job, supernet: nn.Module, relaxation: Any, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """relaxation: a module of architecture variables whose `mixture(detached)` is what the supernet's forward pass takes.

        betas: of Adam, which moves these variables.
        """
        config: SupernetConfig = job.config.search
        self.config, self.job = config, job
        self.task = tasks[job.dataset.task]
        job.device.require_right_gradients(nhwc=config.engine == "fused")
        self.supernet = job.device.place(supernet)
        choose_engine(self.supernet, config.engine == "fused", config.recompute_cells is True)
        self.relaxation = relaxation.to(job.device.device)
        self.weights = list(self.supernet.parameters())
        self.variables = list(self.relaxation.parameters())
        job.device.same([*self.weights, *self.variables, *self.supernet.buffers()])
        self.weight_optimizer = torch.optim.SGD(
            self.weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
        self.architecture_optimizer = torch.optim.Adam(
            self.variables, lr=config.architecture_learning_rate, betas=betas, weight_decay=config.architecture_weight_decay
        )
        data = replace(job.config.data, crop=config.crop, resize=config.resize, cutout=0)  # cutout is for retraining
        half_a, half_b = halves(len(job.dataset.splits["train"]), job.config.seed)
        self.train_a = self._batches(half_a, data, "trainA")
        self.train_b = self._batches(half_b, data, "trainB")
        plain = replace(data, scale=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, padding=0)
        scored = evenly_spaced(len(half_b), max(config.batch_size, config.scored_images))
        self.scored = self._batches([half_b[place] for place in scored], plain, "scored", shared=False)
        self.steps = min(len(self.train_a), len(self.train_b), config.steps_per_epoch or len(self.train_a))
        self.epoch = self.step = 0
        self.replays = job.device.replay()
        self.sums = torch.zeros(2, device=job.device.device)  # losses of the weights and of the architecture, this epoch
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []

    # What a system adds ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def search_step(self, batch_a: Batch, batch_b: Batch) -> None:
        """One step of weights on a batch of trainA and one of the architecture on one of trainB, as the paper orders them."""

    @abstractmethod
    def decode(self, mixture: Any) -> Architecture:
        """The architecture that a mixture stands for."""

    @abstractmethod
    def one_hot(self, architecture: Architecture) -> Any:
        """The mixture that has weight on the architecture alone."""

    def figures(self, mixture: Any, architecture: Architecture) -> dict[str, Any]:
        """Figures of an epoch beside losses, scores and costs, such as entropies."""
        return {}

    def variables_in_words(self, mixture: Any) -> dict[str, Any]:
        """What search.json says of the mixture: plain lists."""
        return {}

    def returns_to(self) -> int | None:
        """The epoch (from 1) whose architecture an early end of the search returns to; None: the search goes on."""
        return None

    # What all share -------------------------------------------------------------------------------------------------------

    def _batches(self, indices: Sequence[int], data: DataConfig, stream: str, shared: bool = True) -> TrainingBatches:
        """shared: each process takes its part of every batch."""
        job, size = self.job, self.config.batch_size
        part = (job.device.global_rank, job.device.world_size) if shared else (0, 1)
        seed, key = job.config.seed, "search.batch_size"
        return TrainingBatches(job.dataset, "train", indices, data, job.normalization, size, seed, stream, key, *part)

    def placed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and labels on the device."""
        return self.job.device.images(batch.images), self.job.device.labels(batch.labels)

    def replay(self, function: Callable[[Tensor, Tensor], Any], batch: Batch) -> Any:
        """`function(images, labels)` of a batch; on a GPU a recording of it (training/replay.py): what it gives is good until the
        next call."""
        return self.replays(function, *self.placed(batch))

    def at_step(self) -> AbstractContextManager[None]:
        """Around a step: torch's generators as seeded for it (and for this process), whatever ran before."""
        rank = self.job.device.global_rank
        return forked(self.job.config.seed, "search", self.epoch, self.step, *([rank] if rank else []))

    def pairs(self) -> Iterator[tuple[Batch, Batch]]:
        """The batches of trainA and trainB of this epoch that are not done yet."""
        left = self.steps - self.step
        halves = (islice(batches.epoch(self.epoch, self.step), left) for batches in (self.train_a, self.train_b))
        return zip(*(self.job.device.ahead(half) for half in halves), strict=True)

    @torch.no_grad()
    def score(self, mixture: Any) -> float:
        """The task's metric in percent on the scored images of trainB, not augmented, with the statistics of each batch."""
        total: Tensor | int = 0
        classes = len(self.job.dataset.classes)
        with batch_statistics(self.supernet.eval()):
            for batch in self.scored.epoch(0):
                with self.job.device.autocast():
                    logits = self.supernet(self.job.device.images(batch.images), mixture)
                total = total + confusion_matrix(logits.argmax(1), self.job.device.labels(batch.labels), classes)
        assert isinstance(total, Tensor)
        return self.task.deciding(scores(total.cpu()))

    def require_numbers(self) -> None:
        """Raise UserError when a loss of this epoch is no number."""
        if self.job.device.any(not bool(self.sums.isfinite().all())):
            advice = "lower search.learning_rate, set search.clip_norm=5, or use device.precision=32"
            raise UserError(f"the search's loss is no number in epoch {self.epoch + 1}; {advice} (the last checkpoint is kept)")

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load` goes on bit by bit; every process must ask for it."""
        return {
            "supernet": self.supernet.state_dict(),
            "relaxation": self.relaxation.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": torch.stack(self.job.device.gather(self.sums.cpu())),  # (processes, 2)
            "seconds": self.seconds,
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.supernet.load_state_dict(state["supernet"])
        self.relaxation.load_state_dict(state["relaxation"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        self.epoch, self.step, self.seconds, self.history = state["epoch"], state["step"], state["seconds"], state["history"]
        sums, device = state["sums"], self.job.device  # of another number of processes: their mean, which is what counts
        self.sums.copy_(sums[device.global_rank] if len(sums) == device.world_size else sums.mean(dim=0))


def search(this: SupernetSearch) -> Architecture:
    """Search, watch, decode: from the training set to an architecture. Continues from checkpoints/search.pt when it is there."""
    run, config, device = this.job.run, this.config, this.job.device
    if device.config.graphs and device.device.type == "cuda" and device.world_size > 1:
        console.print("note: several processes compute their steps without CUDA graphs (device.graphs)")
    saved = run.load_checkpoint("search")
    if saved is not None:
        this.load(saved)
    clock = Clock(this)
    done = this.epoch * this.steps + this.step
    with stop_between_steps() as stop, StageProgress("search", config.epochs * this.steps, done) as progress:
        while this.epoch < config.epochs and this.returns_to() is None:
            for batch_a, batch_b in this.pairs():
                this.search_step(batch_a, batch_b)
                progress.step()
                if device.any(stop.requested or clock.due()):
                    clock.save(run)
                    if device.any(stop.requested):
                        raise Interrupted(f"the search is saved at epoch {this.epoch + 1}, step {this.step}")
            device.average([this.sums])
            record = device.gather(watch(this))[0]
            this.history.append(record)
            this.epoch, this.step = this.epoch + 1, 0
            this.sums.zero_()
            run.log("search", this.epoch, {key: value for key, value in record.items() if isinstance(value, (int, float))})
            clock.count()
            write_search(this, run)  # before the checkpoint: killed between the two, the epoch ends once more
            clock.save(run)
            progress.epoch(this.epoch, config.epochs, shown(this, record))
            if device.any(stop.requested):
                raise Interrupted(f"the search is saved after epoch {this.epoch}")
    back = this.returns_to()
    if back is not None:
        console.print(f"the search ended after epoch {this.epoch} of {config.epochs} and returns to epoch {back}")
    kept, reached = chosen(this), best(this.history, config)
    told = f"kept: what was decoded after epoch {kept['epoch']}, which scored {kept['score_one_hot']:.4g}"
    if back is None and kept["score_one_hot"] < reached["score_one_hot"]:
        told += f" (the best, after epoch {reached['epoch']}: {reached['score_one_hot']:.4g}; search.select=best would keep it)"
    console.print(told)
    return from_json(kept["architecture"])


class Clock:
    """Counts the seconds of a search over all its parts, and says when a long epoch should be saved in its midst."""

    SAVE_EVERY = 600.0  # seconds

    def __init__(self, this: SupernetSearch) -> None:
        self.this, self.before = this, this.seconds
        self.started = self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last save lies too far back."""
        return time.monotonic() - self.saved > self.SAVE_EVERY

    def count(self) -> None:
        """Bring the seconds used so far up to date."""
        self.this.seconds = self.before + time.monotonic() - self.started

    def save(self, run: Run) -> None:
        """Write the checkpoint; UserError instead when a loss is no number, so that the one before is kept."""
        self.this.require_numbers()
        self.count()
        self.saved = time.monotonic()
        run.save_checkpoint("search", self.this.state())


def watch(this: SupernetSearch) -> dict[str, Any]:
    """The figures of the epoch that just ended; raises UserError when the loss is no number.

    Low entropy: the search has decided. Many skip-connections, or a decoded architecture that scores far below the supernet:
    the mixture hides what the decoded network lacks (what users of public implementations learned to look at).
    """
    this.require_numbers()
    losses = (this.sums / max(1, this.steps)).tolist()
    mixture = this.relaxation.mixture(detached=True)
    architecture = this.decode(mixture)
    job = this.job
    size = seen_size(job.dataset, job.config.evaluation.split, job.config.data.resize)
    costs = count(architecture, size, len(job.dataset.classes))
    return {
        "epoch": this.epoch + 1,
        "loss_weights": losses[0],
        "loss_architecture": losses[1] if this.epoch >= this.config.architecture_from_epoch else None,
        **this.figures(mixture, architecture),
        "score_supernet": this.score(mixture),
        "score_one_hot": this.score(this.one_hot(architecture)),
        "parameters": costs.parameters,
        "multiply_adds": costs.multiply_adds,
        "architecture": to_json(architecture),
        "id": identity(architecture),
    }


def shown(this: SupernetSearch, record: dict[str, Any]) -> dict[str, float | str]:
    """The few figures of an epoch that fit on a line of a terminal: the score of the supernet, of what is decoded, its best
    among the epochs that count (see `best`)."""
    scored = {this.task.metric: record["score_supernet"], "decoded": record["score_one_hot"]}
    if record["epoch"] > this.config.architecture_from_epoch:
        scored["best"] = best(this.history, this.config)["score_one_hot"]
    return {"loss": record["loss_weights"], **scored}


def best(history: list[dict[str, Any]], config: SupernetConfig) -> dict[str, Any]:
    """The epoch whose decoded architecture scored best, among those that trained the architecture; the earliest of equals."""
    decided = [record for record in history if record["epoch"] > config.architecture_from_epoch]
    return max(decided or history, key=lambda record: record["score_one_hot"])


def chosen(this: SupernetSearch) -> dict[str, Any]:
    """The epoch whose architecture the search returns: by `select`, or the one that an early end returns to."""
    back = this.returns_to()
    if back is not None:
        return next(record for record in this.history if record["epoch"] == back)
    return this.history[-1] if this.config.select == "last" else best(this.history, this.config)


def write_search(this: SupernetSearch, run: Run) -> None:
    """search.json for whoever watches or reports, and the last and the best decoded architecture as files."""
    mixture = this.relaxation.mixture(detached=True)
    kept = {"last": this.history[-1], "best": best(this.history, this.config)}
    for name, record in kept.items():
        provenance = {"system": this.system, "epoch": record["epoch"], "score_one_hot": record["score_one_hot"]}
        content = {"architecture": record["architecture"], "id": record["id"], "provenance": provenance}
        run.write_json(f"architecture_{name}.json", content)
    run.write_json(
        "search.json",
        {
            "system": this.system,
            "epochs": this.history,
            **this.variables_in_words(mixture),
            "best_epoch": kept["best"]["epoch"],
            "last_epoch": kept["last"]["epoch"],
            "select": this.config.select,
            "seconds": this.seconds,
        },
    )


def preflight(this: SupernetSearch) -> Measurement:
    """A few real steps on a search made for this alone: weights, statistics and random state of the run's own stay untouched."""
    config, job = this.config, this.job
    if config.engine == "fused" and job.device.device.type == "cpu" and compiled.absence() is not None:
        console.print(f"note: {compiled.absence()}, so that the search's steps take longer than they could")
    this.epoch = config.architecture_from_epoch  # the dearer kind of step: weights and architecture
    pairs = this.pairs()
    batch, _ = next(pairs)
    loading = seconds_of(lambda: next(pairs, None))
    steps = config.epochs * this.steps
    width = int(getattr(config, this.width_key.split(".")[1]))
    size = Size(config.crop, config.batch_size, width, "search.crop", "search.batch_size", this.width_key)
    step, warm_up = lambda some: this.search_step(some, some), this.replays.warm_up

    def measured_now() -> Measurement:
        return measure("search", step, batch, steps, job.device.device, size, this.supernet, warm_up)

    lean = False
    try:
        measured = measured_now()
    except DoesNotFit as error:
        if config.engine != "fused" or config.recompute_cells is True:
            raise
        if config.recompute_cells != "auto" or job.device.world_size > 1:
            raise DoesNotFit(f"{error}, or search.recompute_cells=true") from None
        lean = True
    if lean:  # out of the block above, which holds on to what did not fit
        this.replays.forget()
        choose_engine(this.supernet, True, recomputed=True)
        measured = dataclasses.replace(measured_now(), settings=("search.recompute_cells=true",))
        console.print("note: the cells are computed twice, as the memory does not suffice otherwise (search.recompute_cells)")
    both = 1 - config.architecture_from_epoch / config.epochs  # the other steps move weights alone
    share = both + (1 - both) * this.weights_share
    measured = dataclasses.replace(measured, seconds=measured.seconds * share)
    measured = measured.with_loading(loading, job.config.data.workers)
    this.epoch = 0  # what is not looked at after every epoch is after the first
    try:
        scoring = seconds_of(lambda: watch(this))
    except torch.OutOfMemoryError:
        raise UserError(
            "scoring the supernet does not fit into the memory; lower search.batch_size, or leave out options"
        ) from None
    of_an_epoch = scoring + seconds_to_save(this.state())
    return dataclasses.replace(measured, seconds=measured.seconds + config.epochs * of_an_epoch, epochs=config.epochs)


def sized(config: Any, factor: float) -> Any:
    """The configuration of a run whose search takes about `factor` times as many epochs, at least one of each kind.

    The share of epochs that train the weights alone stays about what it is.
    """
    search: SupernetConfig = config.search
    alone = search.architecture_from_epoch
    least = 2 if alone else 1
    epochs = max(least, int(search.epochs * factor))
    first = min(epochs - 1, max(1, round(alone * epochs / search.epochs))) if alone else 0
    return replace(config, search=replace(search, epochs=epochs, architecture_from_epoch=first))
