"""The quartiles and the flag against hand-made clocks; the conditions as they were; nothing of the caller's changed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segnas.costs import latency
from segnas.costs.latency import measure_latency, measure_onnx_latency
from segnas.errors import UserError


class Recorder(nn.Module):
    """Remembers in lists shared by all copies what every call saw."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.seen = Shared()

    def forward(self, image):
        result = self.norm(self.conv(image))
        self.seen.append((image, result.dtype, self.training, torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return result


class Shared(list):
    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def clock(monkeypatch):
    """`clock(times_s)` makes each call last as long as the list says; the overhead between calls is nothing."""

    def install(durations):
        now = [0.0]
        durations_left = iter(durations)

        class Clock:
            @staticmethod
            def perf_counter():
                return now[0]

        def call():
            now[0] += next(durations_left)

        monkeypatch.setattr(latency, "time", Clock)
        return call

    return install


def test_quartiles_and_steadiness_of_known_times(clock):
    steady = [0.010, 0.0101, 0.0102, 0.0103, 0.0104, 0.0105, 0.0106, 0.0107]
    call = clock([1.0, 0.5, *steady])
    warm, times = latency._time(call, warmup=2, runs=8, time_limit_s=100)
    assert warm == 2
    np.testing.assert_allclose(times, np.array(steady) * 1e3)
    conditions = {"device": "cpu", "runtime": "torch", "input": (1, 3, 4, 4), "threads": 1, "precision": "float32"}
    result = latency._summary(times, **conditions, channels_last=False, warmup=2, includes="all")
    assert result.median_ms == pytest.approx(10.35)
    assert (result.q1_ms, result.q3_ms) == (pytest.approx(10.175), pytest.approx(10.525))
    assert result.iqr_ms == pytest.approx(0.35)
    assert not result.unsteady


@pytest.mark.parametrize(
    ("times", "unsteady"),
    [
        ([10.0, 10.0, 10.0, 10.0, 90.0, 10.0, 10.0, 10.0], False),  # one outlier moves neither median nor quartiles
        ([10.0, 12.0, 10.0, 12.0, 10.0, 12.0, 10.0, 12.0], True),  # wide quartiles
        ([10.0] * 8 + [11.2] * 7, True),  # slower in the second half by more than a tenth
        ([10.0] * 8 + [10.4] * 7, False),
    ],
)
def test_unsteady_is_flagged(times, unsteady):
    conditions = {"device": "cpu", "runtime": "torch", "input": (1, 3, 4, 4), "threads": 1, "precision": "float32"}
    assert latency._summary(times, **conditions, channels_last=False, warmup=1, includes="all").unsteady is unsteady


def test_the_time_limit_cuts_warm_up_and_runs_but_leaves_five(clock):
    warm, times = latency._time(clock([3.0] * 20), warmup=5, runs=50, time_limit_s=10)
    assert (warm, len(times)) == (1, latency.MIN_RUNS)
    warm, times = latency._time(clock([0.5] * 60), warmup=5, runs=50, time_limit_s=10)
    assert warm == 4  # a fifth of the limit
    assert len(times) == 16  # the rest of it


def test_conditions_are_those_of_the_runs():
    network = Recorder().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    threads = torch.get_num_threads()
    result = measure_latency(network, (2, 3, 8, 6), threads=2, channels_last=True, warmup=2, runs=6)
    assert len(network.seen) == 8
    for image, dtype, training, used_threads, inference in network.seen:
        assert image.shape == (2, 3, 8, 6)
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert 0.5 < float(image.std()) < 1.5
        assert (dtype, training, used_threads, inference) == (torch.float32, False, 2, True)
    assert torch.get_num_threads() == threads
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert (result.input, result.threads, result.warmup, result.runs) == ((2, 3, 8, 6), 2, 2, 6)
    assert result.q1_ms <= result.median_ms <= result.q3_ms


def test_bfloat16_runs_in_bfloat16_and_the_seed_sets_the_input():
    network = Recorder()
    result = measure_latency(network, (1, 3, 4, 4), precision="bf16", warmup=1, runs=5)
    assert {dtype for _, dtype, *_ in network.seen} == {torch.bfloat16}
    assert result.precision.startswith("bfloat16")
    first = network.seen[0][0].clone()
    measure_latency(network, (1, 3, 4, 4), warmup=1, runs=5)
    assert torch.equal(first, network.seen[-1][0])
    measure_latency(network, (1, 3, 4, 4), warmup=1, runs=5, seed=1)
    assert not torch.equal(first, network.seen[-1][0])


def test_pixels_go_through_all_that_lies_between_them_and_the_network():
    seen = []

    def from_pixels(network, pixels):
        seen.append((pixels, network.training))
        return network(pixels.float() / 255)

    network = Recorder().train()
    result = measure_latency(network, (2, 3, 5, 7), channels_last=True, warmup=1, runs=5, from_pixels=from_pixels)
    assert len(seen) == len(network.seen) == 6
    pixels = seen[0][0]
    assert (pixels.dtype, pixels.shape, seen[0][1]) == (torch.uint8, (2, 3, 5, 7), False)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert int(pixels.min()) < 30
    assert int(pixels.max()) > 225
    assert torch.equal(network.seen[0][0], pixels.float() / 255)
    assert result.includes.startswith("normalisation and network, from a uint8 RGB tensor")
    assert measure_latency(network, (2, 3, 5, 7), warmup=1, runs=5).includes.startswith("the network alone")


@pytest.mark.parametrize(
    ("precision", "device", "capability", "allowed", "title"),
    [
        ("32", "cpu", (9, 0), True, "float32"),
        ("32", "cuda", (9, 0), True, "float32 (TF32 in convolutions)"),
        ("32", "cuda", (9, 0), False, "float32"),
        ("32", "cuda", (7, 5), True, "float32"),
        ("bf16", "cuda", (9, 0), True, "bfloat16 (mixed)"),
    ],
)
def test_the_precision_is_that_of_the_arithmetic(precision, device, capability, allowed, title, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with torch.backends.cudnn.flags(allow_tf32=allowed):
        assert latency.precision_title(precision, torch.device(device)) == title


def test_threads_come_back_after_an_error():
    class Broken(nn.Module):
        def forward(self, image):
            raise RuntimeError("broken")

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="broken"):
        measure_latency(Broken(), (1, 3, 4, 4), threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_json_has_the_named_keys():
    result = measure_latency(nn.Conv2d(3, 2, 1), (1, 3, 4, 4), warmup=1, runs=5)
    values = json.loads(json.dumps(result.to_json()))
    assert {"device", "input", "threads", "precision", "warmup", "runs", "median_ms", "q1_ms"} <= values.keys()
    assert {"q3_ms", "iqr_ms", "unsteady", "includes", "runtime", "channels_last"} <= values.keys()
    assert values["input"] == [1, 3, 4, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:77"}, "there is no device 'cuda:77' here"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "meta"}, "measured on cpu or cuda"),
        ({"runs": 3}, "at least 5"),
        ({"warmup": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"precision": "16"}, "unknown precision '16'; allowed: 32, bf16"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        measure_latency(nn.Conv2d(3, 2, 1), (1, 3, 4, 4), **settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="four positive numbers"):
        measure_latency(nn.Conv2d(3, 2, 1), (3, 4, 4))


def small_onnx(folder: Path, shape=("batch", 3, 8, 9)) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, list(shape))
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, list(shape))
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "small", [image], [logits])
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_an_onnx_file_is_timed_in_onnxruntime(tmp_path):
    path = small_onnx(tmp_path)
    result = measure_onnx_latency(path, batch=2, threads=1, warmup=1, runs=7)
    assert result.runtime.startswith("onnxruntime ")
    assert (result.input, result.threads, result.warmup, result.runs) == ((2, 3, 8, 9), 1, 1, 7)
    assert result.median_ms > 0
    assert "normalisation in its graph" in result.includes
    assert measure_onnx_latency(path, (8, 9), threads=1, warmup=1, runs=5).input == (1, 3, 8, 9)
    with pytest.raises(UserError, match="takes images of 8x9; leave out the size"):
        measure_onnx_latency(path, (9, 8))
    with pytest.raises(UserError, match="at least 5"):
        measure_onnx_latency(path, runs=2)
    with pytest.raises(UserError, match="no such file"):
        measure_onnx_latency(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(UserError, match="cannot load") as caught:
        measure_onnx_latency(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [["batch", 3, "height", "width"], ["batch", 4, 8, 9], ["batch", 3], [5, 3, 8, 9]])
def test_an_onnx_file_that_takes_no_images_of_one_size_is_refused(tmp_path, shape):
    with pytest.raises(UserError, match="time a file of `segnas export`"):
        measure_onnx_latency(small_onnx(tmp_path, shape))
