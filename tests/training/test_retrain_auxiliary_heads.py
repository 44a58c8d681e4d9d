"""Training with several auxiliary heads: each adds its loss, and none is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segnas.data.base import IGNORE
from segnas.data.transforms import DataConfig, Normalization
from segnas.runs.run import Run
from segnas.spaces.choice import sample
from segnas.spaces.fast_nas import FastNasOptions, FastNasSpace
from segnas.training.device import Device
from segnas.training.recipe import RetrainConfig
from segnas.training.retrain import Retraining, retrain


def test_every_head_adds_its_loss_and_only_the_network_is_saved(
    tmp_path: Path, drawn: Any, data: DataConfig, normalization: Normalization, device: Device
) -> None:
    options = FastNasOptions(agg_size=4, repeats=1, auxiliary_cell=True, encoder_width=4)
    architecture = sample(FastNasSpace(network=options), np.random.default_rng(0))
    config = RetrainConfig(epochs=1, batch_size=2, validate_every=0, auxiliary_weight=0.15)
    this = Retraining(architecture, drawn, data, normalization, config, device, seed=0)
    labels = torch.randint(0, 3, (2, 33, 33))
    labels[0, :5] = IGNORE
    with torch.no_grad():
        output = this.network(torch.randn(2, 3, 33, 33))
    main, *heads = [float(F.cross_entropy(one, labels, ignore_index=IGNORE)) for one in (output[0], *output[1])]
    assert len(heads) == 3
    assert float(this.loss(output, labels)) == pytest.approx(main + 0.15 * sum(heads), rel=1e-6)
    model = retrain(architecture, drawn, data, normalization, config, Run(tmp_path), device, seed=0)
    assert not [name for name in model.network.state_dict() if "auxiliary" in name]
