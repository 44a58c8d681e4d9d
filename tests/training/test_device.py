"""Device, precision, memory format and threads are what the configuration asks for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segnas.errors import UserError
from segnas.tasks.base import cross_entropy
from segnas.training.device import Device, DeviceConfig, launch


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        launch(DeviceConfig(accelerator="cuda"))


def test_auto_says_which_device_it_took(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = launch(DeviceConfig())
    assert device.device.type == "cpu"
    assert f"device: {device.title}" in capsys.readouterr().err
    launch(DeviceConfig(accelerator="cpu", precision="bf16"))
    assert not capsys.readouterr().err


def test_threads_are_set_or_left() -> None:
    before = torch.get_num_threads()
    try:
        launch(DeviceConfig(accelerator="cpu", threads=2))
        assert torch.get_num_threads() == 2
        assert launch(DeviceConfig(accelerator="cpu")).title == "cpu, 2 threads"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_weights_have_the_memory_format(channels_last: bool) -> None:
    device = launch(DeviceConfig(accelerator="cpu", channels_last=channels_last))
    network = device.place(nn.Conv2d(3, 4, 3))
    images = device.images(torch.rand(2, 3, 8, 8))
    for tensor in (network.weight, images, network(images)):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert device.labels(torch.ones(2, 8, 8)).shape == (2, 8, 8)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_computes_in_bfloat16_and_learns(channels_last: bool) -> None:
    device: Device = launch(DeviceConfig(accelerator="cpu", precision="bf16", channels_last=channels_last))
    torch.manual_seed(0)
    network = device.place(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    images = torch.rand(2, 3, 12, 12)
    labels = (images[:, 0] > 0.5).long()
    losses = []
    for _ in range(20):
        with device.autocast():
            logits = network(device.images(images))
        assert logits.dtype == torch.bfloat16
        loss = cross_entropy(logits, labels)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert network[0].weight.dtype == torch.float32
    assert losses[-1] < 0.7 * losses[0]


def test_float32_is_not_cast() -> None:
    device = launch(DeviceConfig(accelerator="cpu"))
    with device.autocast():
        assert nn.Conv2d(3, 4, 1)(torch.rand(1, 3, 4, 4)).dtype == torch.float32
