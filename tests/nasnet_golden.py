"""The published cells of NASNet, AmoebaNet and PNASNet and the counts of their networks (`_meta` in tests/golden/cells.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segnas.spaces.nasnet import NasNet, NasNetBlock, NasNetCell, NasNetOptions

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "cells.json").read_text())
NETWORKS: dict[str, dict[str, Any]] = GOLDEN["networks"]
NAMES = {"none": "skip_connect", "1x1": "conv_1x1", "3x3": "conv_3x3", "1x7_7x1": "conv_1x7_7x1"}
NAMES |= {f"separable_{size}_2": f"sep_conv_{size}" for size in ("3x3", "5x5", "7x7")}
NAMES |= {"dil_2_separable_5x5_2": "dil_sep_conv_5x5"}


def state(published: int) -> int:
    """The papers' number of a state as ours: the two inputs are exchanged."""
    return 1 - published if published < 2 else published


def cell(published: dict[str, Any] | None) -> NasNetCell | None:
    """A cell of the golden file as a value."""
    if published is None:
        return None
    inputs = [state(number) for number in published["inputs"]]
    operations = [NAMES.get(name, name) for name in published["operations"]]
    pairs = zip(zip(inputs[::2], inputs[1::2], strict=True), zip(operations[::2], operations[1::2], strict=True), strict=True)
    return NasNetCell(tuple(NasNetBlock(*pair) for pair in pairs), tuple(state(number) for number in published["concat"]))


def architecture(cells: str, **options: Any) -> NasNet:
    """The network of the published cells of this name, of these options."""
    normal, reduction = (cell(GOLDEN["cells"][cells][name]) for name in ("normal", "reduction"))
    assert normal is not None
    return NasNet(normal, reduction, NasNetOptions(**options))


def published(name: str) -> NasNet:
    """One of the golden networks."""
    keys = ("form", "stack_cells", "filters", "stem_filters", "image_size", "skip_reduction_layer_input")
    options = {key: NETWORKS[name][key] for key in keys}
    dropout = 0.0 if options["form"] == "cifar" else 0.5
    return architecture(NETWORKS[name]["cells"], **options, dropout=dropout)
