"""Export of a network with one class an image: (N, K) logits, parity in accuracy, disagreement found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_images import SmallImages, TinyClassifier, TinyNetwork

from segnas.data.transforms import Normalization
from segnas.export import export_onnx
from segnas.export.onnx_file import OPSET, graph_of
from segnas.export.parity import check_parity
from segnas.training.model import TrainedModel

OF_SET = Normalization((0.45, 0.4, 0.5), (0.3, 0.2, 0.3))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel(TinyClassifier(), TinyNetwork(TinyClassifier(), 6).eval(), SmallImages().classes, OF_SET)


def test_the_file_says_what_the_network_says(model: TrainedModel, tmp_path: Path) -> None:
    small = SmallImages()
    samples = [small.read("val", index) for index in range(13)]
    parity = export_onnx(model, (32, 32), tmp_path / "model.onnx", samples)
    images = np.stack([sample.image for sample in samples])
    with torch.no_grad():
        expected = model.logits(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (got,) = session.run(["logits"], {"image": images.transpose(0, 3, 1, 2).astype(np.float32)})
    assert got.shape == (13, 6)
    assert np.abs(got - expected).max() < 1e-4
    right = 100 * float((expected.argmax(1) == np.arange(13) % 6).mean())
    written = json.loads((tmp_path / "parity.json").read_text())
    assert written["passed"]
    assert (written["accuracy_torch"], written["accuracy_onnx"]) == (pytest.approx(right), pytest.approx(right))
    assert written["agreement"] == parity.agreement == 1
    assert 0 < written["largest_logit_difference"] < 1e-4
    assert not any("mIoU" in key or "score" in key for key in written)


def test_other_weights_are_found_out(model: TrainedModel) -> None:
    torch.manual_seed(1)
    other = TrainedModel(model.architecture, TinyNetwork(TinyClassifier(), 6).eval(), model.classes, OF_SET)
    samples = [SmallImages().read("val", index) for index in range(13)]
    parity = check_parity(graph_of(other, (32, 32)), model, (32, 32), samples, OPSET, "model.onnx")
    assert not parity.passed
    assert "the logits differ" in str(parity.problem)
    assert parity.agreement < 1
