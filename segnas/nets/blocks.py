"""Small parts of networks: convolutions with their batch norm, reductions, resizing, the stem, drop path.

"Backbone" parts begin with the ReLU (so that a cell's inputs are summed before it) and take the batch norm of their family
(`norm`: channels -> module; Auto-DeepLab's by default, with epsilon 1e-3); head parts end with the ReLU and use epsilon 1e-5.
No convolution has a bias. All weights keep torch's initialisation, which is uniform with variance 1 / (3 fan-in): what the
published Auto-DeepLab code uses in its backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BACKBONE_EPSILON = 1e-3
Norm = Callable[[int], nn.Module]  # channels -> a batch norm


def backbone_norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    """The batch norm of stem and cells in Auto-DeepLab."""
    return nn.BatchNorm2d(channels, eps=BACKBONE_EPSILON, affine=affine)


search_norm: Norm = partial(backbone_norm, affine=False)  # the same inside its supernet


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, (N, C, h, w) -> (N, C, *size); `x` itself when the size is right."""
    if x.shape[2] == size[0] and x.shape[3] == size[1]:
        return x
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=True)


def halved(x: Tensor) -> tuple[int, int]:
    """Height and width of `x` after a stride of 2: ceil(n / 2)."""
    return (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2


class ReLUConvBN(nn.Sequential):
    """ReLU, 1x1 convolution, batch norm: the preprocessing of a cell's inputs. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = backbone_norm) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = norm(out_channels)


class ConvBNReLU(nn.Sequential):
    """Convolution, batch norm, ReLU at stride 1: the unit of the heads. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()


class FactorizedReduction(nn.Module):
    """ReLU (unless `relu` is false), two 1x1 convolutions of stride 2 (or 4), the second on the map shifted by half a stride,
    concat, batch norm.

    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)). Beyond the border the shifted branch reads zeros, as DARTS
    (Liu et al., ICLR 2019) would with padding; for even sizes at stride 2 it is the same.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 2, norm: Norm = backbone_norm, relu: bool = True
    ) -> None:
        super().__init__()
        if out_channels < 2:
            raise ValueError("a factorized reduction has two branches and needs at least 2 output channels")
        self.shift = stride // 2
        self.relu: nn.Module = nn.ReLU() if relu else nn.Identity()
        self.first = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, stride=stride, bias=False)
        self.second = nn.Conv2d(in_channels, out_channels // 2, 1, stride=stride, bias=False)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        shifted = F.pad(x, (0, self.shift, 0, self.shift))[:, :, self.shift :, self.shift :]
        return self.norm(torch.cat([self.first(x), self.second(shifted)], dim=1))


class Stem(nn.Module):
    """Three 3x3 convolutions: (N, C, H, W) -> (N, widths[1], H / 2, W / 2) and (N, widths[2], H / 4, W / 4), rounded up.

    Both outputs are taken before their ReLU, which the cells that read them apply: the first is H^{-1}, the second H^0.
    """

    def __init__(self, in_channels: int = 3, widths: tuple[int, int, int] = (64, 64, 128)) -> None:
        super().__init__()
        self.first = _conv_bn(in_channels, widths[0], stride=2)
        self.second = _conv_bn(widths[0], widths[1], stride=1)
        self.third = _conv_bn(widths[1], widths[2], stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        half = self.second(F.relu(self.first(images)))
        return half, self.third(F.relu(half))


def _conv_bn(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, backbone_norm(out_channels))


def drop_path(x: Tensor, keep: float) -> Tensor:
    """Zero whole samples of `x` (N, ...) with probability 1 - keep and scale the others by 1 / keep (the mean stays)."""
    mask = torch.empty((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * mask / keep


def drop_path_keep(keep: float, cell: int, cells: int, progress: float) -> float:
    """The keep probability in cell number `cell` of `cells` at `progress` = min(1, step / steps): scheduled drop path.

    1 - progress * (cell + 1) / cells * (1 - keep), as in the published Auto-DeepLab code: later cells and later steps drop more.
    """
    return 1.0 - progress * (cell + 1) / cells * (1.0 - keep)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics when it sees one value a channel (one image, pooled to one pixel).

    Such a batch has no variance; torch would refuse it while training.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)
