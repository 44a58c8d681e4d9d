"""The single place where an architecture becomes a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from segnas.errors import Registry
from segnas.nets.auto_deeplab import AutoDeepLabNetwork
from segnas.nets.darts import DartsNetwork
from segnas.nets.deeplab_v3_plus import DeepLabV3PlusNetwork
from segnas.nets.dpc import DpcNetwork
from segnas.nets.fast_nas import FastNasNetwork
from segnas.nets.nas_rl import NasRlNetwork
from segnas.nets.nasnet import NasNetNetwork
from segnas.nets.resnet import ResNetNetwork
from segnas.nets.template_nas import TemplateNasNetwork
from segnas.nets.unet import UNetNetwork
from segnas.spaces.architecture import Architecture, family_of

builders: Registry[Callable[[Architecture, int, int], nn.Module]] = Registry("network builder")
builders.register("auto-deeplab")(AutoDeepLabNetwork)
builders.register("darts")(DartsNetwork)
builders.register("dpc")(DpcNetwork)
builders.register("nas-rl")(NasRlNetwork)
builders.register("nasnet")(NasNetNetwork)
builders.register("unet")(UNetNetwork)
builders.register("deeplab-v3-plus")(DeepLabV3PlusNetwork)
builders.register("resnet")(ResNetNetwork)
builders.register("fast-nas")(FastNasNetwork)
builders.register("template-nas")(TemplateNasNetwork)


def build(architecture: Architecture, num_classes: int, in_channels: int = 3) -> nn.Module:
    """A freshly initialised network: (N, in_channels, H, W) -> (N, num_classes, H, W) logits for dense tasks.

    For the task "classification": -> (N, num_classes).

    A new family registers its builder under its own name: `builders.register("my-family")(MyNetwork)`.
    """
    return builders[family_of(architecture)](architecture, num_classes, in_channels)
