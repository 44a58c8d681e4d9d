"""The same architecture at another width."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

import numpy as np
import pytest

from segnas import zoo
from segnas.costs.counts import count
from segnas.errors import UserError
from segnas.spaces.architecture import families
from segnas.spaces.auto_deeplab import AutoDeepLabSpace, NetworkOptions
from segnas.spaces.choice import sample
from segnas.spaces.hand_made import DeepLabV3Plus, ResNet, UNet
from segnas.spaces.width import filters_of, register_widths, smallest_filters, widths, with_filters

OPTIONS = NetworkOptions(filters=5, stem=(6, 6, 9), aspp_width=7, low_level_width=3, decoder_width=8, dropout=0.2)
SEARCHED = sample(AutoDeepLabSpace(6, 2, network=OPTIONS), np.random.default_rng(0))
PUBLISHED = zoo.load("auto-deeplab-s").architecture
ALL = [SEARCHED, PUBLISHED, UNet(3, 2), DeepLabV3Plus(7, 20, 3, 9), ResNet(3, 2)]


@pytest.mark.parametrize("architecture", ALL)
def test_its_own_width_changes_nothing(architecture: Any) -> None:
    assert with_filters(architecture, filters_of(architecture)) == architecture


def test_widths_are_in_proportion_and_the_rest_stays() -> None:
    wider = with_filters(PUBLISHED, 30)
    expected = NetworkOptions(filters=30, stem=(96, 96, 192), aspp_width=384, low_level_width=72, decoder_width=384)
    assert wider == dataclasses.replace(PUBLISHED, network=expected)
    assert with_filters(UNet(64, 3), 5) == UNet(5, 3)
    assert with_filters(ResNet(16, 5), 8) == ResNet(8, 5)
    assert with_filters(DeepLabV3Plus(), 16) == DeepLabV3Plus(16, 64, 12, 64)


@pytest.mark.parametrize("filters", [1, 2, 3, 4, 7, 11, 12, 64])
def test_rounding_is_half_up_and_floors_hold(filters: int) -> None:
    def scaled(width: int) -> int:
        exact = floor(Fraction(width * filters, 5) + Fraction(1, 2))
        return max(exact, min(4, width))

    options = with_filters(SEARCHED, filters).network
    assert options.filters == filters
    assert options.stem == tuple(map(scaled, OPTIONS.stem))
    assert [options.aspp_width, options.low_level_width, options.decoder_width] == [scaled(7), scaled(3), scaled(8)]
    assert (options.dropout, options.aspp_rates) == (OPTIONS.dropout, OPTIONS.aspp_rates)


@pytest.mark.parametrize("architecture", ALL)
def test_counts_grow_with_the_width_and_the_smallest_can_be_built(architecture: Any) -> None:
    smallest = smallest_filters(architecture)
    assert smallest == 1
    counts = [count(with_filters(architecture, filters), (33, 33), 2) for filters in (1, 2, 3, 5, 9, 10)]
    for figure in ("parameters", "multiply_adds"):
        figures = [getattr(one, figure) for one in counts]
        assert all(earlier < later for earlier, later in pairwise(figures))
    with pytest.raises(UserError, match=r"filters=0 is too few for the family .*; at least 1"):
        with_filters(architecture, 0)


def test_a_family_registers_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        channels: int

    @dataclasses.dataclass(frozen=True)
    class Toy:
        network: Options

    monkeypatch.setattr(families, "_members", {**families._members, "toy": Toy})
    monkeypatch.setattr(widths, "_members", dict(widths._members))
    with pytest.raises(UserError, match="the family 'toy' have no adjustable width; families that do: auto-deeplab, ") as caught:
        filters_of(Toy(Options(4)))
    assert "\n" not in str(caught.value)
    register_widths("toy", "network.channels", smallest=2)
    assert filters_of(Toy(Options(4))) == 4
    assert with_filters(Toy(Options(4)), 2) == Toy(Options(2))
    with pytest.raises(UserError, match="filters=1 is too few for the family 'toy'; at least 2"):
        with_filters(Toy(Options(4)), 1)
