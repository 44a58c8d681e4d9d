"""From images as they are stored to class probabilities at any size: resize, normalise, network, up-sample, average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segnas.data.base import IGNORE
from segnas.data.transforms import resize_image, scaled_size
from segnas.training.device import Device
from segnas.training.model import TrainedModel


@dataclass(frozen=True)
class ImageAnswer:
    """What a network says of an image that has one class. label, prediction: train ids; probability: of the prediction, 0..1."""

    name: str
    label: int
    prediction: int
    probability: float

    @property
    def wrong(self) -> bool:
        """Whether it is a mistake; an image whose label is IGNORE has none to make."""
        return self.label not in (self.prediction, IGNORE)


@torch.inference_mode()
def class_probabilities(
    model: TrainedModel,
    images: Sequence[np.ndarray],
    size: tuple[int, int],
    device: Device,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """The mean over views of softmax(logits up-sampled to `size`): (N, K, *size) float32 on the device.

    A network with one class an image has nothing to up-sample: (N, K), whatever the size.
    images: N arrays (H, W, 3) uint8 RGB of one size, as stored. The network sees them resized by model.resize times each scale,
    with `flip` mirrored as well. It must be placed on the device, in evaluation mode.
    """
    total: Tensor | None = None
    for scale in scales:
        height, width = images[0].shape[:2]
        seen = [resize_image(image, scaled_size(height, width, model.resize * scale)) for image in images]
        batch = device.images(torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2))
        for mirrored in (False, True) if flip else (False,):
            with device.autocast():
                logits = model.logits(batch.flip(-1) if mirrored else batch)
            if logits.dim() == 4:
                logits = upsampled(logits.flip(-1) if mirrored else logits, size)
            probabilities = logits.softmax(dim=1)
            total = probabilities if total is None else total + probabilities
    if total is None:
        raise ValueError("class_probabilities needs at least one scale")
    return total / (len(scales) * (2 if flip else 1))


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, K, h, w) logits at `size`, bilinear with half-pixel centres, as images are resized."""
    if tuple(logits.shape[2:]) == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
