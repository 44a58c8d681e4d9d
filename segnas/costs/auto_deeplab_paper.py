"""The "Multi-Adds" of the Auto-DeepLab paper's table: half the operations that TensorFlow's profiler reported for its graph.

The convention was inferred from the paper's three figures at 1025x2049 (333.25, 460.93 and 695.03 G), which it meets to 0.02 %.
Apart from plain convolutions it has three peculiarities:
(a) a dilated convolution counts at the size to which SpaceToBatch pads its map: ceil((n + (k-1) d) / d) d - (k-1) d;
(b) image pooling is an average pool of stride 1 over the window of the training crop (769: 97x97 at stride 8), one operation an
    element, and its 1x1 convolution runs at every position of that window (33x161 at 1025x2049);
(c) each block's addition is one operation an element.
Such figures compare with that paper's column only; they are up to 5 % above plain multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from torch import nn

from segnas.costs.layers import LayerCall
from segnas.spaces.auto_deeplab import AutoDeepLab, level_sizes

TRAINING_CROP = 769


def paper_multiply_adds(architecture: AutoDeepLab, calls: Sequence[LayerCall]) -> dict[str, int] | None:
    """By name of the layer, `aspp.pooling` and `cells.<i>.additions`; None when the image is smaller than the training crop.

    calls: of one forward pass of the network at the size asked for.
    """
    if min(calls[0].input_shape[2:]) < TRAINING_CROP:
        return None
    counts: dict[str, int] = {}
    stride = 4 * 2 ** architecture.path[-1]
    window = (TRAINING_CROP - 1) // stride + 1
    features = next(call.input_shape for call in calls if call.name.startswith("aspp.pointwise"))
    positions = [n - window + 1 for n in features[2:]]
    counts["aspp.pooling"] = features[1] * prod(positions) * window**2 // 2
    for call in calls:
        layer = call.layer
        shape = call.output_shape
        if call.name.startswith("aspp.pooled"):
            shape = (*shape[:2], *positions)
        elif isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1:
            shape = (*shape[:2], *(_space_to_batch(n, layer.kernel_size[0], layer.dilation[0]) for n in shape[2:]))
        counts[call.name] = replace(call, output_shape=shape).multiply_adds
    return counts | _additions(architecture, calls)


def _space_to_batch(size: int, kernel: int, rate: int) -> int:
    reach = (kernel - 1) * rate
    return -(-(size + reach) // rate) * rate - reach


def _additions(architecture: AutoDeepLab, calls: Sequence[LayerCall]) -> dict[str, int]:
    stem = next(call.output_shape for call in calls if call.name.startswith("stem.third"))
    sizes = level_sizes(stem[2:])
    per_position = len(architecture.cell) * architecture.network.filters
    return {
        f"cells.{number}.additions": per_position * 2**level * prod(sizes[level]) // 2
        for number, level in enumerate(architecture.path)
    }
