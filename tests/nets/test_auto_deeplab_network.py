"""The retrained network against a second, plain evaluation in float64 that reads the published description, and its edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segnas import zoo
from segnas.nets.auto_deeplab import AutoDeepLabNetwork, aspp_rates, low_level_cell
from segnas.nets.build import build
from segnas.spaces.auto_deeplab import AutoDeepLab, AutoDeepLabSpace, Block, NetworkOptions
from segnas.spaces.choice import sample

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "autodeeplab.json").read_text())["architecture"]
OPTIONS = NetworkOptions(filters=2, stem=(3, 4, 5), aspp_width=6, low_level_width=3, decoder_width=5)
TINY = zoo.with_options(
    zoo.load("auto-deeplab-s").architecture,
    ["filters=2", "stem=[3, 4, 5]", "aspp_width=6", "low_level_width=3", "decoder_width=5"],
)
SEARCHED = AutoDeepLabSpace(layers=6, blocks=3, network=OPTIONS)


def network_of(architecture: AutoDeepLab, num_classes: int = 3, seed: int = 0) -> AutoDeepLabNetwork:
    """With random batch norms too, so that a norm left out would be seen."""
    torch.manual_seed(seed)
    network = build(architecture, num_classes).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                torch.nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.bias, module.running_mean):
                torch.nn.init.uniform_(values, -0.5, 0.5)
    assert isinstance(network, AutoDeepLabNetwork)
    return network


class PlainEvaluation:
    """The published description (its cell, with its own state numbers and names), evaluated plainly with our weights."""

    def __init__(self, network: AutoDeepLabNetwork) -> None:
        self.state = network.state_dict()

    def conv(self, x: Tensor, name: str, **options: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        rate = options.get("dilation", 1)
        return F.conv2d(x, weight, padding=rate * (weight.shape[-1] // 2), **options)

    def norm(self, x: Tensor, name: str, eps: float = 1e-3) -> Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{key}"].reshape(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + eps) * weight + bias

    def unit(self, x: Tensor, name: str, rate: int = 1) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv", dilation=rate), f"{name}.norm", eps=1e-5).relu()

    def operation(self, x: Tensor, kind: str, stride: int, name: str) -> Tensor:
        if kind.startswith("separable"):
            for first in (0, 4):
                x = self.conv(x.relu(), f"{name}.{first + 1}", stride=stride, groups=x.shape[1])
                x = self.norm(self.conv(x, f"{name}.{first + 2}"), f"{name}.{first + 3}")
                stride = 1
            return x
        x = x.relu()
        if stride == 2:
            x = bilinear(x, (x.shape[2] - 1) // 2 + 1, (x.shape[3] - 1) // 2 + 1)
        return self.norm(self.conv(x, f"{name}.conv", dilation=1 if stride == 2 else 2), f"{name}.norm")

    def cell(self, number: int, net: Tensor, prev: Tensor, stride: int) -> Tensor:
        name = f"cells.{number}"
        if net.shape[2:] != prev.shape[2:]:
            prev = bilinear(prev, *net.shape[2:])
        prev, net = (
            self.norm(self.conv(x.relu(), f"{name}.{part}.conv"), f"{name}.{part}.norm")
            for x, part in ((prev, "before"), (net, "previous"))
        )
        states = [net, prev]
        description = GOLDEN["cell_tf"]
        terms = list(zip(description["hiddenstate_indices"], description["operations"], strict=True))
        for block in range(5):
            total = torch.zeros(())
            for place in (2 * block, 2 * block + 1):
                index, kind = terms[place]
                ours = f"{name}.operations.{place}"
                total = total + self.operation(states[index], kind, stride if index < 2 else 1, ours)
            states.append(total)
        return torch.cat(states[2:], 1)

    def __call__(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images, "stem.first.0", stride=2), "stem.first.1").relu()
        stem0 = self.norm(self.conv(x, "stem.second.0"), "stem.second.1")
        net = self.norm(self.conv(stem0.relu(), "stem.third.0", stride=2), "stem.third.1")
        outputs = [stem0, net]
        level = 0
        for number, following in enumerate(GOLDEN["network_path"]):
            if following < level:
                net = bilinear(net, net.shape[2] * 2 - 1, net.shape[3] * 2 - 1)
            net = self.cell(number, net, outputs[-2], stride=2 if following > level else 1)
            outputs.append(net)
            level = following
        x = net.relu()
        pooled = self.unit(x.mean((2, 3), keepdim=True), "aspp.pooled").expand(-1, -1, *x.shape[2:])
        branches = [self.unit(x, f"aspp.atrous.{i}", rate) for i, rate in enumerate((12, 24, 36))]
        x = self.unit(torch.cat([pooled, self.unit(x, "aspp.pointwise"), *branches], 1), "aspp.project")
        low = outputs[2 + 2]  # after the stem's two: Cell_0, Cell_1, Cell_2
        x = torch.cat([bilinear(x, *low.shape[2:]), self.unit(low, "decoder.low_level")], 1)
        x = self.unit(self.unit(x, "decoder.fuse.0"), "decoder.fuse.1")
        logits = self.conv(x, "logits") + self.state["logits.bias"].reshape(1, -1, 1, 1)
        return bilinear(logits, *images.shape[2:])


def bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """With aligned corners, as two matrix products."""

    def weights(old: int, new: int) -> Tensor:
        matrix = torch.zeros(new, old, dtype=x.dtype)
        for i in range(new):
            position = i * (old - 1) / (new - 1) if new > 1 else 0.0
            low = min(int(position), old - 1)
            matrix[i, low] += 1 - (position - low)
            if position > low:
                matrix[i, low + 1] += position - low
        return matrix

    return weights(x.shape[2], height) @ x @ weights(x.shape[3], width).T


@pytest.mark.parametrize("size", [(33, 33), (65, 97)])
def test_the_published_network_equals_a_plain_evaluation_of_its_description(size):
    network = network_of(TINY).eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        ours, plain = network(images), PlainEvaluation(network)(images)
    assert ours.std() > 1e-3
    assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [(33, 33), (34, 40), (47, 64), (96, 33)])
def test_any_size_runs_and_trains_with_one_image(size):
    network = build(TINY, num_classes=4, in_channels=2)
    network.set_drop_path(0.5, 1.0)
    logits = network(torch.randn(1, 2, *size))
    assert logits.shape == (1, 4, *size)
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("seed", range(8))
def test_architectures_drawn_from_the_space_run_forward_and_backward(seed):
    architecture = sample(SEARCHED, np.random.default_rng(seed))
    network = build(architecture, num_classes=2)
    logits = network(torch.randn(2, 3, 41, 50))
    assert logits.shape == (2, 2, 41, 50)
    logits.sum().backward()
    assert network.stem.first[0].weight.grad is not None


def test_every_parameter_gets_a_gradient():
    network = network_of(TINY).train()
    network(torch.randn(2, 3, 49, 65, dtype=torch.float64)).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_channels_last_and_bfloat16_give_the_same_figures():
    network = network_of(TINY).float().eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        plain = network(images)
        last = network(images.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            low = network(images)
    assert torch.allclose(plain, last, atol=1e-5)
    assert (plain - low).abs().max() < 0.1 * plain.abs().max()


def test_drop_path_follows_its_schedule_and_only_while_training():
    network = network_of(zoo.with_options(TINY, ["dropout=0"])).eval()
    images = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    before = network(images)
    network.set_drop_path(0.4, 0.5)
    assert [cell.keep for cell in network.cells] == pytest.approx([1 - 0.5 * (i + 1) / 12 * 0.6 for i in range(12)])
    assert torch.equal(network(images), before)
    network.train()
    torch.manual_seed(1)
    assert not torch.equal(network(images), network(images))
    network.set_drop_path(0.4, 0.0)
    assert torch.equal(network(images), network(images))


def test_drop_path_spares_skip_connections():
    cell = (Block(inputs=(0, 1), operations=("skip_connect", "none")),)
    network = network_of(AutoDeepLab((0,), cell, OPTIONS)).train()
    network.set_drop_path(0.01, 1.0)
    before, previous = torch.randn(8, 4, 9, 9, dtype=torch.float64), torch.randn(8, 5, 9, 9, dtype=torch.float64)
    out = network.cells[0](before, previous)
    assert (out.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1), 2),
        ((1, 0, 0, 1), -1),
        ((0, 1, 0, 0), 0),
        ((0,), -1),
        ((0, 0, 0), 1),
        ((1,), -1),
    ],
)
def test_low_level_features_are_the_last_of_the_leading_stride_4_cells(path, expected):
    assert low_level_cell(path) == expected
    network = build(AutoDeepLab(path, TINY.cell, OPTIONS), num_classes=2).eval()
    assert network(torch.randn(1, 3, 33, 40)).shape == (1, 2, 33, 40)


def test_aspp_rates_scale_with_the_stride_of_the_last_cell():
    assert [aspp_rates((12, 24, 36), level) for level in range(4)] == [(24, 48, 72), (12, 24, 36), (6, 12, 18), (3, 6, 9)]
    assert aspp_rates((1, 2), 3) == (1, 1)


def test_the_network_exports():
    architecture = sample(SEARCHED, np.random.default_rng(2))
    network = build(architecture, num_classes=2).eval()
    program = torch.export.export(network, (torch.randn(2, 3, 40, 49),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    images = torch.randn(3, 3, 40, 49)
    assert torch.allclose(program.module()(images), network(images), atol=1e-6)


def test_an_unknown_family_has_no_builder():
    with pytest.raises(TypeError, match="no registered architecture family"):
        build(object(), num_classes=2)
