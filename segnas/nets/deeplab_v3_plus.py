"""DeepLabv3+ on a small encoder, ResNet-18.

Source: Chen et al., ECCV 2018 (arXiv 1802.02611); the encoder: He et al., CVPR 2016 (arXiv 1512.03385), table 1, with 1x1
convolutions where a shortcut changes shape.

    stem (7x7, stride 2) -> max pool -> stages 0 .. 3 at strides 4, 8, 16, 16 -> ASPP -> decoder (with stage 0) -> logits

| the paper                                       | here                                                  |
|-------------------------------------------------|-------------------------------------------------------|
| encoder ResNet-101 or Xception, pretrained      | ResNet-18, from scratch                               |
| last stage with rates 2, 4, 8 (ResNet-101)      | rate 2 everywhere                                     |
| separable convolutions in ASPP and decoder      | dense ones (the paper's other variant)                |
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.blocks import resize
from segnas.nets.heads import ASPP, Decoder
from segnas.nets.resnet import BasicBlock, conv_bn
from segnas.spaces.hand_made import DeepLabV3Plus

BLOCKS = 2  # a stage
STRIDES_AND_RATES = ((1, 1), (2, 1), (2, 1), (1, 2))  # of the stages; the output stride is 16
ASPP_RATES = (6, 12, 18)  # for an output stride of 16


class DeepLabV3PlusNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W.

    Its parts in order: `stem`, `stages.0` ... `stages.3`, `aspp`, `decoder`, `logits`.
    """

    def __init__(self, architecture: DeepLabV3Plus, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        channels = architecture.filters
        self.stem = conv_bn(in_channels, channels, 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for number, (stride, rate) in enumerate(STRIDES_AND_RATES):
            before, channels = channels, architecture.filters * 2**number
            self.stages.append(_stage(before, channels, stride, rate))
        self.aspp = ASPP(channels, architecture.aspp_width, ASPP_RATES)
        self.decoder = Decoder(
            architecture.aspp_width, architecture.filters, architecture.low_level_width, architecture.decoder_width
        )
        self.logits = nn.Conv2d(architecture.decoder_width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        low_level = x = self.stages[0](self.pool(F.relu(self.stem(images))))
        for stage in self.stages[1:]:
            x = stage(x)
        features = self.decoder(self.aspp(x), low_level)
        return resize(self.logits(features), images.shape[2:])


def _stage(in_channels: int, out_channels: int, stride: int, rate: int) -> nn.Sequential:
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, stride)
    first = BasicBlock(in_channels, out_channels, stride, shortcut, rate)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, nn.Identity(), rate) for _ in range(BLOCKS - 1)))
