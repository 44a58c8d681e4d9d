"""Building blocks against plain definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from segnas.nets.blocks import (
    FactorizedReduction,
    PooledBatchNorm,
    ReLUConvBN,
    Stem,
    drop_path,
    drop_path_keep,
    resize,
    search_norm,
)


def test_resize_interpolates_with_aligned_corners():
    ramp = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 3, 5)
    assert torch.allclose(resize(ramp, (5, 9))[0, 0, 2], torch.arange(9) / 2)
    assert torch.allclose(resize(ramp, (2, 3))[0, 0, 1], torch.tensor([0.0, 2.0, 4.0]))
    assert resize(ramp, (3, 5)) is ramp


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 7), (5, 10), (1, 2), (33, 6)])
def test_factorized_reduction_reads_two_shifted_grids_at_any_size(stride, height, width):
    torch.manual_seed(0)
    block = FactorizedReduction(3, 5, stride).double().eval()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    expected = torch.zeros(2, 5, rows, columns, dtype=torch.float64)
    positive, shift = x.clamp(min=0), stride // 2
    for i in range(rows):
        for j in range(columns):
            expected[:, :3, i, j] = positive[:, :, i * stride, j * stride] @ block.first.weight[:, :, 0, 0].T
            if i * stride + shift < height and j * stride + shift < width:
                expected[:, 3:, i, j] = positive[:, :, i * stride + shift, j * stride + shift] @ block.second.weight[:, :, 0, 0].T
    assert torch.allclose(block(x), expected / math.sqrt(1 + 1e-3))


def test_factorized_reduction_needs_two_channels():
    with pytest.raises(ValueError, match="at least 2 output channels"):
        FactorizedReduction(3, 1)


def test_relu_conv_bn_begins_with_the_relu_and_leaves_its_input_alone():
    block = ReLUConvBN(3, 4)
    x = -torch.rand(2, 3, 5, 5)
    kept = x.clone()
    assert torch.equal(block(x), torch.zeros(2, 4, 5, 5))  # batch norm of zeros, with bias 0
    assert torch.equal(x, kept)
    assert block.norm.eps == 1e-3
    assert not list(ReLUConvBN(3, 4, search_norm).norm.parameters())


@pytest.mark.parametrize("size", [(33, 33), (64, 47), (37, 128)])
def test_stem_gives_both_tensors_before_their_relu(size):
    torch.manual_seed(0)
    stem = Stem(3, (4, 6, 8))
    half, quarter = stem(torch.randn(2, 3, *size))
    halves = tuple(math.ceil(n / 2) for n in size)
    assert half.shape == (2, 6, *halves)
    assert quarter.shape == (2, 8, *(math.ceil(n / 2) for n in halves))
    assert half.min() < 0
    assert quarter.min() < 0


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 1)
    out = drop_path(x, 0.7)
    assert torch.equal(out.amin((1, 2, 3)), out.amax((1, 2, 3)))
    kept = out[:, 0, 0, 0] != 0
    assert torch.allclose(out[kept], torch.tensor(1 / 0.7))
    deviation = math.sqrt(0.7 * 0.3 / 4000)
    assert abs(kept.double().mean().item() - 0.7) < 4 * deviation


def test_drop_path_schedule_grows_with_the_cell_and_the_step():
    # TF: keep of the layer first, then of the step: 1 - t/T (1 - (1 - (i + 1)/12 (1 - keep)))
    for cell, progress, keep in [(0, 1.0, 0.8), (11, 1.0, 0.8), (5, 0.25, 0.6), (7, 0.0, 0.1)]:
        of_layer = 1 - (cell + 1) / 12 * (1 - keep)
        assert drop_path_keep(keep, cell, 12, progress) == pytest.approx(1 - progress * (1 - of_layer))
    assert drop_path_keep(0.8, 11, 12, 1.0) == pytest.approx(0.8)


def test_pooled_norm_uses_running_statistics_for_one_value_a_channel():
    norm = PooledBatchNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_var.fill_(4.0)
    out = norm(torch.full((1, 3, 1, 1), 5.0))
    assert torch.allclose(out.flatten(), torch.tensor([2.0, 1.5, 1.0]), atol=1e-5)
    assert norm.running_mean.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))


def test_pooled_norm_is_batch_norm_otherwise():
    torch.manual_seed(0)
    ours, plain = PooledBatchNorm(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 1, 1)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.running_var, plain.running_var)
    assert torch.equal(ours.eval()(x[:1]), plain.eval()(x[:1]))


def test_weights_begin_uniform_with_variance_of_a_third_of_the_fan_in():
    torch.manual_seed(0)
    weight = Stem(64, (64, 64, 128)).third[0].weight
    fan_in = 64 * 9
    assert weight.abs().max() <= math.sqrt(1 / fan_in)
    assert weight.var().item() * fan_in == pytest.approx(1 / 3, rel=0.02)
