"""Small networks that look trained, and pictures for them."""

import numpy as np
import torch

from segnas.data.base import IGNORE, Classes, Sample, palette
from segnas.data.transforms import Normalization
from segnas.nets.build import build
from segnas.spaces.auto_deeplab import AutoDeepLab, Block, NetworkOptions
from segnas.training.model import TrainedModel

CELL = (
    Block((0, 1), ("sep_conv_3x3", "atrous_conv_3x3")),
    Block((1, 2), ("max_pool_3x3", "skip_connect")),
    Block((0, 3), ("avg_pool_3x3", "sep_conv_5x5")),
)
OPTIONS = NetworkOptions(filters=4, stem=(8, 8, 8), aspp_width=8, low_level_width=4, decoder_width=8)
CLASSES = Classes(("Weg", "Gehweg", "Bäume", "sky", "car"), palette(5), (7, 8, 21, 23, 26), 0)
NORMALIZATION = Normalization((0.41, 0.42, 0.3), (0.27, 0.22, 0.31))


def make_model(path: tuple[int, ...], seed: int = 0) -> TrainedModel:
    """A small network whose batch norms have seen images, left in training mode."""
    architecture = AutoDeepLab(path, CELL, OPTIONS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(architecture, len(CLASSES)).train()
        images = torch.stack([NORMALIZATION(make_sample(number, 64, 96).image) for number in range(4)])
        with torch.no_grad():
            for _ in range(10):
                network(images)
            logits = network.eval()(images)
            network.logits.weight.mul_(3 / logits.std())  # a spread like that of a trained network
    return TrainedModel(architecture, network.train(), CLASSES, NORMALIZATION, 0.5)


def make_sample(number: int, height: int, width: int) -> Sample:
    """Rectangles of different texture; part of the label does not count."""
    generator = np.random.default_rng(number)
    image = generator.integers(0, 120, (height, width, 3))
    label = np.full((height, width), IGNORE)
    for class_id in range(5):
        top, left = generator.integers(0, height - 10), generator.integers(0, width - 10)
        image[top : top + 40, left : left + 50] += generator.integers(0, 130, 3)
        label[top : top + 40, left : left + 50] = class_id
    return Sample(f"image_{number}", image.astype(np.uint8), label.astype(np.uint8))
