"""The two-stage estimate of Fast NAS: the decoder alone on features that are kept, then the whole network if it promises much.

Source: Nekrasov et al., CVPR 2019 (arXiv 1810.10804), section 3.3, and its public code, whose values are the defaults.

    once a search    encode `cached_samples` views of training images; keep the encoder's maps, labels and a teacher's logits
    stage 0          train the decoder on them:  CE + 0.3 MSE(logits, teacher's) + 0.15 sum of the auxiliary heads' CE
    score            on training images that are held out; early_stopping.py says whether to go on
    stage 1          train encoder and decoder on views of images:  CE + 0.15 sum of the auxiliary heads' CE
    score            again: the reward

In both stages the weights follow their Polyak average: a <- d a + (1 - d) w after each step, w <- a at the end of each epoch.

| the public code                                        | here                                                              |
|--------------------------------------------------------|-------------------------------------------------------------------|
| images resized to a shorter side of 300 or 400         | as the data configuration says (`resize`, `scale`)                |
| the last, smaller batch of held-out images is dropped  | it counts                                                         |
| an error while training is a reward of 0               | it is raised: such a candidate has failed                         |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from segnas.config import configuration, replace
from segnas.costs.counts import costs_of
from segnas.data.base import Dataset
from segnas.data.loading import TrainingBatches
from segnas.data.transforms import DataConfig, Normalization, seen_size
from segnas.errors import Diverged, UserError
from segnas.estimators.base import Estimate
from segnas.estimators.candidate_images import CandidateImages, Encoded, smaller_labels
from segnas.estimators.early_stopping import Mode, goes_on, standing
from segnas.estimators.encoder_training import EncoderConfig, train_encoder
from segnas.estimators.rehearsal import measurement, timed
from segnas.estimators.rewards import geometric_reward
from segnas.nets.build import build
from segnas.nets.mobilenet_v2 import MobileNetV2, load_encoder_weights
from segnas.randomness import forked, numpy_generator
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, family_of
from segnas.tasks.base import confusion_matrix, cross_entropy
from segnas.training.device import Device
from segnas.training.inference import upsampled
from segnas.training.preflight import Measurement

Share = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@configuration
class TwoStageConfig:
    """How a candidate is trained and scored.

    validation_share: of the training images that candidates are scored on; they are trained on the others. cached_samples: of
    those, at most so many are encoded once. stage0_*, stage1_*: of the stages, crops in pixels (height, width); *_average: d of
    the Polyak average. learning_rate: of the decoder, in stage 1 stage1_learning_rate. teacher: a run or model file of the same
    classes, for distillation in stage 0. clip_norm: of the gradients of encoder and decoder each, 0 for none.
    omit_first_class: the reward leaves class 0 out.
    """

    validation_share: Share = 0.1
    validation_crop: tuple[PositiveInt, PositiveInt] = (400, 400)
    validation_batch_size: PositiveInt = 64
    cached_samples: PositiveInt = 4000
    stage0_crop: tuple[PositiveInt, PositiveInt] = (256, 256)
    stage0_epochs: PositiveInt = 5
    stage0_batch_size: PositiveInt = 64
    stage0_average: Decay = 0.9
    learning_rate: PositiveFloat = 3e-3
    teacher: Path | None = None
    distillation_weight: NonNegativeFloat = 0.3
    stage1_crop: tuple[PositiveInt, PositiveInt] = (350, 350)
    stage1_epochs: PositiveInt = 1
    stage1_batch_size: PositiveInt = 32
    stage1_average: Decay = 0.99
    stage1_learning_rate: PositiveFloat = 3e-3
    encoder_optimizer: Literal["sgd", "adam"] = "sgd"
    encoder_learning_rate: PositiveFloat = 1e-3
    encoder_momentum: Decay = 0.9
    weight_decay: NonNegativeFloat = 1e-5
    clip_norm: NonNegativeFloat = 3.0
    auxiliary_weight: NonNegativeFloat = 0.15
    early_stopping: Mode = "reference"
    omit_first_class: bool = False

    def __post_init__(self) -> None:
        if self.teacher is not None:  # found wherever the run is continued from
            object.__setattr__(self, "teacher", self.teacher.absolute())


class EncoderDecoder(Protocol):
    """A network whose encoder's maps can be kept."""

    encoder: nn.Module  # images -> maps, the finest first

    def from_taps(self, taps: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits, and those of auxiliary heads while training, of any size."""
        ...


class TwoStageEstimator:
    """An Estimator of networks with an encoder that all candidates share. An estimate runs in one process."""

    def __init__(
        self,
        dataset: Dataset,
        data: DataConfig,
        normalization: Normalization,
        device: Device,
        config: TwoStageConfig,
        folder: Path,
        seed: int,
        encoder: Path | EncoderConfig | None = None,
        child: Callable[[Architecture], Architecture] = lambda architecture: architecture,
        split: str = "val",
    ) -> None:
        """folder: where the encoded samples are kept, for all workers. seed: of what all candidates share: the split, the views
        that are encoded, and the encoder.

        encoder: a file of its weights, or how it is trained first, on the images that candidates are trained on, into the
        folder's encoder.safetensors; None: it stays as it is drawn. child: an architecture -> the network that is trained in its
        place; costs are of the architecture itself, for the images of `split`. Raises UserError for a single image.
        """
        device.require_right_gradients()
        self.images = CandidateImages(dataset, data, normalization, device, config.validation_share, seed)
        images = len(self.images.training)
        self.config = config = replace(  # of a small set a batch has all images
            config,
            stage0_batch_size=min(config.stage0_batch_size, images, config.cached_samples),
            stage1_batch_size=min(config.stage1_batch_size, images),
        )
        self.device, self.folder, self.seed = device, folder, seed
        self.encoder, self.child, self.size = encoder, child, seen_size(dataset, split, data.resize)
        self.classes = len(dataset.classes)
        self._kept: Encoded | None = None
        self._shared: dict[str, Tensor] | None = None  # the encoder's state

    # The protocol --------------------------------------------------------------------------------------------------------

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """parameters and multiply_adds, without auxiliary heads, for an image as large as those that are evaluated."""
        return costs_of(architecture, self.size, self.classes)

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        """What early stopping compares with: see `early_stopping.standing`."""
        return standing(estimate.metrics["stage0_reward"] for estimate in estimates)

    def __str__(self) -> str:
        first, second = self.config.stage0_epochs, self.config.stage1_epochs
        stages = f"{first} of the decoder on kept features, then {second} of the whole network (epochs)"
        images, scored = len(self.images.training), len(self.images.held_out)
        return f"two stages: {stages}; {images:,} images, scored on {scored:,} others of the training set"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The reward of the search, then what it is made of."""
        return ("reward", "mIoU", "mAcc", "fwIoU", "stage0_reward")

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        """{"reward", "mIoU", "mAcc", "fwIoU", "stage0_reward"} in percent, of stage 0 where the candidate was stopped.

        Raises Diverged when a loss is no number.
        """
        network = self._network(architecture, seed)
        encoder = self._load_encoder(network, architecture)
        cached = self._encoded(encoder)
        self.device.place(network)
        self._train_decoder(network, cached, seed)
        metrics = self.score(network)
        first = metrics["reward"]
        draw = 0.0
        if self.config.early_stopping != "none":
            draw = float(numpy_generator(seed, "two-stage", "early stopping", int(hint["finished"])).random())
        on = goes_on(first, hint, self.config.early_stopping, draw)
        if on:
            self._train_all(network, seed)
            metrics = self.score(network)
        return Estimate({**metrics, "stage0_reward": first}, stopped=not on)

    def prepare(self, architecture: Architecture) -> None:
        """Train the encoder, if it is to be, and encode the samples of stage 0: workers then find both in the folder."""
        self._encoded(self._load_encoder(self._network(architecture, self.seed), architecture))

    def preflight(self, architecture: Architecture, trials: int, workers: int) -> Measurement:
        """What so many trials will take, from some real steps of both stages on noise; as if none were stopped early."""
        config, device, images = self.config, self.device.device, self.images
        network = self.device.place(self._network(architecture, self.seed)).train()
        taken = []  # (seconds, bytes) of a step
        for number, (size, crop) in enumerate(
            ((config.stage0_batch_size, config.stage0_crop), (config.stage1_batch_size, config.stage1_crop))
        ):
            pixels = self.device.images(torch.randn(size, 3, *crop))
            labels = self.device.labels(torch.randint(0, self.classes, (size, *crop)))
            settings = f"search.estimate.stage{number}_batch_size or stage{number}_crop"
            taken.append(timed(partial(self._rehearsed, network, pixels, labels, kept=number == 0), device, settings))
        network.eval()
        held_out = min(config.validation_batch_size, len(images.held_out))
        seen = self.device.images(torch.randn(held_out, 3, *config.validation_crop))
        scoring, most = timed(partial(_without_gradients, network, seen), device, "search.estimate.validation_batch_size")
        samples, whole = min(len(images.training), config.cached_samples), len(images.training)
        first, second = samples // config.stage0_batch_size, whole // config.stage1_batch_size
        scored = 2 * scoring * len(images.held_out) / held_out
        of_trial = config.stage0_epochs * first * taken[0][0] + config.stage1_epochs * second * taken[1][0] + scored
        before = taken[0][0] * samples / config.stage0_batch_size
        if isinstance(self.encoder, EncoderConfig):
            before += self.encoder.epochs * whole * taken[1][0] / config.stage1_batch_size
        memory = max(most, *(held for _, held in taken))
        return measurement(trials, workers, of_trial, before, memory)

    def _rehearsed(self, network: nn.Module, pixels: Tensor, labels: Tensor, kept: bool) -> None:
        """A step without moving the weights. kept: of stage 0, whose maps need no gradient."""
        with torch.set_grad_enabled(not kept), self.device.autocast():
            taps = cast(EncoderDecoder, network).encoder(pixels)
        with self.device.autocast():
            logits, auxiliary = cast(EncoderDecoder, network).from_taps(taps)
        self._loss(logits, auxiliary, smaller_labels(labels, logits.shape[2:])).backward()
        network.zero_grad(set_to_none=True)

    def _network(self, architecture: Architecture, seed: int) -> nn.Module:
        """The network that a trial trains, as it begins, on the CPU."""
        with forked(seed, "two-stage", "initialization"):
            network = build(self.child(architecture), self.classes)
            add = getattr(network, "add_auxiliary_head", None)
            if self.config.auxiliary_weight and add is not None:
                add(self.classes)
        return network

    # The encoder and what it makes ---------------------------------------------------------------------------------------

    def _load_encoder(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """The network's encoder, with the weights that all candidates begin with."""
        encoder = getattr(network, "encoder", None)
        if encoder is None or not hasattr(network, "from_taps"):
            raise UserError(f"networks of the family '{family_of(architecture)}' have no encoder whose maps could be kept")
        if self._shared is None:
            self._shared = self._encoder_state(encoder)
        encoder.load_state_dict(self._shared)
        return cast(nn.Module, encoder)

    def _encoder_state(self, encoder: nn.Module) -> dict[str, Tensor]:
        """Weights and statistics that all candidates begin with; `encoder`: a module of the right kind, which is changed."""
        with forked(self.seed, "two-stage", "encoder"):
            for module in encoder.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
        if isinstance(self.encoder, Path):
            load_encoder_weights(cast(MobileNetV2, encoder), self.encoder)
        elif self.encoder is not None:
            images, run = self.images, Run(self.folder)
            data = replace(images.data, crop=self.config.stage1_crop)
            about = (images.dataset, data, images.normalization, self.device, cast(MobileNetV2, encoder), self.encoder)
            train_encoder(*about, run, self.seed, images.training)
        return {name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()}

    def _encoded(self, encoder: nn.Module) -> Encoded:
        """What stage 0 is trained on."""
        if self._kept is None:
            config = self.config
            self._kept = self.images.encoded(
                encoder, config.stage0_crop, config.cached_samples, config.stage0_batch_size, config.teacher, self.folder
            )
        return self._kept

    # The stages -----------------------------------------------------------------------------------------------------------

    def _train_decoder(self, network: nn.Module, cached: Encoded, seed: int) -> None:
        """Stage 0."""
        config, device = self.config, self.device
        decoder = _decoder_parameters(network)
        optimizer = torch.optim.Adam(decoder, lr=config.learning_rate, weight_decay=config.weight_decay)
        average = PolyakAverage(decoder, config.stage0_average)
        network.train()
        for epoch in range(config.stage0_epochs):
            order = torch.from_numpy(numpy_generator(seed, "two-stage", "stage 0", epoch).permutation(len(cached.labels)))
            total = torch.zeros((), device=device.device)
            for chosen in order.split(config.stage0_batch_size)[: len(order) // config.stage0_batch_size]:
                taps = [device.images(tap[chosen]) for tap in cached.taps]
                labels = device.labels(cached.labels[chosen])
                with device.autocast():
                    logits, auxiliary = cast(EncoderDecoder, network).from_taps(taps)
                loss = self._loss(logits, auxiliary, labels)
                if cached.teacher is not None:
                    taught = device.labels(cached.teacher[chosen])
                    seen = upsampled(logits.float(), (taught.shape[2], taught.shape[3]))
                    loss = loss + config.distillation_weight * F.mse_loss(seen, taught)
                self._step(loss, [(decoder, optimizer)], average)
                total += loss.detach()
            average.to_weights()
            self._require_number(total, "stage 0")

    def _train_all(self, network: nn.Module, seed: int) -> None:
        """Stage 1."""
        config, device = self.config, self.device
        encoder, decoder = list(cast(EncoderDecoder, network).encoder.parameters()), _decoder_parameters(network)
        rate, decay = config.encoder_learning_rate, config.weight_decay
        of_encoder: Optimizer = torch.optim.Adam(encoder, lr=rate, weight_decay=decay)
        if config.encoder_optimizer == "sgd":
            of_encoder = torch.optim.SGD(encoder, lr=rate, momentum=config.encoder_momentum, weight_decay=decay)
        of_decoder = torch.optim.Adam(decoder, lr=config.stage1_learning_rate, weight_decay=decay)
        average = PolyakAverage([*encoder, *decoder], config.stage1_average)
        images, size = self.images, config.stage1_batch_size
        data = replace(images.data, crop=config.stage1_crop)
        batches = TrainingBatches(
            images.dataset, "train", images.training, data, images.normalization, size, seed, "stage 1", "stage1_batch_size"
        )
        network.train()
        for epoch in range(config.stage1_epochs):
            total = torch.zeros((), device=device.device)
            for batch in device.ahead(batches.epoch(epoch)):
                with device.autocast():
                    taps = cast(EncoderDecoder, network).encoder(device.images(batch.images))
                    logits, auxiliary = cast(EncoderDecoder, network).from_taps(taps)
                labels = smaller_labels(device.labels(batch.labels), logits.shape[2:])
                loss = self._loss(logits, auxiliary, labels)
                self._step(loss, [(encoder, of_encoder), (decoder, of_decoder)], average)
                total += loss.detach()
            average.to_weights()
            self._require_number(total, "stage 1")

    def _loss(self, logits: Tensor, auxiliary: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy at the size of the labels, and that of the auxiliary heads."""
        size = (labels.shape[1], labels.shape[2])
        loss = cross_entropy(upsampled(logits, size), labels)
        for head in auxiliary:
            loss = loss + self.config.auxiliary_weight * cross_entropy(upsampled(head, size), labels)
        return loss

    def _step(self, loss: Tensor, groups: Sequence[tuple[list[nn.Parameter], Optimizer]], average: PolyakAverage) -> None:
        loss.backward()
        for parameters, optimizer in groups:
            if self.config.clip_norm:
                nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update()

    def _require_number(self, total: Tensor, stage: str) -> None:
        if not bool(total.isfinite()):
            raise Diverged(f"the loss is no number in {stage} of an estimate; lower the learning rates, or use precision=32")

    @torch.no_grad()
    def score(self, network: nn.Module) -> dict[str, float]:
        """Reward, mIoU, mAcc and fwIoU in percent on the central crops of the held-out images; the network is placed."""
        config = self.config
        network.eval()
        total = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=self.device.device)
        size = config.validation_batch_size
        for images, labels in self.images.central_views(self.images.held_out, config.validation_crop, size):
            with self.device.autocast():
                logits = network(images)
            total += confusion_matrix(logits.argmax(1), labels, self.classes)
        return geometric_reward(total, config.omit_first_class)


class PolyakAverage:
    """The average of parameters over the steps of a training: a <- d a + (1 - d) w, from the weights that it begins with."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the parameters after one of their steps."""
        torch._foreach_lerp_(self.averages, self.parameters, 1 - self.decay)

    @torch.no_grad()
    def to_weights(self) -> None:
        """Give the parameters the values of their averages."""
        torch._foreach_copy_(self.parameters, self.averages)


@torch.no_grad()
def _without_gradients(network: nn.Module, images: Tensor) -> None:
    network(images)


def _decoder_parameters(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in network.named_parameters() if not name.startswith("encoder.")]
