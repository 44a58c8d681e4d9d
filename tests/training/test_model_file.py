"""A model is one file: what was saved comes back, and a file that is broken or foreign is met with one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from segnas.data.base import Classes
from segnas.data.transforms import Normalization
from segnas.errors import UserError
from segnas.nets.build import build
from segnas.runs.run import Run
from segnas.spaces.auto_deeplab import AutoDeepLab
from segnas.training.model import FILE, TrainedModel, start_from

CLASSES = Classes(("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (255, 255, 255)), source_ids=(0, 4, 9), ignore_source_id=11)


@pytest.fixture
def model(architecture: AutoDeepLab, normalization: Normalization) -> TrainedModel:
    torch.manual_seed(0)
    network = build(architecture, 3).to(memory_format=torch.channels_last)
    return TrainedModel(architecture, network.eval(), CLASSES, normalization, resize=0.5)


def test_a_saved_model_comes_back_whole(model: TrainedModel, tmp_path: Path) -> None:
    file = model.save(Run(tmp_path))
    images = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)
    for path in (tmp_path, file):
        loaded = TrainedModel.load(path)
        assert (loaded.architecture, loaded.classes, loaded.normalization, loaded.resize) == (
            model.architecture,
            model.classes,
            model.normalization,
            0.5,
        )
        assert not loaded.network.training
        stored = loaded.network.state_dict()
        assert all(torch.equal(tensor, stored[key]) for key, tensor in model.network.state_dict().items())
        with torch.inference_mode():
            assert torch.allclose(loaded.logits(images), model.logits(images), atol=1e-5)


def test_logits_normalise_as_the_training_data_are(model: TrainedModel, normalization: Normalization) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 35, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = model.network(normalization(image)[None])
        assert torch.equal(model.logits(torch.from_numpy(image).permute(2, 0, 1)[None]), expected)


def rewritten(path: Path, change: str, tmp_path: Path) -> Path:
    with safetensors.safe_open(path / FILE, framework="pt") as handle:
        about, tensors = json.loads(handle.metadata()["segnas"]), {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    match change:
        case "format":
            about["format"] = 99
        case "architecture":
            about["architecture"]["path"] = [3]
        case "key":
            del about["classes"]
        case "tensor":
            tensors.pop("logits.bias")
    file = tmp_path / f"{change}.safetensors"
    metadata = {} if change == "metadata" else {"segnas": "{" if change == "json" else json.dumps(about)}
    safetensors.torch.save_file(tensors, file, metadata)
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("format", "format 99"),
        ("architecture", "malformed at path|path.0"),
        ("key", "no complete model"),
        ("tensor", "do not fit the architecture"),
        ("metadata", "not written by segnas"),
        ("json", "no JSON"),
    ],
)
def test_a_file_that_is_not_whole_is_met_with_one_line(model: TrainedModel, tmp_path: Path, change: str, message: str) -> None:
    model.save(Run(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        TrainedModel.load(rewritten(tmp_path, change, tmp_path))
    assert "\n" not in str(error.value)


def test_missing_and_truncated_files_are_met_with_one_line(model: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not trained yet"):
        TrainedModel.load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        TrainedModel.load(tmp_path / "nothing.safetensors")
    file = model.save(Run(tmp_path))
    for content in (file.read_bytes()[:-100], file.read_bytes()[:20], b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match="cannot read the model") as error:
            TrainedModel.load(file)
        assert "\n" not in str(error.value)


def test_training_starts_from_weights_and_makes_the_last_layer_anew(
    model: TrainedModel, architecture: AutoDeepLab, tmp_path: Path
) -> None:
    file = model.save(Run(tmp_path))
    same, five = build(architecture, 3), build(architecture, 5)
    assert "start anew" not in start_from(same, 3, file)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.network.state_dict().values(), strict=True))
    before = five.logits.weight.clone()
    told = start_from(five, 5, file)
    assert "logits.bias, logits.weight start anew (3 classes there, 5 here)" in told
    assert torch.equal(five.logits.weight, before)
    assert torch.equal(five.stem.state_dict()[key := next(iter(five.stem.state_dict()))], model.network.stem.state_dict()[key])


def test_weights_of_another_architecture_are_refused(model: TrainedModel, architecture: AutoDeepLab, tmp_path: Path) -> None:
    file = model.save(Run(tmp_path))
    other = AutoDeepLab(path=(0, 1, 2), cell=architecture.cell, network=architecture.network)
    network = build(other, 3)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match="of another architecture") as error:
        start_from(network, 3, file)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
