"""The exported file against torch and plain arithmetic, what it says of itself, and what is left when something goes wrong."""

import dataclasses
import errno
import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_models import make_model, make_sample

from segnas.errors import UserError
from segnas.export import export_onnx, onnx_file
from segnas.export.parity import check_parity
from segnas.spaces.architecture import from_json, identity


def session_of(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_logits_are_those_of_torch_for_any_batch(exported):
    session = session_of(exported.file)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, *exported.size)).astype(np.float32)
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in ((0.41, 0.42, 0.3), (0.27, 0.22, 0.31)))
    network = exported.model.network.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(((images / 255.0 - mean) / std).astype(np.float32))).numpy()
    exported.model.network.train()
    assert expected.std() > 0.5
    for batch in (images[:1], images[:2], images):
        (logits,) = session.run(["logits"], {"image": batch})
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[: len(batch)], atol=1e-4)


def test_input_and_output_are_as_documented(exported):
    session = session_of(exported.file)
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 3, 65, 78])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 5, 65, 78])
    model = onnx.load(exported.file)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [exported.parity.opset]
    assert model.producer_name == "segnas"


def test_metadata_round_trip(exported):
    texts = session_of(exported.file).get_modelmeta().custom_metadata_map
    assert set(texts) == set(onnx_file.METADATA)
    model = exported.model
    assert tuple(json.loads(texts["class_names"])) == model.classes.names
    assert tuple(map(tuple, json.loads(texts["class_colors"]))) == model.classes.colors
    assert tuple(json.loads(texts["class_source_ids"])) == model.classes.source_ids
    assert tuple(json.loads(texts["mean"])) == model.normalization.mean
    assert tuple(json.loads(texts["std"])) == model.normalization.std
    assert json.loads(texts["resize"]) == 0.5
    assert from_json(json.loads(texts["architecture"])) == model.architecture
    assert texts["architecture_id"] == identity(model.architecture)


def test_the_file_holds_no_paths_of_the_machine_that_wrote_it(exported):
    content = exported.file.read_bytes()
    for trace in (b"stack_trace", b"site-packages", b".py"):
        assert trace not in content


def test_parity_is_written_beside_the_file(exported):
    values = json.loads(exported.file.with_name("parity.json").read_text(encoding="utf-8"))
    assert values == exported.parity.to_json()
    assert values["passed"] is True
    assert values["problem"] is None
    assert values["images"] == 3
    assert values["size"] == [65, 78]
    assert values["onnx"] == "model.onnx"
    assert values["bytes"] == exported.file.stat().st_size
    assert sorted(path.name for path in exported.file.parent.iterdir()) == ["model.onnx", "parity.json"]


def test_the_model_of_the_caller_is_left_as_it_was(exported):
    fresh = make_model((1, 2, 1)).network
    assert exported.model.network.training
    for (name, tensor), (_, expected) in zip(
        exported.model.network.state_dict().items(), fresh.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, expected), name


@pytest.fixture
def small(monkeypatch):
    """A model of a single convolution, whose export takes little time, and a sample."""
    model = make_model((0,))
    network = torch.nn.Conv2d(3, 5, 1)
    with torch.no_grad():
        network.weight.copy_(torch.linspace(-2, 2, 15).view(5, 3, 1, 1))
        network.bias.copy_(torch.linspace(-1, 1, 5))
    return dataclasses.replace(model, network=network), [make_sample(1, 20, 30)]


def test_the_exporter_says_nothing(small, capfd, recwarn):
    onnx_file.graph_of(small[0], (8, 9))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_failed_check_leaves_no_file_to_deploy(small, tmp_path):
    model, samples = small
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an earlier export")
    broken = torch.nn.Conv2d(3, 5, 1)
    broken.load_state_dict({name: 1.01 * tensor for name, tensor in model.network.state_dict().items()})
    content = onnx_file.graph_of(dataclasses.replace(model, network=broken), (20, 30))
    parity = check_parity(content, model, (20, 30), samples, 20, file.name)
    with pytest.raises(UserError, match=r"disagrees with torch: the logits differ by up to .*model\.onnx\.rejected") as caught:
        onnx_file.publish(content, parity, file)
    assert "\n" not in str(caught.value)
    assert not file.exists()
    assert (tmp_path / "model.onnx.rejected").read_bytes() == content
    values = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    assert values["passed"] is False
    assert values["largest_logit_difference"] > values["tolerance"]
    assert export_onnx(model, (20, 30), file, samples).passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "parity.json"]


def test_a_full_disk_keeps_the_earlier_export(small, tmp_path, monkeypatch):
    model, samples = small
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an earlier export")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full") as caught:
        export_onnx(model, (20, 30), file, samples)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == b"an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_missing_packages_are_named_with_the_extra(small, tmp_path, monkeypatch):
    assert onnx_file.missing_packages() == []
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx", "no_such_runtime"))
    assert onnx_file.missing_packages() == ["no_such_runtime"]
    with pytest.raises(UserError, match=r"needs no_such_runtime, not installed; pip install 'segnas\[onnx\]'"):
        export_onnx(small[0], (8, 9), tmp_path / "model.onnx", small[1])


def test_impossible_requests_write_nothing(small, tmp_path):
    with pytest.raises(UserError, match="0x5 is no image size"):
        export_onnx(small[0], (0, 5), tmp_path / "model.onnx", small[1])
    with pytest.raises(UserError, match="cannot be checked without an image"):
        export_onnx(small[0], (8, 9), tmp_path / "model.onnx", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "size"),
    [
        pytest.param((0, 0), (64, 96), id="stride 4"),
        pytest.param((1, 2, 3), (129, 100), id="stride 32"),
        pytest.param((1, 2, 2), (97, 70), id="stride 16", marks=pytest.mark.slow),
        pytest.param((1, 2, 3, 2, 1, 0), (51, 67), id="down and up", marks=pytest.mark.slow),
        pytest.param((0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1), (65, 65), id="published path", marks=pytest.mark.slow),
    ],
)
def test_other_paths_and_sizes(path, size, tmp_path):
    parity = export_onnx(make_model(path), size, tmp_path / "model.onnx", [make_sample(number, 90, 110) for number in range(2)])
    assert parity.passed
    assert parity.largest_logit_difference < 0.1 * parity.tolerance
