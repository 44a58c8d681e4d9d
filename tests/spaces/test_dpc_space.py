"""The space of dense prediction cells: its size, its operations, the published cell, what it refuses, its widths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from dpc_golden import GOLDEN

from segnas import zoo
from segnas.costs.counts import count
from segnas.errors import UserError
from segnas.spaces import choice
from segnas.spaces.architecture import from_json, task_of, to_json
from segnas.spaces.choice import NotInSpace
from segnas.spaces.dpc import OPERATIONS, Branch, Dpc, DpcOptions, DpcSpace, rates_or_grid
from segnas.spaces.width import filters_of, smallest_filters, with_filters

SPACE = DpcSpace()
PUBLISHED = zoo.load("dpc-cityscapes-top1").architecture


def test_the_size_is_the_papers() -> None:
    assert choice.size(SPACE) == GOLDEN["space_size"] == 120 * 81**5
    assert f"{choice.size(SPACE):.2e}" == "4.18e+11"


def test_the_operations() -> None:
    assert len(set(OPERATIONS)) == 81 == 1 + 8 * 8 + 4 * 4
    rates = {rates_or_grid(name) for name in OPERATIONS if name.startswith("sep_conv_3x3")}
    grids = {rates_or_grid(name) for name in OPERATIONS if name.startswith("avg_pool")}
    assert rates == set(product((1, 3, 6, 9, 12, 15, 18, 21), repeat=2))
    assert grids == set(product((1, 2, 4, 8), repeat=2))
    assert rates_or_grid("sep_conv_3x3_rate_6x21") == (6, 21)


def test_every_cell_of_two_branches_is_enumerated_once() -> None:
    space = DpcSpace(branches=2)
    found = [one.branches for one in choice.enumerate_space(space)]
    expected = {(Branch(-1, a), Branch(i, b)) for a, b, i in product(OPERATIONS, OPERATIONS, (-1, 0))}
    assert len(found) == len(expected) == 2 * 81**2
    assert set(found) == expected


def test_the_published_cell_is_in_the_space() -> None:
    indices = choice.encode(SPACE, PUBLISHED)
    assert len(indices) == 10
    assert choice.from_indices(SPACE, indices) == PUBLISHED
    assert [branch.input for branch in PUBLISHED.branches] == [-1, 0, 1, 0, 0]
    assert task_of(PUBLISHED) == "segmentation"
    with pytest.raises(NotInSpace, match=r"differs at network\.dropout"):
        choice.encode(DpcSpace(network=DpcOptions(dropout=0.0)), PUBLISHED)


def test_samples_and_mutants_stay_in_the_space() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        found = choice.sample(SPACE, generator)
        mutant = choice.mutate(SPACE, found, generator)
        assert sum(a != b for a, b in zip(found.branches, mutant.branches, strict=True)) == 1
        for one in (found, mutant):
            assert choice.from_indices(SPACE, choice.encode(SPACE, one)) == one
            assert from_json(to_json(one)) == one


def test_widths_scale_the_head_and_leave_the_encoder() -> None:
    assert filters_of(PUBLISHED) == 256
    assert smallest_filters(PUBLISHED) == 1
    narrow = with_filters(PUBLISHED, 64)
    assert narrow == Dpc(PUBLISHED.branches, DpcOptions(cell_width=64, low_level_width=12, decoder_width=64))
    found = [count(with_filters(PUBLISHED, filters), (33, 33), 2) for filters in (1, 2, 64)]
    assert found[0].parameters < found[1].parameters < found[2].parameters
    assert len({one.by_part["encoder"]["parameters"] for one in found}) == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("branches",), [], "branches is empty"),
        (("branches", 1, "input"), 1, r"branches\.1\.input is 1, but it must lie in -1 to 0"),
        (("branches", 0, "input"), -2, r"branches\.0\.input is -2, but it must lie in -1 to -1"),
        (("branches", 2, "operation"), "sep_conv_3x3_rate_2x6", r"unknown operation 'sep_conv_3x3_rate_2x6'; did you mean"),
        (("branches", 2, "rate"), 3, r"unknown key 'branches\.2\.rate'"),
        (("network", "encoder"), "xception", r"network\.encoder"),
        (("network", "output_stride"), 32, r"network\.output_stride"),
        (("network", "encoder_width"), 0, "encoder_width must be above 0 and at most 4, not 0"),
        (("network", "cell_width"), 0, "cell_width must be at least 1, not 0"),
        (("network", "dropout"), 1, "dropout must be at least 0 and below 1, not 1"),
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
