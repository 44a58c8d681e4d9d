"""What a search is after: names, limits, values in order, and the front of what nothing dominates."""

from __future__ import annotations

import numpy as np
import pytest

from segnas.errors import UserError
from segnas.estimators.objectives import Objectives, pareto_front

METRICS = ("mIoU", "mAcc")


def test_the_deciding_metric_is_maximised_when_nothing_is_named() -> None:
    assert [(one.name, one.direction) for one in Objectives.read([], [], [], METRICS).objectives] == [("mIoU", "maximize")]
    both = Objectives.read([], ["latency_ms"], [], METRICS)
    assert [(one.name, one.direction) for one in both.objectives] == [("mIoU", "maximize"), ("latency_ms", "minimize")]
    assert both.needs_latency
    assert not Objectives.read(["mAcc"], ["parameters"], ["multiply_adds <= 5"], METRICS).needs_latency
    assert Objectives.read(["mAcc"], [], ["latency_ms <= 5"], METRICS).needs_latency


def test_values_are_in_order_and_minimised_ones_are_negated_for_a_strategy() -> None:
    sought = Objectives.read(["mAcc"], ["parameters"], [], METRICS)
    values = sought.values({"mIoU": 1.0, "mAcc": 2.0, "parameters": 3.0})
    assert values == (2.0, 3.0)
    assert sought.upwards(values) == (2.0, -3.0)


def test_constraints_hold_their_limit_and_pass_what_is_not_known() -> None:
    sought = Objectives.read([], [], ["parameters <= 1e6", "latency_ms >= 2"], METRICS)
    assert [str(limit) for limit in sought.constraints] == ["parameters <= 1,000,000", "latency_ms >= 2"]
    assert sought.broken({"parameters": 1e6}) == []
    assert [limit.name for limit in sought.broken({"parameters": 1e6 + 1, "latency_ms": 1.5})] == ["parameters", "latency_ms"]


@pytest.mark.parametrize(("settings", "message"), [
    ((["mIuO"], [], []), "there is nothing called 'mIuO' to search for; did you mean 'mIoU'"),
    ((["mIoU"], ["mIoU"], []), "an objective is named twice: mIoU, mIoU"),
    (([], [], ["mIoU >= 5"]), "constraints are on costs, and 'mIoU' is none"),
    (([], [], ["parameters < 5"]), "'parameters < 5' is no constraint; write for example"),
    (([], [], ["parameters <= many"]), "'parameters <= many' is no constraint"),
    (([], [], ["parameters <= 1e"]), "'parameters <= 1e' is no constraint"),
])  # fmt: skip
def test_what_is_no_objective_is_one_line(settings: tuple[list[str], list[str], list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Objectives.read(*settings, METRICS)
    assert "\n" not in str(error.value)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_the_front_is_what_nothing_dominates(columns: int) -> None:
    generator = np.random.default_rng(columns)
    for _ in range(30):
        points = [tuple(map(float, row)) for row in generator.integers(0, 6, (40, columns))]
        front = pareto_front(points)
        assert front == sorted(front)
        kept = {points[index] for index in front}
        free = {
            one
            for one in points
            if not any(other != one and all(a >= b for a, b in zip(other, one, strict=True)) for other in points)
        }
        assert kept == free
        assert len(front) == len(kept), "one of equal points"
        assert all(points.index(points[index]) == index for index in front), "the first of them"
