"""Networks that people designed, as architectures like any other: what a searched network is compared with.

    UNet(filters=16), DeepLabV3Plus(), ResNet(blocks=3)

Nothing of them is searched: every field is an option (`segnas count my_unet.json filters=8`), and the defaults are the
papers' own. The networks stand in nets/, one file a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from segnas.spaces.architecture import families, require_at_least
from segnas.spaces.width import register_widths


@families.register("unet")
@dataclass(frozen=True)
class UNet:
    """U-Net (Ronneberger et al., MICCAI 2015, arXiv 1505.04597).

    filters: channels of the first level; doubled at each level below.
    depth: how often the map is halved; there are depth + 1 levels.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    filters: int = 64
    depth: int = 4

    def __post_init__(self) -> None:
        require_at_least(self, {"filters": 1, "depth": 1})


@families.register("deeplab-v3-plus")
@dataclass(frozen=True)
class DeepLabV3Plus:
    """DeepLabv3+ (Chen et al., ECCV 2018, arXiv 1802.02611) on the encoder ResNet-18 (He et al., CVPR 2016).

    filters: channels of the stem and the first stage; doubled at each of the three stages below (64: ResNet-18's).
    aspp_width: channels of each branch of the ASPP and of its output.
    low_level_width, decoder_width: channels of the decoder's 1x1 projection of low-level features and of its 3x3 convolutions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    filters: int = 64
    aspp_width: int = 256
    low_level_width: int = 48
    decoder_width: int = 256

    def __post_init__(self) -> None:
        require_at_least(self, {"filters": 1, "aspp_width": 1, "low_level_width": 1, "decoder_width": 1})


@families.register("resnet")
@dataclass(frozen=True)
class ResNet:
    """The residual network for small images (He et al., CVPR 2016, arXiv 1512.03385, section 4.2): 6 blocks + 2 layers.

    filters: channels of the first of the three stages; doubled at each of the two others.
    blocks: residual blocks a stage (3, 5, 7, 9: ResNet-20, -32, -44, -56).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    task: ClassVar[str] = "classification"

    filters: int = 16
    blocks: int = 3

    def __post_init__(self) -> None:
        require_at_least(self, {"filters": 1, "blocks": 1})


HAND_MADE = (UNet, DeepLabV3Plus, ResNet)

register_widths("unet", "filters")
register_widths("deeplab-v3-plus", "filters", {"aspp_width": 4, "low_level_width": 4, "decoder_width": 4})
register_widths("resnet", "filters")
