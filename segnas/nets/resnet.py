"""Residual networks of basic blocks, and the one for classifying small images.

Source: He et al., CVPR 2016 (arXiv 1512.03385), section 4.2. Parameter counts are those of the paper's table 6: 0.27 M, 0.46 M,
0.66 M and 0.85 M for 3, 5, 7 and 9 blocks a stage, 16 filters and 10 classes.

    3x3 convolution -> stages 0, 1, 2 (the last two begin with stride 2) -> mean over the map -> logits

One deviation: the weights begin as torch initialises them, as in every network here, not by He's rule.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import ConvBNReLU
from segnas.spaces.hand_made import ResNet

STAGES = 3


class PaddedShortcut(nn.Module):
    """The identity across a change of shape ("option A"): every `stride`-th pixel, and zeros for the channels that are new.

    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)). It has no parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """ReLU(shortcut(x) + two 3x3 convolutions of x), the first with the stride.

    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module, rate: int = 1) -> None:
        """shortcut: from the shape of the input to that of the output; rate: dilation of both convolutions."""
        super().__init__()
        self.first = conv_bn(in_channels, out_channels, 3, stride, rate)
        self.second = conv_bn(out_channels, out_channels, 3, 1, rate)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNetNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K), for any H and W.

    Its parts in order: `stem`, `stages.0`, `stages.1`, `stages.2`, `logits`.
    """

    def __init__(self, architecture: ResNet, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        channels = architecture.filters
        self.stem = ConvBNReLU(in_channels, channels, 3)
        self.stages = nn.ModuleList()
        for stage in range(STAGES):
            before, channels = channels, architecture.filters * 2**stage
            stride = 1 if stage == 0 else 2
            shortcut = nn.Identity() if stage == 0 else PaddedShortcut(before, channels, stride)
            first = BasicBlock(before, channels, stride, shortcut)
            others = (BasicBlock(channels, channels, 1, nn.Identity()) for _ in range(architecture.blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
        self.logits = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.logits(x.mean((2, 3)))
        return logits


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int, rate: int = 1) -> nn.Sequential:
    """Convolution and batch norm, without a ReLU: (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride))."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=rate * (kernel // 2), dilation=rate, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
