"""The comparison against hand-made logits and graphs: what passes, what does not, and that every pixel counts once."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from segnas.data.base import Sample
from segnas.data.transforms import nearest, resize_image
from segnas.export.parity import _Tally, check_parity


@pytest.fixture
def model(exported):
    """The exported model as it was compared: in evaluation mode."""
    return dataclasses.replace(exported.model, network=copy.deepcopy(exported.model.network).eval())


def check(exported, model, content=None):
    return check_parity(content or exported.file.read_bytes(), model, exported.size, exported.samples, 20, "model.onnx")


def test_miou_is_that_of_the_resized_images_each_counted_once(exported, model):
    height, width = exported.size
    right, union = np.zeros(5), np.zeros(5)
    for sample in exported.samples:
        image = resize_image(sample.image, exported.size)
        label = nearest(sample.label, exported.size, slice(0, height), slice(0, width))
        with torch.inference_mode():
            prediction = model.network(model.normalization(image)[None]).argmax(1)[0].numpy()
        for class_id in range(5):
            predicted, labelled = (prediction == class_id) & (label != 255), label == class_id
            right[class_id] += (predicted & labelled).sum()
            union[class_id] += (predicted | labelled).sum()
    expected = 100 * (right[union > 0] / union[union > 0]).mean()
    parity = check(exported, model)
    assert parity.passed
    assert parity.images == 3
    assert parity.score_torch == pytest.approx(expected)
    assert parity.score_onnx == pytest.approx(expected, abs=0.1)
    assert 0 < parity.largest_logit_difference < 0.1 * parity.tolerance


def test_another_normalisation_is_found(exported, model):
    other = dataclasses.replace(model.normalization, mean=(0.40, 0.42, 0.3))
    parity = check(exported, dataclasses.replace(model, normalization=other))
    assert not parity.passed
    assert "the logits differ by up to" in parity.problem


def test_one_wrong_weight_is_found(exported, model):
    with torch.no_grad():
        model.network.logits.weight[2] *= 1.02
    parity = check(exported, model)
    assert not parity.passed
    assert parity.tolerance < parity.largest_logit_difference < 1


def test_logits_that_are_no_numbers_fail_on_both_sides(exported, model):
    with torch.no_grad():
        model.network.logits.bias[0] = float("nan")
    parity = check(exported, model)
    assert not parity.passed
    assert np.isnan(parity.largest_logit_difference)


def test_a_graph_for_one_image_at_a_time_fails(exported, model):
    graph = onnx.load(exported.file)
    for value in (graph.graph.input[0], graph.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    parity = check(exported, model, graph.SerializeToString())
    assert not parity.passed
    assert parity.problem.startswith("onnxruntime cannot run it: ")
    assert "\n" not in parity.problem


def test_bytes_that_are_no_graph_fail(exported, model):
    parity = check(exported, model, b"no graph")
    assert not parity.passed
    assert np.isnan([parity.largest_logit_difference, parity.agreement, parity.score_torch]).all()
    assert "\n" not in parity.problem


def test_the_tally_of_hand_made_logits():
    expected = torch.tensor([[[[4.0, 0.0], [0.0, 1.0]], [[0.0, 4.0], [4.0, 0.0]]]])  # classes 0 1 / 1 0
    got = expected.clone()
    got[0, :, 1, 1] = torch.tensor([0.25, 0.5])  # the last pixel becomes 1
    tally = _Tally(2)
    tally.add(expected, got, torch.tensor([[[0, 1], [255, 0]]]), 1)
    assert tally.largest == 0.75
    assert tally.agreement == 0.75
    assert tally.spread == pytest.approx(float(expected.std(correction=0)))
    assert tally.confusion_torch.tolist() == [[2, 0], [0, 1]]
    assert tally.confusion_onnx.tolist() == [[1, 1], [0, 1]]
    assert "differ by up to 0.75" in tally.problem(0.5)
    assert "only 75.00 % of the pixels" in tally.problem(1.0)


def test_parity_on_real_images(exported, model, shared):
    samples = []
    for path in sorted((shared / "data" / "camvid" / "images" / "val").iterdir())[:3]:
        image = np.asarray(Image.open(path).convert("RGB"))
        samples.append(Sample(path.stem, image, (image[..., 0] // 52).astype(np.uint8)))
    parity = check_parity(exported.file.read_bytes(), model, exported.size, samples, 20, "model.onnx")
    assert parity.passed
    assert parity.agreement > 0.9999
