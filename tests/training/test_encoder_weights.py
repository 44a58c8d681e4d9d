"""Retraining may begin with the weights of an encoder: from a file of torchvision's names, or one that a run left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from segnas.data.demo import Demo
from segnas.data.transforms import DataConfig, Normalization
from segnas.errors import UserError
from segnas.nets.mobilenet_v2 import MobileNetV2, load_encoder_weights
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import all_spaces, sample
from segnas.spaces.dpc import DpcOptions, DpcSpace
from segnas.spaces.hand_made import UNet
from segnas.training.device import DeviceConfig, launch
from segnas.training.recipe import RetrainConfig, recipe
from segnas.training.retrain import Retraining

CELL = sample(
    DpcSpace(2, DpcOptions(encoder_width=0.1, cell_width=4, low_level_width=4, decoder_width=4)), np.random.default_rng(0)
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    safetensors.torch.save_file(MobileNetV2(width=0.1, first_expansion=False, output_stride=16).state_dict(), path)
    return path


def training(architecture: Architecture, **recipe: object) -> Retraining:
    config = RetrainConfig(epochs=1, batch_size=2, validate_every=0, **recipe)  # type: ignore[arg-type]
    normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    device = launch(DeviceConfig(accelerator="cpu"))
    return Retraining(
        architecture, Demo(size=(40, 48), train=4, val=1), DataConfig(crop=(33, 33)), normalization, config, device, 0
    )


def test_the_encoder_begins_with_them_and_the_rest_as_it_is_drawn(weights: Path) -> None:
    given, drawn = training(CELL, encoder_weights=weights).network.state_dict(), training(CELL).network.state_dict()
    stored = safetensors.torch.load_file(weights)
    assert all(torch.equal(given[f"encoder.{name}"], tensor) for name, tensor in stored.items())
    assert all(torch.equal(given[name], tensor) for name, tensor in drawn.items() if not name.startswith("encoder."))
    assert "the encoder starting from" in recipe(RetrainConfig(encoder_weights=weights))


def test_what_does_not_fit_is_one_line(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="networks of the family unet have no MobileNet-v2 as their encoder; leave out"):
        training(UNet(4, 1), encoder_weights=weights)
    with pytest.raises(UserError, match=r"is of another encoder than the network's: .* differs"):
        load_encoder_weights(MobileNetV2(width=0.5), weights)
    with pytest.raises(UserError, match="no such file"):
        training(CELL, encoder_weights=tmp_path / "none.pth")
    torch.save({"anything": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold torchvision's MobileNet-v2"):
        training(CELL, encoder_weights=tmp_path / "other.pth")
    assert "dpc" in all_spaces()
