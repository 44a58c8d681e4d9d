"""The network of NAS with reinforcement learning: published counts, and its rules against convolutions written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segnas import zoo
from segnas.costs.counts import count
from segnas.nets.build import build
from segnas.nets.nas_rl import concatenated
from segnas.spaces.nas_rl import ConvolutionLayer, NasRl


def test_counts_of_the_published_network_are_exact() -> None:
    entry = zoo.load("nas-rl-v1")
    found = count(entry.architecture, (32, 32), 10)
    assert (found.parameters, found.multiply_adds) == (4_201_630, 4_300_665_312)
    assert round(found.parameters / 1e6, 1) == entry.paper["parameters_m"]


@pytest.mark.parametrize("size", [(9, 12), (7, 5), (1, 1)])
def test_outputs_are_those_of_the_rules_written_out(size: tuple[int, int]) -> None:
    """Layer 2 strides, layer 3 reads both sizes, layer 4 reads the image; 3 and 4 are not read and go to the classifier."""
    layers = (
        ConvolutionLayer(3, 5, 1, 1, 2, ()),
        ConvolutionLayer(1, 3, 2, 3, 3, (1,)),
        ConvolutionLayer(7, 1, 1, 1, 2, (1, 1)),
        ConvolutionLayer(3, 3, 3, 3, 4, (0, 0, 0)),
    )
    network = build(NasRl(layers), 5).double().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, *size, dtype=torch.float64)

    def run(number: int, x: torch.Tensor) -> torch.Tensor:
        layer, unit = layers[number], network.layers[number]  # type: ignore[index]
        padding = (layer.height // 2, layer.width // 2)
        x = F.conv2d(x, unit.conv.weight, None, (layer.stride_height, layer.stride_width), padding)
        norm = unit.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return (x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]).clamp(min=0)

    first = run(0, images)
    second = run(1, first)
    height, width = size
    assert second.shape[2:] == (-(-height // 2), -(-width // 3))
    padded = torch.zeros(2, 3, height, width, dtype=torch.float64)
    top, left = (height - second.shape[2]) // 2, (width - second.shape[3]) // 2
    padded[:, :, top : top + second.shape[2], left : left + second.shape[3]] = second
    third, fourth = run(2, torch.cat([first, padded], dim=1)), run(3, images)
    features = torch.cat([third.sum((2, 3)), fourth.sum((2, 3))], dim=1) / (height * width)
    expected = features @ network.logits.weight.T + network.logits.bias
    assert torch.allclose(network(images), expected, rtol=1e-10, atol=1e-12)


def test_one_size_needs_no_padding() -> None:
    maps = [torch.randn(1, 2, 4, 3), torch.randn(1, 1, 4, 3)]
    assert torch.equal(concatenated(maps), torch.cat(maps, dim=1))
