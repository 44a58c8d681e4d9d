"""The settings of the search of DARTS: what is refused, what runs, the presets, and how long a step is to read."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from small_images import SmallImages
from tiny_search import Drawn, MakeJob, tiny_darts

import segnas
from segnas.errors import UserError
from segnas.spaces.choice import encode
from segnas.spaces.darts import OPERATIONS, Darts, DartsSpace
from segnas.systems.base import all_systems
from segnas.systems.darts import (
    SYSTEM,
    Search,
    preflight,
    search,
    supernet_options,
)
from segnas.systems.settings import PRESETS, run_preset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": ("skip_conect",)}, "skip_connect"),
        ({"operations": ("sep_conv_7x7",)}, "operations: unknown 'sep_conv_7x7'"),
        ({"operations": ("none",)}, "none is left"),
        ({"operations": ("none", "skip_connect", "skip_connect")}, "twice"),
        ({"recompute_cells": True, "engine": "plain"}, "set search.engine=fused too"),
        ({"architecture_from_epoch": 3}, r"0\.\.2"),
        ({"channels": 1}, "channels"),
        ({"partial_channels": 3}, "partial_channels must divide channels=4"),
        ({"partial_channels": 0}, "partial_channels"),
        ({"order": "third"}, "order"),
        ({"curvature_every": 0}, "curvature_every"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"layers": 2}, "layers"),
        ({"blocks": 0}, "blocks"),
        ({"head_width": 0}, "head_width"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_darts(**settings)


def test_too_few_images_for_a_batch_of_half_the_set(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="too few"):
        Search(make_job(config=tiny_darts(), dataset=Drawn(count=3)))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("form", ["segmentation", "cifar", "imagenet"])
def test_the_smallest_batch_and_one_channel_to_mix_run(form: str, order: str, make_job: MakeJob) -> None:
    crop = (33, 33) if form != "cifar" else (16, 16)
    settings = {"partial_channels": 4, "batch_size": 2 if form == "imagenet" else 1, "crop": crop}
    config = tiny_darts(form=form, order=order, epochs=1, architecture_from_epoch=0, steps_per_epoch=1, **settings)
    job = make_job(config=config, dataset=Drawn() if form == "segmentation" else SmallImages())
    preflight(job)
    assert search(job).task == job.dataset.task


def test_the_supernet_has_the_form_that_is_retrained_at_its_own_width() -> None:
    config = tiny_darts(channels=6, layers=5, head_width=9)
    options = supernet_options(config.search, config.network)
    assert dataclasses.replace(config.network, channels=6, layers=5, aspp_width=9, decoder_width=9, dropout=0.0) == options
    plain = dataclasses.replace(config.network, low_level_width=0)
    assert supernet_options(config.search, plain).low_level_width == 0


def test_the_presets() -> None:
    assert SYSTEM.tasks == ("segmentation", "classification")
    paper = SYSTEM.task_presets["classification"]["paper"]()
    found = paper.search
    assert (found.channels, found.layers, found.blocks, found.operations) == (16, 8, 4, OPERATIONS)
    assert (found.epochs, found.architecture_from_epoch, found.batch_size, found.order) == (50, 0, 64, "second")
    assert (found.learning_rate, found.final_learning_rate, found.momentum, found.weight_decay) == (0.025, 0.001, 0.9, 3e-4)
    assert (found.architecture_learning_rate, found.architecture_weight_decay, found.clip_norm) == (3e-4, 1e-3, 5.0)
    assert (found.partial_channels, found.edge_weights, found.stop_by_curvature) == (1, False, False)
    assert (found.crop, found.steps_per_epoch, found.select) == ((32, 32), None, "last")
    assert (paper.network.form, paper.network.channels, paper.network.layers) == ("cifar", 36, 20)
    assert (paper.data.padding, paper.data.cutout, paper.data.flip) == (4, 16, 0.5)
    for task in SYSTEM.tasks:
        presets = SYSTEM.presets_for(task)
        assert set(presets) <= set(PRESETS[task])
        for name, make in presets.items():
            config = make()
            assert dataclasses.asdict(config.retrain) == dataclasses.asdict(run_preset(name, task).retrain)
            assert (config.network.form == "segmentation") == (task == "segmentation")
            assert SYSTEM.typical is not None
            assert SYSTEM.typical(config).task == task
    assert "darts" in [system.name for system in all_systems()]


def test_the_typical_architecture_is_of_the_space_that_is_searched() -> None:
    config = tiny_darts(operations=("none", "skip_connect", "sep_conv_3x3"))
    assert SYSTEM.typical is not None
    found = SYSTEM.typical(config)
    assert isinstance(found, Darts)
    encode(DartsSpace(2, ("skip_connect", "sep_conv_3x3"), config.network), found)
    assert SYSTEM.typical(config) == found


def lines_of(path: Path, names: tuple[str, ...]) -> int:
    """Lines of the top-level classes, and functions or methods (`Class.method`), of these names."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}": inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return sum((found[name].end_lineno or 0) - found[name].lineno + 1 for name in names)


def step_of(order: str) -> dict[str, tuple[str, ...]]:
    """Where a step happens. Second order adds one file."""
    files: dict[str, tuple[str, ...]] = {
        "systems/darts.py": ("Search", "Relaxation"),
        "nets/darts_supernet.py": ("Mixture", "MixedCell", "DartsSupernet"),
        "nets/operations.py": (
            "search_operation",
            "skip_connect",
            "SeparableConv",
            "_separable",
            "DilatedConv",
            "MixedOperation",
            "MixedGraph",
        ),
        "strategies/bilevel.py": ("frozen", "gradients_of", "move"),
    }
    second = {"strategies/second_order.py": ("unrolled_gradients", "hessian_vector_product", "_moved", "_gradients")}
    return files if order == "first" else {**files, **second}


@pytest.mark.parametrize(("order", "files"), [("first", 4), ("second", 5)])
def test_one_step_is_followed_in_few_files_and_five_hundred_lines(order: str, files: int) -> None:
    """From two batches to moved weights and alpha: everything between the loop and the layers of torch."""
    root = Path(inspect.getfile(segnas)).parent
    step = step_of(order)
    assert len(step) == files
    assert sum(lines_of(root / name, parts) for name, parts in step.items()) <= 500
