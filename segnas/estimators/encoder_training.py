"""The encoder of a search for decoders, trained on the search's own data where no weights are given.

Searches for decoders (dense prediction cells, Fast NAS) hold on to one encoder, which their papers have from ImageNet or another
segmentation set. Here it learns from the training images behind a plain head, a 1x1 convolution on its last map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration, to_dict
from segnas.data.base import Dataset
from segnas.data.loading import Batch, TrainingBatches
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import Diverged, Interrupted, UserError
from segnas.estimators.feature_cache import fingerprint
from segnas.nets.blocks import resize
from segnas.nets.mobilenet_v2 import MobileNetV2
from segnas.randomness import forked
from segnas.runs.progress import StageProgress, stop_between_steps
from segnas.runs.run import Run, first_difference
from segnas.tasks import tasks
from segnas.tasks.base import cross_entropy
from segnas.training.device import Device
from segnas.training.optimization import optimizer_of, parameter_groups, polynomial, set_learning_rate

FILE = "encoder.safetensors"
STAGE = "encoder"  # in metrics.jsonl and of the checkpoint


@configuration
class EncoderConfig:
    """How the encoder is trained; the learning rate falls to 0 (poly, power 0.9)."""

    epochs: PositiveInt = 50
    batch_size: PositiveInt = 8
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 0.003
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # adamw: its first beta
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: NonNegativeFloat = 5.0  # of the gradient; 0: not clipped


class PlainNetwork(nn.Module):
    """images (N, 3, H, W) -> logits (N, K, H, W): the encoder, a 1x1 convolution on its last map, resized."""

    def __init__(self, encoder: MobileNetV2, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.logits = nn.Conv2d(encoder.channels[-1], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return resize(self.logits(self.encoder(images)[-1]), images.shape[2:])


@torch.enable_grad()  # wherever the encoder is first asked for
def train_encoder(
    dataset: Dataset,
    data: DataConfig,
    normalization: Normalization,
    device: Device,
    encoder: MobileNetV2,
    config: EncoderConfig,
    run: Run,
    seed: int,
    indices: Sequence[int] | None = None,
) -> None:
    """Train `encoder` in place, from the weights that it has, on the images `indices` of the split "train" (None: all).

    It is on the device afterwards, in evaluation mode. The run gets encoder.safetensors; a finished training is only loaded, one
    that was killed goes on after its last whole epoch (checkpoints/encoder.pt), to the same bits on a CPU.
    Raises Interrupted after Ctrl-C, Diverged when the loss is no number, and UserError for a data set without labels of pixels,
    for too few images, for several processes, and when the run holds an encoder of other settings.
    """
    if not tasks[dataset.task].dense:
        raise UserError(f"an encoder is trained on labels of pixels here, and {dataset.name} has one class an image")
    if device.world_size > 1:
        raise UserError("the encoder is trained by one process; start the command without torchrun")
    device.require_right_gradients()
    images = range(len(dataset.splits["train"])) if indices is None else indices
    settings = {
        "encoder": to_dict(config),
        "data": {name: value for name, value in to_dict(data).items() if name not in ("workers", "cache")},
        "images": fingerprint(list(images)),
        "seed": seed,
    }
    if run.has(FILE):
        encoder.load_state_dict(_finished(run, settings))
        device.place(encoder).eval()
        return
    batches = TrainingBatches(dataset, "train", images, data, normalization, config.batch_size, seed, STAGE, "encoder.batch_size")
    with forked(seed, STAGE, "head"):
        network = device.place(PlainNetwork(encoder, len(dataset.classes))).train()
    groups = parameter_groups(network, config.weight_decay)
    optimizer = optimizer_of(config.optimizer, groups, config.learning_rate, config.momentum)
    begin = 0
    saved = run.load_checkpoint(STAGE)
    if saved:
        _require_same(saved["settings"], settings, run)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        begin = int(saved["epoch"])
    steps = config.epochs * len(batches)
    with stop_between_steps() as stop, StageProgress(STAGE, steps, begin * len(batches)) as progress:
        for epoch in range(begin, config.epochs):
            total = torch.zeros((), device=device.device)
            for step, batch in enumerate(device.ahead(batches.epoch(epoch)), start=epoch * len(batches)):
                set_learning_rate(optimizer, polynomial(step, steps, config.learning_rate))
                total += _step(network, batch, optimizer, config.clip_norm, device)
                progress.step()
                if stop.requested:
                    raise Interrupted(f"the training of the encoder is saved after epoch {epoch} of {config.epochs}")
            mean = total.item() / len(batches)
            if not math.isfinite(mean):
                raise Diverged(f"the encoder's loss is no number in epoch {epoch + 1}; lower encoder.learning_rate")
            run.log(STAGE, epoch + 1, {"loss": mean})
            run.save_checkpoint(STAGE, _state(network, optimizer, epoch + 1, settings))
            progress.epoch(epoch + 1, config.epochs, {"loss": mean})
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    run.write_bytes(FILE, safetensors.torch.save(weights, {"settings": json.dumps(settings)}))
    encoder.eval()


def _step(network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, clip_norm: float, device: Device) -> Tensor:
    """Move the weights once; the loss."""
    with device.autocast():
        logits = network(device.images(batch.images))
    loss = cross_entropy(logits, device.labels(batch.labels))
    loss.backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _state(network: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "settings": settings}


def _finished(run: Run, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in the run; UserError when they cannot be read or are of other settings."""
    path = run.path / FILE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get("settings", "{}"))
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path} ({str(error).splitlines()[0]:.120}); delete it to train it again") from None
    _require_same(stored, settings, run)
    return weights


def _require_same(stored: Mapping[str, Any], settings: Mapping[str, Any], run: Run) -> None:
    difference = first_difference(dict(stored), dict(settings))
    if difference:
        raise UserError(f"the encoder in {run.path} was trained with {difference}; choose another folder")
