"""The networks of template search: the beginning of MobileNet-v2, rows of repeated templates, a classifier.

Source: Nekrasov et al., WACV 2020 (arXiv 1904.02365); counts and outputs agree with the published code. What it does beyond the
paper's text is kept: of several repetitions each applies the row's stride but only the first multiplies the channels; skip
connections and global pooling have no stride; and a repetition reads the row's second input and the repetition before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.fast_nas_parts import OPERATIONS, Classifier, Conv1x1, at_larger, at_smaller, resized
from segnas.nets.mobilenet_v2 import STEM, MobileNetV2
from segnas.spaces.template_nas import Row, Template, TemplateNas, is_strided

STAGES = 3  # of the encoder


class Join(nn.Module):
    """Two maps as one of the greater number of channels, by a sum with a weight a channel, or by concatenation.

    Where the channels differ a 1x1 convolution comes first; then both have the size of the smaller, or of the larger.
    """

    def __init__(self, channels: tuple[int, int], aggregation: str, smaller: bool) -> None:
        super().__init__()
        width = max(channels)
        self.same_size = at_smaller if smaller else at_larger
        self.adapt = nn.ModuleList(nn.Identity() if one == width else Conv1x1(one, width) for one in channels)
        if aggregation == "weighted_sum":
            self.weights = nn.ParameterList(torch.ones(width) for _ in channels)
        else:
            self.norm = nn.BatchNorm2d(2 * width)
            self.project = nn.Conv2d(2 * width, width, 1, bias=False)
        self.aggregation = aggregation

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        first, second = self.same_size(self.adapt[0](first), self.adapt[1](second))
        if self.aggregation == "weighted_sum":
            return self.weights[0][:, None, None] * first + self.weights[1][:, None, None] * second
        out: Tensor = self.project(F.relu(self.norm(torch.cat([first, second], dim=1))))
        return out


class AppliedTemplate(nn.Module):
    """A template: both inputs through an operation each, then joined. `channels`: of the result."""

    def __init__(
        self, template: Template, inputs: tuple[int, int], stride: int, grows: bool, repeats: int, smaller: bool
    ) -> None:
        """inputs: channels of both; grows: they are multiplied by the stride; repeats: in separable convolutions."""
        super().__init__()
        outputs = tuple(channels * (stride if grows else 1) for channels in inputs)
        sides = zip(template.operations, inputs, outputs, strict=True)
        self.operations = nn.ModuleList(OPERATIONS[name](before, after, stride, repeats) for name, before, after in sides)
        self.join = Join((outputs[0], outputs[1]), template.aggregation, smaller)
        self.channels = max(outputs)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        out: Tensor = self.join(self.operations[0](first), self.operations[1](second))
        return out


class RepeatedTemplate(nn.Module):
    """One row of the structure: y = T(x1, x2), then y = T(x2, y) as often as it says. `channels`: of the result."""

    def __init__(self, row: Row, template: Template, inputs: tuple[int, int], repeats: int, smaller: bool) -> None:
        super().__init__()
        self.applied = nn.ModuleList()
        for number in range(row.repeats):
            applied = AppliedTemplate(template, inputs, row.stride, number == 0, repeats, smaller)
            self.applied.append(applied)
            inputs = (inputs[1], applied.channels)
        self.channels = inputs[1]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        for applied in self.applied:
            first, second = second, applied(first, second)
        return second


class TemplateNasNetwork(nn.Module):
    """images (N, C, H, W) -> logits (N, K, H, W), for any H and W. Its parts in order: `encoder`, `rows`, `classifier`."""

    def __init__(self, architecture: TemplateNas, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        options, self.structure = architecture.network, architecture.structure
        self.encoder = MobileNetV2(in_channels, options.encoder_width / STEM, STAGES)
        channels = list(self.encoder.channels)
        self.rows = nn.ModuleList()
        for number, row in enumerate(self.structure):
            inputs = (channels[row.inputs[0]], channels[row.inputs[1]])
            smaller = is_strided(number, len(self.structure))
            built = RepeatedTemplate(row, architecture.templates[row.template], inputs, options.repeats, smaller)
            self.rows.append(built)
            channels.append(built.channels)
        self.collected = architecture.collected()
        self.classifier = Classifier([channels[index] for index in self.collected], options.agg_size, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits, _ = self.from_taps(self.encoder(images))
        return resized(logits, images.shape[2:])

    def from_taps(self, taps: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits at the size of the largest map that the classifier reads; there are no auxiliary heads."""
        maps = list(taps)
        for row, built in zip(self.structure, self.rows, strict=True):
            maps.append(built(maps[row.inputs[0]], maps[row.inputs[1]]))
        return self.classifier([maps[index] for index in self.collected]), ()
