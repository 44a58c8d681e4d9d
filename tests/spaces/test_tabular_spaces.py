"""Spaces of tabular benchmarks against brute force: which architectures there are, how they are drawn, changed and named."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from segnas.errors import UserError
from segnas.nets import build
from segnas.spaces.architecture import from_json, to_json
from segnas.spaces.choice import NotInSpace, encode, enumerate_space, mutate, neighbours, sample, search_spaces, size
from segnas.spaces.tabular import (
    NasBench201,
    NasBench201Space,
    NasBenchMacro,
    NasBenchMacroSpace,
    TransNasMacro,
    TransNasMacroSpace,
    TransNasMicro,
    all_macro,
)

SIZES = {"nasbench201": 5**6, "transnas-micro": 4**6, "transnas-macro": 3256, "nasbench-macro": 3**8}
MACRO = TransNasMacroSpace()


def legal(modules: tuple[int, ...]) -> bool:
    """The rule of the benchmark: 1 to 3 modules double the channels (2, 4), 1 to 4 halve the resolution (3, 4)."""
    return 1 <= modules.count(2) + modules.count(4) <= 3 and 1 <= modules.count(3) + modules.count(4) <= 4


LEGAL = {modules for depth in (4, 5, 6) for modules in itertools.product((1, 2, 3, 4), repeat=depth) if legal(modules)}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    listed = list(enumerate_space(search_spaces[name]()))
    assert size(search_spaces[name]()) == len(listed) == len({one.name for one in listed}) == SIZES[name]


def test_the_macro_space_is_what_the_rule_allows() -> None:
    assert {one.modules for one in enumerate_space(MACRO)} == {one.modules for one in all_macro()} == LEGAL


def test_names_are_the_benchmarks_own() -> None:
    edges = ("avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_1x1", "skip_connect", "skip_connect")
    name = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    assert NasBench201(edges).name == name  # number 0 of the official list
    micro = TransNasMicro(("conv_3x3", "none", "conv_1x1", "skip_connect", "none", "conv_3x3"))
    assert micro.name == "64-41414-3_02_103"
    assert TransNasMacro(4, (2, 3, 1, 1)).name == "64-2311-basic"
    layers = ("mb6_k5", "mb6_k5", "mb6_k5", "mb3_k3", "mb6_k5", "mb6_k5", "mb6_k5", "identity")
    assert NasBenchMacro(layers).name == "22212220"


def test_macro_samples_are_uniform_over_architectures() -> None:
    generator = np.random.default_rng(0)
    draws = Counter(sample(MACRO, generator).depth for _ in range(4000))
    for depth in (4, 5, 6):
        assert draws[depth] / 4000 == pytest.approx(sum(len(modules) == depth for modules in LEGAL) / 3256, abs=0.025)


@pytest.mark.parametrize("modules", [(2, 3, 1, 1), (4, 4, 4, 3, 1, 1), (1, 1, 4, 1, 1)])
def test_a_macro_mutation_changes_one_module(modules: tuple[int, ...]) -> None:
    parent = TransNasMacro(len(modules), modules)
    around = {other for other in LEGAL if len(other) == len(modules) and sum(map(int.__ne__, other, modules)) == 1}
    generator = np.random.default_rng(0)
    assert Counter(one.modules for one in neighbours(MACRO, parent, generator)) == Counter(around)
    draws = Counter(mutate(MACRO, parent, generator).modules for _ in range(200 * len(around)))
    assert set(draws) == around
    assert min(draws.values()) > 140
    assert max(draws.values()) < 260


def test_neighbours_differ_in_one_choice() -> None:
    space, generator = NasBench201Space(), np.random.default_rng(0)
    architecture = sample(space, generator)
    expected = {
        one for one in enumerate_space(space) if sum(a != b for a, b in zip(one.edges, architecture.edges, strict=True)) == 1
    }
    listed = list(neighbours(space, architecture, generator))
    assert len(listed) == 6 * 4
    assert set(listed) == expected
    outside = NasBenchMacro(("identity",) * 8)
    with pytest.raises(NotInSpace):
        list(neighbours(space, outside, generator))
    with pytest.raises(NotInSpace):
        list(neighbours(MACRO, outside, generator))
    with pytest.raises(NotInSpace):
        mutate(MACRO, outside, generator)


@pytest.mark.parametrize("name", SIZES)
def test_json_and_the_missing_network(name: str) -> None:
    architecture = sample(search_spaces[name](), np.random.default_rng(1))
    assert to_json(architecture)["family"] == name
    assert from_json(to_json(architecture)) == architecture
    with pytest.raises(UserError, match=f"unknown network builder '{name}'"):
        build(architecture, 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "nasbench201", "edges": ["none"] * 5}, "edges has 5 entries; it needs 6"),
        (
            {"family": "nasbench201", "edges": ["none"] * 5 + ["conv_3x3"]},
            r"edges\.5: unknown operation 'conv_3x3'; did you mean",
        ),
        ({"family": "nasbench-macro", "layers": ["identity"] * 9}, "layers has 9 entries; it needs 8"),
        ({"family": "transnas-macro", "depth": 5, "modules": [2, 3, 1, 1]}, "depth is 5 for 4 modules"),
        ({"family": "transnas-macro", "depth": 4, "modules": [2, 3, 1, 0]}, r"modules\.3 is 0; allowed: 1 to 4"),
        ({"family": "transnas-macro", "depth": 4, "modules": [2, 1, 1, 1]}, "modules has 0 halvings; it needs 1 to 4"),
        ({"family": "transnas-macro", "depth": 4, "modules": [4, 4, 4, 4]}, "modules has 4 doublings; it needs 1 to 3"),
    ],
)
def test_malformed_architectures_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_json(values)


def test_other_families_are_not_in_a_space() -> None:
    architecture = sample(NasBenchMacroSpace(), np.random.default_rng(0))
    assert encode(NasBenchMacroSpace(), replace(architecture)) == encode(NasBenchMacroSpace(), architecture)
    with pytest.raises(NotInSpace):
        encode(NasBench201Space(), architecture)
