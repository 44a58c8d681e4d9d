"""The ASPP and the decoder."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from segnas.nets.heads import ASPP, Decoder


def test_aspp_is_the_projection_of_its_branches():
    torch.manual_seed(0)
    head = ASPP(5, 4, rates=(2, 3), dropout=0.3).double().eval()
    x = torch.randn(2, 5, 7, 9, dtype=torch.float64)
    scale = 1 / (1 + 1e-5) ** 0.5
    mean = x.mean((2, 3), keepdim=True)
    branches = [(F.conv2d(mean, head.pooled.conv.weight) * scale).relu().expand(2, 4, 7, 9)]
    branches.append((F.conv2d(x, head.pointwise.conv.weight) * scale).relu())
    for rate, branch in zip((2, 3), head.atrous, strict=True):
        branches.append((F.conv2d(x, branch.conv.weight, padding=rate, dilation=rate) * scale).relu())
    expected = (F.conv2d(torch.cat(branches, 1), head.project.conv.weight) * scale).relu()
    assert torch.allclose(head(x), expected)


def test_aspp_trains_on_one_image_and_learns_its_pooled_statistics_from_more():
    torch.manual_seed(0)
    head = ASPP(3, 4, rates=(1,)).train()
    head(torch.randn(1, 3, 5, 5)).sum().backward()
    assert not head.pooled.norm.running_mean.any()
    head(torch.randn(2, 3, 5, 5) + 1)
    assert head.pooled.norm.running_mean.any()


def test_decoder_works_at_the_size_of_the_low_level_features():
    torch.manual_seed(0)
    decoder = Decoder(4, 3, low_level_width=2, width=6).double().eval()
    x, low = torch.randn(1, 4, 3, 4, dtype=torch.float64), torch.randn(1, 3, 5, 8, dtype=torch.float64)
    enlarged = F.interpolate(x, size=(5, 8), mode="bilinear", align_corners=True)
    joined = torch.cat([enlarged, decoder.low_level(low)], dim=1)
    assert torch.allclose(decoder(x, low), decoder.fuse(joined))
    assert [m.conv.kernel_size for m in (decoder.low_level, *decoder.fuse)] == [(1, 1), (3, 3), (3, 3)]
