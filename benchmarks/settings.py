"""What is measured: the settings of a search step, the engines that compute it, and what public code takes for it. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from segnas.spaces.auto_deeplab import OPERATIONS as AUTO_DEEPLAB_OPERATIONS
from segnas.spaces.cells import edges
from segnas.spaces.darts import OPERATIONS as DARTS_OPERATIONS


@dataclass(frozen=True)
class Setting:
    """A supernet and its batches.

    width: channels C of DARTS, filters F of Auto-DeepLab; layers: cells; blocks: B of a cell; crop: pixels a side; batch: images
    in each of a step's two batches; order: of the gradient of the architecture. stem, head_width: of Auto-DeepLab.
    """

    system: Literal["darts", "auto-deeplab"]
    width: int
    layers: int
    blocks: int
    operations: tuple[str, ...]
    crop: int
    batch: int
    order: Literal["first", "second"] = "first"
    stem: tuple[int, int, int] = (64, 64, 128)
    head_width: int = 256

    @property
    def images_a_step(self) -> int:
        """Those of trainA and of trainB."""
        return 2 * self.batch

    @property
    def passes(self) -> dict[str, int]:
        """How many forward and backward passes a step makes with gradients of the weights, and of the architecture alone.

        Second order: the unrolled step, its validation loss and the step of the weights; two finite differences.
        """
        return {"weights": 1, "architecture": 1} if self.order == "first" else {"weights": 3, "architecture": 2}

    def in_words(self) -> str:
        """One line for a table."""
        width = f"C={self.width}" if self.system == "darts" else f"F={self.width}"
        order = ", second order" if self.order == "second" else ""
        size = f"crop {self.crop}x{self.crop}, batch {self.batch}"
        return f"{width}, {self.layers} cells deep, B={self.blocks}, {len(self.operations)} operations, {size}{order}"


def setting_of(values: Mapping[str, Any]) -> Setting:
    """The setting from its JSON."""
    return Setting(**{**values, "operations": tuple(values["operations"]), "stem": tuple(values["stem"])})


@dataclass(frozen=True)
class Engine:
    """How a step is computed. all_gradients: of weights and architecture in both of its parts, as public code computes them."""

    fused: bool = False
    recomputed: bool = False
    all_gradients: bool = False
    channels_last: bool = False
    words: str = ""


BASE = "plain"
ENGINES = {
    BASE: Engine(all_gradients=True, words="a module an operation, all gradients in both parts of a step, NCHW: as public code"),
    "plain-frozen": Engine(words="the same, each part of the step with the gradients that it uses, as segnas computes them"),
    "plain-frozen-channels_last": Engine(channels_last=True, words="the same with images and weights in channels_last"),
    "fused": Engine(fused=True, words="mixed cells in few large calls (`search.engine=fused`), gradients as plain-frozen"),
    "fused-recomputed": Engine(fused=True, recomputed=True, words="and computed again in the backward pass (`recompute_cells`)"),
}
MAIN_ENGINES = (BASE, "fused", "fused-recomputed")  # in turn; the others are measured after them, in fewer steps


def engines_of(setting: Setting) -> tuple[str, ...]:
    """Those that are measured unless others are asked for."""
    return tuple(ENGINES) if setting.order == "first" else (BASE, "fused")


_DARTS = Setting("darts", 16, 8, 4, DARTS_OPERATIONS, crop=32, batch=16)
_AUTO_DEEPLAB = Setting("auto-deeplab", 8, 12, 5, AUTO_DEEPLAB_OPERATIONS, crop=129, batch=2)
_SMALL_DARTS = Setting("darts", 8, 5, 4, DARTS_OPERATIONS, crop=32, batch=4)
_NARROW: dict[str, Any] = {"stem": (16, 16, 32), "head_width": 32}

SETTINGS = {
    "auto-deeplab": _AUTO_DEEPLAB,
    "darts": _DARTS,
    "darts-second-order": dataclasses.replace(_DARTS, order="second"),
}
QUICK = {
    "quick-auto-deeplab": Setting("auto-deeplab", 4, 4, 3, AUTO_DEEPLAB_OPERATIONS, crop=65, batch=2, **_NARROW),
    "quick-darts": _SMALL_DARTS,
    "quick-darts-second-order": dataclasses.replace(_SMALL_DARTS, layers=3, order="second"),
}


@dataclass(frozen=True)
class Public:
    """What a public implementation took for one search step on two CPU cores, for orientation."""

    setting: str
    threads: int
    seconds: float
    memory_gib: float | None = None


PUBLIC = (
    Public("auto-deeplab", threads=1, seconds=22.6, memory_gib=3.44),
    Public("darts", threads=2, seconds=5.55),
    Public("darts-second-order", threads=2, seconds=12.3),
)

# Scaling: what grows -> (its size, the setting), in both systems' operations --------------------------------------------

_SCALED = Setting("auto-deeplab", 8, 6, 5, AUTO_DEEPLAB_OPERATIONS, crop=129, batch=2, **_NARROW)
_CHEAP_AND_DEAR = (  # so that the first 2, 4, 6 are about as dear as all
    "skip_connect",
    "sep_conv_3x3",
    "max_pool_3x3",
    "atrous_conv_3x3",
    "avg_pool_3x3",
    "sep_conv_5x5",
    "none",
    "atrous_conv_5x5",
)
SCALING: dict[str, dict[int, Setting]] = {
    "crop area (pixels)": {side**2: dataclasses.replace(_SCALED, crop=side) for side in (129, 182, 257, 364)},
    "edges of a cell": {len(edges(blocks)): dataclasses.replace(_SCALED, blocks=blocks) for blocks in (2, 3, 4, 5)},
    "operations on an edge": {count: dataclasses.replace(_SCALED, operations=_CHEAP_AND_DEAR[:count]) for count in (2, 4, 6, 8)},
}
