"""Training of one architecture from scratch: SGD, poly or cosine, scheduled drop path, in one plain loop.

Defaults are a recipe for small sets; the preset `paper` of a system sets its paper's. What is drawn at random (initial weights,
dropout, drop path, augmentation) depends on the seed and the position alone, so that a resumed training is the same training.

Several processes (torchrun) take the steps of one: each computes its part of the global batch, gradients and losses are those of
the whole. Not the same are the statistics of batch norm, each process normalising by its own part and the first one's running
statistics being kept, and what dropout and drop path draw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnas.config import replace
from segnas.data.base import Dataset
from segnas.data.loading import Batch, TrainingBatches
from segnas.data.memory import in_memory
from segnas.data.statistics import class_pixels, median_frequency_weights
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, Interrupted, UserError
from segnas.nets.build import build
from segnas.nets.mobilenet_v2 import MobileNetV2, load_encoder_weights
from segnas.randomness import forked
from segnas.runs.progress import StageProgress, console, stop_between_steps
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, family_of
from segnas.tasks import tasks
from segnas.tasks.base import cross_entropy
from segnas.training.device import Device
from segnas.training.evaluate import EvaluationConfig, image_confusions, score
from segnas.training.model import TrainedModel, require_task, start_from
from segnas.training.optimization import (
    ExponentialMovingAverage,
    optimizer_of,
    parameter_groups,
    set_batch_norm_momentum,
    set_learning_rate,
)
from segnas.training.recipe import RetrainConfig, learning_rate, recipe

LOG_EVERY = 50  # steps
SAVE_EVERY = 600.0  # seconds, within an epoch
VALIDATED = 4  # batches (or seconds) that tell how long a split takes


def retrain(
    architecture: Architecture,
    dataset: Dataset,
    data: DataConfig,
    normalization: Normalization,
    config: RetrainConfig,
    run: Run,
    device: Device,
    seed: int,
) -> TrainedModel:
    """Train `architecture` on the split "train"; goes on from checkpoints/retrain.pt, and a finished training is only loaded.

    Writes model.safetensors and retrain.json. Raises Interrupted after Ctrl-C (all is saved), and UserError when the loss is no
    number (the last checkpoint is kept), when images are too few for a batch or when `config.weights` do not fit.
    """
    if run.has("retrain.json"):
        return TrainedModel.load(run.path)
    saved = run.load_checkpoint("retrain")
    this = Retraining(architecture, dataset, data, normalization, config, device, seed, None if saved else config.weights)
    if saved:
        this.load(saved)
    if this.config.warmup_steps != config.warmup_steps:
        console.print(
            f"note: {this.config.warmup_steps} steps of warm-up, not {config.warmup_steps}: there are only {this.steps}"
        )
    with stop_between_steps() as stop, StageProgress("retrain", this.steps, this.step) as progress:
        while this.step < this.steps:
            for batch in this.remaining_batches():
                this.train_step(batch)
                progress.step()
                if this.at_end_of_epoch():
                    break
                if this.step % LOG_EVERY == 0:
                    this.log(run, this.settle()[-LOG_EVERY:])
                if device.any(stop.requested or this.save_is_due()):
                    this.save(run)
                    if device.any(stop.requested):
                        raise Interrupted(this.where())
            values = this.end_epoch(run)
            values.pop("learning_rate")
            progress.epoch(this.epoch(), this.epochs, {**values, **best_so_far(run, this.metric)})
            this.save(run)
            if device.any(stop.requested) and this.step < this.steps:
                raise Interrupted(this.where())
        model = this.finish(run)
        if device.any(stop.requested):
            raise Interrupted(this.where())
    return model


def best_so_far(run: Run, metric: str) -> dict[str, float]:
    """The best value of the metric that was validated in this training, for the terminal; empty before the first."""
    found = [row["value"] for row in run.metrics("retrain") if row["name"] == metric and row["value"] is not None]
    return {"best": max(found)} if found else {}


class Retraining:
    """Everything that changes during a training, so that it can be saved and continued: see `state` and `load`."""

    def __init__(
        self,
        architecture: Architecture,
        dataset: Dataset,
        data: DataConfig,
        normalization: Normalization,
        config: RetrainConfig,
        device: Device,
        seed: int,
        weights: Path | None = None,
    ) -> None:
        """weights: a model file to start from instead of random weights (UserError when they do not fit)."""
        require_task(architecture, dataset)
        device.require_right_gradients()
        if config.validate_every and not dataset.splits.get("val"):
            raise UserError(f"the data set {dataset.name} has no split 'val' to validate on; set retrain.validate_every=0")
        self.config, self.device, self.seed = config, device, seed
        if config.batch_size == device.world_size > 1 and max(data.crop) <= 32:
            raise UserError(
                "retrain.batch_size leaves one image a process, at stride 32 one pixel: too few for batch norm; raise it"
            )
        images = range(len(dataset.splits["train"]))
        self.batches = TrainingBatches(
            dataset,
            "train",
            images,
            data,
            normalization,
            config.batch_size,
            seed,
            "retrain",
            "retrain.batch_size",
            device.global_rank,
            device.world_size,
        )
        self.steps = config.steps or config.epochs * len(self.batches)
        self.epochs = math.ceil(self.steps / len(self.batches))
        if config.warmup_steps > self.steps // 2:
            self.config = config = replace(config, warmup_steps=self.steps // 10)
        self.network = device.place(initial_network(architecture, len(dataset.classes), config, seed, weights)).train()
        device.same([*self.network.parameters(), *self.network.buffers()])
        groups = parameter_groups(self.network, config.weight_decay, config.decay_all)
        self.optimizer = optimizer_of(config.optimizer, groups, config.learning_rate, config.momentum, config.nesterov)
        self.average = ExponentialMovingAverage(self.network, config.ema_decay) if config.ema_decay else None
        saved = self.average.network if self.average else self.network
        self.model = TrainedModel(architecture, saved, dataset.classes, normalization, data.resize)
        self.metric = self.model.task.metric
        self.class_weights = _class_weights(dataset, config, device)
        if config.validate_every:
            self.validation = in_memory(dataset, "val", data.cache)
        self.step = 0
        self.losses: list[float] = []  # of the steps of this epoch
        self.unread: list[Tensor] = []  # losses that are still on the device: reading one waits for its step
        self.final_loss = math.nan  # mean over the last whole epoch
        self.seconds = 0.0
        self.started = self.saved = time.monotonic()

    def remaining_batches(self) -> Iterator[Batch]:
        """The batches of the current epoch that are not done yet."""
        done = self.step % len(self.batches)
        batches = self.batches.epoch(self.step // len(self.batches), done)
        return self.device.ahead(islice(batches, self.steps - self.step))

    def train_step(self, batch: Batch) -> None:
        """One step: forward, backward, average over the processes, clip, move the weights, follow them with their average."""
        config = self.config
        set_learning_rate(self.optimizer, learning_rate(config, self.step, self.steps))
        if config.drop_path < 1:
            self.network.set_drop_path(config.drop_path, self.step / self.steps)  # type: ignore[operator]
        rank = self.device.global_rank
        with forked(self.seed, "retrain", self.step, *([rank] if rank else [])):  # dropout and drop path
            with self.device.autocast():
                output = self.network(self.device.images(batch.images))
            loss = self.loss(output, self.device.labels(batch.labels))
            loss.backward()
        self.device.average([weight.grad for weight in self.network.parameters() if weight.grad is not None])
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.network)
        self.step += 1
        self.unread.append(loss.detach())
        if self.device.device.type == "cpu" or len(self.unread) == LOG_EVERY:
            self.settle()

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """The loss of a step. output: logits, or with an auxiliary head (logits, logits of the head, or a tuple of several)."""
        config = self.config
        logits, auxiliary = output if config.auxiliary_weight else (output, ())
        options = (self.class_weights, config.label_smoothing, self.device.average)
        loss = cross_entropy(logits, labels, *options)
        for head in auxiliary if isinstance(auxiliary, tuple) else (auxiliary,):
            loss = loss + config.auxiliary_weight * cross_entropy(head, labels, *options)
        return loss

    def settle(self) -> list[float]:
        """Read the losses that are still on the device; all losses of this epoch. UserError when one is no number."""
        values: list[float] = []
        if self.unread:
            losses = torch.stack(self.unread)
            self.device.average([losses])
            values = losses.tolist()
        for step, value in enumerate(values, start=self.step - len(values) + 1):
            if not math.isfinite(value):
                raise self.diverged("the loss is no number", step)
        self.losses += values
        self.unread.clear()
        return self.losses

    def diverged(self, what: str, step: int) -> Diverged:
        """The error to raise when training ran away."""
        rate = learning_rate(self.config, step - 1, self.steps)
        return Diverged(
            f"{what} at step {step} of retraining (learning rate {rate:.3g}); start again with a lower retrain.learning_rate, "
            "retrain.clip_norm=5 or device.precision=32 (the last checkpoint is kept)"
        )

    def epoch(self) -> int:
        """The epoch of the step that was done last, from 1."""
        return math.ceil(self.step / len(self.batches))

    def at_end_of_epoch(self) -> bool:
        """Whether the last step was the last of its epoch, or of all."""
        return self.step % len(self.batches) == 0 or self.step == self.steps

    def log(self, run: Run, losses: Sequence[float], **more: float) -> dict[str, float]:
        """Write the mean of `losses` and the learning rate of the last step to metrics.jsonl, and what else is given."""
        rate = learning_rate(self.config, self.step - 1, self.steps)
        values = {"loss": sum(losses) / len(losses), "learning_rate": rate, **more}
        run.log("retrain", self.step, values)
        return values

    def end_epoch(self, run: Run) -> dict[str, float]:
        """Log the mean loss of the epoch and, when it is due, the metric on the validation images; what was logged."""
        every, losses = self.config.validate_every, self.settle()
        due = every and (self.epoch() % every == 0 or self.step == self.steps)
        values = self.log(run, losses, **({self.metric: self.validate()} if due else {}))
        self.final_loss = values["loss"]
        self.losses = []
        return values

    def validate(self) -> float:
        """The metric in percent on the validation images, whole, single scale, of the weights that would be saved now."""
        self.share_statistics()
        self.model.network.eval()
        found = score(self.model, self.validation, EvaluationConfig(), self.device)
        self.network.train()
        return self.model.task.deciding(found)

    def seconds_of_scoring(self, dataset: Dataset, split: str) -> float:
        """Of all images of a split, estimated from a few; the network is in evaluation mode afterwards."""
        self.model.network.eval()
        batch, images = self.model.task.batch_size, len(self.device.share(len(dataset.splits[split])))
        count, first, begun = 0, 0, time.monotonic()
        for _ in image_confusions(self.model, dataset, EvaluationConfig(split=split), self.device):
            count += 1
            if count == batch < images:  # the first batch loads and warms up
                first, begun = count, time.monotonic()
            elif count >= (1 + VALIDATED) * batch or time.monotonic() - begun > VALIDATED:
                break
        return (time.monotonic() - begun) * images / max(1, count - first)

    def share_statistics(self) -> None:
        """Give every process the running statistics of rank 0, which are those that are saved: each has kept its own parts'."""
        self.device.same([*self.network.buffers(), *(self.average.network.buffers() if self.average else ())])

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load` goes on bit by bit."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "step": self.step,
            "losses": self.settle(),
            "final_loss": self.final_loss,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.step, self.losses, self.final_loss = state["step"], state["losses"], state["final_loss"]
        self.seconds = state["seconds"]

    def save_is_due(self) -> bool:
        """Whether the last save lies too far back for the midst of an epoch."""
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, run: Run) -> None:
        """Write the checkpoint; UserError instead when a weight is no number, so that the one before is kept."""
        self.settle()
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise self.diverged("a weight is no number", self.step)
        now = time.monotonic()
        self.seconds += now - self.started
        self.started = self.saved = now
        run.save_checkpoint("retrain", self.state())

    def where(self) -> str:
        """For whoever pressed Ctrl-C."""
        return f"retraining is saved after step {self.step} of {self.steps}; go on with --resume"

    def finish(self, run: Run) -> TrainedModel:
        """Write model.safetensors, then retrain.json, whose presence says that the training is finished."""
        self.model.network.eval()
        self.model.save(run)
        summary = {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch_size": self.config.batch_size,
            "seconds": self.seconds,
            "final_loss": self.final_loss,
            "recipe": recipe(self.config),
        }
        run.write_json("retrain.json", summary)
        self.device.barrier()
        return TrainedModel.load(run.path)


def initial_network(
    architecture: Architecture, num_classes: int, config: RetrainConfig, seed: int, weights: Path | None
) -> nn.Module:
    """The network as training begins with it, on the CPU: drawn for the seed, with the weights and the head that are asked for.

    Raises UserError for what it does not have.
    """
    family = family_of(architecture)
    with forked(seed, "retrain", "initialization"):
        network = build(architecture, num_classes)
    if config.drop_path < 1 and not hasattr(network, "set_drop_path"):
        raise UserError(f"networks of the family '{family}' have no paths to drop; set retrain.drop_path=1")
    if config.encoder_weights is not None:
        load_encoder(network, config.encoder_weights, family)
    if weights is not None:
        console.print(start_from(network, num_classes, weights))
    if config.auxiliary_weight:
        with forked(seed, "retrain", "auxiliary"):
            add_auxiliary_head(network, num_classes, family)
    set_batch_norm_momentum(network, config.batch_norm_momentum)
    return network


def load_encoder(network: nn.Module, path: Path, family: str) -> None:
    """Give the network's encoder the weights of a file; UserError when they do not fit, or it has no encoder to give them to."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, MobileNetV2):
        raise UserError(
            f"networks of the family {family} have no MobileNet-v2 as their encoder; leave out retrain.encoder_weights"
        )
    load_encoder_weights(encoder, path)


def add_auxiliary_head(network: nn.Module, num_classes: int, family: str) -> None:
    """Give the network its auxiliary head, with which it returns two logits in training; UserError when it has none to give."""
    add = getattr(network, "add_auxiliary_head", None)
    if add is None:
        raise UserError(f"networks of the family {family} have no auxiliary head; set retrain.auxiliary_weight=0")
    add(num_classes)


def _class_weights(dataset: Dataset, config: RetrainConfig, device: Device) -> Tensor | None:
    if config.class_weights == "none":
        return None
    labels: Iterable[np.ndarray] = (dataset.read("train", index).label for index in range(len(dataset.splits["train"])))
    if not tasks[dataset.task].dense:
        labels = [np.stack(list(labels))]  # a class's frequency is its share of the images
    weights = median_frequency_weights(class_pixels(labels, len(dataset.classes)))
    return device.labels(torch.tensor(weights, dtype=torch.float32))
