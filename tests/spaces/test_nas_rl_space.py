"""The space of NAS with reinforcement learning: its size, its rules for loose ends, the published network, what it refuses."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from segnas import zoo
from segnas.data.demo import Demo
from segnas.errors import UserError
from segnas.spaces import choice
from segnas.spaces.architecture import from_json, task_of, to_json
from segnas.spaces.choice import NotInSpace
from segnas.spaces.nas_rl import STRIDES, ConvolutionLayer, NasRl, NasRlSpace
from segnas.training.model import require_task

PUBLISHED = zoo.load("nas-rl-v1").architecture


def chain(*skips: tuple[int, ...]) -> NasRl:
    return NasRl(tuple(ConvolutionLayer(3, 1, 1, 1, 24, bits) for bits in skips))  # type: ignore[arg-type]


def test_the_size_is_the_product_of_filters_and_skips() -> None:
    assert choice.size(NasRlSpace()) == (4 * 4 * 4) ** 15 * 2 ** (15 * 14 // 2)
    assert choice.size(NasRlSpace(layers=4, strides=True)) == (4 * 4 * 4 * 3 * 3) ** 4 * 2**6


def test_every_architecture_of_a_small_space_is_enumerated_once() -> None:
    found = list(choice.enumerate_space(NasRlSpace(layers=3, sides=(1, 3), filters=(24,))))
    layers = [[(h, w, s) for h, w in product((1, 3), repeat=2) for s in product((0, 1), repeat=n)] for n in range(3)]
    expected = {NasRl(tuple(ConvolutionLayer(h, w, 1, 1, 24, s) for h, w, s in row)) for row in product(*layers)}
    assert len(found) == len(expected) == 4**3 * 2**3
    assert set(found) == expected


def test_the_published_network_is_in_the_space() -> None:
    indices = choice.encode(NasRlSpace(), PUBLISHED)
    assert len(indices) == 15 * 3 + 15 * 14 // 2
    assert choice.from_indices(NasRlSpace(), indices) == PUBLISHED
    with pytest.raises(NotInSpace, match=r"no layers\.15\.height"):
        choice.encode(NasRlSpace(layers=16), PUBLISHED)
    assert choice.encode(NasRlSpace(strides=True), PUBLISHED)["layers.3.stride_width"] == STRIDES.index(1)


def test_the_controllers_order_of_questions() -> None:
    indices = choice.encode(NasRlSpace(layers=2, strides=True), chain((), (1,)))
    layer = ["height", "width", "stride_height", "stride_width", "filters"]
    assert list(indices) == [f"layers.0.{name}" for name in layer] + [f"layers.1.{name}" for name in [*layer, "skips.0"]]


def test_loose_ends() -> None:
    network = chain((), (0,), (1, 0), (0, 0, 0))
    assert [layer.inputs for layer in network.layers] == [(0,), (0,), (1,), (0,)]
    assert network.outputs == (2, 3, 4)
    assert PUBLISHED.outputs == (15,)
    assert PUBLISHED.layers[7].inputs == (1, 6, 7)


def test_samples_and_mutants_stay_in_the_space() -> None:
    generator, space = np.random.default_rng(0), NasRlSpace(layers=5, strides=True)
    for _ in range(20):
        found = choice.sample(space, generator)
        mutant = choice.mutate(space, found, generator)
        assert mutant != found
        for one in (found, mutant):
            assert choice.from_indices(space, choice.encode(space, one)) == one
            assert from_json(to_json(one)) == one


def test_depth_grows_from_six_layers_by_two() -> None:
    space = NasRlSpace()
    assert [stage.layers for stage in choice.stages_of(space)] == [6, 8, 10, 12, 14, 15]  # type: ignore[attr-defined]
    assert choice.stages_of(space)[-1] == space
    assert choice.stages_of(NasRlSpace(layers=4)) == [NasRlSpace(layers=4)]
    for stage in (1, 3, 6):
        drawn = choice.sample(space.stage(stage), np.random.default_rng(stage))
        assert choice.stage_of(space, drawn) == stage
        assert len(choice.stage_choices(space, drawn)) == len(choice.choices_of(space.stage(stage), drawn))
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="stages 1 to 6"):
            space.stage(wrong)


def test_skips_are_members_of_the_set_that_a_layer_reads() -> None:
    asked = choice.choices_of(NasRlSpace(), PUBLISHED)
    members = {made.name: made.member for made in asked if made.member}
    assert members == {f"layers.{i}.skips.{j}": f"layers.{j}" for i in range(15) for j in range(i)}


def test_it_is_for_classification() -> None:
    assert task_of(PUBLISHED) == "classification"
    with pytest.raises(UserError, match=r"classification") as caught:
        require_task(PUBLISHED, Demo(train=1, val=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("layers",), [], "layers is empty"),
        (("layers", 2, "skips"), [1], r"layers\.2\.skips has 1 bits; there are 2 layers before it"),
        (("layers", 2, "skips", 0), 2, r"layers\.2\.skips\.0"),
        (("layers", 1, "height"), 4, r"layers\.1: height must be odd, not 4"),
        (("layers", 1, "filters"), 0, r"layers\.1: filters must be at least 1, not 0"),
        (("layers", 1, "stride_width"), 0, r"layers\.1: stride_width must be at least 1, not 0"),
        (("layers", 1, "with"), 3, r"unknown key 'layers\.1\.with'; did you mean 'width'"),
        (("network",), {}, "unknown key 'network'"),
    ],
)
def test_malformed_json_is_met_with_one_line(place: tuple[str | int, ...], value: object, message: str) -> None:
    values = to_json(PUBLISHED)
    target = values
    for part in place[:-1]:
        target = target[part]  # type: ignore[index]
    target[place[-1]] = value  # type: ignore[index]
    with pytest.raises(UserError, match=message) as caught:
        from_json(values, where="mine.json")
    assert "\n" not in str(caught.value)
