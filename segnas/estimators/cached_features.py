"""The estimator of dense prediction cells: the cell and the decoder alone learn, on features that are computed once.

Source: Chen et al., NeurIPS 2018 (arXiv 1809.04184), section 3.3: a small encoder whose features are cached, a short training
with early stopping, the mean IoU on images that it has not seen.

    training images -> held-out images, the others
    the others      -> encoder -> random views -> cached features and labels (once, shared by all workers)
    a candidate     -> trained on these, a few steps -> mean IoU on the held-out images, whole, also from cached features

| the paper                                                     | here                                                   |
|---------------------------------------------------------------|--------------------------------------------------------|
| encoder MobileNet-v2, trained on ImageNet, COCO and the set   | given weights, or trained on the images not held out   |
| its features are cached; how many views is not said           | `cached_samples` random views, the same for all        |
| early stopping; when is not said                              | after `patience` validations without a new best        |
| the best of the search are then trained in full and ranked    | whoever asks for estimates does it                     |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration, replace, to_dict
from segnas.costs.counts import costs_of
from segnas.data.base import Dataset
from segnas.data.held_out import parts
from segnas.data.loading import TrainingBatches
from segnas.data.transforms import DataConfig, Normalization, scaled_size, seen_size
from segnas.errors import Diverged, UserError
from segnas.estimators.base import Estimate
from segnas.estimators.encoder_training import EncoderConfig, PlainNetwork, train_encoder
from segnas.estimators.encoding import encode_images, encode_views, endless
from segnas.estimators.feature_cache import build_or_load, fingerprint
from segnas.estimators.rehearsal import measurement, timed
from segnas.nets.blocks import resize
from segnas.nets.dpc import DpcHead, make_encoder
from segnas.nets.mobilenet_v2 import MobileNetV2, load_encoder_weights
from segnas.randomness import forked, numpy_generator
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, family_of
from segnas.spaces.dpc import Dpc, DpcOptions
from segnas.tasks import tasks
from segnas.tasks.base import Scores, confusion_matrix, cross_entropy, scores
from segnas.training.device import Device
from segnas.training.inference import upsampled
from segnas.training.optimization import optimizer_of, parameter_groups, polynomial, set_learning_rate
from segnas.training.preflight import Measurement

CACHED = ("maps.0", "maps.1", "labels")  # low-level features, features, labels
ENCODED = 8  # views that the encoder sees at once


@configuration
class CachedFeatureConfig:
    """How a candidate is judged.

    cached_samples: random views of training images whose features are kept. held_out: training images that candidates are scored
    on. steps, batch_size: of a candidate's training; its learning rate falls to 0 over all steps (poly, power 0.9).
    validate_every: steps between two scores. patience: scores without a new best after which the training ends; 0: it never does.
    encoder: how the encoder is trained where no weights are given.
    """

    cached_samples: PositiveInt = 1000
    held_out: PositiveInt = 50
    steps: PositiveInt = 1000
    batch_size: PositiveInt = 8
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 0.003
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # adamw: its first beta
    weight_decay: NonNegativeFloat = 1e-4
    validate_every: PositiveInt = 100
    patience: NonNegativeInt = 3
    encoder: EncoderConfig = EncoderConfig()

    def __post_init__(self) -> None:
        if self.batch_size > self.cached_samples:
            raise ValueError(f"batch_size={self.batch_size} is more than cached_samples={self.cached_samples}")


class CachedFeatureEstimator:
    """Judges dense prediction cells (see Estimator), each a function of architecture and seed alone.

    The features are in `folder`, where several processes share them, and are computed when an estimate first needs them, or by
    `prepare`; so is the encoder when no weights are given (encoder.safetensors in the folder).
    """

    def __init__(
        self,
        dataset: Dataset,
        data: DataConfig,
        normalization: Normalization,
        device: Device,
        config: CachedFeatureConfig,
        folder: Path,
        encoder: Path | None = None,
        *,
        network: DpcOptions,
        seed: int,
        split: str = "val",
    ) -> None:
        """encoder: a file of its weights, None to have it trained. network: what all candidates share. seed: of the held-out
        images, the views and the encoder's training. split: costs are for an image of it.

        Raises UserError for a data set without labels of pixels, and when it has too few images.
        """
        if not tasks[dataset.task].dense:
            raise UserError(f"dense prediction cells need a class for every pixel, and {dataset.name} has one class an image")
        device.require_right_gradients()
        self.dataset, self.data, self.normalization, self.device = dataset, data, normalization, device
        images = len(dataset.splits["train"])
        config = replace(config, held_out=min(config.held_out, max(1, images // 3)))  # of a small set a third
        self.config, self.folder, self.network, self.seed = config, folder, network, seed
        self.weights, self.size = encoder, seen_size(dataset, split, data.resize)
        self.used, self.held_out = parts(images, config.held_out, seed)
        self.task = tasks[dataset.task]

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Parameters and multiply-adds of the whole network for an evaluated image as the network sees it."""
        self._require_shared(architecture)
        return costs_of(architecture, self.size, len(self.dataset.classes))

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        """Train cell and decoder on the cached features; the figures of the best score on the held-out images.

        A training that ends before all steps, for lack of a new best, has its score as any other. Raises Diverged when the loss
        is no number, UserError for an architecture that does not share the estimator's encoder.
        """
        self._require_shared(architecture)
        head = self.new_head(architecture, seed)
        best, waited = None, 0
        for _, found in self.validations(head, seed):
            if best is None or self.task.deciding(found) > self.task.deciding(best):
                best, waited = found, 0
            else:
                waited += 1
            if waited == self.config.patience > 0:
                break
        assert best is not None
        return Estimate(metrics=dict(self.task.figures(best)))

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        """Nothing: a candidate is judged without the others."""
        return {}

    def prepare(self, architecture: Architecture) -> None:
        """Compute the features now, or wait for the process that does; what `estimate` does otherwise when it is first called."""
        self._require_shared(architecture)
        _ = self.features

    def __str__(self) -> str:
        config = self.config
        trained = f"{config.steps} steps of cell and decoder on kept features of {config.cached_samples:,} views"
        return f"{trained}, scored on {len(self.held_out):,} images of the training set"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the task."""
        return self.task.metrics

    def preflight(self, architecture: Architecture, trials: int, workers: int) -> Measurement:
        """What so many trials will take, from some real steps on noise."""
        self._require_shared(architecture)
        config, device, crop = self.config, self.device, self.data.crop
        encoder = make_encoder(self.network)
        device.place(encoder)
        pixels = device.images(torch.randn(config.batch_size, 3, *crop))
        labels = device.labels(torch.randint(0, len(self.dataset.classes), (config.batch_size, *crop)))
        network = PlainNetwork(encoder, len(self.dataset.classes)).to(device.device).train()

        def whole() -> None:
            cross_entropy(network(pixels), labels).backward()

        settings = "search.estimate.encoder.batch_size or data.crop"
        of_batch, most = timed(whole, device.device, settings)
        encoder.eval()
        with torch.no_grad():
            low_level, *_, features = encoder(pixels)
        head = self.new_head(architecture, self.seed).train()

        def decoder() -> None:
            cross_entropy(resize(head(low_level, features), labels.shape[1:]), labels).backward()

        step, memory = timed(decoder, device.device, "search.estimate.batch_size")
        shown = seen_size(self.dataset, "train", self.data.resize)
        image = device.images(torch.randn(1, 3, *shown))
        scoring, _ = timed(partial(_score_one, encoder, head.eval(), image), device.device, "data.resize")
        of_trial = config.steps * step + -(-config.steps // config.validate_every) * len(self.held_out) * scoring
        images = config.encoder.epochs * len(self.used) if self.weights is None else 0
        encoded = self.config.cached_samples + len(self.held_out)  # without a backward pass: a third of a step
        before = of_batch * (images + encoded / 3) / config.batch_size
        return measurement(trials, workers, of_trial, before, max(memory, most))

    # A candidate ------------------------------------------------------------------------------------------------------------

    def new_head(self, architecture: Dpc, seed: int) -> nn.Module:
        """All of the network behind the encoder, on the device, not trained."""
        with torch.device("meta"):
            channels = make_encoder(self.network).channels
        with forked(seed, "candidate", "initialization"):
            head = DpcHead(architecture, (channels[0], channels[-1]), len(self.dataset.classes))
        return self.device.place(head)

    def validations(self, head: nn.Module, seed: int) -> Iterator[tuple[int, Scores]]:
        """Train `head`, and yield (steps done, scores) every `validate_every` steps and at the end."""
        config, device = self.config, self.device
        groups = parameter_groups(head, config.weight_decay)
        optimizer = optimizer_of(config.optimizer, groups, config.learning_rate, config.momentum)
        total = torch.zeros((), device=device.device)
        for step, chosen in enumerate(self._batches(seed)):
            low_level, features, labels = (self.features[f"training.{name}"][chosen] for name in CACHED)
            set_learning_rate(optimizer, polynomial(step, config.steps, config.learning_rate))
            with forked(seed, "candidate", step):  # dropout
                with device.autocast():
                    logits = resize(head.train()(device.images(low_level), device.images(features)), labels.shape[1:])
                loss = cross_entropy(logits, device.labels(labels))
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
            done = step + 1
            if done % config.validate_every == 0 or done == config.steps:
                if not bool(total.isfinite()):
                    raise Diverged(f"the candidate's loss is no number within {done} steps; lower the estimator's learning_rate")
                yield done, self.validate(head)

    def _batches(self, seed: int) -> Iterator[Tensor]:
        """The places of the samples of each step: every epoch a new order, its incomplete last batch dropped."""
        samples, size = self.config.cached_samples, self.config.batch_size
        per_epoch = samples // size
        for step in range(self.config.steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                order = torch.from_numpy(numpy_generator(seed, "candidate", "order", epoch).permutation(samples))
            yield order[place * size : (place + 1) * size]

    @torch.no_grad()
    def validate(self, head: nn.Module) -> Scores:
        """The scores on the held-out images, whole and at their labels' own size, as a run's evaluation has them."""
        head.eval()
        total = torch.zeros(len(self.dataset.classes), len(self.dataset.classes), dtype=torch.int64)
        for number in range(len(self.held_out)):
            low_level, features, label = (self.features[f"held_out.{number}.{name}"] for name in CACHED)
            size = (label.shape[0], label.shape[1])
            with self.device.autocast():
                logits = head(self.device.images(low_level[None]), self.device.images(features[None]))
                logits = resize(logits, scaled_size(*size, self.data.resize))
            prediction = upsampled(logits.float(), size).argmax(1)[0]
            total += confusion_matrix(prediction, self.device.labels(label), len(self.dataset.classes)).cpu()
        return scores(total)

    def _require_shared(self, architecture: Architecture) -> None:
        if not isinstance(architecture, Dpc):
            raise UserError(
                f"this estimator judges dense prediction cells, not networks of the family '{family_of(architecture)}'"
            )
        for name in ("encoder", "encoder_width", "output_stride"):
            own, other = getattr(self.network, name), getattr(architecture.network, name)
            if own != other:
                raise UserError(f"the features are of network.{name}={own}, and the architecture has {other}")

    # The features -----------------------------------------------------------------------------------------------------------

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """The cached tensors (see encoding.py): training.maps.0 (of stride 4), training.maps.1 (the last), training.labels, and
        the same of each held-out image, held_out.<n>.maps.0 and so on."""
        settings = {
            "dataset": [self.dataset.name, self.dataset.splits["train"], self.dataset.classes.names],
            "data": {name: value for name, value in to_dict(self.data).items() if name not in ("workers", "cache")},
            "normalization": dataclasses.asdict(self.normalization),
            "precision": self.device.config.precision,
            "samples": [self.config.cached_samples, self.config.held_out],
            "encoder": [self.network.encoder, self.network.encoder_width, self.network.output_stride],
            "training": to_dict(self.config.encoder) if self.weights is None else None,
            "seed": self.seed,
        }
        name = f"features-{fingerprint(settings, None if self.weights is None else self.encoder().state_dict())}"
        return build_or_load(self.folder, self._make_features, name)

    def encoder(self) -> MobileNetV2:
        """The encoder as it makes the features, on the device, in evaluation mode.

        Trained now when it is not yet: where several processes are at work, call `prepare` before.
        """
        with forked(self.seed, "encoder", "initialization"):
            encoder = make_encoder(self.network)
        if self.weights is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            run = Run(self.folder)
            train_encoder(
                self.dataset, self.data, self.normalization, self.device, encoder, self.config.encoder, run, self.seed, self.used
            )
        else:
            load_encoder_weights(encoder, self.weights)
            self.device.place(encoder).eval()
        return encoder

    def _make_features(self) -> dict[str, Tensor]:
        encoder, device = self.encoder(), self.device

        def encode(images: Tensor) -> list[Tensor]:
            with torch.no_grad(), device.autocast():
                low_level, *_, features = encoder(device.images(images))
            return [low_level.float().cpu(), features.float().cpu()]

        size = min(ENCODED, len(self.used))
        batches = TrainingBatches(self.dataset, "train", self.used, self.data, self.normalization, size, self.seed, "cached")
        training = encode_views(encode, endless(batches), self.config.cached_samples, "cached_samples")
        held_out = encode_images(encode, self.dataset, "train", self.held_out, self.normalization, self.data.resize)
        return {
            **{f"training.{name}": tensor for name, tensor in training.items()},
            **{f"held_out.{name}": tensor for name, tensor in held_out.items()},
        }


@torch.no_grad()
def _score_one(encoder: nn.Module, head: nn.Module, image: Tensor) -> None:
    low_level, *_, features = encoder(image)
    head(low_level, features)
