"""The recipe of a training from scratch: its settings, its learning rate at every step, and its description in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from segnas.config import configuration
from segnas.training.optimization import cosine, polynomial, warm_up


@configuration
class RetrainConfig:
    """How an architecture is trained from scratch. `steps`, when given, takes the place of `epochs`."""

    epochs: PositiveInt = 100
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 8
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.05
    schedule: Literal["poly", "cosine"] = "poly"
    power: PositiveFloat = 0.9  # of poly
    final_learning_rate: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0  # linear, before the schedule begins
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # adamw: its first beta
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    decay_all: bool = True  # False: no weight decay on biases and normalisation layers
    clip_norm: NonNegativeFloat = 0.0  # of the gradient; 0: not clipped
    class_weights: Literal["none", "median_frequency"] = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the target that is spread over all classes
    auxiliary_weight: NonNegativeFloat = 0.0  # of the loss of an auxiliary head, for networks that have one; 0: no such head
    drop_path: Annotated[float, Field(gt=0, le=1)] = 1.0  # probability of keeping a path, at the last cell and the last step
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # moving average of the weights; 0: none
    seed: int | None = None  # of weights, order, views and dropout; None: the run's own
    weights: Path | None = None  # a model.safetensors (or run) of the same architecture to start from
    encoder_weights: Path | None = None  # of a MobileNet-v2, torchvision's or a run's, for networks that have such an encoder
    validate_every: NonNegativeInt = 10  # epochs; 0: never

    def __post_init__(self) -> None:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov=true needs optimizer=sgd and a momentum above 0")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(f"final_learning_rate must not exceed learning_rate={self.learning_rate:g}")


def learning_rate(config: RetrainConfig, step: int, steps: int) -> float:
    """The rate of step 0 .. steps-1: linear warm-up to `learning_rate`, then the schedule over the steps that remain."""
    if step < config.warmup_steps:
        return config.learning_rate * warm_up(step, config.warmup_steps)
    done, whole = step - config.warmup_steps, steps - config.warmup_steps
    if config.schedule == "cosine":
        return cosine(done, whole, config.learning_rate, config.final_learning_rate)
    return polynomial(done, whole, config.learning_rate, config.final_learning_rate, config.power)


def recipe(config: RetrainConfig) -> str:
    """The training in one sentence, for reports."""
    rate = f"{config.schedule} from {config.learning_rate:g}"
    rate += f" to {config.final_learning_rate:g}" if config.final_learning_rate else ""
    rate += f" with power {config.power:g}" if config.schedule == "poly" else ""
    options = {
        f"{config.warmup_steps} steps of warm-up": config.warmup_steps,
        "Nesterov": config.nesterov,
        f"gradient norm at most {config.clip_norm:g}": config.clip_norm,
        "class weights by median frequency": config.class_weights != "none",
        f"label smoothing {config.label_smoothing:g}": config.label_smoothing,
        f"auxiliary loss times {config.auxiliary_weight:g}": config.auxiliary_weight,
        f"scheduled drop path to {config.drop_path:g}": config.drop_path < 1,
        f"moving average {config.ema_decay:g}": config.ema_decay,
        f"starting from {config.weights}": config.weights,
        f"the encoder starting from {config.encoder_weights}": config.encoder_weights,
    }
    name = "SGD" if config.optimizer == "sgd" else "AdamW"
    parts = [f"{name} (momentum {config.momentum:g}, weight decay {config.weight_decay:g})", rate]
    return ", ".join([*parts, *(text for text, used in options.items() if used)])
