"""Write the tables of the pages that come from the code: `python docs/make_tables.py` after a change of settings or presets.

A table stands in its page between `<!-- NAME: written by docs/make_tables.py -->` and `<!-- end of NAME -->`; a test holds that
the committed pages are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from segnas import zoo
from segnas.config import dotted_keys, to_dict
from segnas.costs.counts import count
from segnas.data.transforms import DataConfig
from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.spaces.auto_deeplab import AutoDeepLabSpace
from segnas.spaces.choice import size
from segnas.systems.auto_deeplab import SYSTEM, AutoDeepLabConfig

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 19  # of Cityscapes, for which the papers count
FIRST_FILES = {
    "segnas/cli.py": "the verbs, each a few lines over a function of the next file",
    "segnas/api.py": "what a run consists of, in its order",
    "segnas/systems/auto_deeplab.py": "the system: equations, deviations, search, presets",
    "segnas/nets/auto_deeplab_supernet.py": "the supernet that it trains",
    "segnas/strategies/bilevel.py": "one step for the weights, one for the architecture",
    "segnas/training/retrain.py": "training from scratch, a plain loop",
}
MEANINGS = {
    "seed": "of everything that is drawn at random; a drawn split depends on it too",
    "data.crop": "height and width of a training view, in pixels; every preset sets it",
    "data.resize": "factor applied to images before anything else; evaluation compares at the labels' full size",
    "data.scale": "range of the random factor on top of it",
    "data.flip": "probability of a mirrored view",
    "data.brightness": "the factor is drawn from 1 - x to 1 + x",
    "data.contrast": "the same",
    "data.saturation": "the same",
    "data.hue": "shift of up to x turns, 0.5 at most",
    "data.padding": "pixels of black around the image, from which the crop is then taken (4 for CIFAR-10)",
    "data.cutout": "side of a square at a random place that is blanked out (16 for CIFAR-10); 0: none",
    "data.workers": "processes that read and transform; 0: none beside the training process. They change no pixel",
    "data.cache": "`memory` keeps decoded images, `none` does not, `auto` does when they fit in a quarter of the free memory",
    "device.accelerator": "`cpu`, `cuda`, or `auto`: a GPU when there is one, and it says which",
    "device.precision": "`32`, or `bf16`: mixed, weights stay in float32",
    "device.channels_last": "NHWC memory format, faster for dense convolutions",
    "device.threads": "CPU threads of torch; `null` leaves torch's own number",
    "retrain.epochs": "length of the training",
    "retrain.steps": "length in steps; takes the place of the epochs when given",
    "retrain.batch_size": "images a step, of all processes together",
    "retrain.optimizer": "`sgd` or `adamw`",
    "retrain.learning_rate": "the rate after warm-up",
    "retrain.schedule": "`poly` or `cosine`",
    "retrain.power": "exponent of `poly`",
    "retrain.final_learning_rate": "where the schedule ends",
    "retrain.warmup_steps": "steps of linear warm-up before the schedule begins",
    "retrain.momentum": "of SGD; for AdamW its first beta",
    "retrain.nesterov": "Nesterov momentum, with `sgd` alone",
    "retrain.weight_decay": "weight decay",
    "retrain.decay_all": "`false` spares biases and normalisation layers",
    "retrain.clip_norm": "largest norm of the gradient; 0: not clipped",
    "retrain.class_weights": "`none`, or `median_frequency`: rare classes weigh more",
    "retrain.label_smoothing": "share of the target that is spread evenly over all classes",
    "retrain.auxiliary_weight": "of the loss of an auxiliary head, for networks that have one; 0: no such head",
    "retrain.drop_path": "probability of keeping a path, at the last cell and the last step; 1: none is dropped",
    "retrain.batch_norm_momentum": "of the running statistics",
    "retrain.ema_decay": "moving average of the weights, which is then what is saved; 0: none",
    "retrain.weights": "a model.safetensors, or a run, of the same architecture to start from",
    "retrain.validate_every": "epochs between two validations; 0: never",
    "evaluation.split": "the split of evaluation.json; `segnas run` scores `test` as well where there is one",
    "evaluation.scales": "the probabilities at all scales are averaged",
    "evaluation.flip": "and those of the mirrored image",
    "evaluation.batch_size": "images of one size at a time; changes no figure. `null`: 1, or 128 where an image has one class",
    "export.size": "height and width of the exported network's input; `null`: those at which it sees the evaluated images",
    "search.layers": "cells in a row",
    "search.blocks": "blocks of a cell",
    "search.filters": "channels of a block at stride 4, in the supernet",
    "search.operations": "what an edge may be",
    "search.stem": "channels of the supernet's stem",
    "search.head_width": "channels of the supernet's head",
    "search.epochs": "epochs of the search; one is a pass over half of the training images",
    "search.architecture_from_epoch": "epochs in which the weights alone are trained",
    "search.batch_size": "images of a step, of all processes together, for the weights and for alpha and beta each",
    "search.crop": "as `data.crop`, for the search",
    "search.resize": "as `data.resize`, for the search",
    "search.learning_rate": "of the weights (SGD, cosine)",
    "search.final_learning_rate": "where it ends",
    "search.momentum": "of SGD",
    "search.weight_decay": "of the weights",
    "search.clip_norm": "largest norm of the weights' gradient; 0: not clipped",
    "search.architecture_learning_rate": "of alpha and beta (Adam)",
    "search.architecture_weight_decay": "of alpha and beta",
    "search.scored_images": "images of trainB on which supernet and decoded path are scored after each epoch",
    "search.select": "`last` or `best`: which decoded architecture goes on",
    "network.filters": "channels of a block at stride 4; doubled at each level below",
    "network.stem": "channels of the stem's three convolutions",
    "network.aspp_width": "channels of each branch of the ASPP",
    "network.aspp_rates": "dilations of its 3x3 branches, for a last cell of stride 8",
    "network.low_level_width": "channels of the low-level features in the decoder",
    "network.decoder_width": "channels of the decoder",
    "network.dropout": "after the ASPP",
}


def configuration() -> str:
    """Every key with its default, the presets that differ, and its meaning; one table a section."""
    values = to_dict(AutoDeepLabConfig(data=DataConfig(crop=(1, 1))))
    presets = {name: to_dict(make()) for name, make in SYSTEM.presets.items()}
    keys = dotted_keys(values)
    unexplained = set(keys) ^ set(MEANINGS)
    if unexplained:
        raise ValueError(f"docs/make_tables.py explains other keys than there are: {', '.join(sorted(unexplained))}")
    parts = []
    for section in dict.fromkeys(key.split(".")[0] for key in keys):
        rows = []
        for key in (key for key in keys if key.split(".")[0] == section):
            default = look_up(values, key)
            others = [
                f"{name} {shown(look_up(preset, key))}" for name, preset in presets.items() if look_up(preset, key) != default
            ]
            rows.append((f"`{key}`", "" if key == "data.crop" else shown(default), ", ".join(others), MEANINGS[key]))
        title = "## The run" if section == "seed" else f"## {section}"
        parts.append(f"{title}\n\n{table(('key', 'default', 'presets', 'meaning'), rows)}")
    return "\n\n".join(parts)


def published() -> str:
    """The networks of the zoo: what their papers print and what is counted here."""
    rows = []
    for name in zoo.names():
        entry = zoo.load(name)
        height, width = entry.paper["size"]
        ours = count(entry.architecture, (height, width), CLASSES)
        assert ours.paper_multiply_adds is not None
        printed = (f"{entry.paper['parameters_m']:.2f} M", f"{entry.paper['multiply_adds_g']:.2f} G")
        counted = (f"{ours.paper_multiply_adds / 1e9:.2f} G", f"{ours.multiply_adds / 1e9:.2f} G")
        rows.append((f"`{name}`", printed[0], f"{ours.parameters:,}", printed[1], *counted))
    rows.sort(key=lambda row: int(row[2].replace(",", "")))
    return table(("", "parameters, paper", "here", "multiply-adds, paper", "in its convention", "plain"), rows)


def presets() -> str:
    """How large the search of each preset is."""
    rows = []
    for name, make in SYSTEM.presets.items():
        config = make()
        search = config.search
        with torch.device("meta"):
            supernet = AutoDeepLabSupernet(
                CLASSES, search.layers, search.blocks, search.filters, search.operations, search.stem, search.head_width
            )
        space = f"{size(AutoDeepLabSpace(search.layers, search.blocks, search.operations)):.1e}".replace("e+0", "e").replace(
            "e+", "e"
        )
        parameters = f"{sum(parameter.numel() for parameter in supernet.parameters()) / 1e6:.1f} M"
        epochs = f"{search.epochs}, from {search.architecture_from_epoch + 1} on"
        crop = f"{search.crop[0]}x{search.crop[1]}" + (f" at {search.resize:g}" if search.resize != 1 else "")
        layers = f"{search.layers} x {search.blocks}"
        rows.append((f"`{name}`", layers, space, parameters, epochs, crop, str(config.network.filters)))
    head = ("preset", "layers x blocks", "architectures", "supernet", "epochs, alpha and beta", "crop", "filters of the result")
    return table(head, rows)


def first_files() -> str:
    """The files to read first, with their lengths."""
    rows = []
    for number, (name, what) in enumerate(FIRST_FILES.items(), start=1):
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        rows.append((str(number), f"[{name}]({name})", str(lines), what))
    return table(("", "file", "lines", ""), rows)


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "published": published,
    "presets": presets,
    "first files": first_files,
}


def updated(text: str) -> str:
    """A page with its tables written anew."""
    pattern = re.compile(r"(<!-- ([a-z ]+): written by docs/make_tables.py -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", text)


def pages() -> list[Path]:
    """The pages that hold such tables."""
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "make_tables.py -->" in path.read_text()
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(cells) for cells in (head, ["--"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def shown(value: Any) -> str:
    """A value as one writes it in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and len(value) > 3:
        return f"all {len(value)}"
    if isinstance(value, list):
        return f"[{', '.join(shown(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def look_up(values: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        values = values[part]
    return values


if __name__ == "__main__":
    for page in pages():
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
