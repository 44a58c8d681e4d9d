"""Counts: exact on every golden, and against an independent counter."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segnas import zoo
from segnas.costs.auto_deeplab_paper import paper_multiply_adds
from segnas.costs.counts import count
from segnas.costs.layers import LayerCall, layer_calls
from segnas.nets.build import build
from segnas.spaces.auto_deeplab import AutoDeepLabSpace, NetworkOptions
from segnas.spaces.choice import sample

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "autodeeplab.json").read_text())
PART = {  # the golden's name of a part -> ours
    "s0": "stem.first",
    "s1": "stem.second",
    "s2": "stem.third",
    "b0": "aspp.pointwise",
    "bp": "aspp.pooled",
    "br": "aspp.atrous",
    "imgpool": "aspp.pooling",
    "proj": "aspp.project",
    "low": "decoder.low_level",
    "dec": "decoder.fuse",
    "logits": "logits",
} | {f"cell_{i}": f"cells.{i}" for i in range(12)}


def published(size: str) -> nn.Module:
    with torch.device("meta"):
        return build(zoo.load(f"auto-deeplab-{size.lower()}").architecture, num_classes=19)


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_parameters_by_part(size):
    golden = GOLDEN["counts"][size]
    network = published(size)
    assert sum(p.numel() for p in network.parameters()) == golden["params"]
    for part, expected in golden["params_by_part"].items():
        assert sum(p.numel() for name, p in network.named_parameters() if inside(name, PART[part])) == expected, part


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_multiply_adds_by_part_in_both_conventions(size):
    golden = GOLDEN["counts"][size]
    architecture = zoo.load(f"auto-deeplab-{size.lower()}").architecture
    calls = layer_calls(published(size), (1, 3, 1025, 2049))
    for part, expected in golden["conv_macs_by_part_1025x2049"].items():
        assert sum(call.multiply_adds for call in calls if inside(call.name, PART[part])) == expected, part
    assert sum(call.multiply_adds for call in calls) == golden["conv_macs_1025x2049"]

    paper = paper_multiply_adds(architecture, calls)
    additions = {name: paper.pop(name) for name in list(paper) if name.endswith(".additions")}
    assert sum(additions.values()) == golden["tfprof_by_part"].pop("adds")
    for part, expected in golden["tfprof_by_part"].items():
        assert sum(value for name, value in paper.items() if inside(name, PART[part])) == expected, part
    assert sum(paper.values()) + sum(additions.values()) == golden["madds_tfprof_1025x2049"]


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_counts_of_the_published_networks(size):
    golden, entry = GOLDEN["counts"][size], zoo.load(f"auto-deeplab-{size.lower()}")
    counts = count(entry.architecture, (1025, 2049), num_classes=19)
    assert counts.parameters == golden["params"]
    assert counts.multiply_adds == golden["conv_macs_1025x2049"]
    assert counts.paper_multiply_adds == golden["madds_tfprof_1025x2049"]
    assert round(counts.parameters / 1e6, 2) == entry.paper["parameters_m"]
    assert counts.paper_multiply_adds / 1e9 == pytest.approx(entry.paper["multiply_adds_g"], rel=3e-4)
    assert count(entry.architecture, (1024, 2048), num_classes=19).multiply_adds == golden["conv_macs_1024x2048_upsample_x2"]


def small_goldens() -> list:
    """All sizes of two networks, the smallest and the largest of the others (they differ in the last layer); the rest is slow."""
    cases = []
    for golden in GOLDEN["small_goldens"]:
        whole = (golden["F"], golden["classes"]) in ((4, 2), (8, 19))
        for side in (65, 129, 321, 513, 769):
            marks = () if whole or side in (65, 769) else pytest.mark.slow
            cases.append(pytest.param(golden, side, marks=marks, id=f"F{golden['F']}-{golden['classes']}-{side}"))
    return cases


@pytest.mark.parametrize(("golden", "side"), small_goldens())
def test_small_goldens(golden, side):
    architecture = zoo.with_options(zoo.load("auto-deeplab-s").architecture, [f"filters={golden['F']}"])
    counts = count(architecture, (side, side), num_classes=golden["classes"])
    assert counts.parameters == golden["params"]
    assert counts.multiply_adds == golden[f"conv_macs_{side}x{side}"]
    assert (counts.paper_multiply_adds is None) == (side < 769)


def test_parts_add_up_and_are_named_in_order():
    architecture = zoo.with_options(zoo.load("auto-deeplab-s").architecture, ["filters=4"])
    counts = count(architecture, (65, 129), num_classes=2, in_channels=4)
    assert list(counts.by_part) == ["stem", *(f"cells.{i}" for i in range(12)), "aspp", "decoder", "logits"]
    assert sum(part["parameters"] for part in counts.by_part.values()) == counts.parameters
    assert sum(part["multiply_adds"] for part in counts.by_part.values()) == counts.multiply_adds
    assert counts.paper_multiply_adds is None
    assert json.loads(json.dumps(asdict(counts)))["by_part"]["logits"]["parameters"] == 2 * 257


@pytest.mark.parametrize("seed", range(4))
def test_any_architecture_agrees_with_an_independent_counter(seed):
    options = NetworkOptions(filters=2, stem=(4, 4, 8), aspp_width=8, low_level_width=4, decoder_width=8)
    architecture = sample(AutoDeepLabSpace(layers=6, blocks=3, network=options), np.random.default_rng(seed))
    network = build(architecture, num_classes=3).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 3, 45, 64))
    assert count(architecture, (45, 64), num_classes=3).multiply_adds * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (2, 3, 6)),
        (nn.Conv1d(4, 6, 3, stride=2), (1, 4, 11)),
        (nn.Conv2d(4, 6, (3, 5), groups=2), (1, 4, 9, 9)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 7)),
    ],
)
def test_each_kind_of_layer_agrees_with_an_independent_counter(layer, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(shape))
    (call,) = layer_calls(nn.Sequential(layer), shape)
    assert call.multiply_adds * 2 == counter.get_total_flops()


def test_every_call_of_a_layer_is_listed_and_the_module_stays_as_it_is():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.second = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.second(self.first(x)))

    module = Twice().train()
    before = copy.deepcopy(module.state_dict())
    calls = layer_calls(module, (1, 3, 8, 9))
    assert [(call.name, call.output_shape, call.multiply_adds) for call in calls] == [
        (name, (1, 3, 8, 9), 72 * 81) for name in ("first", "second", "second")
    ]
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not module.first._forward_hooks


def test_a_call_is_counted_by_its_shapes():
    call = LayerCall("x", nn.Conv2d(8, 4, 3, groups=4, bias=True), (1, 8, 5, 5), (1, 4, 5, 5))
    assert call.multiply_adds == 4 * 25 * 2 * 9
