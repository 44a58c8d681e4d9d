"""The training images in two parts: one rule for every estimator."""

from __future__ import annotations

import pytest

from segnas.data.held_out import parts, share_of
from segnas.errors import UserError


@pytest.mark.parametrize(
    ("images", "share", "expected"), [(2, 0.1, 1), (14, 0.25, 4), (10, 0.99, 9), (100, 0.29, 29), (10_582, 0.1, 1058)]
)
def test_a_share_is_held_out(images: int, share: float, expected: int) -> None:
    """The last is Fast NAS on VOC."""
    first, second = parts(images, share_of(images, share), 7)
    assert len(second) == expected
    assert sorted([*first, *second]) == list(range(images))
    assert list(first) == sorted(first)
    assert parts(images, expected, 7) == (first, second)
    assert images < 10 or parts(images, expected, 8) != (first, second)


def test_fewer_images_are_of_the_same_parts() -> None:
    first, second = parts(100, 30, 7)
    fewer = parts(100, 30, 7, 20, 10)
    assert (len(fewer[0]), len(fewer[1])) == (20, 10)
    assert set(fewer[0]) <= set(first)
    assert set(fewer[1]) <= set(second)


@pytest.mark.parametrize(("images", "held_out"), [(1, 0), (1, 1), (5, 5), (5, 9)])
def test_neither_part_may_be_empty(images: int, held_out: int) -> None:
    with pytest.raises(UserError, match=f"of {images} training images a search cannot hold out"):
        parts(images, held_out, 0)
