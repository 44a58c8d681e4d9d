"""The estimate of most systems: train the architecture for a few epochs on a part of the training images, score it on the rest.

The training is that of training/retrain.py with its own recipe, so what a search sees is what retraining does, only shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from segnas.config import configuration, replace
from segnas.costs.counts import costs_of
from segnas.data.base import Dataset
from segnas.data.held_out import HeldOut
from segnas.data.memory import in_memory
from segnas.data.transforms import DataConfig, Normalization, seen_size
from segnas.errors import UserError
from segnas.estimators.base import Estimate
from segnas.estimators.rehearsal import measurement
from segnas.randomness import forked
from segnas.spaces.architecture import Architecture
from segnas.tasks import tasks
from segnas.training.device import Device
from segnas.training.evaluate import EvaluationConfig, score
from segnas.training.preflight import Measurement, Size
from segnas.training.rehearsal import rehearse
from segnas.training.retrain import RetrainConfig, Retraining


@configuration
class ShortTrainingConfig:
    """How a trial is trained and scored.

    recipe: of the training; its seed is the trial's. crop, resize: as in `data`, for trials alone. held_out: the share of the
    training images that trials are scored on; trained_images, scored_images: at most so many of each part, None for all.
    """

    recipe: RetrainConfig = RetrainConfig(epochs=5, validate_every=0)
    crop: tuple[PositiveInt, PositiveInt] | None = None
    resize: Annotated[float, Field(gt=0, le=4)] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    trained_images: PositiveInt | None = None
    scored_images: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.recipe.validate_every or self.recipe.weights is not None or self.recipe.seed is not None:
            raise ValueError("recipe: a trial is scored at its end (validate_every=0), from random weights, by its own seed")


class ShortTraining:
    """Trains and scores; see segnas.estimators.base.Estimator."""

    def __init__(
        self,
        dataset: Dataset,
        data: DataConfig,
        normalization: Normalization,
        device: Device,
        config: ShortTrainingConfig,
        seed: int,
        child: Callable[[Architecture], Architecture] = lambda architecture: architecture,
        split: str = "val",
    ) -> None:
        """data: how retraining sees images, the base of how trials do. seed: draws the parts.

        child: an architecture -> the smaller network of the same cells that is trained in its place; costs are those of the
        architecture itself, for the images of `split`.
        """
        self.config, self.normalization, self.device, self.child = config, normalization, device, child
        self.size, self.classes = seen_size(dataset, split, data.resize), len(dataset.classes)
        self.dataset = HeldOut(dataset, config.held_out, seed, config.trained_images, config.scored_images)
        if len(self.dataset.splits["train"]) < config.recipe.batch_size:
            left = len(self.dataset.splits["train"])
            raise UserError(
                f"{left} images are left to train a trial on, too few for a batch; set search.training.recipe.batch_size={left} "
                "or less, or search.training.held_out lower"
            )
        changes: dict[str, Any] = {"workers": 0}  # several trials at once share the cores
        changes |= {} if config.crop is None else {"crop": config.crop}
        changes |= {} if config.resize is None else {"resize": config.resize}
        self.data = replace(data, **changes)

    def __str__(self) -> str:
        steps = self.config.recipe.steps
        length = f"{steps} steps" if steps else f"{self.config.recipe.epochs} epoch{'s' if self.config.recipe.epochs > 1 else ''}"
        trained, scored = (len(self.dataset.splits[split]) for split in ("train", "val"))
        return f"training of {length} on {trained:,} images, scored on {scored:,} others of the training set"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the task."""
        return tasks[self.dataset.task].metrics

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Parameters and multiply-adds of the architecture's network, for an evaluated image."""
        return costs_of(architecture, self.size, self.classes)

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        """Nothing: trials are not compared while they run."""
        return {}

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        """The figures of the task on the held-out images after the training, in percent. Raises Diverged."""
        this = self.training(architecture, seed)
        while this.step < this.steps:
            for batch in this.remaining_batches():
                this.train_step(batch)
                if this.at_end_of_epoch():
                    break
            this.settle()
            this.losses.clear()
        this.model.network.eval()
        found = score(this.model, in_memory(self.dataset, "val", self.data.cache), EvaluationConfig(), self.device)
        return Estimate(dict(this.model.task.figures(found)))

    def prepare(self, architecture: Architecture) -> None:
        """Nothing: trials share no more than images."""

    def training(self, architecture: Architecture, seed: int) -> Retraining:
        """The training of a trial, at its beginning."""
        with forked(seed, "trial"):
            return Retraining(
                self.child(architecture), self.dataset, self.data, self.normalization, self.config.recipe, self.device, seed
            )

    def preflight(self, architecture: Architecture, trials: int, workers: int) -> Measurement:
        """What so many trials will take, from two real steps on one of them."""
        this, config = self.training(architecture, 0), self.config
        key = "search.training.recipe.batch_size"
        size = Size(self.data.crop, config.recipe.batch_size, None, "search.training.crop", key, "")
        measured = rehearse(this, "search", size, 0)
        of_trial = measured.seconds + this.seconds_of_scoring(self.dataset, "val")
        return measurement(trials, workers, of_trial, 0.0, measured.memory_bytes)
