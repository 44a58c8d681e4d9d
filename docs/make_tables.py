"""Write the tables of the pages that come from the code: `python docs/make_tables.py` after a change of settings or presets.

A table stands in its page between `<!-- NAME: written by docs/make_tables.py -->` and `<!-- end of NAME -->`; a test holds that
the committed pages are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segnas import zoo
from segnas.api import usual_input
from segnas.config import dotted_keys, to_dict
from segnas.costs.counts import count
from segnas.data.transforms import DataConfig
from segnas.nets.auto_deeplab_supernet import AutoDeepLabSupernet
from segnas.nets.darts_supernet import DartsSupernet
from segnas.spaces.auto_deeplab import AutoDeepLabSpace
from segnas.spaces.choice import size
from segnas.spaces.darts import DartsSpace
from segnas.systems import auto_deeplab, darts
from segnas.systems.base import System
from segnas.systems.settings import PRESETS, RunConfig

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"segmentation": 19, "classification": 10}  # of Cityscapes and of CIFAR-10, for which the papers count
SYSTEMS = (auto_deeplab.SYSTEM, darts.SYSTEM)
ORDER = ("quick", "small", "paper")
TASKS = {"segmentation": "presets", "classification": "one class an image"}  # task -> head of the column of its presets
FIRST_FILES = {
    "segnas/verbs.py": "the verbs, each a few lines over a function of the next file",
    "segnas/api.py": "what a run consists of, in its order",
    "segnas/systems/auto_deeplab.py": "the system: equations, deviations, search, presets",
    "segnas/nets/auto_deeplab_supernet.py": "the supernet that it trains",
    "segnas/strategies/bilevel.py": "the steps of the weights and of the architecture",
    "segnas/training/retrain.py": "training from scratch, a plain loop",
}
MEANINGS = {  # of what all runs have, then of what searches through a supernet share
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
    "device.graphs": "on a GPU a search's steps are recorded and replayed (CUDA graphs): far fewer launches. No effect on a CPU",
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
    "retrain.seed": "of initial weights, order, views and dropout; `null`: the run's own",
    "retrain.weights": "a model.safetensors, or a run, of the same architecture to start from",
    "retrain.validate_every": "epochs between two validations; 0: never",
    "evaluation.split": "the split of evaluation.json; `segnas run` scores `test` as well where there is one",
    "evaluation.scales": "the probabilities at all scales are averaged",
    "evaluation.flip": "and those of the mirrored image",
    "evaluation.batch_size": "images of one size at a time; changes no figure. `null`: 1, or 128 where an image has one class",
    "budget.max_parameters": "the network is scaled to the widest that has no more; also `--max-parameters`",
    "budget.max_multiply_adds": "the same for the multiply-adds of one image; also `--max-multiply-adds`",
    "budget.max_latency_ms": "the same for the milliseconds of one image, measured (upper quartile); also `--max-latency-ms`",
    "budget.device": "where the latency counts, such as `cpu`; empty: the run's own; also `--device`",
    "comparison.baseline": "`unet`, `deeplab-v3-plus`, `resnet`; `auto`: U-Net or ResNet by the task; `none`: no comparison",
    "comparison.random": "whether a random architecture of the same space is trained, too",
    "comparison.seeds": "trainings of each network that is compared; also `--seeds`",
    "time_limit": "seconds that search and retraining were sized for, once, at the start; also `--time`",
    "export.size": "height and width of the exported network's input; `null`: those at which it sees the evaluated images",
    "search.layers": "cells in a row",
    "search.blocks": "blocks of a cell",
    "search.operations": "what an edge may be",
    "search.epochs": "epochs of the search; one is a pass over half of the training images",
    "search.architecture_from_epoch": "epochs in which the weights alone are trained",
    "search.steps_per_epoch": "steps of an epoch; `null`: as many as half of the training images make",
    "search.batch_size": "images of a step, of all processes together, for the weights and for the architecture each",
    "search.crop": "as `data.crop`, for the search",
    "search.resize": "as `data.resize`, for the search",
    "search.learning_rate": "of the weights (SGD, cosine)",
    "search.final_learning_rate": "where it ends",
    "search.momentum": "of SGD",
    "search.weight_decay": "of the weights",
    "search.clip_norm": "largest norm of the weights' gradient; 0: not clipped",
    "search.architecture_learning_rate": "of alpha and beta (Adam)",
    "search.architecture_weight_decay": "of alpha and beta",
    "search.scored_images": "images of trainB on which supernet and decoded architecture are scored after each epoch",
    "search.engine": "mixed cells in few large calls (`fused`) or module by module: see [engine.md](engine.md)",
    "search.recompute_cells": "compute cells a second time in the backward pass, for less memory; `auto`: where it is needed",
    "search.select": "`last` or `best`: which decoded architecture goes on",
    "network.aspp_width": "channels of each branch of the ASPP",
    "network.low_level_width": "channels of the low-level features in the decoder",
    "network.decoder_width": "channels of the decoder",
    "network.dropout": "after the ASPP",
}
OWN_MEANINGS: dict[str, dict[str, str]] = {  # of what one system has, or means differently
    "auto-deeplab": {
        "search.filters": "channels of a block at stride 4, in the supernet",
        "search.stem": "channels of the supernet's stem",
        "search.head_width": "channels of the supernet's head",
        "network.filters": "channels of a block at stride 4; doubled at each level below",
        "network.stem": "channels of the stem's three convolutions",
        "network.aspp_rates": "dilations of its 3x3 branches, for a last cell of stride 8",
    },
    "darts": {
        "search.channels": "channels of a block before the first reduction, in the supernet",
        "search.head_width": "channels of the supernet's head, in the segmentation form",
        "search.order": "`first` or `second`: of the gradient of alpha; second takes 2.8 times as long",
        "search.partial_channels": "K of PC-DARTS: 1 / K of the channels is mixed; 1 for DARTS",
        "search.edge_weights": "weigh the edges into a block as well (beta of PC-DARTS)",
        "search.stop_by_curvature": "end the search when the curvature of the loss in alpha has grown by too much",
        "search.curvature_every": "epochs between two looks at it",
        "network.form": "`segmentation`, `cifar` or `imagenet`: stem, strides and head",
        "network.channels": "channels of a block before the first reduction; doubled by each of the two",
        "network.layers": "cells in a row; those at a third and at two thirds reduce",
        "network.aspp_rates": "dilations of its 3x3 branches, at stride 16",
    },
}
SEARCHED = ("search", "network")  # the sections that differ from system to system


def configuration() -> str:
    """Every key with its default, the presets that differ, and its meaning; one table a section, those of systems at the end."""
    crop = DataConfig(crop=(1, 1))
    columns = {head: PRESETS[task] for task, head in TASKS.items()}
    parts = sections("", to_dict(RunConfig(data=crop)), MEANINGS, columns)
    for system in SYSTEMS:
        meanings = MEANINGS | OWN_MEANINGS[system.name]
        values = to_dict(system.config(data=crop))
        unexplained = set(dotted_keys(values)) - set(meanings) | set(OWN_MEANINGS[system.name]) - set(dotted_keys(values))
        if unexplained:
            raise ValueError(f"docs/make_tables.py explains other keys than there are: {', '.join(sorted(unexplained))}")
        columns = {TASKS[task]: system.presets_for(task) for task in system.tasks}
        parts += sections(f" of {system.name}", {name: values[name] for name in SEARCHED}, meanings, columns)
    everywhere = {key for system in SYSTEMS for key in dotted_keys(to_dict(system.config(data=crop)))}
    if set(MEANINGS) - everywhere:
        raise ValueError(f"docs/make_tables.py explains what no system has: {', '.join(sorted(set(MEANINGS) - everywhere))}")
    return "\n\n".join(parts)


def sections(whose: str, values: Any, meanings: Mapping[str, str], columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Title and table of each section. columns: head -> name of a preset -> function that makes its configuration."""
    made = {head: {name: to_dict(makers[name]()) for name in ORDER if name in makers} for head, makers in columns.items()}
    rows: dict[str, list[tuple[str, ...]]] = {}
    for key in dotted_keys(values):
        default = look_up(values, key)
        others = [differing(default, {name: look_up(preset, key) for name, preset in column.items()}) for column in made.values()]
        section = f"{key.split('.')[0]}{whose}" if "." in key else "The run"
        rows.setdefault(section, []).append((f"`{key}`", "" if key == "data.crop" else shown(default), *others, meanings[key]))
    return [f"## {title}\n\n{table(('key', 'default', *columns, 'meaning'), found)}" for title, found in rows.items()]


def differing(default: Any, presets: Mapping[str, Any]) -> str:
    """The presets that differ from the default, with their values."""
    others = {name: shown(value) for name, value in presets.items() if value != default}
    if len(others) == len(presets) > 1 and len(set(others.values())) == 1:
        return f"each {next(iter(others.values()))}"
    return ", ".join(f"{name} {value}" for name, value in others.items())


def published(names: Sequence[str], forms: Sequence[str | None] = (None,)) -> str:
    """Networks of the zoo, each in these forms: what their papers print and what is counted here."""
    rows = []
    for form in forms:
        entries = [zoo.load(name) if form is None else zoo.in_form(zoo.load(name), form) for name in names]
        for entry in entries:
            (height, width), classes = usual_input("", entry.architecture)
            ours = count(entry.architecture, (height, width), classes)
            parameters, multiply_adds = (entry.paper.get(key) for key in ("parameters_m", "multiply_adds_g"))
            printed = "" if multiply_adds is None else giga(multiply_adds)
            convention = [] if ours.paper_multiply_adds is None else [giga(ours.paper_multiply_adds / 1e9)]
            rows.append(
                (
                    f"`{entry.name}`" + ("" if form is None else f", {form}"),
                    "" if parameters is None else f"{parameters:g} M",
                    f"{ours.parameters:,}",
                    printed,
                    *convention,
                    giga(ours.multiply_adds / 1e9),
                )
            )
    head = ("", "parameters, paper", "here", "multiply-adds, paper")
    return table((*head, "in its convention", "plain") if len(rows[0]) > 5 else (*head, "here"), rows)


def giga(value: float) -> str:
    """Multiply-adds in the unit that leaves three digits or more."""
    return f"{value:.2f} G" if value >= 1 else f"{1000 * value:.0f} M"


def presets(system: System) -> str:
    """How large the search of each preset is."""
    rows = []
    for task in system.tasks:
        for name, make in system.presets_for(task).items():
            config = make()
            search = config.search
            with torch.device("meta"):
                supernet, space, width = SUPERNETS[system.name](config, CLASSES[task])
            architectures = f"{size(space):.1e}".replace("e+0", "e").replace("e+", "e")
            parameters = sum(parameter.numel() for parameter in supernet.parameters()) / 1e6
            epochs = f"{search.epochs}, from {search.architecture_from_epoch + 1} on"
            crop = f"{search.crop[0]}x{search.crop[1]}" + (f" at {search.resize:g}" if search.resize != 1 else "")
            title = f"`{name}`" + (f", {task}" if len(system.tasks) > 1 else "")
            size_of_supernet = f"{parameters:.1f} M" if parameters >= 0.95 else f"{parameters:.2f} M"
            layers = f"{search.layers} x {search.blocks}"
            rows.append((title, layers, architectures, size_of_supernet, epochs, crop, width))
    head = ("preset", "layers x blocks", "architectures", "supernet", "epochs, architecture", "crop", "result")
    return table(head, rows)


def auto_deeplab_search(config: Any, classes: int) -> tuple[torch.nn.Module, Any, str]:
    """Supernet, space, and width of the result."""
    search = config.search
    supernet = AutoDeepLabSupernet(
        classes, search.layers, search.blocks, search.filters, search.operations, search.stem, search.head_width
    )
    return supernet, AutoDeepLabSpace(search.layers, search.blocks, search.operations), f"{config.network.filters} filters"


def darts_search(config: Any, classes: int) -> tuple[torch.nn.Module, Any, str]:
    """The same."""
    search = config.search
    options = darts.supernet_options(search, config.network)
    supernet = DartsSupernet(classes, options, search.blocks, search.operations, search.partial_channels)
    chosen = tuple(name for name in search.operations if name != "none")
    return supernet, DartsSpace(search.blocks, chosen), f"{config.network.channels} channels, {config.network.layers} cells"


SUPERNETS = {"auto-deeplab": auto_deeplab_search, "darts": darts_search}


def first_files() -> str:
    """The files to read first, with their lengths."""
    rows = []
    for number, (name, what) in enumerate(FIRST_FILES.items(), start=1):
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        rows.append((str(number), f"[{name}]({name})", str(lines), what))
    return table(("", "file", "lines", ""), rows)


TABLES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "auto deeplab published": partial(published, ("auto-deeplab-s", "auto-deeplab-m", "auto-deeplab-l")),
    "auto deeplab presets": partial(presets, auto_deeplab.SYSTEM),
    "darts published": partial(published, ("darts-v1", "darts-v2", "pc-darts"), ("cifar", "imagenet")),
    "darts presets": partial(presets, darts.SYSTEM),
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
