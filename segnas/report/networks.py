"""The network: the section of the report that draws what was found, or says in words what was designed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from segnas.report import families, tables
from segnas.report.comparison import NAMES
from segnas.report.graphs import cell_graph, draw
from segnas.report.information import Cell, DartsArchitecture, FoundArchitecture, HierarchicalArchitecture, Information
from segnas.report.markup import Markup, join, listing, plural, tag
from segnas.report.sections import Section, paragraph
from segnas.report.trellis import trellis, trellis_caption
from segnas.spaces.darts import reductions

FORMS = {  # of DARTS: (the stride of the stem, the form in words)
    "cifar": (1, "for small images: the stem keeps their resolution"),
    "imagenet": (8, "for large images: the stem divides their resolution by 8"),
    "segmentation": (4, "for segmentation: the stem divides the resolution by 4"),
}
HAND_MADE = {
    "unet": "{filters} channels at the full resolution, twice as many at each of the {depth} levels below, and a decoder that "
    "joins each level",
    "deeplab-v3-plus": "a ResNet-18 of {filters} channels at stride 4 as encoder, ASPP of {aspp_width} channels, decoder of "
    "{decoder_width}",
    "resnet": "three stages of {blocks} residual blocks, {filters} channels in the first and twice as many in each after it",
}


def network(information: Information) -> Section | None:
    """Path, cells and decoder as drawings, and the JSON; the JSON alone of a family that has none."""
    found = information.architecture or information.best_so_far
    if found is None:
        return None
    hierarchical, darts = found.hierarchical(), found.darts()
    text = tag("pre", _json(found.architecture))
    drawn: list[Markup] | None
    if hierarchical is not None:
        drawn = _hierarchical(hierarchical, information)
    elif darts is not None:
        drawn = _darts(darts)
    else:
        drawn = families.drawn(found.architecture)
    if drawn is None:
        return Section("network", "The network", join([paragraph(_origin(information)), paragraph(_undrawn(found)), text]))
    folded = tag("details", tag("summary", "The architecture as JSON"), text)
    return Section("network", "The network", join([paragraph(_origin(information)), *drawn, folded]))


def _hierarchical(drawn: HierarchicalArchitecture, information: Information) -> list[Markup]:
    """The path and the cell of Auto-DeepLab."""
    search = information.search
    path = trellis(drawn.path, search.beta if search else ())
    return [
        tag("h3", "The path through the resolutions"),
        tables.scrolling(path, "path through the resolutions"),
        paragraph(trellis_caption(drawn, search), "note"),
        tag("h3", "The cell"),
        tables.scrolling(draw(cell_graph(drawn.cell)), "the cell"),
        paragraph(
            "The same cell stands at every layer. Each block adds the results of two operations; H(l−1) and H(l−2) are the "
            "outputs of the two layers before, brought to the layer's resolution.",
            "note",
        ),
    ]


def _darts(drawn: DartsArchitecture) -> list[Markup]:
    """The two cells of DARTS and where they stand."""
    normal, reduction = darts_captions(drawn.network)
    return [
        paragraph(form_in_words(drawn.network)),
        tag("h3", "The normal cell"),
        tables.scrolling(_cell(drawn.normal), "the normal cell"),
        paragraph(normal, "note"),
        tag("h3", "The reduction cell"),
        tables.scrolling(_cell(drawn.reduction), "the reduction cell"),
        paragraph(reduction, "note"),
    ]


def _cell(cell: Cell) -> Markup:
    return draw(cell_graph(cell.blocks, cell.concat))


def form_in_words(network: Mapping[str, Any]) -> str:
    """The stem, the strides and the head of a network of DARTS cells; nothing for a form that is not known."""
    form, layers = str(network.get("form")), network.get("layers")
    if form not in FORMS or not isinstance(layers, int):
        return ""
    stride, told = FORMS[form]
    last = stride << len(reductions(layers))
    cells = "1 cell follows and ends" if layers == 1 else f"{layers} cells follow and end"
    head = "global average pooling and one linear layer classify"
    if form == "segmentation":
        decoder = ", and a decoder joins features of stride 4" if network.get("low_level_width", 1) else ", without a decoder"
        head = f"ASPP follows{decoder}"
    return f"The network has the form {told}, {cells} at stride {last}, {head}."


def darts_captions(network: Mapping[str, Any]) -> tuple[str, str]:
    """What stands below the normal and below the reduction cell: where they are, and how wide."""
    layers, channels = network.get("layers"), network.get("channels")
    normal = "Each block adds the results of two operations; H(l−1) and H(l−2) are the outputs of the two cells before."
    reduction = "It halves the resolution and doubles the channels: its operations on H(l−1) and H(l−2) have stride 2."
    if not isinstance(layers, int):
        return normal, reduction
    places = [str(place + 1) for place in reductions(layers)]
    one = len(places) == 1
    told = f"Number {listing(places)} of the {plural(layers, 'cell')} {'is a reduction cell' if one else 'are reduction cells'}"
    where = f"{told}: at {'the beginning' if layers == 1 else '1/3 and 2/3 of the depth'}. {reduction}"
    widths = f" A block has {channels} channels before the first reduction cell." if isinstance(channels, int) else ""
    return f"It stands at the {layers - len(places)} other places of the {plural(layers, 'cell')}. {normal}{widths}", where


def _undrawn(found: FoundArchitecture) -> str:
    """A network made by hand in words; of another family, that there is no drawing."""
    family = found.family
    try:
        told = HAND_MADE[family].format(**found.architecture)
    except KeyError:  # another family, or one of these without its widths
        return f"There is no drawing for the family {family}; this is the architecture itself."
    return f"{NAMES[family]}, designed by hand: {told}."


def _json(values: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each item of a list of objects."""
    lines = []
    for key, value in values.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in value)
            text = f"[\n{items}\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _origin(information: Information) -> str:
    found = information.architecture or information.best_so_far
    assert found is not None
    words = [f"Architecture {found.id}" if found.id else "The architecture"]
    if found.provenance.get("system"):
        words.append(f"found by {found.provenance['system']}")
    if information.kept_epoch is not None:
        words.append(f"at epoch {information.kept_epoch} of the search")
    if information.trials is not None:
        best = information.trials.best_trial
        words += [f"trial {best.number} of the search"] if best is not None and best.id == found.id else []
        words += ["the best so far, for the search has not ended"] if information.architecture is None else []
    elif information.search is None:
        words.append("given to this run, which did not search itself")
    return f"{', '.join(words)}."
