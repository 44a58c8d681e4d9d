"""The spaces of Fast NAS and of template search: their sizes, the published configurations, what they refuse."""

from __future__ import annotations

import json
from itertools import pairwise
from math import factorial
from typing import Any

import numpy as np
import pytest
from fast_nas_golden import FAST_NAS, TEMPLATE_NAS

from segnas import zoo
from segnas.costs.counts import count
from segnas.errors import UserError
from segnas.spaces import choice, fast_nas, template_nas
from segnas.spaces.architecture import from_json, to_json
from segnas.spaces.choice import NotInSpace, search_spaces
from segnas.spaces.fast_nas import FastNasOptions, FastNasSpace
from segnas.spaces.template_nas import TemplateNasSpace
from segnas.spaces.width import filters_of, with_filters


def test_the_sizes_are_the_products_of_the_papers() -> None:
    assert choice.size(FastNasSpace()) == (4 * 5 * 6) ** 2 * 11 * (2 * 5 * 8) ** 2 * 11**6
    assert choice.size(FastNasSpace()) == pytest.approx(1.80e15, rel=0.005)
    assert choice.size(TemplateNasSpace()) == (6 * 6 * 2) ** 3 * factorial(8) ** 2 * 3**7 * 4**7 * 2**3
    assert choice.size(TemplateNasSpace()) == pytest.approx(1.7e23, rel=0.03)


def test_a_small_space_is_enumerated() -> None:
    space = FastNasSpace(blocks=1, layers=1, operations=("none", "conv1x1"))
    found = set(choice.enumerate_space(space))
    assert len(found) == choice.size(space) == 4 * 4 * 2 * (2 * 2) * (2 * 2)
    assert search_spaces["fast-nas"]() == FastNasSpace()
    assert search_spaces["template-nas"]() == TemplateNasSpace()


def test_connections_are_asked_for_before_the_cell_and_inputs_are_nodes() -> None:
    asked = choice.choices_of(FastNasSpace(), fast_nas.from_published(FAST_NAS["arch1"]["config"]))
    assert [len(one.options) for one in asked] == [4, 4, 5, 5, 6, 6, 11, *(n for p in (2, 5, 8) for n in (p, p, 11, 11))]
    assert [one.index for one in asked] == [2, 3, 3, 1, 4, 4, 2, 1, 0, 3, 6, 0, 1, 2, 8, 2, 0, 6, 1]
    assert all(one.node == ("inputs" in one.name or "connections" in one.name) for one in asked)


@pytest.mark.parametrize("number", FAST_NAS)
def test_the_zoo_holds_the_published_decoders(number: str) -> None:
    published = zoo.load(f"fast-nas-{number}").architecture
    assert published.published() == FAST_NAS[number]["config"]
    assert published.network == FastNasOptions()
    assert choice.from_indices(FastNasSpace(), choice.encode(FastNasSpace(), published)) == published


@pytest.mark.parametrize("number", TEMPLATE_NAS)
def test_the_zoo_holds_the_published_templates(number: str) -> None:
    published = zoo.load(f"template-nas-{number}").architecture
    assert published.published() == TEMPLATE_NAS[number]["config"]
    assert choice.from_indices(TemplateNasSpace(), choice.encode(TemplateNasSpace(), published)) == published


@pytest.mark.parametrize("space", [FastNasSpace(), TemplateNasSpace()])
def test_samples_and_mutants_come_back_from_json_and_from_numbers(space: Any) -> None:
    generator = np.random.default_rng(0)
    module = fast_nas if isinstance(space, FastNasSpace) else template_nas
    for _ in range(20):
        one = choice.sample(space, generator)
        other = choice.mutate(space, one, generator)
        assert other != one
        for found in (one, other):
            assert from_json(json.loads(json.dumps(to_json(found)))) == found
            assert module.from_published(found.published()) == found


def test_loose_ends_of_the_published_cells() -> None:
    """By hand from the genotypes: arch0 reads states 0, 0, 0, 2, 0, 5; arch1 1, 0, 0, 1, 2, 0; arch2 0, 0, 3, 2, 5, 6."""
    ends = [fast_nas.from_published(FAST_NAS[name]["config"]).cell.loose_ends() for name in ("arch0", "arch1", "arch2")]
    assert ends == [(1, 4, 7, 10), (4, 7, 10), (1, 4, 7, 10)]


def test_the_width_is_that_of_decoder_and_encoder() -> None:
    published = zoo.load("fast-nas-arch0").architecture
    assert filters_of(published) == 64
    half = with_filters(published, 32)
    assert (half.network.agg_size, half.network.encoder_width, half.cell) == (32, 16, published.cell)
    for name in ("fast-nas-arch0", "template-nas-arch0"):
        counts = [count(with_filters(zoo.load(name).architecture, width), (64, 64), 2) for width in (1, 7, 8, 64, 65)]
        assert all(one.parameters < other.parameters for one, other in pairwise(counts))
        assert all(one.multiply_adds < other.multiply_adds for one, other in pairwise(counts))


LAYER = {"inputs": [0, 0], "operations": ["none", "none"]}
FAST: dict[str, Any] = {
    "family": "fast-nas",
    "cell": {"first": "none", "layers": [LAYER]},
    "connections": [[0, 3]],
    "network": {},
}
ROW = {"inputs": [0, 1], "template": 0, "repeats": 1, "stride": 1}
TEMPLATE: dict[str, Any] = {
    "family": "template-nas",
    "templates": [{"operations": ["skip_connect", "max_pool_3x3"], "aggregation": "concat"}],
    "structure": [ROW, ROW],
    "network": {},
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FAST, "connections": [[0, 4]]}, r"connections\.0\.1 is 4, but block 0 reads maps 0 to 3"),
        ({**FAST, "connections": []}, "connections is empty"),
        ({**FAST, "cell": {"first": "conv", "layers": []}}, "first is the unknown operation 'conv'; did you mean 'conv3x3'"),
        ({**FAST, "cell": {"first": "none", "layers": [{**LAYER, "inputs": [0, 2]}]}}, r"layers\.0\.inputs\.1 is 2; .* 0 to 1"),
        ({**FAST, "network": {"agg_size": 0}}, "agg_size must be at least 1, not 0"),
        ({**TEMPLATE, "structure": []}, "structure is empty"),
        ({**TEMPLATE, "structure": [{**ROW, "inputs": [0, 2]}]}, r"structure\.0\.inputs\.1 is 2; row 0 reads maps 0 to 1"),
        ({**TEMPLATE, "structure": [{**ROW, "template": 1}]}, r"structure\.0\.template is 1, but there are templates 0 to 0"),
        ({**TEMPLATE, "structure": [ROW, {**ROW, "stride": 2}]}, r"structure\.1\.stride is 2; only rows of the first half"),
        ({**TEMPLATE, "structure": [{**ROW, "stride": 3}]}, "stride must be 1 or 2, not 3"),
        ({**TEMPLATE, "structure": [{**ROW, "repeats": 0}]}, "repeats must be at least 1, not 0"),
        ({**TEMPLATE, "templates": [{"operations": ["skip", "skip"], "aggregation": "concat"}]}, "unknown operation 'skip'"),
    ],
)
def test_what_is_no_architecture_is_met_with_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_json(values)
    assert "\n" not in str(caught.value)


def test_an_architecture_outside_says_where() -> None:
    wide = fast_nas.from_published(FAST_NAS["arch0"]["config"], FastNasOptions(agg_size=48))
    with pytest.raises(NotInSpace, match=r"differs at network\.agg_size"):
        choice.encode(FastNasSpace(), wide)
