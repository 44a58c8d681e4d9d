"""The networks made by hand: sizes, published and hand-counted parameters, and a second, plain evaluation in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segnas.costs.counts import count
from segnas.nets.build import build
from segnas.spaces.hand_made import DeepLabV3Plus, ResNet, UNet

SMALL = [UNet(2, 3), DeepLabV3Plus(3, 4, 2, 5), ResNet(2, 2)]


def network_of(architecture: Any, num_classes: int = 3, seed: int = 0) -> nn.Module:
    """In float64 with random batch norms, so that a norm left out would be seen."""
    torch.manual_seed(seed)
    network = build(architecture, num_classes).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.bias, module.running_mean):
                nn.init.uniform_(values, -0.5, 0.5)
    return network


def parameters_of(architecture: Any, num_classes: int) -> int:
    return count(architecture, (32, 32), num_classes).parameters


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (40, 17)])
def test_logits_of_any_size(architecture: Any, size: tuple[int, int]) -> None:
    network = network_of(architecture)
    shape = network(torch.randn(2, 3, *size, dtype=torch.float64)).shape
    assert shape == ((2, 3) if isinstance(architecture, ResNet) else (2, 3, *size))
    gray = build(architecture, 5, in_channels=1).eval()
    assert gray(torch.randn(1, 1, 20, 20)).shape[:2] == (1, 5)


@pytest.mark.parametrize("architecture", SMALL)
def test_every_weight_is_trained_and_counts_agree_with_an_independent_counter(architecture: Any) -> None:
    network = build(architecture, 3).train()
    network(torch.randn(2, 3, 36, 45)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.randn(1, 3, 36, 45))
    counts = count(architecture, (36, 45), 3)
    assert counts.multiply_adds * 2 == counter.get_total_flops()
    assert counts.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert sum(part["parameters"] for part in counts.by_part.values()) == counts.parameters


@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_resnet_has_the_published_parameters_and_layers(blocks: int, millions: float) -> None:
    assert round(parameters_of(ResNet(blocks=blocks), 10) / 1e6, 2) == millions
    layers = [module for module in build(ResNet(blocks=blocks), 10).modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 6 * blocks + 2


def test_unet_has_the_parameters_counted_by_hand() -> None:
    widths = [64, 128, 256, 512, 1024]

    def double(before: int, width: int) -> int:  # two 3x3 convolutions without bias, each with scale and shift
        return 9 * before * width + 2 * width + 9 * width * width + 2 * width

    down = double(3, 64) + sum(double(before, width) for before, width in pairwise(widths))
    up = sum(double(fine + coarse, fine) for fine, coarse in pairwise(widths))
    assert parameters_of(UNet(), 2) == down + up + 64 * 2 + 2


def test_deeplab_has_the_parameters_of_resnet_18_and_the_head_counted_by_hand() -> None:
    counts = count(DeepLabV3Plus(), (33, 33), 19)
    encoder = sum(part["parameters"] for name, part in counts.by_part.items() if name.startswith(("stem", "stages")))
    assert encoder == 11_689_512 - (512 * 1000 + 1000)  # torchvision's resnet18 without its classifier
    aspp = 2 * (512 * 256) + 3 * (9 * 512 * 256) + 5 * 256 * 256 + 6 * 2 * 256
    decoder = 64 * 48 + 2 * 48 + 9 * (256 + 48) * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    assert counts.by_part["aspp"]["parameters"] == aspp
    assert counts.by_part["decoder"]["parameters"] == decoder
    assert counts.parameters == encoder + aspp + decoder + 256 * 19 + 19


class PlainEvaluation:
    """The papers' descriptions with our weights, by functions only."""

    def __init__(self, network: nn.Module) -> None:
        self.state = network.state_dict()

    def conv(self, x: Tensor, conv: str, norm: str, stride: int = 1, rate: int = 1) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, None, stride, rate * (weight.shape[-1] // 2), rate)
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (self.state[f"{norm}.{key}"].reshape(1, -1, 1, 1) for key in keys)
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def unit(self, x: Tensor, name: str, rate: int = 1) -> Tensor:
        return self.conv(x, f"{name}.conv", f"{name}.norm", 1, rate).relu()

    def block(self, x: Tensor, name: str, stride: int = 1, rate: int = 1) -> Tensor:
        out = self.conv(x, f"{name}.first.0", f"{name}.first.1", stride, rate).relu()
        out = self.conv(out, f"{name}.second.0", f"{name}.second.1", 1, rate)
        if f"{name}.shortcut.0.weight" in self.state:
            x = self.conv(x, f"{name}.shortcut.0", f"{name}.shortcut.1", stride)
        elif x.shape != out.shape:
            padded = torch.zeros_like(out)
            padded[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            x = padded
        return (out + x).relu()

    def resnet(self, x: Tensor, blocks: int) -> Tensor:
        x = self.unit(x, "stem")
        for stage in range(3):
            for number in range(blocks):
                x = self.block(x, f"stages.{stage}.{number}", 2 if stage and not number else 1)
        return x.mean((2, 3)) @ self.state["logits.weight"].T + self.state["logits.bias"]

    def unet(self, x: Tensor, depth: int) -> Tensor:
        maps = []
        for level in range(depth + 1):
            x = F.max_pool2d(x, 2, ceil_mode=True) if level else x
            x = self.unit(self.unit(x, f"down.{level}.0"), f"down.{level}.1")
            maps.append(x)
        for number, level in enumerate(reversed(range(depth))):
            x = torch.cat([maps[level], bilinear(x, maps[level])], 1)
            x = self.unit(self.unit(x, f"up.{number}.0"), f"up.{number}.1")
        return F.conv2d(x, self.state["logits.weight"], self.state["logits.bias"])

    def deeplab(self, images: Tensor) -> Tensor:
        x = low = F.max_pool2d(self.conv(images, "stem.0", "stem.1", 2).relu(), 3, 2, 1)
        for stage, (stride, rate) in enumerate([(1, 1), (2, 1), (2, 1), (1, 2)]):
            x = self.block(self.block(x, f"stages.{stage}.0", stride, rate), f"stages.{stage}.1", 1, rate)
            low = x if stage == 0 else low
        assert x.shape[2] == -(-images.shape[2] // 16)
        branches = [self.unit(x.mean((2, 3), keepdim=True), "aspp.pooled").expand(-1, -1, *x.shape[2:])]
        branches += [self.unit(x, "aspp.pointwise")]
        branches += [self.unit(x, f"aspp.atrous.{number}", rate) for number, rate in enumerate((6, 12, 18))]
        x = self.unit(torch.cat(branches, 1), "aspp.project")
        x = torch.cat([bilinear(x, low), self.unit(low, "decoder.low_level")], 1)
        x = self.unit(self.unit(x, "decoder.fuse.0"), "decoder.fuse.1")
        return bilinear(F.conv2d(x, self.state["logits.weight"], self.state["logits.bias"]), images)


def bilinear(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


@pytest.mark.parametrize("architecture", [*SMALL, ResNet(3, 1), UNet(3, 1)])
def test_the_networks_compute_what_their_papers_describe(architecture: Any) -> None:
    network = network_of(architecture)
    plain = PlainEvaluation(network)
    images = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        if isinstance(architecture, ResNet):
            expected = plain.resnet(images, architecture.blocks)
        elif isinstance(architecture, UNet):
            expected = plain.unet(images, architecture.depth)
        else:
            expected = plain.deeplab(images)
        assert torch.allclose(network(images), expected, rtol=1e-9, atol=1e-10)
