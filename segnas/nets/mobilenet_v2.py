"""MobileNet-v2 as an encoder of dense prediction: the maps of strides 4, 8, 16 and 32, no classifier.

Source: Sandler et al., CVPR 2018 (arXiv 1801.04381), table 2. Stages by number, at width 1:

    stage                     0    1    2    3    4    5    6
    channels                 16   24   32   64   96  160  320
    blocks                    1    2    3    4    3    3    1
    stride of the first       1    2    2    2    1    2    1        (the stem before them has another 2)
    tapped at stride               4    8        16        32

Searches of decoders (Fast NAS, dense prediction cells) read the tapped stages. Two things differ between public versions:
`first_expansion` is the 1x1 convolution that stage 0 keeps although its expansion factor is 1 (so in Fast NAS; without it in the
paper), and `output_stride` below 32 has later stages dilated instead of strided, as in DeepLab: from the first block whose stride
was taken away on, the blocks that follow read as many times further apart.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segnas.errors import UserError

STEM = 32  # channels
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPPED = (1, 2, 4, 6)  # the last stage of each stride from 4 on
OUTPUT_STRIDES = (8, 16, 32)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 without activation; plus the input if `residual`.

    (N, in, H, W) -> (N, out, ceil(H / stride), ceil(W / stride)). expansion 0: without the first 1x1; rate: of the depthwise.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, stride: int, rate: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        width = max(1, expansion) * in_channels
        expand = _conv_bn_relu(in_channels, width, 1) if expansion else []
        depthwise = _conv_bn_relu(width, width, 3, stride, rate, groups=width)
        project = [nn.Conv2d(width, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.layers = nn.Sequential(*expand, *depthwise, *project)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """images (N, C, H, W) -> the tapped maps, finest first: (N, channels[i], ceil(H / s), ceil(W / s)) for s = 4, 8, 16, 32.

    width: factor of all channels, each rounded to a multiple of 8. stages: how many of the 7 are built; `channels` and the maps
    are those of the tapped stages among them (24, 32 for 3 stages, 24, 32, 96, 320 for all, at width 1).
    """

    def __init__(
        self, in_channels: int = 3, width: float = 1.0, stages: int = 7, first_expansion: bool = True, output_stride: int = 32
    ) -> None:
        """Raises ValueError for a number of stages without a tap, and for another output stride than 8, 16 or 32."""
        super().__init__()
        if not TAPPED[0] < stages <= len(STAGES):
            raise ValueError(f"stages must lie in {TAPPED[0] + 1}..{len(STAGES)}, not {stages}")
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride must be one of {', '.join(map(str, OUTPUT_STRIDES))}, not {output_stride}")
        channels = scaled_channels(STEM, width)
        self.stem = nn.Sequential(*_conv_bn_relu(in_channels, channels, 3, stride=2))
        self.stages = nn.ModuleList()
        reached, rate, self.channels = 2, 1, []
        for number, (expansion, base, blocks, stride) in enumerate(STAGES[:stages]):
            if expansion == 1 and not first_expansion:
                expansion = 0
            grown, first_rate = scaled_channels(base, width), rate
            residual = stride == 1 and channels == grown  # a stride that dilation replaces still has none
            if reached * stride > output_stride:
                rate, stride = rate * stride, 1
            reached *= stride
            first = InvertedResidual(channels, grown, expansion, stride, first_rate, residual)
            others = (InvertedResidual(grown, grown, expansion, 1, rate, residual=True) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
            channels = grown
            if number in TAPPED:
                self.channels.append(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        taps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in TAPPED:
                taps.append(x)
        return taps


def scaled_channels(channels: int, width: float) -> int:
    """channels * width as the nearest multiple of 8, at least 8 and never more than 10 % below."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def load_torchvision_weights(encoder: MobileNetV2, path: Path) -> None:
    """Copy the weights of torchvision's MobileNet-v2 into `encoder`, from a torch file of tensors or a .safetensors file.

    The stages that the encoder lacks and the classifier are left out. A 1x1 convolution of stage 0, which torchvision does not
    have, becomes the identity and its batch norm passes values on, so that in evaluation the function is the file's. Raises
    UserError when the file cannot be read or is of another network (or of another width, or number of input channels).
    """
    found = _read_tensors(path)
    own = encoder.state_dict()
    wanted = dict(_torchvision_names(encoder))
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        raise UserError(
            f"{path} does not hold torchvision's MobileNet-v2: {len(missing)} of {len(wanted)} tensors are missing, {missing[0]}"
        )
    for name, stored in wanted.items():
        if found[stored].shape != own[name].shape:
            has, needs = (list(tensor.shape) for tensor in (found[stored], own[name]))
            raise UserError(f"{path} does not fit this encoder: {stored} has shape {has}, not {needs}; use the width of the file")
    with torch.no_grad():
        for name, stored in wanted.items():
            own[name].copy_(found[stored])  # the tensors of a state are the module's own
        if len(encoder.stages[0][0].layers) == 8:  # type: ignore[index, union-attr, arg-type]
            _pass_on(encoder.stages[0][0].layers)  # type: ignore[index, union-attr, arg-type]


def _pass_on(layers: nn.Sequential) -> None:
    """Make the first convolution and its batch norm the identity: what comes is in 0..6 and stays so under the ReLU6."""
    conv, norm = layers[0], layers[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.dirac_(conv.weight)
    norm.reset_running_stats()
    nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)
    nn.init.zeros_(norm.bias)


def _torchvision_names(encoder: MobileNetV2) -> Iterator[tuple[str, str]]:
    """(name here, name in torchvision) of every tensor that both have."""

    def tensors(here: str, norm_here: str, there: str, norm_there: str) -> Iterator[tuple[str, str]]:
        yield f"{here}.weight", f"{there}.weight"
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm_here}.{name}", f"{norm_there}.{name}"

    yield from tensors("stem.0", "stem.1", "features.0.0", "features.0.1")
    feature = 1
    for stage, blocks in enumerate(encoder.stages):
        assert isinstance(blocks, nn.Sequential)
        for number, block in enumerate(blocks):
            here, there = f"stages.{stage}.{number}.layers", f"features.{feature}.conv"
            length = len(block.layers)  # type: ignore[arg-type]
            units = range(0 if feature > 1 or length == 5 else 3, length - 2, 3)  # convolutions with an activation
            for place, at in enumerate(units):
                yield from tensors(f"{here}.{at}", f"{here}.{at + 1}", f"{there}.{place}.0", f"{there}.{place}.1")
            last = len(units)
            yield from tensors(f"{here}.{length - 2}", f"{here}.{length - 1}", f"{there}.{last}", f"{there}.{last + 1}")
            feature += 1


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Name -> tensor; UserError for a file that is not there or holds something else."""
    if not path.is_file():
        raise UserError(f"there are no weights in {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read the weights {path}: {str(error).splitlines()[0]:.120}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no mapping of names to tensors; save the state_dict of a network")
    return found


def _conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, rate: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation=rate, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU6()]
