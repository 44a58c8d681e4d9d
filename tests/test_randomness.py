"""Randomness is a function of its position."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from segnas.randomness import derive, forked, numpy_generator


def test_seeds_are_the_hash_of_the_position() -> None:
    expected = int(hashlib.sha256(b"3/search/7").hexdigest()[:16], 16) >> 1
    assert derive(3, "search", 7) == expected < 2**63
    positions = list(itertools.product(range(4), ("a", "b"), range(5), range(5)))
    assert len({derive(*position) for position in positions}) == len(positions)
    assert derive(1, 11) != derive(11, 1)


def test_another_process_draws_the_same() -> None:
    """Whatever Python's own hash seed is."""
    code = "from segnas.randomness import numpy_generator; print(numpy_generator(1, 'x', 2).integers(10**9))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == numpy_generator(1, "x", 2).integers(10**9)


def test_generators_are_apart() -> None:
    first = numpy_generator(0, "order", 1)
    first.random(10)
    np.testing.assert_array_equal(numpy_generator(0, "order", 1).random(3), numpy_generator(0, "order", 1).random(3))
    assert numpy_generator(0, "order", 1).random() != numpy_generator(0, "order", 2).random()


def test_forked_draws_for_the_position_and_changes_nothing_outside() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with forked(1, "step", 2):
        inside = torch.rand(3)
        with forked(1, "step", 3):
            other = torch.rand(3)
        rest = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(100)
    with forked(1, "step", 2):
        assert torch.equal(torch.rand(3), inside)
        assert torch.equal(torch.rand(2), rest), "an inner block does not shift the outer one"
    assert not torch.equal(inside, other)


def test_forked_gives_the_state_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), forked(1):
        torch.rand(3 // 0)
    assert torch.equal(torch.get_rng_state(), before)
